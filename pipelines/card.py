"""The model card (Mitchell et al. 2019): a training run and its report in, Markdown out."""

from __future__ import annotations

import math
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run

from pipelines import tracking
from pipelines.own import NAME as OWN

LIMITS = """## Intended use
Reading single handwritten digits, 0 to 9, from thumbnails, drawings and photographs. Not for numbers of several digits
(send each digit by itself), for forensic or medical use, or wherever a wrong digit does harm that nobody would notice.

## Limits
- MNIST was written by American employees and students in the early 1990s: a 1 with a long up-stroke, a crossed 7 and
  other habits are rarer there than in the world.
- A picture without a digit is refused most of the time, not always: look at `accepted`, and at the rows above.
- The synthetic photographs are drawn by a program. Real ones are reported separately where there are any.
- Probabilities are calibrated on validation digits and synthetic photographs, not on your pictures.
"""


def write(training_run: str, report_run: str | None) -> str:
    """The card of the model of a training run; without a report it says so."""
    run = MlflowClient().get_run(training_run)
    tags, params, metrics = run.data.tags, run.data.params, run.data.metrics
    parts = [
        "# Model card: digits",
        "Which handwritten digit is in a 28×28 picture, how surely, and whether there is one at all. A convolutional "
        "network of 25.9 million parameters in two branches, as `model.onnx`.",
        *_segmenter(metrics),
        "## Results",
        _results(report_run),
        "## Data",
        f"- {_data(run)}, fingerprint `{tags.get('fingerprint', 'unknown')[:16]}`",
        f"- {params.get('photographs', '?')} synthetic photographs of training digits and of digits written anew, "
        f"{params.get('outliers', '?')} pictures of no digit",
        *_own(run),
        "- chosen and calibrated on validation pictures; the test pictures were read once, at the end",
        "## Training",
        f"- {params.get('epochs', '?')} epochs, seed {params.get('seed', '?')}, run `{training_run}`",
        f"- recipe: {_recipe(params)}",
        f"- validation accuracy {_percent(metrics.get('validation_accuracy'))}, temperature "
        f"{metrics.get('temperature', math.nan):.3f}, threshold {metrics.get('threshold', math.nan):.3f}, "
        f"of photographs {metrics.get('photograph_threshold', math.nan):.3f}, "
        f"served in {tags.get('precision', '?')}, {tags.get('form', '?')} form",
        f"- git commit `{tags.get('git_commit', 'unknown')[:12]}`{_dirty(tags)}",
        LIMITS,
    ]
    return "\n\n".join(parts).replace("\n\n- ", "\n- ")


def _segmenter(metrics: dict[str, float]) -> list[str]:
    overlap, area = metrics.get("segmenter_overlap"), metrics.get("segmenter_auroc", math.nan)
    if overlap is None:
        return []
    words = "A second, small network finds strokes in photographs, which it has learnt from synthetic ones"
    tells = "" if math.isnan(area) else f" It also tells whether there is a digit at all (AUROC {area:.3f})."
    return [f"{words} (overlap with the true strokes {overlap:.2f}).{tells}"]


def _results(report_run: str | None) -> str:
    if report_run is None:
        return "Not measured yet: `mlflow run . -e evaluate`."
    return tracking.read(report_run, "report/table.md").decode()


def _data(run: Run) -> str:
    tags = run.data.tags
    counts = [
        f"{int(count['pictures']):,} {what}"
        for context, what in (("training", "to train"), ("validation", "to validate"))
        for count in _inputs(run, f"{tags.get('dataset')} {context}")
    ]
    if tags.get("bundled") == "true":
        words = "the 1,797 digits of 8×8 that ship with scikit-learn, enlarged: **for trying things out only**"
    else:
        words = "MNIST (LeCun, Cortes, Burges)"
    return ", ".join([words, *counts])


def _inputs(run: Run, name: str) -> list[dict[str, str]]:
    """The tags of a run's data sets of that name."""
    inputs = run.inputs.dataset_inputs if run.inputs else []
    return [{tag.key: tag.value for tag in entry.tags} for entry in inputs if entry.dataset.name == name]


def _own(run: Run) -> list[str]:
    """What it learnt from besides, where it did."""
    return [
        f"- {count['pictures']} own pictures, and {count['held_out']} held out for the report, "
        f"fingerprint `{count['fingerprint'][:16]}`"
        for count in _inputs(run, OWN)
    ]


def _recipe(params: dict[str, str]) -> str:
    own = {name.removeprefix("recipe_"): value for name, value in params.items() if name.startswith("recipe_")}
    return ", ".join(f"{name} {float(value):.4g}" for name, value in sorted(own.items())) or "unknown"


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2%}"


def _dirty(tags: dict[str, Any]) -> str:
    return ", with changes that were not committed" if tags.get("git_dirty") == "true" else ""
