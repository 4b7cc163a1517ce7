"""What the runs say: parameters, data, epochs and tables, logged the same way wherever they are logged."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import mlflow
from mlflow.data.numpy_dataset import from_numpy

from digits.data import Data, Split
from digits.fit import EpochReport
from pipelines import own, provenance
from pipelines.own import Own
from pipelines.parameters import Parameters

EPOCH = (
    "  epoch {epoch:>3} of {epochs}: loss {train_loss:.3f}, validation {validation_accuracy:.2%}{hard}, {seconds:.0f} s"
)


def tags(data: Data, extra: Own | None = None) -> dict[str, str]:
    """What a run must say about its data."""
    known = {"dataset": data.name, "fingerprint": data.fingerprint, "bundled": str(data.bundled).lower()}
    return known | ({"extra_fingerprint": extra.fingerprint} if extra else {})


def log_start(data: Data, parameters: Parameters, extra: Own | None = None) -> None:
    """Parameters, data sets and provenance, on the active run."""
    mlflow.log_params(parameters.model_dump())
    log_input(data.train, data, "training")
    log_input(data.validation, data, "validation")
    if extra:
        log_own(extra)
    mlflow.log_dict(
        {**provenance.git(), "libraries": provenance.libraries(), "machine": provenance.machine()}, "provenance.json"
    )


def log_input(split: Split, data: Data, context: str) -> None:
    """The split as a data set that MLflow shows; its digest is of our fingerprint, not of a sample as MLflow's."""
    dataset = from_numpy(
        split.images[:1], targets=split.labels[:1], name=f"{data.name} {context}", digest=data.fingerprint[:8]
    )
    mlflow.log_input(dataset, context, {"pictures": str(len(split)), "fingerprint": data.fingerprint})


def log_own(extra: Own) -> None:
    """One's own pictures as one more data set to train on, and how many of them are held out."""
    images, labels = extra.train.images[:1], extra.train.labels[:1]
    dataset = from_numpy(images, targets=labels, name=own.NAME, digest=extra.fingerprint[:8])
    counts = {"pictures": str(len(extra.train)), "held_out": str(len(extra.of("held out")))}
    mlflow.log_input(dataset, "training", counts | {"fingerprint": extra.fingerprint})


def log_epoch(report: EpochReport) -> None:
    """One epoch's numbers; waited for (20 ms), so that a killed run has them all."""
    numbers = {
        "train_loss": report.train_loss,
        "train_accuracy": report.train_accuracy,
        "validation_loss": report.validation_loss,
        "validation_accuracy": report.validation_accuracy,
        "photographs_accuracy": report.photographs_accuracy,
        "learning_rate": report.learning_rate,
        "epoch_seconds": report.seconds,
        "images_per_second": report.images_per_second,
    }
    known = {name: value for name, value in numbers.items() if not math.isnan(value)}
    mlflow.log_metrics(known, step=report.epoch)


def tell_epoch(report: EpochReport) -> None:
    hard = "" if math.isnan(report.photographs_accuracy) else f", photographs {report.photographs_accuracy:.2%}"
    print(EPOCH.format(**asdict(report), hard=hard))


def log_table(path: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table that MLflow shows as one. Its own log_table appends to what an interrupted run has left."""
    mlflow.log_text(json.dumps({"columns": list(columns), "data": [list(row) for row in rows]}), path)
    active = mlflow.active_run()
    assert active is not None
    known = json.loads(mlflow.MlflowClient().get_run(active.info.run_id).data.tags.get("mlflow.loggedArtifacts", "[]"))
    entry = {"path": path, "type": "table"}
    mlflow.set_tag("mlflow.loggedArtifacts", json.dumps([*(e for e in known if e != entry), entry]))
