"""The names that providers give to the end of a completion."""

import pytest

from cowest.models.endpoint.endings import NAMES, Ending, ending


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("stop", Ending.WHOLE),
        ("STOP", Ending.WHOLE),
        ("eos", Ending.WHOLE),
        ("end_turn", Ending.WHOLE),
        ("COMPLETE", Ending.WHOLE),
        (None, Ending.WHOLE),
        (["stop"], Ending.WHOLE),
        ("length", Ending.CUT),
        ("model_length", Ending.CUT),
        ("MAX_TOKENS", Ending.CUT),
        ("maxTokens", Ending.CUT),
        ("max-tokens", Ending.CUT),
        ("FINISH_REASON_MAX_TOKENS", Ending.CUT),
        ("model_context_window_exceeded", Ending.CUT),
        ("content_filter", Ending.REFUSED),
        ("ContentFilter", Ending.REFUSED),
        ("content_filter: PROHIBITED_CONTENT", Ending.REFUSED),
        ("RECITATION", Ending.REFUSED),
        ("sensitive", Ending.REFUSED),
        ("guardrail_intervened", Ending.REFUSED),
        ("error", Ending.BROKEN),
        ("abort", Ending.BROKEN),
        ("network_error", Ending.BROKEN),
        ("insufficient_system_resource", Ending.BROKEN),
        ("TIMEOUT", Ending.BROKEN),
        ("tool_calls", Ending.TOOL),
        ("tomorrow", Ending.UNKNOWN),
    ],
)
def test_what_a_finish_reason_means(name: object, meaning: Ending) -> None:
    assert ending(name) is meaning


def test_no_name_means_two_things() -> None:
    every = [name for names in NAMES.values() for name in names]
    assert len(every) == len(set(every))
    assert all(ending(name) is meaning for meaning, names in NAMES.items() for name in names)
