"""What the service counts: a Prometheus client in, the metrics of /metrics out. Every label has few, fixed values."""

from __future__ import annotations

from typing import Any

from digits.classifier import Answer

DURATIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
PROBABILITIES = (0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1.0)
REQUEST_LABELS = ("endpoint", "service_name", "service_version", "http_response_code", "runner_name")


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
            "Pictures' requests being worked on now.",
            ["service_name", "service_version", "runner_name"],
            multiprocess_mode="livesum",
        ).labels(bento, version, service)
        self._predicted = client.Counter("digits_predicted_total", "Accepted answers, by digit.", ["digit"])
        self._rejected = client.Counter(
            "digits_not_accepted_total", "Pictures in which no digit could be stood behind, by reason.", ["reason"]
        )
        self._errors = client.Counter("digits_errors_total", "Pictures and requests refused, by code.", ["code"])
        self._probability = client.Histogram(
            "digits_probability", "Calibrated probability of the answered digit.", buckets=PROBABILITIES
        )
        self._model = client.Gauge(
            "digits_model_info",
            "1 for the model that answers now.",
            ["model", "tag", "precision"],
            multiprocess_mode="livemax",
        )
        self._names = (bento, version, service)
        self._by_route: dict[tuple[str, int], tuple[Any, Any]] = {}
        self._digits = [self._predicted.labels(str(digit)) for digit in range(10)]
        self._shown: Any = None

    def begin(self) -> None:
        self._in_progress.inc()

    def end(self) -> None:
        self._in_progress.dec()

    def request(self, route: str, status: int, seconds: float) -> None:
        """One finished request."""
        children = self._by_route.get((route, status))
        if children is None:
            labels = (route, self._names[0], self._names[1], str(status), self._names[2])
            children = self._requests.labels(*labels), self._duration.labels(*labels)
            self._by_route[route, status] = children
        children[0].inc()
        children[1].observe(seconds)

    def answer(self, answer: Answer, crowded: bool, blank: bool) -> None:
        """One answered picture."""
        self._probability.observe(answer.probability)
        if answer.accepted:
            self._digits[answer.digit].inc()
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
