"""The engine for more than one machine: the same function as the local one, run by Ray Data.

Groups of names go out as blocks, actors that each hold the model read and answer them, and the rows come back to this
process as they are done. They are small, 200 bytes a picture, so this process keeps and writes them, and the nodes need
to share the folder of the pictures only. Ray is an extra, imported nowhere else.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import GOES_ON, UserError
from pipelines.inputs import Source
from pipelines.reader import Group, Reader, Row

GROUPS_IN_A_BLOCK = 4  # 128 pictures: a second of work, lost at most when a node dies
MOST_BLOCKS = 5_000


class Actor:
    """A Reader where Ray puts it. Raises FileNotFoundError on a node that does not see the pictures."""

    def __init__(self, model: list[Any], source: Source) -> None:
        import ray

        source.check()
        self._read = Reader(ray.get(model[0]), source)

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        found = [Group.from_json(str(text)) for text in batch["group"]]
        lines = [json.dumps(self._read(group)) for group in found]
        return {"number": np.array([group.number for group in found]), "rows": np.array(lines, dtype=object)}


def check() -> None:
    """Raises UserError where Ray is not installed."""
    try:
        import ray.data  # noqa: F401
    except ImportError:
        raise UserError("engine=ray needs Ray: pip install -e '.[cluster]', or use engine=local") from None


def answer(model: bytes, source: Source, work: Sequence[Group]) -> Iterator[tuple[int, list[Row]]]:
    """Yields each group's number and rows as they are done, in any order, from the cluster at RAY_ADDRESS or from here.

    Raises:
        UserError: Ray is not installed, the cluster does not answer, or a node does not see the pictures.
    """
    check()
    import ray

    source = replace(source, root=str(Path(source.root).absolute()))  # actors have working folders of their own
    _connect()
    try:
        kept = ray.put(model)  # by this process, so that it outlives every node
        blocks = min(MOST_BLOCKS, -(-len(work) // GROUPS_IN_A_BLOCK))
        most = max(1, min(blocks, int(ray.cluster_resources().get("CPU", 1))))
        answered = ray.data.from_items(
            [{"group": group.to_json()} for group in work], override_num_blocks=blocks
        ).map_batches(
            Actor,
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most),
            fn_constructor_args=([kept], source),
            num_cpus=1,
        )
        for batch in answered.iter_batches(batch_size=None, prefetch_batches=0):
            for number, rows in zip(batch["number"], batch["rows"], strict=True):
                yield int(number), json.loads(rows)
    except ray.exceptions.RayError as error:
        raise UserError(_sentence(error)) from error
    finally:
        ray.shutdown()


def _connect() -> None:
    import ray
    from ray.data import DataContext

    import digits
    import pipelines

    address = os.environ.get("RAY_ADDRESS") or None
    _knock(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # it warns of what can't be: `kept` outlives every actor
    # Nodes have the libraries; this code travels with the job, so that it is the same everywhere.
    environment = {"py_modules": [digits, pipelines]} if address else None
    options: dict[str, Any] = {} if address else {"include_dashboard": False}
    ours = signal.getsignal(signal.SIGTERM)  # Ray takes it, and gives nothing back
    try:
        ray.init(
            address or "local", runtime_env=environment, log_to_driver=False, logging_level=logging.ERROR, **options
        )
    except (ConnectionError, ValueError) as error:
        raise UserError(f"RAY_ADDRESS={address}: no cluster answers there: {str(error).splitlines()[0]}") from error
    finally:
        signal.signal(signal.SIGTERM, ours)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _knock(address: str | None) -> None:
    """Raises UserError where nothing listens at HOST:PORT; Ray itself would wait for it for ever."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not (host and port.isdigit()):
        return  # auto, local or nothing: Ray finds it out by itself
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=20).close()
    except OSError as error:
        raise UserError(f"RAY_ADDRESS={address}: no cluster answers there: {error.strerror or error}") from None


def _sentence(error: Exception) -> str:
    """The last line of Ray's trace is the one that says why."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    why = lines[-1] if lines else type(error).__name__
    if "is not there on this machine" in str(error):
        return f"a node does not see the pictures ({why}); expected storage that all nodes share, under the same path"
    return f"Ray gave up: {why[:300]}; {GOES_ON}"
