"""Traces: spans of a request, its draft and its answers. OpenTelemetry's own environment variables
say where they go.

Spans are made after a request has ended, so that no answer waits for them. Attributes follow the
conventions for HTTP and for generative AI. Texts are left out, unless
OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT is `true`.
"""

import json
import logging
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cowest import __version__
from cowest.models import AnyProvider
from cowest.models.openai import OpenAIConfig
from cowest.models.scripted import ScriptedConfig
from cowest.online.interactions import Interaction, ServedCall
from cowest.online.live import ServeConfig
from cowest.online.metrics import OURS, outcome
from cowest.online.visits import Visit

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import Span, TracerProvider
    from opentelemetry.trace import Tracer

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""Environment variables that name the collector. If neither is set, no spans are made."""
CONTENT = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
NANO = 10**9
PATIENCE = 5.0
"""Seconds that the end of the service waits for spans that were not sent yet."""
log = logging.getLogger("cowest")


class Traces:
    """Makes the spans of requests that have ended."""

    def __init__(
        self, provider: "TracerProvider", config: ServeConfig, content: bool = False
    ) -> None:
        """Takes OpenTelemetry's provider, which knows where spans go."""
        self._provider = provider
        self._policy = _of_model(config.policy)
        self._strong = _of_model(config.strong)
        self._tracer: Tracer = provider.get_tracer("cowest", __version__)
        self._content = content

    def add(self, visit: Visit) -> None:
        """Makes the spans of one request."""
        from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context

        span: Any = self._tracer.start_span(
            f"{visit.method} {visit.route}",
            _parent(visit),
            SpanKind.SERVER,
            attributes=_of_request(visit),
            start_time=_nanoseconds(visit.at),
        )
        if visit.status >= 500:
            span.set_status(StatusCode.ERROR)
        if visit.rows and span.is_recording():
            if self._content:
                span.set_attributes(_texts(visit.rows[0]))
            self._add_calls(visit, set_span_in_context(span))
        span.end(_nanoseconds(visit.at + visit.seconds))

    def _add_calls(self, visit: Visit, inside: "Context") -> None:
        """Makes a span of each call on the way to the answers."""
        row = visit.rows[0]
        answers = [one.answering for one in visit.rows if one.answering is not None]
        # The answers are asked for together, last of all; the draft right before them.
        ended = row.at + row.seconds
        turn = ended - max((call.seconds for call in answers), default=0.0)
        if row.drafting is not None:
            began = turn - row.drafting.seconds
            self._add_call(row.drafting, {**self._policy, "cowest.part": "draft"}, began, inside)
        model = self._policy if row.model == "cowest/policy" else self._strong
        for call in answers:
            self._add_call(call, {**model, "cowest.part": "answer"}, turn, inside)

    def _add_call(
        self, call: ServedCall, asked: dict[str, str], began: float, inside: "Context"
    ) -> None:
        """Makes the span of one call to the model that `asked` names."""
        from opentelemetry.trace import SpanKind, StatusCode

        span: Span | Any = self._tracer.start_span(
            f"chat {asked['gen_ai.request.model']}",
            inside,
            SpanKind.CLIENT,
            attributes={**asked, **_of_call(call)},
            start_time=_nanoseconds(began),
        )
        if call.finish == "failed":
            span.set_status(StatusCode.ERROR)
        span.end(_nanoseconds(began + call.seconds))

    def close(self) -> None:
        """Sends what was not sent yet, as far as there is time for it."""
        # OpenTelemetry sends all that waits, however long its collector lets it wait for each part.
        ending = threading.Thread(target=self._provider.shutdown, name="spans", daemon=True)
        ending.start()
        ending.join(PATIENCE)


def open_traces(config: ServeConfig) -> Traces | None:
    """Opens the traces that the environment asks for; None if it names no collector."""
    if not any(os.environ.get(name) for name in ENDPOINTS):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        log.warning(
            "no traces: OpenTelemetry's exporter is not installed: install CoWest's extra `serve` "
            "(README, Install)"
        )
        return None
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    # The variables of OpenTelemetry (OTEL_SERVICE_NAME ...) have the last word.
    ours = {"service.name": "cowest", "service.version": __version__}
    resource = Resource.create(ours).merge(OTELResourceDetector().detect())
    # At the end of the process it would be waited for once more.
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=PATIENCE)))
    return Traces(provider, config, os.environ.get(CONTENT, "").lower() == "true")


def _parent(visit: Visit) -> "Context":
    """The client's span, as the parent; BentoML's own span is sent nowhere."""
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({"traceparent": visit.parent}, Context())


def _of_request(visit: Visit) -> dict[str, Any]:
    found: dict[str, Any] = {
        "http.request.method": visit.method,
        "http.route": visit.route,
        "http.response.status_code": visit.status,
        "error.type": visit.refused,
        "cowest.key": visit.caller,
        "gen_ai.response.id": visit.id,
    }
    if visit.rows:
        row = visit.rows[0]
        found |= {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": OURS,
            "gen_ai.request.model": row.model,
            "gen_ai.response.finish_reasons": [one.finish for one in visit.rows],
            "cowest.version": row.version,
            "cowest.outcome": outcome(visit.rows),
            "cowest.degraded": row.degraded,
        }
    return _told(found)


def _of_model(model: AnyProvider) -> dict[str, str]:
    """The names of a model and its provider, as the settings ask for them."""
    if isinstance(model, OpenAIConfig):
        asked = model.model
    elif isinstance(model, ScriptedConfig):
        asked = "scripted"
    else:
        # It may be a folder, and the places of this machine are nobody's business.
        asked = Path(model.model).name
    return {"gen_ai.provider.name": model.provider, "gen_ai.request.model": asked}


def _of_call(call: ServedCall) -> dict[str, Any]:
    return _told(
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.response.model": call.model,
            "gen_ai.response.finish_reasons": [call.finish],
            "gen_ai.usage.input_tokens": call.prompt_tokens,
            "gen_ai.usage.output_tokens": call.completion_tokens,
            "gen_ai.response.time_to_first_chunk": call.first,
            "error.type": "failed" if call.finish == "failed" else "",
            "cowest.cost.usd": call.usd,
        }
    )


def _told(found: dict[str, Any]) -> dict[str, Any]:
    """The attributes that have a value."""
    return {name: value for name, value in found.items() if value not in ("", None)}


def _texts(row: Interaction) -> dict[str, str]:
    """The texts of a request: question, draft and answer, as attributes of a span."""
    asked = [_message(one.role, one.content) for one in row.prompt]
    found = {"gen_ai.input.messages": json.dumps(asked)}
    if row.answer is not None:
        found["gen_ai.output.messages"] = json.dumps([_message("assistant", row.answer)])
    if row.draft is not None:
        found["cowest.draft"] = row.draft
    return found


def _message(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "parts": [{"type": "text", "content": text}]}


def _nanoseconds(at: float) -> int:
    return int(at * NANO)
