"""What the README says about speed, to be measured anew: each benchmark leaves its results in a folder."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"  # not in git: what is published stays as it was


def takes_out(parser: argparse.ArgumentParser) -> None:
    """Gives a benchmark the option that says where its results go."""
    where = "folder for the results (default benchmarks/results; docs/benchmarks: publishes them)"
    parser.add_argument("--out", type=Path, default=RESULTS, help=where)


def save(out: Path, name: str, results: dict[str, Any]) -> None:
    """Writes `name`.json into that folder, which is made if need be."""
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n")
