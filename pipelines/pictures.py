"""Numbers in, matplotlib figures out: what MLflow and the documentation show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import optuna
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from digits.fit import EpochReport
from digits.metrics import reliability

INK, SOFT, ACCENT = "#1f2937", "#9ca3af", "#c2410c"
Images = NDArray[np.uint8]
DPI = 110
TILE = 150  # pixels of a picture's longer side


def figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, Any]:
    """A figure that belongs to nobody's global state, and its axes (rows, columns)."""
    drawn = Figure(figsize=(width, height), layout="constrained", dpi=DPI)
    axes = np.asarray(drawn.subplots(rows, columns, squeeze=False))
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    return drawn, axes


# -- the study --------------------------------------------------------------------------------------------------------


def history(study: optuna.Study) -> Figure:
    """Score by trial, the best so far as a line, pruned trials at their last value."""
    drawn, axes = figure(7, 3.6)
    axis: Axes = axes[0, 0]
    complete = [t for t in study.trials if t.state == TrialState.COMPLETE and t.value is not None]
    pruned = [t for t in study.trials if t.state == TrialState.PRUNED]
    numbers, values = [t.number for t in complete], [t.value or 0.0 for t in complete]
    axis.plot(numbers, values, "o", color=INK, label="complete")
    if values:
        axis.step(numbers, np.minimum.accumulate(values), where="post", color=ACCENT, label="best so far")
    for place, trial in enumerate(pruned):
        axis.axvline(trial.number, color=SOFT, linewidth=1, linestyle=":", label="pruned" if place == 0 else None)
    axis.set(xlabel="trial", ylabel="score (log-loss, lower is better)", title="Optimisation history")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if study.trials:
        axis.legend(frameon=False)
    return drawn


def slices(trials: Sequence[FrozenTrial]) -> Figure:
    """Score by each parameter."""
    names = sorted({name for trial in trials for name in trial.params})
    columns = min(4, len(names))
    drawn, axes = figure(3 * columns, 2.6 * -(-len(names) // columns), -(-len(names) // columns), columns)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    for axis, name in zip(axes.flat, names, strict=False):
        shown = [t for t in trials if name in t.params]
        axis.scatter(
            [t.params[name] for t in shown], [t.value for t in shown], c=[t.number for t in shown], cmap="viridis"
        )
        axis.set_xlabel(name)
    drawn.supylabel("score")
    drawn.suptitle("Score by parameter (later trials are lighter)")
    return drawn


def importances(study: optuna.Study) -> Figure:
    """How much of the score's variation each parameter explains (fANOVA, Hutter et al. 2014)."""
    drawn, axes = figure(6, 3.2)
    axis: Axes = axes[0, 0]
    try:
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    except (RuntimeError, ValueError) as error:  # all trials scored the same, or there are too few
        axis.text(0.5, 0.5, str(error), ha="center", va="center", wrap=True)
        return drawn
    axis.barh(list(shares)[::-1], list(shares.values())[::-1], color=INK)
    complete = len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
    axis.set(xlabel="share of the variation explained", title=f"Importance of parameters ({complete} trials)")
    return drawn


# -- training ---------------------------------------------------------------------------------------------------------


def curves(reports: Sequence[EpochReport]) -> Figure:
    """Loss and error by epoch."""
    drawn, axes = figure(9, 3.4, 1, 2)
    epochs = [r.epoch for r in reports]
    left, right = axes[0]
    left.plot(epochs, [r.train_loss for r in reports], color=SOFT, label="training (augmented, eleven-way)")
    left.plot(epochs, [r.validation_loss for r in reports], color=INK, label="validation")
    left.set(xlabel="epoch", ylabel="loss", title="Loss")
    right.plot(epochs, [100 * (1 - r.validation_accuracy) for r in reports], color=INK, label="validation digits")
    photographs = [100 * (1 - r.photographs_accuracy) for r in reports]
    if not np.isnan(photographs).all():
        right.plot(epochs, photographs, color=ACCENT, label="validation photographs")
    right.set(xlabel="epoch", ylabel="error, %", title="Error", yscale="log")
    for axis in (left, right):
        axis.legend(frameon=False)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return drawn


# -- the report -------------------------------------------------------------------------------------------------------


def confusion(labels: NDArray[np.integer], guesses: NDArray[np.integer], title: str) -> Figure:
    """Counts by true and answered digit; the right ones are left uncoloured, so that mistakes show."""
    matrix = np.zeros((10, 10), int)
    np.add.at(matrix, (labels, guesses), 1)
    drawn, axes = figure(5.6, 5.2)
    axis: Axes = axes[0, 0]
    mistakes = np.where(np.eye(10, dtype=bool), 0, matrix)
    axis.imshow(mistakes, cmap="Oranges", vmin=0, vmax=max(1, mistakes.max()) * 1.6)
    for row, column in np.ndindex(10, 10):
        if matrix[row, column]:
            axis.text(column, row, str(matrix[row, column]), ha="center", va="center", fontsize=8, color=INK)
    axis.set(xlabel="answered", ylabel="true", title=title, xticks=range(10), yticks=range(10))
    return drawn


def calibration(sets: Mapping[str, tuple[NDArray[np.floating], NDArray[np.integer]]]) -> Figure:
    """Reliability diagrams: accuracy by confidence for each named (probabilities (n, 10), labels (n,))."""
    drawn, axes = figure(4 * len(sets), 3.8, 1, len(sets))
    for axis, (name, (probabilities, labels)) in zip(axes[0], sets.items(), strict=True):
        confidence, accuracy, count = reliability(probabilities, labels)
        used = count > 0
        axis.plot([0, 1], [0, 1], color=SOFT, linewidth=1)
        axis.scatter(
            confidence[used], accuracy[used], s=8 + 120 * np.sqrt(count[used] / count.sum()), color=INK, alpha=0.8
        )
        axis.set(xlabel="confidence", ylabel="accuracy", title=name, xlim=(0, 1.02), ylim=(0, 1.02))
    return drawn


def robustness(names: Sequence[str], accuracies: NDArray[np.floating]) -> Figure:
    """Accuracy by corruption and severity: (corruptions, severities)."""
    drawn, axes = figure(6, 0.28 * len(names) + 1.2)
    axis: Axes = axes[0, 0]
    axis.imshow(accuracies, cmap="RdYlGn", vmin=0.5, vmax=1, aspect="auto")
    for row, column in np.ndindex(*accuracies.shape):
        axis.text(column, row, f"{100 * accuracies[row, column]:.1f}", ha="center", va="center", fontsize=7)
    axis.set(
        xticks=range(accuracies.shape[1]),
        yticks=range(len(names)),
        xlabel="severity",
        title="Accuracy under corruption, %",
    )
    axis.set_xticklabels([str(level + 1) for level in range(accuracies.shape[1])])
    axis.set_yticklabels(names)
    return drawn


def mistakes(pairs: Sequence[tuple[NDArray[np.uint8], NDArray[np.uint8], str]], title: str) -> Figure:
    """Original, what the model saw, and answer, side by side; at most 24.

    All on one wall: axes for each picture would take seconds.
    """
    shown = list(pairs)[:24]
    columns, high, wide = 4, TILE + 30, 2 * TILE + 30
    rows = max(1, -(-len(shown) // columns))
    wall = np.full((rows * high, columns * wide), 255, np.uint8)
    with_title = wall.shape[0] + DPI // 2
    drawn = Figure(figsize=(wall.shape[1] / DPI, with_title / DPI), dpi=DPI)
    axis = drawn.add_axes((0, 0, 1, wall.shape[0] / with_title))
    axis.axis("off")
    for place, (original, seen, words) in enumerate(shown):
        top, left = place // columns * high + 20, place % columns * wide + 10
        for side, picture in enumerate((original, seen)):
            height, width = (max(1, round(side * TILE / max(picture.shape))) for side in picture.shape)
            tile = cv2.resize(picture, (width, height), interpolation=cv2.INTER_NEAREST)
            x = left + side * (TILE + 10)
            wall[top : top + tile.shape[0], x : x + tile.shape[1]] = tile
            cv2.rectangle(wall, (x - 1, top - 1), (x + tile.shape[1], top + tile.shape[0]), 200)  # paper is white too
        axis.text(left, top - 4, words, fontsize=8)
    if not shown:
        axis.text(10, 20, "none")
    axis.imshow(wall, cmap="gray", vmin=0, vmax=255)
    drawn.suptitle(title)
    return drawn
