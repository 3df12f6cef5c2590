"""The description of the endpoint in OpenAPI, made from the schemas that bodies are checked by."""

from typing import Any

from pydantic.json_schema import models_json_schema

from cowest import __version__
from cowest.online.ask_api import Answer, Ask
from cowest.online.chat_request import MODELS, ChatRequest
from cowest.online.verdicts import AnswerVerdict

REFERENCE = "#/components/schemas/{model}"
ANY = {"type": "object"}
ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
REFUSED = {
    "400": "the request can't be honoured; `param` names the parameter",
    "404": "there is no such model",
    "408": "the body did not arrive in time",
    "413": "the body is too large",
    "415": "the body is not JSON",
    "429": "too many requests at once, or a budget is spent",
    "502": "a model gave no answer",
    "503": "no model can be asked just now, or no place came free; `retry-after` says when",
    "504": "a model gave no answer before the deadline",
}

UNKEPT = {
    "404": "no answer has this id",
    "409": "the log is off, so no verdict is kept",
    "503": "the verdict could not be kept just now; `retry-after` says when to send it again",
}
"""Refusals of a verdict."""


def document() -> dict[str, Any]:
    """Returns the description as JSON can hold it."""
    _, schemas = models_json_schema(
        [
            (ChatRequest, "validation"),
            (Ask, "validation"),
            (Answer, "serialization"),
            (AnswerVerdict, "validation"),
        ],
        ref_template=REFERENCE,
    )
    components = {**schemas["$defs"], "Error": ERROR}
    chat = _post("ChatRequest", "An answer to a conversation", _answer())
    ask = _post("Ask", "An answer to one question", _json(_reference("Answer"), "the answer"))
    feedback = _post("AnswerVerdict", "A verdict on an answer", _json(ANY, "the verdict is kept"))
    for status, reason in UNKEPT.items():
        feedback["responses"][status] = _json(_reference("Error"), reason)
    for status in REFUSED:
        # One that is not listed has the shape of the chat endpoint.
        said = ask["responses"][status]
        said["content"]["application/json"]["schema"] = {
            "type": "object",
            "required": ["error"],
            "properties": {"error": {"type": "string"}},
        }
    name = {"name": "model", "in": "path", "required": True}
    return {
        "openapi": "3.1.0",
        "info": {"title": "CoWest", "version": __version__},
        "paths": {
            "/v1/chat/completions": {"post": chat},
            "/v1/models": {"get": _get("The models that can be asked")},
            "/v1/models/{model}": {
                "get": {
                    **_get("One model"),
                    "parameters": [{**name, "schema": {"type": "string", "enum": list(MODELS)}}],
                }
            },
            "/ask": {"post": ask},
            "/v1/feedback": {"post": feedback},
            "/v1/openapi.json": {"get": _get("This document")},
        },
        "components": {"schemas": components},
    }


def _reference(name: str) -> dict[str, Any]:
    return {"$ref": REFERENCE.format(model=name)}


def _json(schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _answer() -> dict[str, Any]:
    """The two forms of an answer: a whole one, and a stream of events."""
    found = _json(ANY, "the answer, or with `stream: true` its chunks as server-sent events")
    # Before OpenAPI 3.2, the schema of a stream is that of each of its events.
    data = {"type": "string", "description": "a chunk as JSON; at the end, [DONE]"}
    event = {"type": "object", "required": ["data"], "properties": {"data": data}}
    found["content"]["text/event-stream"] = {"schema": event}
    return found


def _get(summary: str) -> dict[str, Any]:
    refused = _json(_reference("Error"), REFUSED["404"])
    return {"summary": summary, "responses": {"200": _json(ANY, summary), "404": refused}}


def _post(body: str, summary: str, answer: dict[str, Any]) -> dict[str, Any]:
    responses = {"200": answer}
    for status, reason in REFUSED.items():
        responses[status] = _json(_reference("Error"), reason)
    content = {"application/json": {"schema": _reference(body)}}
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": content},
        "responses": responses,
    }
