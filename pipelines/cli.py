"""`digits`: answers for picture files, and where a model comes from; words in, lines and an exit status out."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

EPILOG = (
    "More than a few thousand pictures, as CSV or Parquet: mlflow run . -e predict -P input=… -P output=answers.csv"
)


def main(words: Sequence[str] | None = None) -> int:
    """The command; gives the exit status: 0, 1 where something could not be read or found, 2 for a wrong command."""
    from pipelines.errors import UserError, explain

    # As in pipelines.launch: lines show at once in a pipe too, and a dash that a terminal has not ends nothing.
    sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    asked = parser().parse_args(sys.argv[1:] if words is None else words)
    try:
        return int(asked.command(asked))
    except BrokenPipeError:  # `digits predict … | head` has seen enough
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        line = explain(error)
        if line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        return error.status if isinstance(error, UserError) else 1


def parser() -> argparse.ArgumentParser:
    """What the command takes."""
    top = argparse.ArgumentParser("digits", description="Reads handwritten digits.", allow_abbrev=False)
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    predict = commands.add_parser("predict", help="answer picture files", epilog=EPILOG, allow_abbrev=False)
    predict.add_argument("files", nargs="+", metavar="FILE", help="pictures; or one folder, zip file or quoted pattern")
    predict.add_argument(
        "--model", default="champion", help="champion (default), digits/3, a tag of the BentoML store or a model.onnx"
    )
    predict.set_defaults(command=_predict)
    origin = commands.add_parser("provenance", help="where a registered model comes from", allow_abbrev=False)
    origin.add_argument("version", metavar="VERSION", help="a number, champion, challenger or latest")
    origin.set_defaults(command=_provenance)
    return top


# -- predict ----------------------------------------------------------------------------------------------------------


def _predict(asked: argparse.Namespace) -> int:
    """Prints a line for each file as it is answered, and what they come to."""
    from digits.workers import cores
    from pipelines import chosen, inputs, reader
    from pipelines.answers import Summary

    only = asked.files[0]
    named = len(asked.files) > 1 or (Path(only).is_file() and not only.lower().endswith(".zip"))
    listing = inputs.of_files(asked.files) if named else inputs.find(only)
    model = chosen.find(asked.model)
    width = min(60, max(4, *map(len, listing.names)))
    summary = Summary()
    answered = reader.answer(model.content, listing.source, reader.groups(listing), cores())
    for place, (_, rows) in enumerate(answered):
        if place == 0:
            print(f"{'file':<{width}}  digit  probability")
        for row in rows:
            summary.add(row)
            print(as_line(row, width))
    if summary.pictures > 1:
        summary.bad.clear()  # told already, each in its line
        print(f"\n{summary.as_text()}\nmodel     {model.name}")
    return 1 if summary.unreadable else 0


def as_line(row: Sequence[Any], width: int) -> str:
    """One row for people: file, digit, probability, and a word where it was refused or could not be read."""
    path, digit, probability, accepted, error = *row[:4], row[-1]
    if error is not None:
        return f"{path:<{width}}  {'–':>5}  {'–':>11}  unreadable: {error}"
    return f"{path:<{width}}  {digit:>5}  {probability:>11.2%}" + ("" if accepted else "  refused")


# -- provenance -------------------------------------------------------------------------------------------------------


def _provenance(asked: argparse.Namespace) -> int:
    from pipelines.errors import UserError

    try:
        from pipelines import tracking
    except ModuleNotFoundError as missing:
        raise UserError(f"{missing.name} is not installed: provenance needs pip install -e '.[train]'") from None
    tracking.check_database()
    tracking.connect()
    print(json.dumps(provenance(asked.version), indent=2))
    return 0


def provenance(asked: str) -> dict[str, Any]:
    """From a version to all it is made of: run, parameters, data, commit, libraries, file, store. Raises UserError."""
    from mlflow import MlflowClient

    from pipelines import registry, store

    version = registry.find(asked.removeprefix(f"{registry.MODEL}:"))
    assert version.run_id is not None
    run = MlflowClient().get_run(version.run_id)
    made_with = registry.made_with(version)
    tags = version.tags
    return {
        "model": f"{registry.MODEL}:{version.version}",
        "aliases": list(version.aliases),
        "bento_model": store.tag_of(version),
        "model_id": tags.get("model_id"),
        "sha256": tags.get("sha256"),
        "run_id": version.run_id,
        "parent_run_id": run.data.tags.get("mlflow.parentRunId"),
        "report_run_id": tags.get("report_run"),
        "trained_at": tags.get("trained_at"),
        "dataset": tags.get("dataset"),
        "fingerprint": tags.get("fingerprint"),
        "extra_fingerprint": tags.get("extra_fingerprint"),
        "git_commit": tags.get("git_commit"),
        "dirty": tags.get("git_dirty"),
        "gate": tags.get("gate"),
        "parameters": dict(sorted(run.data.params.items())),
        "metrics": dict(
            sorted((name, value) for name, value in run.data.metrics.items() if not name.startswith("system/"))
        ),
        "libraries": made_with.get("libraries"),
        "machine": made_with.get("machine"),
    }


if __name__ == "__main__":
    sys.exit(main())
