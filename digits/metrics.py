"""What a prediction is worth: arrays of logits, probabilities and labels in, plain numbers out.

SciPy and scikit-learn are imported where they are used: `digits predict` wants an interval where neither is installed.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

SHARPEST = 0.3  # of temperatures

Floats = NDArray[np.floating]
Integers = NDArray[np.integer]
Booleans = NDArray[np.bool_]


def accuracy_interval(correct: int, count: int) -> tuple[float, float]:
    """95% interval of Wilson (1927) for `correct` out of `count` ≥ 1, both bounds 0 to 1."""
    z = NormalDist().inv_cdf(0.975)
    share = correct / count
    middle = share + z**2 / (2 * count)
    reach = z * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    return max(0.0, (middle - reach) / (1 + z**2 / count)), min(1.0, (middle + reach) / (1 + z**2 / count))


def negative_log_likelihood(probabilities: Floats, labels: Integers) -> float:
    """Mean of −log P(label) in nats; probabilities (n, 10), labels (n,)."""
    chosen = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.clip(chosen, 1e-12, 1)).mean())


def brier(probabilities: Floats, labels: Integers) -> float:
    """Mean squared distance from the one-hot label (Brier 1950), 0 to 2; probabilities (n, 10), labels (n,)."""
    hot = np.eye(probabilities.shape[1])[labels]
    return float(((probabilities - hot) ** 2).sum(axis=1).mean())


def reliability(probabilities: Floats, labels: Integers, bins: int = 15) -> tuple[Floats, Floats, Integers]:
    """Mean confidence, accuracy and count in bins of equal width of the highest probability; each (bins,)."""
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    count = np.bincount(place, minlength=bins)
    safe = np.maximum(count, 1)
    mean_confidence = np.bincount(place, weights=confidence, minlength=bins) / safe
    accuracy = np.bincount(place, weights=correct, minlength=bins) / safe
    return mean_confidence, accuracy, count


def expected_calibration_error(probabilities: Floats, labels: Integers, bins: int = 15) -> float:
    """|confidence − accuracy|, averaged over `reliability`'s bins by their counts (Guo et al. 2017), 0 to 1."""
    confidence, accuracy, count = reliability(probabilities, labels, bins)
    return float((np.abs(confidence - accuracy) * count).sum() / max(1, count.sum()))


def mcnemar(first_correct: Booleans, second_correct: Booleans) -> float:
    """Exact two-sided p of McNemar (1947) for two classifiers on the same n pictures; booleans (n,) each."""
    from scipy.stats import binomtest

    only_first = int((first_correct & ~second_correct).sum())
    only_second = int((second_correct & ~first_correct).sum())
    if only_first + only_second == 0:
        return 1.0
    return float(binomtest(only_first, only_first + only_second, 0.5).pvalue)


def fit_temperature(logits: Floats, labels: Integers) -> float:
    """The T, 0.3 to 20, whose softmax(logits / T) has the least negative log-likelihood (Guo et al. 2017).

    Without one wrong answer the least is at 0, where every answer would be certain: hence the floor.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    def loss(log_temperature: float) -> float:
        scores = log_softmax(logits.astype(np.float64) / np.exp(log_temperature), axis=1)
        return float(-scores[np.arange(len(labels)), labels].mean())

    best = minimize_scalar(loss, bounds=(np.log(SHARPEST), np.log(20.0)), method="bounded")
    return float(np.exp(best.x))


def scores_of(logits: Floats, temperature: float) -> tuple[Floats, Floats]:
    """What model.onnx gives for these logits (n, 10): probabilities (n, 10) and digitness (n,)."""
    from scipy.special import softmax

    scaled = logits.astype(np.float64) / temperature
    eleven = softmax(np.pad(scaled, ((0, 0), (0, 1))), axis=1)
    return softmax(scaled, axis=1), 1 - eleven[:, 10]


def auroc(positive: Floats, negative: Floats) -> float:
    """The chance that a random positive (n,) scores above a random negative (m,); 0.5 is guessing."""
    from sklearn.metrics import roc_auc_score

    labels = np.concatenate((np.ones(len(positive)), np.zeros(len(negative))))
    return float(roc_auc_score(labels, np.concatenate((positive, negative))))


def threshold_for(scores: Floats, refused_share: float) -> float:
    """The quantile `refused_share` of scores (n,), rounded down to one of them: at most that share lies below it."""
    return float(np.quantile(scores, refused_share, method="lower"))
