"""The tables of capacity.md: from docs/benchmarks/serving.json and the Kubernetes manifests to replicas and limits.

Nothing is typed in but the properties of Linux and of network links that are named as constants here.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from benchmarks.inputs import a_photograph, encoded, some_digits

ROOT = Path(__file__).resolve().parents[1]
KINDS = {"png": "28×28 PNG", "photo": "640×480 JPEG"}
LOADS = (10, 100, 1_000, 10_000, 100_000)  # requests a second
BESIDES = 1_024  # bytes a request for its headers, the answer and that one's headers: more than they are
PORTS = 28_232  # that a Linux client has for one address
TIME_WAIT = 60  # seconds until one of them that was closed is free again
LINKS = (1, 10, 100)  # Gbit/s
Table = tuple[tuple[str, ...], list[tuple[str, ...]]]


@dataclass(frozen=True)
class Kind:
    """What a request of one kind costs: processor in ms, bytes on the wire; what a worker did at most, 99th percentile
    of its latency in seconds at that, and what a replica is planned with, in requests a second."""

    cpu: float
    size: int
    measured: float
    p99: float
    planned: float


@cache
def results() -> dict[str, Any]:
    return dict(json.loads((ROOT / "docs" / "benchmarks" / "serving.json").read_text())["results"])


@cache
def replica() -> dict[str, float]:
    """Cores and GiB that a replica asks for, the share of its cores that the autoscaler aims at, how many there are."""
    folder = ROOT / "deploy" / "kubernetes"
    pod = yaml.safe_load((folder / "deployment.yaml").read_text())["spec"]["template"]["spec"]
    asked = pod["containers"][0]["resources"]["requests"]
    scaler = yaml.safe_load((folder / "horizontalpodautoscaler.yaml").read_text())["spec"]
    return {
        "cores": float(asked["cpu"]),
        "memory": float(asked["memory"].removesuffix("Mi")) / 1_024,
        "share": scaler["metrics"][0]["resource"]["target"]["averageUtilization"] / 100,
        "least": scaler["minReplicas"],
        "most": scaler["maxReplicas"],
    }


@cache
def body(kind: str) -> int:
    """Bytes of the benchmark's picture of that kind."""
    digit = some_digits(1)[0]
    if kind == "png":
        return len(encoded(digit, "PNG"))
    return len(a_photograph(digit))


@cache
def cost(kind: str) -> Kind:
    (row,) = (row for row in results()["this service, one worker"][kind] if row["connections"] == 32)
    by_processor = 1_000 / row["cpu_ms"] * replica()["cores"]
    planned = min(row["rate"], by_processor) * replica()["share"]
    return Kind(row["cpu_ms"], body(kind) + BESIDES, row["rate"], row["p99"] / 1_000, planned)


def replicas(load: float, kind: str) -> int:
    """How many a load in requests a second needs; never fewer than the autoscaler keeps."""
    return max(int(replica()["least"]), math.ceil(load / cost(kind).planned))


def one_replica() -> Table:
    """What was measured of one worker, and what a replica is planned with."""
    rows = []
    for kind, name in KINDS.items():
        it = cost(kind)
        rows.append((name, f"{it.cpu:.2f}", f"{it.measured:,.0f}", f"{it.planned:,.0f}", size(it.size)))
    return ("picture", "processor, ms", "requests/s, measured", "requests/s, planned", "bytes on the wire"), rows


def needed() -> Table:
    """Replicas, what they ask a cluster for and what they use of it, network and open requests for every load."""
    used = results()["this service, one worker"]["memory"] / 1_024
    rows = []
    for kind, name in KINDS.items():
        it = cost(kind)
        for load in LOADS:
            count = replicas(load, kind)
            cores = f"{count * replica()['cores']:,.0f} ({load * it.cpu / 1_000:,.1f})"
            memory = f"{count * replica()['memory']:,.0f} ({count * used:,.1f})"
            cells = (cores, memory, f"{gigabits(load, kind):.2g}", f"{math.ceil(load * it.p99):,}")
            rows.append((name, f"{load:,}", f"{count:,}", *cells))
    head = (
        "picture",
        "requests/s",
        "replicas",
        "cores asked for (busy)",
        "GiB asked for (used)",
        "Gbit/s",
        "open requests, at most",
    )
    return head, rows


def limits(kind: str) -> dict[str, float]:
    """The load at which each thing is used up, in requests a second, lowest first."""
    planned = cost(kind).planned
    found = {
        "connections that are not kept alive, from one proxy to one address": PORTS / TIME_WAIT,
        "one replica: processor": planned,
        f"the autoscaler's {replica()['most']:.0f} replicas: processor": planned * replica()["most"],
        **{f"a link of {link} Gbit/s: pictures": link / gigabits(1, kind) for link in LINKS},
    }
    return dict(sorted(found.items(), key=lambda item: item[1]))


def used_up() -> Table:
    """Where each limit lies."""
    of = {kind: limits(kind) for kind in KINDS}
    rows = [(limit, *(f"{of[kind][limit]:,.0f}" for kind in KINDS)) for limit in limits("photo")]
    return ("what is used up", *(f"{name}, requests/s" for name in KINDS.values())), rows


def bottlenecks() -> Table:
    """Which limits a load has passed, in the order in which it met them."""
    rows = []
    for load in (10, 1_000, 100_000):
        cells = []
        for kind in KINDS:
            passed = [name for name, limit in limits(kind).items() if limit < load]
            share = load / cost(kind).planned
            cells.append("; ".join(passed) if passed else f"none: one replica is used by {share:.0%}")
        rows.append((f"{load:,}", *cells))
    return ("requests/s", *KINDS.values()), rows


def check() -> Table:
    """The rule "cores divided by processor time" against what two workers on two cores did."""
    rows = []
    for kind, name in KINDS.items():
        (row,) = (row for row in results()["this service"][kind] if row["connections"] == 32)
        expected = 2 * 1_000 / row["cpu_ms"]
        rows.append((name, f"{expected:,.0f}", f"{row['rate']:,.0f}", f"{row['rate'] / expected:.0%}"))
    return ("picture", "2 cores ÷ processor time", "requests/s, measured", "reached"), rows


def gigabits(load: float, kind: str) -> float:
    return load * cost(kind).size * 8 / 1e9


def size(count: int) -> str:
    """Two digits: the last ones depend on the JPEG library."""
    digits = 1 - math.floor(math.log10(count))
    return f"{round(count, digits):,}"


TABLES = {
    "capacity-replica": one_replica,
    "capacity-needed": needed,
    "capacity-limits": used_up,
    "capacity-bottlenecks": bottlenecks,
    "capacity-check": check,
}
