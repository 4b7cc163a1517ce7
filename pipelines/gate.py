"""The gate of promotion: what is known of two models in, a decision and its reason out. Touches nothing.

Both are compared on the very same pictures, with paired tests, since two accuracies of 99.7% on 10,000 digits are the
same within chance when seen alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wilcoxon

from digits.metrics import mcnemar

SIGNIFICANT = 0.05  # in all (Bonferroni): half for the test digits, half shared among the other sets, however many
TEST = "test_digits"
ACCEPTED = "_accepted"  # the set of a name, of which what was read rightly but refused counts as wrong


@dataclass(frozen=True)
class Evidence:
    """What a report says about one version.

    Args:
        version: of the registry.
        dataset: "mnist" or "digits".
        accuracy: on the test digits.
        sets: fingerprint of each set's pictures.
        right: for each set, (n,): whether each picture was read (or accepted, or refused) rightly, or how often each
            digit survived corruption.
    """

    version: int
    dataset: str
    accuracy: float
    sets: dict[str, str]
    right: dict[str, NDArray[np.integer] | NDArray[np.bool_]]


@dataclass(frozen=True)
class Decision:
    """`reasons`: sentences."""

    promote: bool
    reasons: list[str]


def decide(challenger: Evidence, champion: Evidence | None, floor: float) -> Decision:
    """Whether the challenger becomes champion."""
    if challenger.accuracy < floor:
        return Decision(
            False, [f"its test accuracy {challenger.accuracy:.2%} is below the floor of {floor:.2%} (-P floor=)"]
        )
    if champion is None:
        return Decision(
            True, [f"there was no champion, and {challenger.accuracy:.2%} is not below the floor of {floor:.2%}"]
        )
    if challenger.dataset == "digits" and champion.dataset == "mnist":
        return Decision(False, ["it learnt from scikit-learn's digits; such a model never replaces one of MNIST"])
    if challenger.dataset != champion.dataset:
        return Decision(True, ["it learnt from MNIST, the champion from scikit-learn's digits"])
    if challenger.sets.get(TEST) != champion.sets.get(TEST):
        mine, its = (len(evidence.right[TEST]) for evidence in (challenger, champion))
        if mine > its:
            return Decision(
                True, [f"it was measured on {mine:,} test pictures, the champion, with a limit, on {its:,}"]
            )
        return Decision(
            False,
            [
                f"it was measured on other test pictures ({mine:,}) than the champion ({its:,}): "
                "train it on the same data, with the same limit or none"
            ],
        )
    same = [name for name in challenger.sets if champion.sets.get(name) == challenger.sets[name]]
    compared = {name: compare(name, challenger.right[name], champion.right[name]) for name in same}
    worse = [words for name, (words, p, gain) in compared.items() if gain < 0 and p < level(name, same)]
    is_it, told = ("is", worse) if worse else ("is not", [words for words, _, _ in compared.values()])
    reasons = [f"it {is_it} significantly worse than version {champion.version}: {words}" for words in told]
    both = challenger.sets.keys() & champion.sets.keys()
    if others := [name for name in challenger.sets if name in both and name not in same]:
        reasons.append(f"not compared, since the two were measured on different pictures: {_listed(others)}")
    if others := [name for name in {**challenger.sets, **champion.sets} if name not in both]:
        reasons.append(f"not compared, since only one of the two was measured on it: {_listed(others)}")
    return Decision(not worse, reasons)


def level(name: str, compared: Sequence[str]) -> float:
    """The p below which a difference counts. More folders do not make it easier to be worse on the test digits."""
    family = [other for other in compared if is_test(other) == is_test(name)]
    return SIGNIFICANT / 2 / len(family)


def is_test(name: str) -> bool:
    return name in (TEST, TEST + ACCEPTED)


def _listed(names: Sequence[str]) -> str:
    """Each once, though there are two sets of the same pictures."""
    return ", ".join(dict.fromkeys(name.removesuffix(ACCEPTED).replace("_", " ") for name in names))


def compare(name: str, first: NDArray[np.generic], second: NDArray[np.generic]) -> tuple[str, float, float]:
    """In words; the two-sided p of McNemar's test, or of Wilcoxon's for counts; and below 0 if the first is worse."""
    if first.dtype == bool:
        a, b = first.astype(bool), second.astype(bool)
        gain = float(a.mean() - b.mean())
        p = mcnemar(a, b)
        words = f"{a.mean():.2%} against {b.mean():.2%} of {len(a):,} (McNemar p = {p:.3g})"
    else:
        counts, others = first.astype(np.int64), second.astype(np.int64)
        same = np.array_equal(counts, others)
        p = 1.0 if same else float(wilcoxon(counts, others).pvalue)
        # Which is better by the ranks that this test goes by, which the means may contradict.
        gain = 0.0 if same else float(wilcoxon(counts, others, alternative="less").pvalue) - 0.5
        means = f"{counts.mean():.2f} against {others.mean():.2f} times right"
        words = f"{means} for each of {len(counts):,} digits (Wilcoxon p = {p:.3g})"
    return f"{name.replace('_', ' ')}: {words}", p, gain
