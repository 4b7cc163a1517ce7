"""`make soak`: the service at four times what it can do, then minutes of steady load, with its memory watched.

The model is the newest `digits` of the BentoML store. Exit status 1 where something but 200 and 503 was answered, an
answer waited longer than docs/operations.md says, the service did not answer at once afterwards, or memory grew.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.bench import BENTO, Peer, Running
from benchmarks.inputs import encoded, some_digits
from benchmarks.overload import Tally, closed_loop, open_loop

PLACES = 32
GROWTH = 30  # megabytes between the first and the last fifth of the steady load


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--overload", type=int, default=20_000, help="requests at four times what it can do")
    asked = parser.parse_args()
    picture = encoded(some_digits(1)[0], "PNG")
    settings = {"DIGITS_MAX_CONCURRENCY": str(PLACES), "DIGITS_ACCESS_LOG": "off", "DIGITS_WORKERS": "1"}
    service = Peer("the service", [*BENTO, "service:svc"], settings)
    with tempfile.TemporaryDirectory() as folder, Running(service, Path(folder)) as running:
        return soak(running, picture, asked.overload, asked.minutes)


def soak(running: Running, picture: bytes, count: int, minutes: float) -> int:
    able = closed_loop(running.port, picture, PLACES, lambda tally: tally.statuses.total() < count // 4)
    tell(f"what it can do, {PLACES} at a time", able)
    beyond = open_loop(running.port, picture, 4 * able.rate, count)
    tell("at four times that", beyond)
    milliseconds, overtaken = beyond.p99()
    bound = 2000 * PLACES / beyond.rate
    print(f"  bound: {2 * PLACES} answers to others, {bound:.0f} ms; p99 {overtaken} answers, {milliseconds:.0f} ms")
    after = closed_loop(running.port, picture, 1, lambda tally: tally.statuses.total() < 1)
    print(f"the next request: {dict(after.statuses)}, {1000 * after.seconds:.0f} ms")

    held: list[float] = []
    end, looked = time.monotonic() + 60 * minutes, 0.0

    def more(_: Tally) -> bool:
        nonlocal looked
        now = time.monotonic()
        if now > looked + 2:
            looked = now
            held.append(running.memory())
        return now < end

    steady = closed_loop(running.port, picture, PLACES, more)
    tell(f"{minutes:g} minutes of what it can do", steady)
    fifth = max(1, len(held) // 5)
    early, late = statistics.median(held[:fifth]), statistics.median(held[-fifth:])
    print(f"memory: {early:.0f} MB in the first fifth, {late:.0f} MB in the last, {max(held):.0f} MB at most")
    faults = {
        "something else than 200 and 503 was answered": not set(beyond.statuses) | set(steady.statuses) <= {200, 503},
        "a refusal did not say when to come back": beyond.unhinted > 0,
        "what was accepted waited too long": overtaken > 2 * PLACES,
        "it was not back at once": set(after.statuses) != {200},
        "memory grew": late - early > GROWTH,
    }
    for fault in (name for name, found in faults.items() if found):
        print(f"FAILED: {fault}")
    return int(any(faults.values()))


def tell(what: str, tally: Tally) -> None:
    milliseconds, _ = tally.p99()
    print(
        f"{what}: {tally.statuses.total():,} requests, {tally.rate:,.0f} answers a second, {tally.shed:.1%} shed,"
        f" p99 {milliseconds:.0f} ms, statuses {dict(tally.statuses)}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
