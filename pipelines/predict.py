"""Pictures by the thousand: a folder, pattern or zip file in, answers as CSV or Parquet out, and a run in MLflow.

Killed anywhere, the same command goes on from there: what is done is kept beside the output, which appears when whole.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from digits.workers import cores
from pipelines import answers, chosen, inputs, provenance, reader
from pipelines.answers import Partial, Summary
from pipelines.chosen import Chosen
from pipelines.errors import GOES_ON, UserError
from pipelines.files import place
from pipelines.inputs import Listing
from pipelines.progress import Progress
from pipelines.reader import Group, Row

if TYPE_CHECKING:
    from pipelines.parameters import Predict


def run(parameters: Predict) -> None:
    """The entry point."""
    output = place(parameters.output)
    check_output(output)
    listing = inputs.find(parameters.input)
    model = chosen.find(parameters.model)
    print(f"{len(listing.names):,} pictures in {listing.name}, answered by {model.name}")
    begun = time.monotonic()

    def tell(summary: Summary, fresh: int) -> None:
        seconds = time.monotonic() - begun
        if fresh:
            print(f"{fresh:,} pictures in {seconds:.1f} s: {fresh / seconds:,.0f} a second")
        print(summary.as_text())
        run_id = log(parameters, listing, model, summary, fresh / seconds)
        print(f"answers   {output}\nlook      mlflow ui    (run {run_id})")

    predict(listing, model, output, parameters.engine, tell)


def check_output(output: Path) -> None:
    """Raises UserError where the answers could not be written in the end."""
    if output.is_dir():
        raise UserError(f"output={output} is a folder; expected a file that ends in .csv or .parquet")
    if output.suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise UserError("a .parquet file needs pyarrow: pip install -e '.[train]', or write .csv") from None


def predict(
    listing: Listing,
    model: Chosen,
    output: Path,
    engine: str = "local",
    tell: Callable[[Summary, int], None] | None = None,
) -> tuple[Summary, int]:
    """Answers every picture, or those that an interrupted run has left, and writes the output.

    Gives what the answers come to, and the number of pictures answered just now. `tell` gets both before the answers
    are let go that an interrupted run goes on from. Raises UserError.
    """
    with Partial(output, facts(listing, model)) as partial:
        if partial.discarded:
            print("the pictures, the model or the code have changed since the last run of this output: beginning anew")
        work = [group for group in reader.groups(listing) if group.number not in partial]
        fresh = sum(len(group.names) for group in work)
        if len(partial):
            print(f"going on: {len(listing.names) - fresh:,} pictures are answered already")
        done, total = len(listing.names) - fresh, len(listing.names)
        with Progress("pictures", total, done) as progress:
            for number, rows in _engine(engine, model.content, listing, work):
                partial.add(number, rows)
                done += len(rows)
                progress(done, total)
        if len(partial) != reader.count(listing):
            raise UserError(f"{len(partial)} of {reader.count(listing)} groups of pictures were answered; {GOES_ON}")
        summary = Summary()
        answers.write(output, summary.counted(partial.groups()))
        if tell:
            tell(summary, fresh)
        partial.remove()
    return summary, fresh


def facts(listing: Listing, model: Chosen) -> str:
    """A hash of all that the answers depend on."""
    code = provenance.code("pipelines.reader")
    return hashlib.sha256(json.dumps([listing.fingerprint, model.sha256, code]).encode()).hexdigest()


def _engine(name: str, model: bytes, listing: Listing, work: Sequence[Group]) -> Iterator[tuple[int, list[Row]]]:
    if not work:
        return iter(())
    if name == "ray":
        from pipelines import ray_engine

        return ray_engine.answer(model, listing.source, work)
    return reader.answer(model, listing.source, work, cores())


def log(parameters: Predict, listing: Listing, model: Chosen, summary: Summary, rate: float) -> str:
    """One run in MLflow: what was asked, what came out; accuracy and confusion where labels are known. Gives its id."""
    import mlflow

    from pipelines import logbook, pictures, tracking

    name = f"Answers for {summary.pictures:,} pictures of {listing.name}"
    if summary.labelled:
        name += f": {summary.correct / summary.labelled:.2%} right"
    tags = {"fingerprint": listing.fingerprint, "model": model.name, "model_sha256": model.sha256}
    with tracking.run(name, "prediction", tags=tags) as run:
        mlflow.log_params(parameters.model_dump())
        metrics = {
            "pictures": summary.pictures,
            "unreadable": summary.unreadable,
            "refused": summary.refused / max(1, summary.pictures - summary.unreadable),
        }
        if rate:
            metrics["pictures_per_second"] = rate
        if summary.labelled:
            low, high = summary.interval()
            metrics |= {"accuracy": summary.correct / summary.labelled, "accuracy_low": low, "accuracy_high": high}
            metrics["labelled"] = summary.labelled
            if summary.accepted:
                metrics["accuracy_of_accepted"] = summary.accepted_correct / summary.accepted
            labels, guesses = summary.pairs()
            mlflow.log_figure(pictures.confusion(labels, guesses, listing.name), "answers/confusion matrix.png")
            rows = [[digit, *row] for digit, row in enumerate(summary.confusion.tolist())]
            logbook.log_table("answers/confusion.json", ["label", *map(str, range(10))], rows)
        logbook.log_table("answers/by digit.json", ["digit", "pictures"], list(enumerate(summary.digits.tolist())))
        mlflow.log_metrics(metrics)
        mlflow.log_text(summary.as_text() + "\n", "answers/summary.txt")
        tracking.describe(f"```\n{summary.as_text()}\n```")
        return str(run.info.run_id)
