"""Metrics for Prometheus: of each request when it has ended, and of the service's state.

Names follow OpenTelemetry's conventions for HTTP and for generative AI, as Prometheus writes them.
Metrics without a name there begin with `cowest_`. No label holds a value that a client can make up:
it could fill the memory of this process and of Prometheus.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from cowest.online.answering import LEFT
from cowest.online.interactions import Interaction, ServedCall
from cowest.online.visits import Visit

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Bucket bounds of times: those of the conventions, up to the longest deadline."""
TOKENS = tuple(4.0**power for power in range(10))
"""Bucket bounds of token counts, from the conventions."""
OURS = "cowest"
"""Name of the service itself as a provider."""
SERVED = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")
"""Labels of a request for an answer."""
CALLED = ("gen_ai_operation_name", "gen_ai_provider_name", "cowest_part", "gen_ai_response_model")
"""Labels of one call to a model."""
PAID = ("cowest_part", "key", "version")
"""Labels of what is paid for: the part of the request, who pays, and the version that answered."""


@dataclass(frozen=True, slots=True)
class Standing:
    """The state of the service at a moment."""

    version: int | None
    """The version that answers; None while there is none."""
    ready: bool
    """True where requests should be sent here, as /readyz says."""
    working: int
    """Requests that have a place."""
    waiting: int
    """Requests that wait for one."""
    open_breakers: dict[str, bool]
    """For each model, by its role: True while it is left alone."""
    log_answers: int = 0
    """Rows of answers that the log wrote."""
    log_lost: int = 0
    """Rows of answers that it could not write."""
    log_verdicts: int = 0
    """Verdicts that it keeps."""
    log_refused: int = 0
    """Verdicts that it could not keep; the sender was told."""
    log_failing: bool = False
    """True while nothing can be written."""


class Meters:
    """The metrics of one service."""

    def __init__(
        self, standing: Callable[[], Standing | None], providers: Mapping[str, str]
    ) -> None:
        """Makes metrics in which nothing is counted yet.

        standing: a function that gives the service's state, called each time metrics are read.
        providers: names of the providers of `policy` and `strong`, as settings name them.
        """
        self._providers = providers
        # The time at which each sample began would be half of the page.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.registry.register(_Standings(standing))
        self._http = self._histogram(
            "http_server_request_duration_seconds",
            "Time from a request to the end of its response.",
            ("http_request_method", "http_route", "http_response_status_code"),
            SECONDS,
        )
        self._refused = self._counter(
            "cowest_refused", "Requests that were refused, by the code of the error.", ("code",)
        )
        self._requests = self._counter(
            "cowest_requests",
            "Requests for an answer: answered, answered by one model alone, failed, or left.",
            ("gen_ai_request_model", "version", "outcome"),
        )
        self._duration = self._histogram(
            "gen_ai_server_request_duration_seconds",
            "Time from a request to the end of its answer.",
            (*SERVED, "version"),
            SECONDS,
        )
        self._first = self._histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "Time from a request to the first text of its answer.",
            (*SERVED, "version"),
            SECONDS,
        )
        self._calls = self._histogram(
            "gen_ai_client_operation_duration_seconds",
            "Time of one call to a model.",
            (*CALLED, "error_type"),
            SECONDS,
        )
        self._tokens = self._histogram(
            "gen_ai_client_token_usage",
            "Tokens of one call to a model.",
            (*CALLED, "gen_ai_token_type"),
            TOKENS,
        )
        self._usd = self._counter(
            "cowest_cost_usd", "US dollars for calls whose price is known.", PAID
        )
        self._key_tokens = self._counter(
            "cowest_tokens", "Tokens of calls.", ("gen_ai_token_type", *PAID)
        )

    def count(self, visit: Visit) -> None:
        """Counts a request that has ended."""
        self._http.labels(visit.method, visit.route, visit.status).observe(visit.seconds)
        if visit.refused:
            self._refused.labels(visit.refused).inc()
        if not visit.rows:
            return
        row = visit.rows[0]
        served = (row.model, str(row.version))
        self._requests.labels(*served, outcome(visit.rows)).inc()
        self._duration.labels("chat", OURS, *served).observe(row.seconds)
        first = time_to_first(row)
        if first is not None:
            self._first.labels("chat", OURS, *served).observe(first)
        for part, call in calls(visit.rows):
            policy = part == "draft" or row.model == "cowest/policy"
            provider = self._providers["policy" if policy else "strong"]
            self._count_call(provider, part, call, (row.purse, str(row.version)))

    def _count_call(
        self, provider: str, part: str, call: ServedCall, paid: tuple[str, str]
    ) -> None:
        """Counts a call; `paid` is the key that pays, and the version that answered."""
        called = ("chat", provider, part, call.model)
        failed = "failed" if call.finish == "failed" else ""
        self._calls.labels(*called, failed).observe(call.seconds)
        for kind, tokens in (("input", call.prompt_tokens), ("output", call.completion_tokens)):
            if tokens:
                self._tokens.labels(*called, kind).observe(tokens)
                self._key_tokens.labels(kind, part, *paid).inc(tokens)
        if call.usd:
            self._usd.labels(part, *paid).inc(call.usd)

    def page(self, accept: str) -> tuple[bytes, str]:
        """Returns the page of all metrics, and its content type, in the format that was asked
        for."""
        encoder, kind = choose_encoder(accept)
        return encoder(self.registry), kind

    def _counter(self, name: str, words: str, labels: tuple[str, ...]) -> Counter:
        return Counter(name, words, labels, registry=self.registry)

    def _histogram(
        self, name: str, words: str, labels: tuple[str, ...], bounds: tuple[float, ...]
    ) -> Histogram:
        return Histogram(name, words, labels, buckets=bounds, registry=self.registry)


def outcome(rows: list[Interaction]) -> str:
    """Returns what became of a request: answered, strong_alone, draft_alone, failed or left."""
    for row in rows:
        if row.answer is None:
            return "left" if row.failed == LEFT else "failed"
    return rows[0].degraded or "answered"


def time_to_first(row: Interaction) -> float | None:
    """Returns the seconds from a request to the first text of its answer; None if none came."""
    call = row.answering
    if call is None or call.first is None:
        return None
    # The answer's call is the last of a request, and ends with it.
    return max(row.seconds - call.seconds, 0.0) + call.first


def calls(rows: list[Interaction]) -> Iterator[tuple[str, ServedCall]]:
    """Yields each call of a request once, with its part in it: draft or answer."""
    if rows[0].drafting is not None:
        yield "draft", rows[0].drafting
    for row in rows:
        if row.answering is not None:
            yield "answer", row.answering


class _Standings(Collector):
    """Reads the service's state each time that metrics are read."""

    def __init__(self, standing: Callable[[], Standing | None]) -> None:
        self._standing = standing

    def describe(self) -> Iterable[Metric]:
        """Yields nothing, so that no service is needed when this is registered."""
        return ()

    def collect(self) -> Iterator[Metric]:
        now = self._standing()
        if now is None:
            return
        gauges = {
            "cowest_ready": (
                "1 if the service takes requests; 0 if it loads, ends, or a model broke off.",
                int(now.ready),
            ),
            "cowest_version": ("The version that answers; 0 for none.", now.version or 0),
            "cowest_requests_working": ("Requests that are worked on.", now.working),
            "cowest_requests_waiting": ("Requests that wait for a place.", now.waiting),
            "cowest_log_failing": ("1 while the log can't be written.", int(now.log_failing)),
        }
        for name, (words, value) in gauges.items():
            yield GaugeMetricFamily(name, words, value)
        breakers = GaugeMetricFamily(
            "cowest_breaker_open",
            "1 while the circuit breaker of a model is open.",
            labels=("model",),
        )
        for model, is_open in now.open_breakers.items():
            breakers.add_metric((model,), int(is_open))
        yield breakers
        counters = {
            "cowest_log_rows": ("Answers that the log wrote.", now.log_answers),
            "cowest_log_rows_lost": ("Answers that the log could not write.", now.log_lost),
            "cowest_verdicts": ("Verdicts that the log keeps.", now.log_verdicts),
            "cowest_verdicts_refused": ("Verdicts that it could not keep.", now.log_refused),
        }
        for name, (words, value) in counters.items():
            yield CounterMetricFamily(name, words, value)
