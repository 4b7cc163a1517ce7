"""Promotion: a registered version goes through the gate, becomes champion and the newest model of the BentoML store."""

from __future__ import annotations

import fcntl
import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import numpy as np
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from pipelines import registry, store, tracking
from pipelines.errors import UserError
from pipelines.files import FOLDER
from pipelines.gate import Decision, Evidence, decide
from pipelines.parameters import Main, Promote

ALL = 55_000  # digits that MNIST has to learn from


class Refused(UserError):
    """The gate is closed: the champion stays."""

    status = 3


def run(parameters: Promote) -> None:
    """The entry point. A version that is named and has been champion before is put back without a gate: a roll-back."""
    result = promote(registry.find(parameters.version), parameters)
    if not result["promoted"]:
        raise Refused(f"version {result['version']} is not promoted: {result['why']}")


@contextmanager
def alone() -> Iterator[None]:
    """One promotion at a time: two would be compared with the same champion, and not with each other."""
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / "promotion.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def check_champion() -> None:
    """Raises UserError where nothing can be compared with the champion: nobody wants to hear it after a training."""
    champion = registry.by_alias("champion")
    if champion:
        evidence(champion)


@alone()
def promote(version: ModelVersion, parameters: Main | Promote) -> dict[str, Any]:
    """Decides, moves the alias, fills the store, and tells. Gives `version`, `promoted`, `why` and `tag`."""
    client = MlflowClient()
    champion = registry.by_alias("champion")
    number = int(version.version)
    decision = _decision(version, champion, parameters)
    why = "; ".join(decision.reasons)
    fresh = not _is(champion, version)  # what is champion keeps the reason why it became so
    if fresh:
        client.set_model_version_tag(registry.MODEL, version.version, "gate", why)
    if not decision.promote:
        print(f"version {number} is not promoted: {why}")
        return {"version": number, "promoted": False, "why": why, "tag": store.champion_tag()}
    # The store first: were this to end in between, the alias would not promise what the store does not hold.
    tag = store.make_newest(version)
    client.set_registered_model_alias(registry.MODEL, "champion", version.version)
    if fresh or "promoted_at" not in version.tags:  # the last try may have been killed just before
        now = datetime.now(UTC).isoformat(timespec="seconds")
        client.set_model_version_tag(registry.MODEL, version.version, "promoted_at", now)
    challenger = registry.by_alias("challenger")
    if _is(challenger, version):
        client.delete_registered_model_alias(registry.MODEL, "challenger")
    print(f"version {number} is champion: {why}\nin the BentoML store: {tag}")
    first = why if fresh else version.tags.get("gate", why)
    return {"version": number, "promoted": True, "why": first, "tag": tag}


def _is(holder: ModelVersion | None, version: ModelVersion) -> bool:
    """Whether this version is the one that has an alias."""
    return holder is not None and int(holder.version) == int(version.version)


def _decision(version: ModelVersion, champion: ModelVersion | None, parameters: Main | Promote) -> Decision:
    dataset = version.tags.get("dataset", "unknown")
    of_mnist = champion is not None and champion.tags.get("dataset") == "mnist"
    stored = store.newest_of_mnist()
    if stored and not (champion and stored[0] == store.tag_of(champion)):  # another registry's, as far as we know
        tag, limit = stored
        fewer = "scikit-learn's digits" if dataset == "digits" else "fewer of its digits"
        if dataset == "digits" or _learnt(version) < (limit or math.inf):
            return Decision(
                False,
                [
                    f"the BentoML store holds {tag}, a model of MNIST, which one of {fewer} never replaces:"
                    " name another store with BENTOML_HOME"
                ],
            )
    if _is(champion, version):
        return Decision(True, ["it is champion already"])
    named = isinstance(parameters, Promote) and parameters.version != "latest"
    back = named and "promoted_at" in version.tags and not (dataset == "digits" and of_mnist)
    if back and not _learnt_less(version, champion):
        return Decision(True, ["it has been champion before: a roll-back, without a gate"])
    floor = parameters.lowest_accuracy(dataset)
    return decide(evidence(version), evidence(champion) if champion else None, floor)


def _learnt(version: ModelVersion) -> float:
    """How many digits it has learnt from at most: its limit, where that leaves any out."""
    limit = int(registry.parameters(version).get("limit", 0))
    return limit if 0 < limit < ALL else math.inf


def _learnt_less(version: ModelVersion, champion: ModelVersion | None) -> bool:
    try:
        return champion is not None and _learnt(version) < _learnt(champion)
    except MlflowException:  # a run is gone for good, and nobody can tell
        return False


def evidence(version: ModelVersion) -> Evidence:
    """What the report on a version says. Raises UserError where it has none."""
    number, run_id = int(version.version), version.tags.get("report_run")
    if run_id is None:
        raise UserError(f"version {number} has not been measured: mlflow run . -e evaluate -P model={number}")
    try:
        sets = tracking.read_json(run_id, "report/sets.json")
        summary = tracking.read_json(run_id, "report/summary.json")
        with np.load(io.BytesIO(tracking.read(run_id, "report/answers.npz")), allow_pickle=False) as answers:
            right = {name.rpartition(".")[0]: answers[name] for name in answers.files if not name.endswith(".guesses")}
    except FileNotFoundError as error:
        raise UserError(
            f"version {number} has lost its report ({error}): measure it again with mlflow run . -e evaluate"
            f" -P model={number}"
        ) from None
    return Evidence(number, version.tags["dataset"], summary["metrics"]["test_accuracy"], sets, right)
