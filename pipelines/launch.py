"""Starts one step: words in, exit status out. Errors that users can mend become one line; signals end a step cleanly.

`mlflow run` makes a run before it starts our command, in whatever experiment is the default, and logs to it the
parameters as a shell would have them quoted. It is ended truthfully and put in MLflow's bin: one place is left to look.
"""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from pipelines import signals
from pipelines.errors import BROKEN_OFF, GOES_ON, UserError, causes, explain
from pipelines.parameters import ENTRY_POINTS, ParameterError, Parameters

WRONG_PARAMETER, INTERRUPTED = 2, 130
GRACE = 10  # seconds
AGAIN = 3  # answers that a tracking server may break off
TOGETHER = ("main", "train")  # what several processes of torchrun can do
HERE = Path(__file__).resolve().parent.parent
PARENT = os.getppid()  # `mlflow run`, where that started us


def run(words: Sequence[str]) -> int:
    """Runs `words[0]` with the parameters after it.

    Exit status: 0, 1 failed, 2 wrong parameter, 3 not promoted, 130 interrupted.
    """
    # Progress shows at once in a log file too, and a dash that a terminal has not is no reason to end.
    sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    launcher = os.environ.pop("MLFLOW_RUN_ID", None)
    os.environ.pop("MLFLOW_EXPERIMENT_ID", None)
    try:
        step, parameters = check(words)
    except ParameterError as error:
        if rank() and os.environ.get("LOCAL_RANK") != "0":
            time.sleep(GRACE)  # torchrun ends all of a node when one ends, and its first has yet to say why
        else:
            print(f"error: {error}", file=sys.stderr, flush=True)
        if launcher:
            anchor()
        release(launcher, "FAILED")
        return WRONG_PARAMETER
    keep_to_share()
    if rank():
        return follow(parameters)
    signals.listen()
    if launcher:
        anchor()
    if launcher or rank() is not None:
        watch_parent()
    return attend(step, parameters, launcher)


def check(words: Sequence[str]) -> tuple[str, Parameters]:
    """The step and its parameters. Raises ParameterError."""
    if not words or words[0] not in ENTRY_POINTS:
        named = f"unknown entry point {words[0]!r}" if words else "no entry point"
        raise ParameterError(f"{named}; expected one of {', '.join(ENTRY_POINTS)}")
    if rank() is not None and words[0] not in TOGETHER:
        raise ParameterError(f"torchrun starts what trains, not {words[0]}; expected one of {', '.join(TOGETHER)}")
    return words[0], ENTRY_POINTS[words[0]].parse(words[1:], here=not rank())


def attend(step: str, parameters: Parameters, launcher: str | None) -> int:
    """Runs a step that has been checked, and ends the launcher's run as the step ended."""
    from pipelines import tracking

    def work() -> None:
        tracking.connect()
        importlib.import_module(f"pipelines.{step}").run(parameters)

    status, code = "FAILED", 1
    try:
        if launcher:
            tracking.note(launcher)
        with _together(parameters):
            persist(work)
        status, code = "FINISHED", 0
    except KeyboardInterrupt:
        status, code = "KILLED", INTERRUPTED
        print(f"interrupted; {GOES_ON}", file=sys.stderr)
    except Exception as error:
        signals.deafen()
        line = explain(error, f"; {GOES_ON}")
        if line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        if isinstance(error, UserError):
            code = error.status
    finally:
        signals.deafen()
        release(launcher, status)
    return code


def persist(work: Callable[[], None]) -> None:
    """Does a step's work; begins it again, where it ended, when the tracking server breaks off an answer.

    MLflow waits for a server that does not answer, but gives up where one ends between the head and the body.
    """
    broken = 0
    while True:
        try:
            return work()
        except Exception as error:
            if any(isinstance(cause, KeyboardInterrupt) for cause in causes(error)):
                raise KeyboardInterrupt from error  # a server that is gone too could not be told of the end
            broken += 1
            if broken > AGAIN or rank() is not None or explain(error) != BROKEN_OFF:
                raise
        print(f"warning: {BROKEN_OFF}; going on from there", file=sys.stderr)


def keep_to_share() -> None:
    """In a container with a share of the cores PyTorch, which is not imported yet, would start a thread for each."""
    from digits.workers import bound, cores

    threads = cores()
    if threads < bound():
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))


def rank() -> int | None:
    """This process's number among those that `torchrun` has started to train together; None where it has not."""
    return int(os.environ["RANK"]) if "TORCHELASTIC_RUN_ID" in os.environ else None


def _together(parameters: Any) -> AbstractContextManager[None]:
    """Rank 0 has the others at hand while it runs its step."""
    if rank() is None:
        return nullcontext()
    from pipelines import ranks

    return ranks.lead(parameters.device)


def follow(parameters: Any) -> int:
    """Another rank's life: it trains when rank 0 says so. It has nothing to lose, so that a signal just ends it."""
    from pipelines import ranks

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    watch_parent()
    try:
        ranks.follow(parameters.device)
    except UserError as error:
        print(f"error: rank {rank()}: {error}", file=sys.stderr)
        return error.status
    return 0


def release(launcher: str | None, status: str) -> None:
    """Ends the run that `mlflow run` made, after MLflow's last word on it. See pipelines.tidy."""
    if launcher is not None:
        subprocess.Popen([sys.executable, "-m", "pipelines.tidy", launcher, str(PARENT), status], cwd=HERE)


def anchor() -> None:
    """MLflow's default database is a file in the folder of `mlflow run`, which may not be the project's: make it so."""
    import psutil

    uri, relative = os.environ.get("MLFLOW_TRACKING_URI", ""), "sqlite:///"
    path = uri.removeprefix(relative)
    if uri.startswith(relative) and not path.startswith("/"):
        folder = psutil.Process(PARENT).cwd()
        os.environ["MLFLOW_TRACKING_URI"] = f"{relative}{folder}/{path}"


def watch_parent() -> None:
    """Ends the step when `mlflow run` or `torchrun` is gone: a signal to it may not reach what it started."""

    def watch() -> None:
        while os.getppid() == PARENT:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent watch", daemon=True).start()
