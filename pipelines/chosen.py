"""Which model answers: "champion", "digits/3" or a file in; its name and the bytes of model.onnx out."""

from __future__ import annotations

import hashlib
import re
import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from digits.classifier import Classifier, ModelError, model_file
from pipelines.errors import UserError
from pipelines.files import place

NAME = "digits"
ACCEPTED = f"champion, {NAME}/3, {NAME}/challenger, a tag of the BentoML store or a path to model.onnx"


@dataclass(frozen=True)
class Chosen:
    """A model by the name that a person would use, and its file."""

    name: str
    content: bytes = field(repr=False)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


def find(asked: str) -> Chosen:
    """The model that is meant, known to load and to keep the contract. Raises UserError.

    "champion" is the newest model of the BentoML store, the one that the service takes; where the store has none, the
    registered version with that alias.
    """
    found = _find(asked)
    try:
        Classifier(found.content)
    except ModelError as error:
        raise UserError(f"{found.name} can't be used: {error}") from None
    return found


def _find(asked: str) -> Chosen:
    if asked == "champion":
        return _stored(NAME) or _registered("champion")
    version = re.fullmatch(rf"(?:{NAME}/)?(latest|champion|challenger|[1-9][0-9]{{0,8}})", asked)
    if version:
        return _registered(version[1])
    path = place(asked)
    if path.is_file():
        return Chosen(path.name, path.read_bytes())
    if asked.startswith(f"{NAME}:"):
        stored = _stored(asked)
        if stored:
            return stored
        raise UserError(f"there is no model {asked} in the BentoML store; expected {ACCEPTED}")
    raise UserError(f"there is no model {asked!r}; expected {ACCEPTED}")


def _stored(tag: str) -> Chosen | None:
    import bentoml
    from bentoml.exceptions import BentoMLException, NotFound

    repair = "import it again with mlflow run . -e promote -P version=champion"
    try:
        model = bentoml.models.get(tag)
        if ":" in tag and tag not in (str(model.tag), f"{NAME}:latest"):  # BentoML takes a tag's beginning
            return None
    except NotFound:
        return None
    except BentoMLException as error:  # a folder without its description: an import was killed
        raise UserError(f"the stored model {tag} can't be read ({error}); {repair}") from None
    file = model_file(Path(model.path))
    if file is None:
        raise UserError(f"the stored model {model.tag} has no .onnx file; {repair}")
    return verified(Chosen(str(model.tag), file.read_bytes()), str((model.info.metadata or {}).get("sha256", "")))


def _registered(asked: str) -> Chosen:
    if find_spec("mlflow") is None:
        raise UserError(
            f"there is no model {NAME} in the BentoML store, and no MLflow to ask for {asked}; expected {ACCEPTED}"
        )
    from pipelines import registry, tracking

    tracking.check_database()
    version = registry.find(asked)
    return logged(f"{NAME}/{version.version}", version.tags["model_id"], version.tags["sha256"])


def logged(name: str, model_id: str, sha256: str) -> Chosen:
    """A model that was logged to MLflow; where its files are lost, the BentoML store's copy. Raises UserError."""
    from pipelines import store, tracking

    try:
        content = tracking.read_model(model_id)
    except UserError:
        copy = store.content_of(sha256)
        if copy is None:
            raise
        print(f"{name} is not where it was logged any more: the BentoML store has a copy", file=sys.stderr)
        content = copy
    return verified(Chosen(name, content), sha256)


def verified(found: Chosen, registered: str) -> Chosen:
    """The model, whose sha256 is the one that was registered if one is known. Raises UserError."""
    if registered and found.sha256 != registered:
        raise UserError(f"{found.name} has been altered: sha256 {found.sha256[:12]}…, registered as {registered[:12]}…")
    return found
