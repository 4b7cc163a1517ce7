"""The final training: a recipe in, a calibrated and exported model in MLflow out, registered as challenger."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import mlflow
import numpy as np
import onnx
from mlflow import MlflowClient
from mlflow.models import ModelSignature
from mlflow.types.schema import Schema, TensorSpec
from numpy.typing import NDArray
from safetensors.torch import load_file, save

from digits import export
from digits.classifier import PHOTOGRAPH_THRESHOLD, Classifier, carrying
from digits.data import Data, Split
from digits.device import choose_device, number_format
from digits.fit import EpochReport, Recipe, predict_logits
from digits.metrics import expected_calibration_error, fit_temperature, scores_of, threshold_for
from digits.network import DigitNet
from pipelines import logbook, own, pictures, provenance, ranks, registry, tracking
from pipelines.errors import UserError
from pipelines.files import write
from pipelines.job import Job, open_job
from pipelines.material import SEGMENTER_FILE, Material, Sent, load_data, load_own, material_for, named
from pipelines.own import Own
from pipelines.parameters import Main, Train
from pipelines.tune import base_recipe

REFUSED = 0.015  # of the validation digits and photographs that are read rightly; the promise is 2% of digits
REFUSED_PHOTOGRAPHS = 0.045  # likewise, of photographs as hard as any: of all easy ones it is 2% (docs/log.md)
CALIBRATION_PICTURES = (768, 1_536, 3_072, 384)  # how many set int8's scales, in the order in which that is tried
FACTORISING_PICTURES = 7_500
# What int8 may cost: shares of the digits, of the photographs, of all that is accepted; or one picture of them.
DIGITS_LOST, DIGITS_CHANGED, PHOTOGRAPHS_LOST, ACCEPTANCE_CHANGED = 0.0003, 0.001, 0.005, 0.01
LOST_CALIBRATION = 0.002
ROUNDING = 1e-3  # how far ONNX Runtime's fp32 probabilities may be from torch's
Outcome = tuple[NDArray[np.floating], NDArray[np.floating]]  # probabilities (n, 10), digitness (n,)
SIGNATURE = ModelSignature(
    inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, 28, 28), "images")]),
    outputs=Schema(
        [
            TensorSpec(np.dtype(np.float32), (-1, 10), "probabilities"),
            TensorSpec(np.dtype(np.float32), (-1,), "digitness"),
        ]
    ),
)


class ExportError(RuntimeError):
    """The exported model does not say what the trained one says: never to be served."""


@dataclass(frozen=True)
class Built:
    """`model.onnx` and the numbers that went into it."""

    model: bytes
    facts: dict[str, Any]


def run(parameters: Train) -> None:
    """The entry point: trains with a known recipe and registers the model; `evaluate` and `promote` come next."""
    data = load_data(parameters)
    extra = load_own(parameters)
    with open_job("train", parameters, own.fingerprint_of_all(data.fingerprint, extra)) as job:
        chosen, source = job.step("recipe", lambda: chosen_recipe(parameters.recipe, data))
        recipe = Recipe(**chosen)
        ranks.check(recipe)
        material = material_for(job, data, parameters, extra)
        trained = train(job, data, material, recipe, parameters, extra, tags={"recipe_from": source})
        number = job.step("version", lambda: registry.register(trained))
    print(
        f"registered: {registry.MODEL} version {number}, challenger\nnext: mlflow run . -e evaluate -P model={number}"
    )


def chosen_recipe(asked: str, data: Data) -> tuple[dict[str, Any], str]:
    """The recipe and where it is from: "default" or a run id. Raises UserError."""
    if asked == "default":
        return asdict(base_recipe(len(data.train))), "default"
    if asked == "best":
        complete = f"tags.outcome = 'complete' and tags.fingerprint = '{data.fingerprint}'"
        for run in tracking.find_runs(f"{complete} and params.best_learning_rate != ''"):
            if run.data.tags.get("kind") in ("study", "main"):
                with suppress(UserError):  # its files are lost
                    return _recipe_of(run.info.run_id), run.info.run_id
        print("recipe: the default one, as there is none of a study of these pictures that came to its end")
        return asdict(base_recipe(len(data.train))), "default"
    return _recipe_of(asked), asked


def _recipe_of(run_id: str) -> dict[str, Any]:
    try:
        return asdict(Recipe(**tracking.read_json(run_id, "recipe.json")))
    except (FileNotFoundError, TypeError):
        raise UserError(
            f"recipe={run_id}: that run has no recipe; expected best, default or the id of a run of ours"
        ) from None


def train(
    job: Job,
    data: Data,
    material: Material,
    recipe: Recipe,
    parameters: Main | Train,
    extra: Own | None = None,
    tags: dict[str, str] | None = None,
) -> dict[str, str]:
    """Trains, exports and logs under one run, or goes on with it. Gives `run_id`, `model_id` and `sha256`."""
    if "trained" in job.state:
        if tracking.still_there(job.state["trained"]["run_id"]):
            return dict(job.state["trained"])
        # Somebody has deleted the run meanwhile; its weights are here.
        job.forget("trained", "report", "version", "promotion")
    name = f"Final training on {named(data)}, {parameters.epochs} epochs (seed {parameters.seed})"
    with job.run(name, "training", tags={**logbook.tags(data, extra), **(tags or {})}, watched=True) as run:
        logbook.log_start(data, parameters, extra)
        if extra:
            logbook.log_table(own.TABLE, own.COLUMNS, own.as_rows(extra))
        # Of a run that somebody has deleted, or when the server did not answer.
        logged = {metric.step for metric in MlflowClient().get_metric_history(run.info.run_id, "epoch_seconds")}
        for report in _reports(job):
            if report.epoch not in logged:
                logbook.log_epoch(report)
        mlflow.log_params({f"recipe_{name}": value for name, value in asdict(recipe).items()})
        mlflow.log_dict(asdict(recipe), "recipe.json")
        trained_in = str(number_format(choose_device(parameters.device))).removeprefix("torch.")
        mlflow.set_tags({"processes": str(ranks.count()), "trained_in": trained_in})
        net = fitted(job, material, recipe, parameters)
        facts = {
            "dataset": data.name,
            "run_id": run.info.run_id,
            "git_commit": provenance.git()["git_commit"],
            "trained_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "digits_version": our_version(),
        }
        built = build(net, material, facts)
        mlflow.log_metrics({k: v for k, v in built.facts.items() if isinstance(v, float)})
        mlflow.set_tags({name: built.facts[name] for name in ("precision", "form")})
        mlflow.set_tag("trained_at", facts["trained_at"])
        mlflow.log_figure(pictures.curves(_reports(job)), "training/curves.png")
        mlflow.log_artifact(str(job.folder / "model.safetensors"), "weights")
        if material.segmenter:
            mlflow.log_artifact(str(job.folder / SEGMENTER_FILE), "weights")
        model_id, sha256 = log_model(built.model, run.info.run_id)
        mlflow.set_tags({"model_id": model_id, "sha256": sha256})
    return dict(job.note("trained", {"run_id": run.info.run_id, "model_id": model_id, "sha256": sha256}))


def fitted(job: Job, material: Material, recipe: Recipe, parameters: Main | Train) -> DigitNet:
    """The trained network; its weights are kept as safetensors in the job's folder."""
    weights = job.folder / "model.safetensors"
    checkpoint = job.folder / "checkpoint.pt"
    if not weights.exists():

        def after(report: EpochReport) -> None:
            known = job.state.get("epochs", [])
            if _finite(report) in known:
                return  # told before the command was ended
            earlier = [each for each in known if each["epoch"] < report.epoch]
            job.note("epochs", [*earlier, _finite(report)])
            logbook.log_epoch(report)
            logbook.tell_epoch(report)

        if checkpoint.exists():
            print("  going on from the last epoch that was finished")
        net = ranks.fit(
            recipe,
            material.train,
            material.validation,
            epochs=parameters.epochs,
            seed=parameters.seed,
            device=parameters.device,
            validation_photographs=material.validation_photographs,
            on_epoch=after,
            checkpoint=checkpoint,
        )
        state = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
        write(weights, save(state))
        checkpoint.unlink(missing_ok=True)
    net = DigitNet(recipe.dropout)
    net.load_state_dict(load_file(weights))
    return net.eval()


def _finite(report: EpochReport) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in asdict(report).items()}


def _reports(job: Job) -> list[EpochReport]:
    return [
        EpochReport(**{name: math.nan if value is None else value for name, value in known.items()})  # type: ignore[arg-type]
        for known in job.state.get("epochs", [])
    ]


def build(net: DigitNet, material: Material, metadata: dict[str, str]) -> Built:
    """Calibrates on validation, exports, quantises if that costs nothing, and sets the threshold.

    Raises:
        ExportError: the exported model differs from the network.
    """
    kinds: Sequence[Split] = [s for s in (material.validation, material.validation_photographs) if s is not None]
    images, labels = (np.concatenate([getattr(split, part) for split in kinds]) for part in ("images", "labels"))
    logits = predict_logits(net, images)
    temperature = fit_temperature(logits, labels)
    full = export.to_onnx(net, temperature, {**metadata, "temperature": f"{temperature:.6f}", "precision": "fp32"})
    outcome = export.run(full, images)
    check_agreement(outcome, scores_of(logits, temperature))

    chosen, precision, form = full, "fp32", "whole"
    thin = export.factorise(net, _calibration(material, FACTORISING_PICTURES))
    exact = {"thin": export.to_onnx(thin, temperature, export.metadata_of(full)), "whole": full}
    # Which pictures set the scales moves a digit or two this way or that, and another choice is cheap; the whole form
    # takes twice as long to serve.
    tries = [("thin", count) for count in CALIBRATION_PICTURES] + [("whole", CALIBRATION_PICTURES[0])]
    for candidate, count in tries:
        small = export.quantise(exact[candidate], _calibration(material, count))
        small_outcome = export.run(small, images)
        cost = price(outcome, small_outcome, labels, len(material.validation))
        if affordable(cost, len(material.validation), len(labels)):
            chosen, outcome, precision, form = small, small_outcome, "int8", candidate
            break
        print(f"  int8 in {candidate} form would cost too much ({_in_words(cost)})")
    else:
        print("  WARNING: the model stays in fp32, slower to serve")
    threshold = math.floor(1e6 * threshold_of(outcome, labels)) / 1e6
    facts = {"temperature": temperature, "threshold": threshold, "precision": precision, "form": form, **cost}
    metadata = {"threshold": f"{threshold:.6f}", "precision": precision, "form": form}
    if material.segmenter:
        metadata |= carrying(material.segmenter.model)
        facts["segmenter_overlap"] = material.segmenter.overlap
        facts["segmenter_auroc"] = material.segmenter.auroc
    if material.sent:
        limit = threshold_of_photographs(export.with_metadata(chosen, metadata), material.sent)
        if not limit:
            print("  WARNING: unsure of too many photographs for a threshold of their own: held to that of all else")
        facts[PHOTOGRAPH_THRESHOLD] = limit or threshold
        metadata[PHOTOGRAPH_THRESHOLD] = f"{limit or threshold:.6f}"
    return Built(export.with_metadata(chosen, metadata), facts)


def threshold_of_photographs(model: bytes, sent: Sent) -> float:
    """What refuses REFUSED_PHOTOGRAPHS of these photographs, among those whose digit is read rightly; 0 where more than
    that can't be accepted whatever the threshold."""
    # The same threshold as for all else leaves the scores as they are.
    plain = export.with_metadata(model, {PHOTOGRAPH_THRESHOLD: export.metadata_of(model)["threshold"]})
    answers = Classifier(plain).classify(sent.readings)
    scores = [answer.score for answer, label in zip(answers, sent.labels, strict=True) if answer.digit == label]
    return math.floor(1e6 * threshold_for(np.array(scores), REFUSED_PHOTOGRAPHS)) / 1e6 if scores else 0.0


def check_agreement(exported: tuple[Any, Any], original: tuple[Any, Any]) -> None:
    """Raises ExportError where ONNX Runtime and torch are further apart than rounding explains."""
    for name, ours, theirs in zip(("probabilities", "digitness"), exported, original, strict=True):
        apart = float(np.abs(np.asarray(ours, np.float64) - theirs).max())
        if not apart <= ROUNDING:
            raise ExportError(
                f"the exported model's {name} differ from the network's by {apart:.2g}; expected at most {ROUNDING}"
            )


def belief(outcome: Outcome) -> NDArray[np.floating]:
    """What the threshold is set on, (n,): the chance that a picture is one digit, and this one."""
    probabilities, digitness = outcome
    return np.asarray(digitness * probabilities.max(axis=1))


def threshold_of(outcome: Outcome, labels: NDArray[np.int64]) -> float:
    """What refuses REFUSED of the pictures that are read rightly: a photograph that imaging could not make out is no
    digit any more."""
    right = outcome[0].argmax(axis=1) == labels
    return threshold_for(belief(outcome)[right], REFUSED)


def price(full: Outcome, small: Outcome, labels: NDArray[np.int64], digits: int) -> dict[str, float]:
    """What int8 changes: shares of the first `digits` rows, validation digits, and of the photographs behind them.

    `int8_acceptance_changed` is the share of all that one of the two would accept and the other would not, each by
    its own threshold.
    """
    read = [outcome[0].argmax(axis=1) for outcome in (full, small)]
    lost = (read[0] == labels).astype(float) - (read[1] == labels)
    accepted = [belief(outcome) >= threshold_of(outcome, labels) for outcome in (full, small)]
    calibration = [expected_calibration_error(o[0][:digits], labels[:digits]) for o in (full, small)]
    return {
        "int8_digits_lost": float(lost[:digits].mean()),
        "int8_digits_changed": float((read[0] != read[1])[:digits].mean()),
        "int8_photographs_lost": float(lost[digits:].sum() / max(1, len(lost) - digits)),
        "int8_acceptance_changed": float((accepted[0] != accepted[1]).mean()),
        "int8_lost_calibration": calibration[1] - calibration[0],
    }


def affordable(cost: dict[str, float], digits: int, count: int) -> bool:
    """Whether that is as good as nothing. One picture of few is chance."""
    photographs = max(1, count - digits)
    return (
        cost["int8_digits_lost"] <= max(DIGITS_LOST, 1 / digits)
        and cost["int8_digits_changed"] <= max(DIGITS_CHANGED, 1 / digits)
        and cost["int8_photographs_lost"] <= max(PHOTOGRAPHS_LOST, 1 / photographs)
        and cost["int8_acceptance_changed"] <= max(ACCEPTANCE_CHANGED, 2 / count)
        and cost["int8_lost_calibration"] <= max(LOST_CALIBRATION, 1 / digits)
    )


def _in_words(cost: dict[str, float]) -> str:
    return (
        f"of the digits {cost['int8_digits_lost']:+.2%} lost and {cost['int8_digits_changed']:.2%} read differently,"
        f" of the photographs {cost['int8_photographs_lost']:+.2%} lost,"
        f" {cost['int8_acceptance_changed']:.2%} accepted or refused differently,"
        f" {cost['int8_lost_calibration']:+.4f} calibration error"
    )


def _calibration(material: Material, count: int) -> Any:
    """Training pictures of the kinds that are served: a like number of digits, photographs and no digits."""
    train = material.train
    parts = [train.digits.images, train.photographs.images if train.photographs else None, train.outliers]
    there = [part for part in parts if part is not None and len(part)]
    return np.concatenate([part[: count // len(there)] for part in there])


def log_model(model: bytes, run_id: str) -> tuple[str, str]:
    """Logs model.onnx as an MLflow model of the active run. Gives its id and the sha256 of the file that is stored."""
    client = MlflowClient()
    for left in client.search_logged_models([tracking.experiment_id()], f"source_run_id = '{run_id}'"):
        client.delete_logged_model(left.model_id)  # of an attempt that was interrupted
    info = mlflow.onnx.log_model(
        onnx.load_from_string(model),
        name="model",
        signature=SIGNATURE,
        pip_requirements=[f"onnxruntime=={version('onnxruntime')}", f"numpy=={np.__version__}"],
        save_as_external_data=False,
    )
    content = tracking.read_model(info.model_id)
    if export.metadata_of(content) != export.metadata_of(model):
        raise ExportError("the stored model.onnx is not the one that was logged")
    return str(info.model_id), hashlib.sha256(content).hexdigest()


def our_version() -> str:
    try:
        return version("digits")
    except PackageNotFoundError:
        return "0+unknown"
