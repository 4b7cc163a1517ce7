"""`make bench-study`: trials a minute and database calls a trial, for a study that one and two processes work off.

Real processes, each on one thread so that two have twice the cores of one, and a real PostgreSQL on loopback for
Optuna and MLflow, that counts what it is asked. Only the time counts in which every process is at a trial.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import sqlalchemy
from optuna.trial import FrozenTrial
from sqlalchemy.exc import ProgrammingError

from benchmarks import save, takes_out

ROOT = Path(__file__).resolve().parents[1]
TRANSACTIONS = ("BEGIN", "COMMIT", "ROLLBACK")


@dataclass(frozen=True)
class Measured:
    """One study. Calls are those of a trial, without the words that begin and end transactions."""

    processes: int
    trials: int
    complete: int
    trials_per_minute: float
    cpu_seconds_per_trial: float
    optuna_calls: float
    optuna_transactions: float
    mlflow_calls: float


def measure(processes: int, trials: int, asked: list[str], folder: Path) -> Measured:
    """Runs the trials of one study. The processes of earlier ones have left their pictures in `folder`."""
    from tests import postgres

    with postgres.running("log_statement=all") as server:
        settings = server.databases()
        os.environ.update(settings)
        from mlflow import MlflowClient

        MlflowClient(settings["MLFLOW_TRACKING_URI"]).search_experiments()  # makes the tables
        before = {name: server.statements(address) for name, address in settings.items()}
        started = [start(folder / "worker", ["worker", "--study", "measured"]) for _ in range(processes - 1)]
        started.append(start(folder / "parent", ["tune", "--study", "measured", "--trials", str(trials), *asked]))
        cpu = wait(started, trials, settings["OPTUNA_STORAGE"])
        calls = {name: server.statements(address) - before[name] for name, address in settings.items()}
        ended = finished()
    optuna, mlflow = calls["OPTUNA_STORAGE"], calls["MLFLOW_TRACKING_URI"]
    return Measured(
        processes,
        trials,
        sum(trial.state.name == "COMPLETE" for trial in ended),
        rate(ended) * 60,
        cpu / trials,
        plain(optuna) / trials,
        optuna["COMMIT"] / trials,
        plain(mlflow) / trials,
    )


def start(folder: Path, words: list[str]) -> psutil.Popen:
    folder.mkdir(exist_ok=True)
    own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with (folder / "log").open("w") as log:
        return psutil.Popen(
            [sys.executable, "-m", "pipelines", *words], cwd=folder, env=os.environ | own, stdout=log, stderr=log
        )


def wait(started: list[psutil.Popen], wanted: int, address: str) -> float:
    """Until that many trials are done, then ends the processes; the seconds of processor that their threads have used.

    What comes after the trials, two trainings that confirm the winner, is not for this benchmark.
    """
    silent = {"options": "-c log_statement=none"}  # what is asked here is not counted
    engine = sqlalchemy.create_engine(address, connect_args=silent, isolation_level="AUTOCOMMIT")
    done = sqlalchemy.text("select count(*) from trials where state in ('COMPLETE', 'PRUNED')")
    try:
        while True:
            if ended := [process for process in started if process.poll()]:
                raise SystemExit(f"{ended[0].cmd} ended with {ended[0].returncode}")
            with suppress(ProgrammingError), engine.connect() as connection:  # the tables are made by the study
                if connection.execute(done).scalar() == wanted:
                    break
            time.sleep(0.2)
        times = [process.cpu_times() for process in started if process.poll() is None]
        return float(sum(used.user + used.system for used in times))
    finally:
        engine.dispose()
        for process in started:
            process.terminate()
        for process in started:
            process.wait()


def finished() -> list[FrozenTrial]:
    """The trials of the only study of the database that came to an end."""
    from pipelines import shared

    storage = shared.connect(make=False)
    (study,) = storage.get_all_studies()
    trials = [trial for trial in storage.get_all_trials(study._study_id) if trial.state.name in ("COMPLETE", "PRUNED")]
    storage.engine.dispose()
    return trials


def rate(trials: list[FrozenTrial]) -> float:
    """Trials a second while every process was at one; of a trial on the edge of that time, the part within counts."""
    spans: dict[str, list[tuple[float, float]]] = {}
    for trial in trials:
        assert trial.datetime_start is not None
        assert trial.datetime_complete is not None
        span = (trial.datetime_start.timestamp(), trial.datetime_complete.timestamp())
        spans.setdefault(trial.user_attrs["process"], []).append(span)
    first = max(min(begin for begin, _ in own) for own in spans.values())
    last = min(max(end for _, end in own) for own in spans.values())
    done = sum(
        max(0.0, min(end, last) - max(begin, first)) / (end - begin) for own in spans.values() for begin, end in own
    )
    return done / (last - first)


def plain(calls: Counter[str]) -> int:
    return calls.total() - sum(calls[word] for word in TRANSACTIONS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--digits", type=int, default=20_000, help="of which a trial trains on 3,000")
    parser.add_argument("--rounds", type=int, default=2)
    takes_out(parser)
    arguments = parser.parse_args()
    asked = f"--limit {arguments.digits} --photographs 200 --outliers 100"
    asked += f" --dataset mnist --data_dir {Path(os.environ.get('MNIST_ROOT', 'data')).resolve()} --tune_minutes 600"
    os.environ["MNIST_ROOT"] = str(Path(os.environ.get("MNIST_ROOT", "data")).resolve())
    results: list[Measured] = []
    with tempfile.TemporaryDirectory(prefix="digits-bench-") as name:
        for round_number in range(arguments.rounds):
            for processes in (1, 2):
                measured = measure(processes, arguments.trials, asked.split(), Path(name))
                results.append(measured)
                print(f"round {round_number + 1}  {measured}", flush=True)
    facts = {"machine": f"{os.cpu_count()} cores, {platform.machine()}", **vars(arguments)}
    out = facts.pop("out")
    save(out, "study", {**facts, "results": [asdict(one) for one in results]})


if __name__ == "__main__":
    main()
