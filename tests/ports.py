"""Ports for servers that tests and benchmarks start."""

from __future__ import annotations

import random
import socket

# Below those that systems give to outgoing connections (Linux from 32768, others from 49152), of which the tests of
# overload have ten thousand at a time: a port of that range may be taken before the server that is to have it listens.
RANGE = range(15_000, 32_000)


def free_port() -> int:
    """A port of 127.0.0.1 that is free, and that only a server would take. Raises OSError where there is none."""
    for port in random.SystemRandom().sample(RANGE, len(RANGE)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"no port from {RANGE[0]} to {RANGE[-1]} is free")
