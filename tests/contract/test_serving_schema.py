"""Requests made from the endpoint's own description, fit and unfit: none is an error of ours."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.serving import Running, asking, post, running

pytestmark = pytest.mark.slow

FIT, UNFIT = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
FEEDBACK, CHAT = "/v1/feedback", "/v1/chat/completions"
Parts = Sequence[dict[str, Any]]
CHATS: Parts = (asking(), asking(stream=True), asking(n=2, temperature=1))


def test_no_request_is_an_error_of_ours(tmp_path: Path) -> None:
    with running(log={"folder": str(tmp_path / "log")}) as server:
        document = schemathesis.openapi.from_url(f"{server.base}/v1/openapi.json")
        seen = {}
        for found in document.get_all_operations():
            operation = found.ok()
            parts = {FEEDBACK: verdicts(server), CHAT: CHATS}.get(operation.path, ())
            seen[operation.path] = check(operation.as_strategy(generation_mode=FIT), parts)
            if operation.method == "post":
                check(operation.as_strategy(generation_mode=UNFIT))
        assert seen["/ask"][200] and seen[CHAT][200]
        # Verdicts on answers were kept, and those on none refused.
        assert seen[FEEDBACK][200] and seen[FEEDBACK][404]


def test_a_verdict_that_can_not_be_kept_is_refused_as_described(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a file, where a folder is needed")
    with running(log={"folder": str(tmp_path / "log")}) as server:
        document = schemathesis.openapi.from_url(f"{server.base}/v1/openapi.json")
        cases = document[FEEDBACK]["POST"].as_strategy(generation_mode=FIT)
        assert check(cases, verdicts(server), most=503).keys() == {400, 503}


def verdicts(server: Running) -> Parts:
    """Parts of bodies that say something, of an answer that was given."""
    found = []
    for part in ({"verdict": "good", "score": 1}, {"better": "Norway"}, {"comment": "In Oslo."}):
        status, headers, _ = post(server.port, asking())
        assert status == 200
        found.append({"id": headers["x-request-id"], **part})
    return [*found, {"verdict": "bad", "score": None}]


def check(cases: st.SearchStrategy[Any], parts: Parts = (), most: int = 499) -> Counter[int]:
    """Sends some requests, and returns how many had each status, of which none is above `most`.

    Some take one of the parts into their body: what no description knows.
    """
    seen: Counter[int] = Counter()

    @settings(
        max_examples=80 if parts else 25,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(cases, st.sampled_from([{}, *parts]))
    def send(case: schemathesis.Case, part: dict[str, Any]) -> None:
        if part:
            case.body.update(part)
        response = case.call()
        seen[response.status_code] += 1
        assert response.status_code <= most
        # Some rules are no schema's: the last message is the user's, `n` needs a temperature.
        others = [positive_data_acceptance, not_a_server_error]
        case.validate_response(response, excluded_checks=others)

    send()
    return seen
