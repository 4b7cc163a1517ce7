"""What is counted reaches the metrics in full, however late it is written."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import prometheus_client
import pytest
from prometheus_client import CollectorRegistry

from digits import telemetry
from digits.classifier import Answer
from digits.telemetry import DURATIONS, Observed, Telemetry, forget_the_dead
from tests.serving import metrics_client


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def counted(registry: CollectorRegistry) -> Telemetry:
    return Telemetry(metrics_client(registry), "service", "bento", "1")


def samples(registry: CollectorRegistry) -> dict[tuple[str, str], float]:
    """Values by name and the label that tells them apart."""
    told = ("le", "digit", "reason", "http_response_code")
    return {
        (sample.name, next((sample.labels[label] for label in told if label in sample.labels), "")): sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if not sample.name.endswith("_created")
    }


def test_observations_told_together_make_the_histogram_that_they_make_one_by_one() -> None:
    values = [*DURATIONS, 0.0, 1e9, *np.random.default_rng(0).exponential(0.1, 500).tolist()]
    registries = CollectorRegistry(), CollectorRegistry()
    one_by_one, together = (
        prometheus_client.Histogram("seconds", "", buckets=DURATIONS, registry=registry) for registry in registries
    )
    observed = Observed(together, DURATIONS)
    for value in values:
        one_by_one.observe(value)
        observed.add(value)
    assert [observed.flush(), observed.flush()] == [len(values), 0]
    assert samples(registries[1]) == pytest.approx(samples(registries[0]))


def test_everything_is_written_by_the_time_that_a_scrape_is_answered(
    counted: Telemetry, registry: CollectorRegistry
) -> None:
    async def work() -> tuple[dict[tuple[str, str], float], ...]:
        for _ in range(3):
            counted.begin()
        counted.answer(Answer(7, 0.93, (0.1,) * 10, True, 0, 0.9), crowded=False, blank=False)
        counted.answer(Answer(7, 0.42, (0.1,) * 10, True, 0, 0.9), crowded=False, blank=False)
        counted.end()
        counted.request("/predict", 200, 0.003)
        early = samples(registry)
        await counted.settle()
        return early, samples(registry)

    early, late = asyncio.run(work())
    assert early["digits_predicted_total", "7"] == 0
    assert late["digits_predicted_total", "7"] == 2
    assert late["digits_probability_count", ""] == 2
    assert late["digits_probability_bucket", "0.6"] == 1
    assert late["bentoml_service_request_in_progress", ""] == 2
    assert late["bentoml_service_request_total", "200"] == 1
    assert late["bentoml_service_request_duration_seconds_sum", "200"] == pytest.approx(0.003)


def test_a_worker_that_nobody_asks_writes_by_itself(
    counted: Telemetry, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telemetry, "FLUSH_SECONDS", 0.001)

    async def work() -> None:
        for expected in (1, 2):  # once more after it has written
            counted.request("/predict", 200, 0.003)
            async with asyncio.timeout(10):
                while samples(registry).get(("bentoml_service_request_total", "200"), 0) < expected:
                    await asyncio.sleep(0.001)

    asyncio.run(work())


def test_what_a_killed_worker_left_is_forgotten_and_what_a_living_one_has_is_kept(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    kept = [f"gauge_livesum_{os.getppid()}.db", f"counter_{gone.pid}.db", f"histogram_{gone.pid}.db"]
    for name in (*kept, f"gauge_livesum_{gone.pid}.db", f"gauge_livemax_{os.getpid()}.db"):
        (tmp_path / name).touch()
    forget_the_dead(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(kept)
