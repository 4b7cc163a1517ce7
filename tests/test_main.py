"""The last lines of `mlflow run .`, also where nothing was promoted."""

from __future__ import annotations

import pytest

from pipelines.main import closing, summary

METRICS = {"test_accuracy": 0.9, "test_accuracy_low": 0.88, "test_accuracy_high": 0.92}
RESULT = {"metrics": METRICS, "test_count": 1_000}


@pytest.mark.parametrize(
    ("promoted", "tag", "trained", "serve"),
    [
        (True, "digits:v2-abc", "version 2, champion", "(digits:v2-abc; or: make serve)"),
        (False, "digits:v1-abc", "version 2, not promoted", "(digits:v1-abc; or: make serve)"),
        (
            False,
            "",
            "version 2, not promoted",
            "(nothing yet: no version has passed the gate, or its model is in another BentoML store; or: make serve)",
        ),
    ],
)
def test_the_last_lines_say_what_is_served(promoted: bool, tag: str, trained: str, serve: str) -> None:
    decision = {"promoted": promoted, "why": "significantly worse", "tag": tag}
    lines = closing(2, "run1", RESULT, decision, "Digits").splitlines()
    assert lines[1].endswith(trained)
    assert "90.00% (95% interval 88.00% to 92.00%, 1,000 digits)" in lines[2]
    assert lines[4].endswith(serve)
    assert ("was not promoted**: significantly worse" in summary(2, RESULT, decision)) is not promoted
