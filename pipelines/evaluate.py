"""The report on a model, in MLflow: tables, pictures, and every answer, which the gate of promotion compares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow import MlflowClient
from sklearn.metrics import precision_recall_fscore_support

from digits.classifier import Classifier
from digits.data import Data, fetch_test, load, load_test
from digits.workers import cores
from pipelines import card, logbook, own, pictures, registry, report, tracking
from pipelines.chosen import logged
from pipelines.errors import UserError
from pipelines.files import write
from pipelines.gate import ACCEPTED
from pipelines.job import Job, open_job
from pipelines.material import named
from pipelines.parameters import Evaluate
from pipelines.report import Labelled

BESIDE = ("photos", "drawn")  # real pictures, reported on where they lie beside the data


def run(parameters: Evaluate) -> None:
    """The entry point: the report on a registered model."""
    version = registry.find(parameters.model)
    assert version.run_id is not None
    training = MlflowClient().get_run(version.run_id)
    data = data_of(training, parameters.root)
    fetch_test(data)
    sets = sets_of(data, parameters.folders)
    trained = {"run_id": version.run_id, "model_id": version.tags["model_id"], "sha256": version.tags["sha256"]}
    with open_job("evaluate", parameters, f"{data.fingerprint} {version.version}") as job:
        parent = tracking.still_there(training.data.tags.get("mlflow.parentRunId"))
        result = evaluate(job, data, trained, sets, parent)
        registry.describe(int(version.version), result)
    print(f"next: mlflow run . -e promote -P version={version.version}")


def data_of(training: Any, root: Path) -> Data:
    """The data that a model was trained on. Raises UserError where they are others now."""
    known = training.data
    data = load(known.tags["dataset"], root, limit=int(known.params.get("limit", 0)) or None)
    if data.fingerprint != known.tags["fingerprint"]:
        raise UserError(
            f"the data in {root} have the fingerprint {data.fingerprint[:12]}; the model was trained with"
            f" {known.tags['fingerprint'][:12]}: name the same data with -P data_dir="
        )
    return data


def evaluate(
    job: Job, data: Data, trained: dict[str, str], sets: Sequence[Labelled], parent: str | None = None
) -> dict[str, Any]:
    """Measures a logged model and logs what was found; the one place that reads the test set.

    Gives `report_run`, `metrics` and `test_count`.
    """
    if "report" in job.state:
        return dict(job.state["report"])
    classifier = Classifier(fetch_model(trained), threads=cores())
    tags = {**logbook.tags(data), "model_id": trained["model_id"], "training_run": trained["run_id"]}
    with job.run(f"Report on a model of {named(data)}", "report", tags=tags, parent=parent) as run:
        test = load_test(data)
        logbook.log_input(test, data, "test")
        sets = unseen(sets, own_pictures(trained["run_id"]))
        measured = report.measure(classifier, test, sets, others=data.name == "mnist")
        log_report(measured, named(data), job.folder)
        for run_id in {run.info.run_id, trained["run_id"], run.data.tags.get("mlflow.parentRunId")}:
            if tracking.still_there(run_id):  # a training run may be in the bin: its model is not
                mlflow.log_metrics(measured.metrics, run_id=run_id)
        accuracy = measured.metrics["test_accuracy"]
        tracking.rename(f"Report: {accuracy:.2%} on {len(test):,} test digits")
        result = {"report_run": run.info.run_id, "metrics": measured.metrics, "test_count": len(test)}
        mlflow.log_dict(result, "report/summary.json")
        text = card.write(trained["run_id"], run.info.run_id)
        mlflow.log_text(text, "model card.md")
        tracking.describe(text)
    if tracking.still_there(trained["run_id"]):
        tracking.describe(text, trained["run_id"])
    print(as_text(measured.rows))
    return dict(job.note("report", result))


def own_pictures(training_run: str) -> own.Rows:
    """The table of the user's own pictures that a training run has; empty where there were none.

    Raises:
        UserError: there were some, but the table can't be had: what was learnt from would be reported on as unseen.
    """
    try:
        return list(tracking.read_json(training_run, own.TABLE)["data"])
    except FileNotFoundError as error:
        if "extra_fingerprint" in MlflowClient().get_run(training_run).data.tags:
            raise UserError(f"{error}, which says what the model learnt from; try again when it can be read") from None
        return []


def sets_of(data: Data, folders: Sequence[Path]) -> list[Labelled]:
    """What is to be reported on: the pictures beside the data, where they have labels, and in these folders.

    Raises:
        UserError: one of these folders has no labels, or the name of something else. So this comes first: nobody wants
            to hear of it after the training.
    """
    beside = [data.root / name for name in BESIDE if data.root and (data.root / name).is_dir()]
    asked_for = {folder.resolve() for folder in folders}
    by_name: dict[str, Path] = {}
    for folder in dict.fromkeys(folder.resolve() for folder in (*beside, *folders)):
        name = report.slug(folder.name)
        if name in report.RESERVED or name in by_name:
            other = by_name.get(name, "a line or a metric that there is already")
            raise UserError(f"images: in the report {folder} would have the name of {other}, {name!r}: rename it")
        by_name[name] = folder
    sets = []
    for folder in by_name.values():
        try:
            sets.append(Labelled.folder(folder))
        except UserError as error:
            if folder in asked_for:
                raise
            print(f"not reported on: {error}")
    return sets


def unseen(sets: Sequence[Labelled], known: own.Rows) -> list[Labelled]:
    """These pictures without those that the model learnt from, and the user's own that were held out."""
    learnt = own.learnt_from(known)
    found = [without(labelled, learnt) for labelled in sets]
    held_out, gone = own.still_there(known)
    if gone:
        print(f"WARNING: {gone} of the user's own pictures that were held out have moved or changed: left out")
    found.append(Labelled(own.HELD_OUT, [path for path, _ in held_out], [label for _, label in held_out]))
    return [labelled for labelled in found if labelled.files]


def without(labelled: Labelled, learnt: set[str]) -> Labelled:
    """Pictures that a model learnt from say nothing about it."""
    if not learnt:
        return labelled
    pairs = zip(labelled.files, labelled.labels, strict=True)
    kept = [(path, label) for path, label in pairs if own.sha256_of(path) not in learnt]
    left_out = len(labelled.files) - len(kept)
    if left_out:
        print(f"{labelled.name}: {left_out} of {len(labelled.files)} pictures were learnt from and are not reported on")
    return Labelled(labelled.name, [path for path, _ in kept], [label for _, label in kept])


def fetch_model(trained: dict[str, str]) -> bytes:
    """model.onnx of a logged model. Raises UserError where it is not the file that was registered."""
    return logged(f"model.onnx of {trained['model_id']}", trained["model_id"], trained["sha256"]).content


def log_report(measured: report.Report, name: str, folder: Path) -> None:
    """Tables, pictures and answers, under report/."""
    columns = [column.name for column in fields(report.Row)]
    logbook.log_table("report/table.json", columns, [astuple(row) for row in measured.rows])
    mlflow.log_text(as_markdown(measured.rows), "report/table.md")
    clean = measured.clean
    precision, recall, f1, support = precision_recall_fscore_support(
        clean.labels, clean.guesses, labels=range(10), zero_division=0.0
    )
    logbook.log_table(
        "report/per digit.json",
        ["digit", "precision", "recall", "f1", "pictures"],
        [[d, float(precision[d]), float(recall[d]), float(f1[d]), int(support[d])] for d in range(10)],
    )
    mlflow.log_figure(pictures.confusion(clean.labels, clean.guesses, f"{name}, test"), "report/confusion matrix.png")
    sets = {a.name: (a.probabilities, a.labels) for a in (clean, *measured.served)}
    mlflow.log_figure(pictures.calibration(sets), "report/reliability.png")
    accuracies = measured.corrupted.correct.mean(axis=2)
    mlflow.log_figure(pictures.robustness(measured.corrupted.names, accuracies), "report/corruptions.png")
    for answers in (clean, *measured.served):
        title = f"{answers.name}: the most confident mistakes (original, what the model saw)"
        mlflow.log_figure(
            pictures.mistakes(report.worst(answers), title), f"report/mistakes {report.slug(answers.name)}.png"
        )
        if answers.unreadable:
            reasons = "".join(f"{reason}\n" for reason in answers.unreadable.values())
            mlflow.log_text(reasons, f"report/unreadable {report.slug(answers.name)}.txt")
    log_answers(measured, folder)


def log_answers(measured: report.Report, folder: Path) -> None:
    """What the gate compares: what was read rightly, and not refused either; how often each digit survived corruption;
    what was refused that is no digit. And every guess."""
    digits = {report.slug(answers.name): answers for answers in (measured.clean, *measured.served)}
    sets = {name: answers.fingerprint for name, answers in digits.items()}
    sets |= {f"{name}{ACCEPTED}": fingerprint for name, fingerprint in sets.items()}
    arrays = {f"{name}.correct": answers.correct for name, answers in digits.items()}
    arrays |= {f"{name}{ACCEPTED}.correct": answers.correct & answers.accepted for name, answers in digits.items()}
    arrays |= {f"{name}.guesses": answers.guesses.astype(np.uint8) for name, answers in digits.items()}
    arrays["corruptions.survived"] = measured.corrupted.correct.sum(axis=(0, 1)).astype(np.uint16)
    sets["corruptions"] = measured.corrupted.fingerprint
    for refusals in measured.refusals:
        arrays[f"{report.slug(refusals.name)}.refused"] = refusals.refused
        sets[report.slug(refusals.name)] = refusals.fingerprint
    write(folder / "answers.npz", lambda file: np.savez_compressed(file, **arrays))  # type: ignore[arg-type]
    mlflow.log_artifact(str(folder / "answers.npz"), "report")
    mlflow.log_dict(sets, "report/sets.json")


def percent(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{100 * value:.{digits}f}"


HEAD = ("set", "pictures", "accuracy %", "95% interval", "calibration error", "refused %", "AUROC")


def _cells(row: report.Row) -> tuple[str, ...]:
    interval = "" if row.low is None else f"{percent(row.low)}–{percent(row.high)}"
    calibration = "" if row.calibration is None else f"{row.calibration:.4f}"
    area = "" if row.auroc is None else f"{row.auroc:.4f}"
    return row.name, f"{row.count:,}", percent(row.accuracy), interval, calibration, percent(row.refused, 1), area


def as_markdown(rows: Sequence[report.Row]) -> str:
    lines = ["| " + " | ".join(HEAD) + " |", "|---|" + "---:|" * (len(HEAD) - 1)]
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def as_text(rows: Sequence[report.Row]) -> str:
    """The table for a terminal, single corruptions and kinds of outliers left out."""
    shown = [
        row for row in rows if row.group not in ("corruption",) and (row.group != "no digit" or row.auroc is not None)
    ]
    corrupted = [row for row in rows if row.group == "corruption"]
    cells = [HEAD, *map(_cells, shown)]
    if corrupted:
        mean = float(np.mean([row.accuracy for row in corrupted if row.accuracy is not None]))
        name = f"mean of {len(corrupted)} corruptions"
        cells.append((name, f"{sum(row.count for row in corrupted):,}", percent(mean), "", "", "", ""))
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEAD))]
    return "\n".join(
        "  "
        + "  ".join(
            cell.ljust(w) if place == 0 else cell.rjust(w)
            for place, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    )
