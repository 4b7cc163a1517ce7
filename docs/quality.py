"""How often it is right: the reports of several runs go into docs/benchmarks/quality.json, README's table comes out.

`python -m docs.quality FOLDER …`, each with the mlflow.db and the mlruns of one `mlflow run .`; then `python -m
docs.make_tables`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow.entities import Run

FILE = Path(__file__).parent / "benchmarks" / "quality.json"
SHOWN = {
    "test digits": "MNIST test digits",
    "photos": "phone photographs of other people's digits",
    "drawn": "digits drawn on a screen",
    "photographs, easy": "synthetic photographs of test digits, easy",
    "photographs, hard": "the same, hard (some no person could read)",
    "photographs, cut out": "photographs of test digits, cut along the strokes on one to four sides",
    "photographs, marked": "photographs of test digits in a ring, underlined or in brackets",
    "other writers": "scikit-learn's digits of 8×8, by other writers",
    "corruptions": "test digits under 23 corruptions at 5 severities, mean",
    "no digit, kinds trained on": "no digit, kinds trained on (letters, words, several digits, clothes …)",
    "no digit, kinds never seen": "no digit, kinds never seen (Cyrillic, knitwear, flowers, barcodes)",
}
Table = tuple[tuple[str, ...], list[tuple[str, ...]]]


def gather(folder: Path) -> dict[str, Any]:
    """One run: seed, commit, when, for how long, on what, and all rows of its report."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder.resolve()}/mlflow.db")
    experiment = client.get_experiment_by_name("digits")
    assert experiment is not None

    def the(kind: str) -> Run:
        (found,) = client.search_runs([experiment.experiment_id], f"tags.kind = '{kind}' and tags.outcome = 'complete'")
        return found

    def artifact(run: Run, path: str) -> Any:
        return json.loads(Path(run.info.artifact_uri.removeprefix("file://"), path).read_text("utf-8"))

    whole, report = the("main"), the("report")
    table, made_with = artifact(report, "report/table.json"), artifact(whole, "provenance.json")
    return {
        "seed": int(whole.data.params["seed"]),
        "commit": whole.data.tags["git_commit"],
        "minutes": round((whole.info.end_time - whole.info.start_time) / 60_000, 1),
        "recipe": {n.removeprefix("best_"): v for n, v in whole.data.params.items() if n.startswith("best_")},
        "machine": {name: made_with["machine"][name] for name in ("cpu", "cores")},
        "libraries": made_with["libraries"],
        "rows": [dict(zip(table["columns"], row, strict=True)) for row in table["data"]],
    }


def reports() -> list[dict[str, dict[str, Any]]]:
    """The rows of each run by their names, the corruptions as one more of them."""
    found = []
    for run in json.loads(FILE.read_text("utf-8"))["runs"]:
        of = {row["name"]: row for row in run["rows"]}
        corrupted = [row for row in run["rows"] if row["group"] == "corruption"]
        of["corruptions"] = {
            "count": sum(row["count"] for row in corrupted),
            "accuracy": mean(row["accuracy"] for row in corrupted),
            "calibration": None,
            "refused": None,
        }
        found.append(of)
    return found


def quality() -> Table:
    """Mean (lowest–highest) over the runs."""
    runs = reports()
    rows = []
    for name, words in SHOWN.items():
        of = [run[name] for run in runs]
        (count,) = {row["count"] for row in of}
        digits = 2 if name == "test digits" else 1
        accuracy, calibration, refused = ([row[key] for row in of] for key in ("accuracy", "calibration", "refused"))
        is_digit = accuracy[0] is not None
        rows.append(
            (
                words,
                f"{count:,}",
                spread(accuracy, digits) if is_digit else "",
                "" if calibration[0] is None else f"{mean(calibration):.3f}",
                "" if refused[0] is None else f"{mean(refused):.1%}"[:-1] if is_digit else spread(refused, 1),
            )
        )
    return ("pictures", "n", "accuracy %", "calibration error", "refused %"), rows


def spread(shares: list[float], digits: int) -> str:
    middle, low, high = (f"{100 * share:.{digits}f}" for share in (mean(shares), min(shares), max(shares)))
    return f"{middle} ({low}–{high})" if len(shares) > 1 else middle


TABLES: dict[str, Callable[[], Table]] = {"quality": quality}

if __name__ == "__main__":
    gathered = sorted((gather(Path(folder)) for folder in sys.argv[1:]), key=lambda run: run["seed"])
    FILE.write_text(json.dumps({"runs": gathered}, indent=1, ensure_ascii=False) + "\n", "utf-8")
