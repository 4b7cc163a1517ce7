"""What the service counts: a Prometheus client in, the metrics of /metrics out. Every label has few, fixed values.

Workers share their metrics in mapped files. A request would write to them eight times, a tenth of its time: what it
says is added up here and written a moment later, at the latest when the next scrape is answered.
"""

from __future__ import annotations

import asyncio
import os
from bisect import bisect_left
from pathlib import Path
from typing import Any

from digits.classifier import Answer

DURATIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
PROBABILITIES = (0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1.0)
FLUSH_SECONDS = 0.05
REQUEST_LABELS = ("endpoint", "service_name", "service_version", "http_response_code", "runner_name")


def forget_the_dead(folder: Path) -> None:
    """Removes what workers that were killed left of the metrics that hold for living ones only."""
    for file in folder.glob("gauge_live*.db"):
        pid = file.stem.rpartition("_")[2]
        if pid == str(os.getpid()) or not Path("/proc", pid).exists():  # its number may be this one's by now
            file.unlink(missing_ok=True)


class Observed:
    """Observations that a histogram has not been told of yet; `bounds` are the upper ends of its buckets."""

    def __init__(self, histogram: Any, bounds: tuple[float, ...]) -> None:
        self.histogram, self.bounds = histogram, bounds
        self.counts, self.total = [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def flush(self) -> int:
        """Tells the histogram, which has no public way to take several at a time. Gives their number."""
        number = sum(self.counts)
        if number:
            for bucket, count in zip(self.histogram._buckets, self.counts, strict=True):
                if count:
                    bucket.inc(count)
            self.histogram._sum.inc(self.total)
            self.counts, self.total = [0] * len(self.counts), 0.0
        return number


class Telemetry:
    """The metrics of one worker process.

    Requests keep the names and labels that BentoML gives them, so that dashboards made for BentoML work; `endpoint` is
    the route, never the path that was asked for, which anyone could make up. `client` is prometheus_client or alike.
    """

    def __init__(self, client: Any, service: str, bento: str, version: str) -> None:
        self._requests = client.Counter(
            "bentoml_service_request_total", "Requests answered, by route and status.", REQUEST_LABELS
        )
        self._duration = client.Histogram(
            "bentoml_service_request_duration_seconds",
            "Seconds from the request's headers to the last byte of its answer.",
            REQUEST_LABELS,
            buckets=DURATIONS,
        )
        self._in_progress = client.Gauge(
            "bentoml_service_request_in_progress",
            "Pictures' requests begun and not answered yet, uploads included.",
            ["service_name", "service_version", "runner_name"],
            multiprocess_mode="livesum",
        ).labels(bento, version, service)
        predicted = client.Counter("digits_predicted_total", "Accepted answers, by digit.", ["digit"])
        self._rejected = client.Counter(
            "digits_not_accepted_total", "Pictures in which no digit could be stood behind, by reason.", ["reason"]
        )
        self._errors = client.Counter("digits_errors_total", "Pictures and requests refused, by code.", ["code"])
        probability = client.Histogram(
            "digits_probability", "Calibrated probability of the answered digit.", buckets=PROBABILITIES
        )
        self._probabilities = Observed(probability, PROBABILITIES)
        self._model = client.Gauge(
            "digits_model_info",
            "1 for the model that answers now.",
            ["model", "tag", "precision"],
            multiprocess_mode="livemax",
        )
        self._names = (bento, version, service)
        self._by_route: dict[tuple[str, int], tuple[Any, Observed]] = {}
        self._digits = [predicted.labels(str(digit)) for digit in range(10)]
        self._answered = [0] * 10
        self._running = 0
        self._timer: asyncio.TimerHandle | None = None
        self._shown: Any = None

    def begin(self) -> None:
        """A picture's request has begun."""
        self._running += 1
        self._soon()

    def end(self) -> None:
        """It is over."""
        self._running -= 1
        self._soon()

    def _soon(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        """Writes what has been counted since the last time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._in_progress.set(self._running)
        for counter, durations in self._by_route.values():
            if number := durations.flush():
                counter.inc(number)
        self._probabilities.flush()
        for digit, count in enumerate(self._answered):
            if count:
                self._digits[digit].inc(count)
                self._answered[digit] = 0

    async def settle(self) -> None:
        """Waits until every worker has written what it had counted before now."""
        await asyncio.sleep(2 * FLUSH_SECONDS)
        self.flush()

    def request(self, route: str, status: int, seconds: float) -> None:
        """One finished request."""
        children = self._by_route.get((route, status))
        if children is None:
            labels = (route, self._names[0], self._names[1], str(status), self._names[2])
            children = self._requests.labels(*labels), Observed(self._duration.labels(*labels), DURATIONS)
            self._by_route[route, status] = children
        children[1].add(seconds)
        self._soon()

    def answer(self, answer: Answer, crowded: bool, blank: bool) -> None:
        """One answered picture."""
        self._probabilities.add(answer.probability)
        if answer.accepted:
            self._answered[answer.digit] += 1
        else:
            self._rejected.labels("blank" if blank else "crowded" if crowded else "unsure").inc()

    def error(self, code: str) -> None:
        """One refused picture or request; `code` is one of the service's own codes."""
        self._errors.labels(code).inc()

    def model(self, model: str, tag: str, precision: str) -> None:
        """Which model answers from now on."""
        if self._shown is not None:
            self._shown.set(0)
        self._shown = self._model.labels(model, tag, precision)
        self._shown.set(1)
