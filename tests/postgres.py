"""A PostgreSQL of our own on loopback, in a folder that goes with it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy

from tests.ports import free_port

TOLD = re.compile(r"^(\w+) LOG:  (?:duration: [\d.]+ ms  )?(?:statement|execute [^:]*): (\w+)", re.MULTILINE)


@dataclass(frozen=True)
class Server:
    """`address` names no database; `log` is the server's own."""

    address: str
    log: Path

    def databases(self) -> dict[str, str]:
        """The settings of two databases that nobody has used yet."""
        name = f"test_{time.monotonic_ns()}"
        engine = sqlalchemy.create_engine(f"{self.address}/postgres", isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            for kind in ("mlflow", "optuna"):
                connection.execute(sqlalchemy.text(f"create database {name}_{kind}"))
        engine.dispose()
        return {
            "MLFLOW_TRACKING_URI": f"{self.address}/{name}_mlflow",
            "OPTUNA_STORAGE": f"{self.address}/{name}_optuna",
        }

    def statements(self, address: str) -> Counter[str]:
        """How often the database at this address was asked what, by the first word; needs `log_statement=all`."""
        name = address.rpartition("/")[2]
        return Counter(word.upper() for database, word in TOLD.findall(self.log.read_text()) if database == name)


@contextmanager
def running(*settings: str) -> Iterator[Server]:
    """The server while the block lasts, with settings such as "log_statement=all" besides ours.

    Raises:
        FileNotFoundError: PostgreSQL is not installed.
    """
    initdb, control = _program("initdb"), _program("pg_ctl")
    folder = Path(tempfile.mkdtemp(prefix="digits-postgres-"))
    user: dict[str, Any] = {}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(folder, "postgres", "postgres")
        user = {"user": "postgres", "group": "postgres"}
    port, data, log = free_port(), str(folder / "data"), folder / "log"

    def call(*words: str) -> None:
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL, cwd=folder, **user)

    call(initdb, "-D", data, "-U", "digits", "--auth=trust", "--encoding=UTF8")
    own = ["listen_addresses=127.0.0.1", "fsync=off", "log_line_prefix=%d ", *settings]
    options = " ".join(f"-c '{setting}'" for setting in own)
    call(control, "-D", data, "-w", "-l", str(log), "-o", f"{options} -p {port} -k {folder}", "start")
    try:
        yield Server(f"postgresql+psycopg://digits@127.0.0.1:{port}", log)
    finally:
        call(control, "-D", data, "-w", "-m", "immediate", "stop")
        shutil.rmtree(folder)


def _program(name: str) -> str:
    """A program of PostgreSQL, which Debian does not put on the path."""
    found = [*sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True), shutil.which(name)]
    path = next((str(path) for path in found if path), None)
    if path is None:
        raise FileNotFoundError(f"there is no {name} here: apt-get install postgresql")
    return path
