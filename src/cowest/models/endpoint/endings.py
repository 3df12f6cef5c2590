"""The names that providers give to the end of a completion, and what each of them means.

OpenAI has four; others, and the gateways in front of them, hand on names of their own. The lists
follow what the providers document, and what the gateways LiteLLM and OpenRouter translate.
"""

import re
from enum import Enum


class Ending(Enum):
    """The way in which a completion came to its end."""

    WHOLE = "the model had said all"
    CUT = "the token limit, or the end of the context, was reached"
    REFUSED = "a content filter, or the model itself, refused"
    BROKEN = "it failed half-way"
    TOOL = "it called a tool"
    UNKNOWN = "a name that we do not know"


NAMES = {
    Ending.WHOLE: {
        *("stop", "stop_sequence", "stop_token", "end_turn", "eos", "eos_token", "end_of_text"),
        *("endoftext", "complete", "completed", "finished", "done", "normal", "end", "null", ""),
    },
    Ending.CUT: {
        *("length", "max_tokens", "max_token", "max_length", "max_output_tokens", "max_new_tokens"),
        *("max_completion_tokens", "token_limit", "length_limit", "limit", "error_limit"),
        *("model_length", "context_length", "context_length_exceeded"),
        *("model_context_window_exceeded", "context_window_exceeded", "incomplete", "truncated"),
        *("repetition", "repetition_detected"),
    },
    Ending.REFUSED: {
        *("content_filter", "content_filtered", "contentfilter", "content_policy_violation"),
        *("content_moderation", "moderation", "moderated", "sensitive", "refusal", "refused"),
        *("safety", "recitation", "language", "blocklist", "blocked", "prohibited_content"),
        *("spii", "image_safety", "image_prohibited_content", "image_recitation", "model_armor"),
        *("error_toxic", "guardrail", "guardrails", "guardrail_intervened"),
        *("data_inspection_failed", "content_blocked", "prompt_blocked"),
    },
    Ending.BROKEN: {
        *("error", "abort", "aborted", "cancel", "cancelled", "canceled", "user_cancel"),
        *("insufficient_system_resource", "network_error", "timeout", "time_limit", "failed"),
        *("server_error", "internal_error", "interrupted", "preempted", "pause_turn"),
        *("malformed_function_call", "malformed_model_output", "malformed_response", "other"),
        *("not_finished", "in_progress", "unspecified", "load"),
    },
    Ending.TOOL: {
        *("tool_calls", "tool_call", "tool_use", "function_call", "unexpected_tool_call"),
        *("too_many_tool_calls", "malformed_tool_use"),
    },
}


def ending(reason: object) -> Ending:
    """Returns the meaning of a finish reason, in whatever case and with whatever detail behind it.

    `content_filter: PROHIBITED_CONTENT` is a refusal, and `FINISH_REASON_MAX_TOKENS` is cut.
    An endpoint that gives none is taken to have said all.
    """
    if not isinstance(reason, str):
        return Ending.WHOLE
    name = re.split(r"[:;,(]", reason)[0].strip()
    # maxTokens, max-tokens and MAX_TOKENS are one name.
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
    name = re.sub(r"[\s._-]+", "_", name).lower().removeprefix("finish_reason_")
    for meaning, names in NAMES.items():
        if name in names:
            return meaning
    return Ending.UNKNOWN
