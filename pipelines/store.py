"""The edge to the BentoML store: registered versions are imported there, and the champion is always the newest.

The service takes the newest model `digits` of the store (or the one DIGITS_MODEL names), so making a version champion
means that it must be there, whole, and the newest.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bentoml
import yaml  # type: ignore[import-untyped]
from bentoml.exceptions import BentoMLException, NotFound
from mlflow.entities.model_registry import ModelVersion

from digits.classifier import model_file
from pipelines import registry, tracking
from pipelines.errors import UserError
from pipelines.files import write

METADATA = ("model_id", "run_id", "git_commit", "dirty", "dataset", "fingerprint", "sha256", "precision", "trained_at")


def tag_of(version: ModelVersion) -> str:
    """The tag of a version: unique for the registered number and the model, so that a wiped mlruns does not collide."""
    return f"{registry.MODEL}:v{version.version}-{version.tags['model_id'].removeprefix('m-')[:8]}"


def champion_tag() -> str | None:
    """The tag of the champion, or None where there is none, or not in this store."""
    champion = registry.by_alias("champion")
    found = _find(tag_of(champion)) if champion else None
    return str(found.tag) if found else None


def newest_of_mnist() -> tuple[str, int] | None:
    """The tag of the store's newest model, of whatever registry, if it has learnt from MNIST; and its `limit`."""
    newest = _find(registry.MODEL)
    facts: dict[str, Any] = dict((newest.info.metadata or {}) if newest else {})
    if newest is None or facts.get("dataset") != "mnist":
        return None
    return str(newest.tag), int(facts.get("parameters", {}).get("limit", 0))


def content_of(sha256: str) -> bytes | None:
    """model.onnx of a stored model with that digest, if there is one."""
    try:
        stored = bentoml.models.list(registry.MODEL)
    except BentoMLException:  # there is none of that name, or one is not whole
        return None
    for model in stored:
        if (model.info.metadata or {}).get("sha256") == sha256:
            content = _content(model)
            if hashlib.sha256(content).hexdigest() == sha256:
                return content
    return None


def _find(tag: str) -> bentoml.Model | None:
    try:
        return bentoml.models.get(tag)
    except BentoMLException:  # it is not there, or not whole
        return None


def make_newest(version: ModelVersion) -> str:
    """Imports a version, unless it is there whole, and makes it the newest of the store. Gives its tag."""
    tag, sha256 = tag_of(version), version.tags["sha256"]
    stored = _whole(tag, sha256)
    if stored is None:
        tracking.read_model(version.tags["model_id"])  # BentoML would not say in words that it is not there
        import_version(version)
        stored = _whole(tag, sha256)
    if stored is None:
        raise UserError(f"version {version.version} is not the file that was registered; train again")
    if bentoml.models.get(registry.MODEL).tag != stored.tag:  # it was there before, or the clock has gone back
        _touch(stored)
    return tag


def import_version(version: ModelVersion) -> None:
    """`bentoml.mlflow.import_model` with where it comes from as metadata."""
    tags = version.tags
    libraries = registry.made_with(version).get("libraries", {})
    facts = {**tags, "run_id": version.run_id, "dirty": tags.get("git_dirty", "unknown")}
    bentoml.mlflow.import_model(
        tag_of(version),
        f"models:/{registry.MODEL}/{version.version}",
        signatures={"predict": {"batchable": True}},
        labels={"project": "digits", "dataset": tags.get("dataset", "unknown"), "version": str(version.version)},
        metadata={
            "version": str(version.version),
            "parameters": registry.parameters(version),
            **{name: str(facts.get(name, "unknown")) for name in METADATA},
            **{f"trained_with_{name}": number for name, number in libraries.items()},
        },
    )


def _whole(tag: str, sha256: str) -> bentoml.Model | None:
    """The stored model with the registered file; anything else under that tag is deleted."""
    try:
        model = bentoml.models.get(tag)
        if digest(model) == sha256:
            return model
    except NotFound:
        return None
    except BentoMLException:  # a folder without its description: an import was killed
        pass
    bentoml.models.delete(tag)
    return None


def digest(model: bentoml.Model) -> str:
    """sha256 of the ONNX file in a stored model, of nothing where there is none."""
    return hashlib.sha256(_content(model)).hexdigest()


def _content(model: bentoml.Model) -> bytes:
    """The ONNX file in a stored model; empty where there is none."""
    file = model_file(Path(model.path))
    return file.read_bytes() if file else b""


def _touch(model: bentoml.Model) -> None:
    """Dates a stored model now. It stays in its place all the while, for whoever is serving it."""
    described = Path(model.path) / "model.yaml"
    content = yaml.safe_load(described.read_text("utf-8"))
    content["creation_time"] = datetime.now(UTC).isoformat()
    write(described, yaml.safe_dump(content, sort_keys=False).encode())
    assert model.tag.version is not None
    write(Path(model.path).parent / "latest", model.tag.version.encode())
