"""The edge to MLflow's model registry: versions of the model `digits`, their aliases, tags and descriptions."""

from __future__ import annotations

from typing import Any

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from pipelines import card, tracking
from pipelines.errors import UserError

MODEL = "digits"
ABOUT = "Reads handwritten digits: uint8 pictures of 28×28 in, calibrated probabilities of ten digits out."
LIMIT = 5_000  # letters of a version's description; SQLite takes more, PostgreSQL does not
FOLDERS = ("data_dir", "extra", "images")
COPIED = (
    "dataset",
    "fingerprint",
    "extra_fingerprint",
    "git_commit",
    "git_dirty",
    "precision",
    "trained_in",
    "trained_at",
)


def register(trained: dict[str, str]) -> int:
    """Makes a logged model (`run_id`, `model_id`, `sha256`) the next version, once, and the challenger."""
    client = MlflowClient()
    try:
        client.get_registered_model(MODEL)
    except MlflowException as error:
        if not tracking.is_missing(error):
            raise
        client.create_registered_model(MODEL, description=ABOUT)
    known = client.search_model_versions(f"name = '{MODEL}' and run_id = '{trained['run_id']}'")
    if known:
        made = known[0]
    else:
        tags = client.get_run(trained["run_id"]).data.tags
        own = {name: tags[name] for name in COPIED if name in tags}
        made = client.create_model_version(
            MODEL,
            source=f"models:/{trained['model_id']}",
            run_id=trained["run_id"],
            model_id=trained["model_id"],
            tags={**own, "model_id": trained["model_id"], "sha256": trained["sha256"]},
        )
    client.set_registered_model_alias(MODEL, "challenger", made.version)
    client.update_model_version(MODEL, made.version, _described(card.write(trained["run_id"], None)))
    return int(made.version)


def describe(version: int, result: dict[str, Any]) -> None:
    """What the report (`report_run`, `metrics`, `test_count`) says, as tags and model card of a version."""
    client = MlflowClient()
    metrics = result["metrics"]
    tags = {"report_run": result["report_run"], "test_accuracy": f"{metrics['test_accuracy']:.4f}"}
    for name, value in tags.items():
        client.set_model_version_tag(MODEL, str(version), name, value)
    run_id = client.get_model_version(MODEL, str(version)).run_id
    assert run_id is not None
    client.update_model_version(MODEL, str(version), _described(card.write(run_id, result["report_run"])))


def _described(text: str) -> str:
    """A card as MLflow's database takes it; the whole one is with the report."""
    if len(text) <= LIMIT:
        return text
    rest = "\n\n… The rest is in the report's artifact `model card.md`."
    return text[: LIMIT - len(rest)].rpartition("\n")[0] + rest


def parameters(version: ModelVersion) -> dict[str, str]:
    """What a version was trained with, without the folders of whoever trained it."""
    assert version.run_id is not None
    logged = MlflowClient().get_run(version.run_id).data.params
    return {name: value for name, value in logged.items() if name not in FOLDERS}


def made_with(version: ModelVersion) -> dict[str, Any]:
    """Commit, libraries and machine of a version's training, as it noted them; empty where it did not."""
    assert version.run_id is not None
    try:
        return dict(tracking.read_json(version.run_id, "provenance.json"))
    except FileNotFoundError:
        return {}


def versions() -> list[ModelVersion]:
    """All versions, newest first."""
    found = MlflowClient().search_model_versions(f"name = '{MODEL}'", max_results=10_000)
    return sorted(found, key=lambda version: int(version.version), reverse=True)


def find(asked: str) -> ModelVersion:
    """The version that is meant by a number, an alias or "latest". Raises UserError."""
    found = _find(asked)
    if not {"dataset", "model_id", "sha256"} <= found.tags.keys():
        raise UserError(f"version {found.version} was registered by something else: it does not say of what it is made")
    return found


def _find(asked: str) -> ModelVersion:
    known = versions()
    if not known:
        raise UserError("there is no registered model yet: train one with mlflow run . or make train")
    if asked == "latest":
        return _with_aliases(known[0])
    numbers = [int(version.version) for version in known]
    if asked.isdigit():
        if int(asked) in numbers:
            return _with_aliases(known[numbers.index(int(asked))])
        raise UserError(
            f"there is no version {asked} of the model; expected one of {', '.join(map(str, sorted(numbers)))}"
        )
    found = by_alias(asked)
    if found is None:
        raise UserError(f"no version is {asked} now; expected a version number: {', '.join(map(str, sorted(numbers)))}")
    return found


def _with_aliases(version: ModelVersion) -> ModelVersion:
    return MlflowClient().get_model_version(MODEL, version.version)


def by_alias(alias: str) -> ModelVersion | None:
    """The version with that alias, or None where there is none: a server that fails is another matter."""
    try:
        return MlflowClient().get_model_version_by_alias(MODEL, alias)
    except MlflowException as error:
        if not tracking.is_missing(error):
            raise
        return None
