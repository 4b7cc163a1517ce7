"""A job that survives its process: the results of its steps are kept in a folder until the last one is done.

The folder's name is a hash of what the job depends on, so the same command finds the work of one that was killed, and
another command, another data set, changed code or other versions of libraries do not.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import mlflow

from pipelines import provenance, tracking
from pipelines.errors import UserError
from pipelines.files import FOLDER, write_json
from pipelines.parameters import Parameters

WORK = FOLDER / "work"
PATIENCE = 1.0  # seconds: another command may just be looking whether the job can be gone on with
GONE = ".gone"  # at the end of a folder's name that is being removed


class Job:
    """Steps that are done are not done again: their results are in `state.json`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = folder.name
        self._file = folder / "state.json"
        self.state: dict[str, Any] = json.loads(self._file.read_text()) if self._file.exists() else {}
        self.resumed = bool(self.state)

    def note(self, name: str, value: Any) -> Any:
        """Keep a result, which JSON can hold."""
        self.state[name] = value
        write_json(self._file, self.state)
        return value

    def step(self, name: str, work: Callable[[], Any]) -> Any:
        """The result of `work`, which is done only if it has not been."""
        return self.state[name] if name in self.state else self.note(name, work())

    def forget(self, *names: str) -> None:
        """Let go of results that are worth nothing any more."""
        for name in names:
            self.state.pop(name, None)
        write_json(self._file, self.state)

    @contextmanager
    def run(self, name: str, kind: str, **options: Any) -> Iterator[Any]:
        """A run of this job; the interrupted one of that kind is gone on with."""
        again = tracking.still_there(self.state.get(f"{kind} run"))
        tags = {"job": self.key, **options.pop("tags", {})}
        if again:
            tags["resumed"] = "true"
        with tracking.run(name, kind, tags=tags, again=again, **options) as run:
            self.note(f"{kind} run", run.info.run_id)
            yield run


@contextmanager
def open_job(kind: str, parameters: Parameters, fingerprint: str) -> Iterator[Job]:
    """The job of this kind with these parameters on this data: begun, or found as it was left.

    Its folder goes when the block ends without an error.

    Raises:
        UserError: another process is at the same job.
    """
    made_with = [provenance.code(f"pipelines.{kind}"), provenance.libraries()]
    code = hashlib.sha256(json.dumps(made_with).encode()).hexdigest()[:16]
    facts = [
        kind,
        parameters.model_dump(),
        fingerprint,
        code,
        mlflow.get_tracking_uri(),
    ]
    key = f"{kind}-{hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]}"
    _forget_what_no_code_can_go_on_with(kind, code)
    with _locked(key, PATIENCE) as locked:
        if not locked:
            raise UserError(f"the same command is running already, in {WORK / key}; wait for it or end it first")
        job = Job(WORK / key)
        job.note("code", code)
        yield job
        _remove(WORK / key)


def _remove(folder: Path) -> None:
    """All of it or, for whoever comes after a kill, nothing."""
    gone = folder.with_name(folder.name + GONE)
    shutil.rmtree(gone, ignore_errors=True)
    folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


@contextmanager
def _locked(key: str, patience: float = 0.0) -> Iterator[bool]:
    """Whether this process alone is at that job, while the block lasts. The system unlocks for a process that dies."""
    WORK.mkdir(parents=True, exist_ok=True)
    with (WORK / f"{key}.lock").open("w") as lock:
        deadline = time.monotonic() + patience
        while not (ours := _taken(lock)) and time.monotonic() < deadline:
            time.sleep(0.02)
        yield ours


def _taken(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _forget_what_no_code_can_go_on_with(kind: str, code: str) -> None:
    """Removes the folders of jobs of other code or libraries; a checkpoint has 18 MB, the weights 104."""
    for folder in WORK.glob(f"{kind}-*/"):
        with _locked(folder.name.removesuffix(GONE)) as locked, suppress(FileNotFoundError):
            if not locked:
                continue
            if folder.suffix == GONE:  # what a kill has left of one
                shutil.rmtree(folder, ignore_errors=True)
            # Another command that is started now may have removed it meanwhile.
            elif json.loads((folder / "state.json").read_text()).get("code") != code:
                _remove(folder)
