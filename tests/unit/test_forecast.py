"""What a turn will cost at most: counted from raw data and settings, and never less than it does
cost.
"""

from pathlib import Path
from typing import Any

import pytest

from cowest import config
from cowest.domains import domain
from cowest.forecast import forecast, repeated, table
from cowest.ledger import store
from cowest.ledger.claims import Budget
from cowest.ledger.store import StoredAnswer
from cowest.models.openai import OpenAIConfig
from cowest.protocols import Completion, Request
from cowest.records import Query
from tests import tiny
from tests.lines import ROOT

STRONG = {"provider": "openai", "model": "big", "price": {"prompt": 1.0, "completion": 10.0}}


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COWEST_STORE", str(tmp_path / "calls.sqlite"))
    tiny.make_raw(tmp_path / "raw")
    return tmp_path / "raw"


def params(**changes: dict[str, Any]) -> dict[str, Any]:
    given = config.load(ROOT / "params.yaml")
    given["refine"]["strong"] = given["evaluate"]["strong"] = STRONG
    return {name: {**section, **changes.get(name, {})} for name, section in given.items()}


def queries(raw: Path, split: str) -> list[Query]:
    return [query for query in domain("handbook").load(raw) if query.split == split]


def test_counts_every_call_that_there_can_be(raw: Path) -> None:
    train, test = queries(raw, "train"), queries(raw, "test")
    found = dict(forecast(params(), raw))
    assert found["refine"].calls == len(train) * (1 + 6)
    assert found["evaluate"].calls == sum(1 + 3 + (query.ideal is not None) for query in test)
    assert all(estimate.usd and estimate.tokens > 8 * estimate.calls for estimate in found.values())


def test_queries_that_come_again_are_said(raw: Path) -> None:
    assert repeated(params(), raw) == []
    file = raw / "questions.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join([*lines, *lines[:3]]), encoding="utf-8")
    (said,) = repeated(params(), raw)
    assert said.startswith(f"note: 3 of {len(lines) + 3} queries were there before, word for word")


def test_a_judge_is_a_line_of_its_own(raw: Path) -> None:
    judge = {"scorer": {"scorer": "judge", "model": {**STRONG, "model": "judge"}}}
    found = dict(forecast(params(score=judge, evaluate=judge), raw))
    assert list(found) == ["refine", "score", "evaluate", "evaluate, judge"]
    assert found["score"].calls == len(queries(raw, "train")) * (1 + 6 + 6), (
        "solo, drafts and refinements"
    )
    assert found["score"].model.startswith("judge@")


def test_an_endpoint_that_serves_the_challenger_is_asked_each_time(raw: Path) -> None:
    """Also where the call store has the answers: it would answer for an earlier challenger."""
    served = {"served": {**STRONG, "model": "served"}, "queries": 5}
    given = params(evaluate={"agreement": served})
    found = dict(forecast(given, raw))
    assert list(found) == ["refine", "evaluate", "evaluate, served"]
    cost = found["evaluate, served"]
    assert (cost.calls, cost.stored, cost.paid) == (5, 0, True)
    longest = max(len(query.prompt[-1].content.encode()) for query in queries(raw, "test"))
    assert cost.tokens > 5 * longest
    assert "5 calls to served@" in table(forecast(given, raw), Budget())
    everything = len(queries(raw, "test"))
    served["queries"] = 1000
    assert dict(forecast(given, raw))["evaluate, served"].calls == everything
    given["evaluate"]["policy"] = STRONG
    assert "evaluate, served" not in dict(forecast(given, raw)), "no weights are held here"


def test_what_the_store_has_is_counted_off(raw: Path) -> None:
    given = params()
    before = dict(forecast(given, raw))["refine"]
    strong = OpenAIConfig.model_validate(STRONG)
    prompts, sampling = (
        domain("handbook").prompts,
        config.Sampling.model_validate(given["refine"]["sampling"]),
    )
    keys = [
        Request(prompts.solo.render(query.prompt), sampling).key(strong.name)
        for query in queries(raw, "train")
    ]
    store.open_store().put(
        [StoredAnswer(key, Completion("known", strong.name), 0.1) for key in keys]
    )
    after = dict(forecast(given, raw))["refine"]
    assert (after.stored, after.calls) == (len(keys), before.calls - len(keys))
    assert after.usd is not None and before.usd is not None and after.usd < before.usd


def test_models_of_our_own_cost_nothing_and_a_budget_that_may_not_do_is_said(raw: Path) -> None:
    ours = config.load(ROOT / "params.yaml")
    assert "completions of gemma3-270m, which is ours" in table(forecast(ours, raw), Budget(usd=0))
    shown = table(forecast(params(), raw), Budget(usd=0.01))
    assert "more than pin.budget" in shown and "in all" in shown
    assert "more than pin.budget" not in table(forecast(params(), raw), Budget(usd=1000))


def test_a_call_is_never_more_than_was_foreseen() -> None:
    model = OpenAIConfig(model="m")
    request = Request(domain("handbook").prompts.solo.render(()), config.Sampling(max_tokens=9))
    prompt, completion = model.most(request)
    assert completion == 9 and prompt >= sum(
        len(message.content.encode()) for message in request.messages
    )
    assert OpenAIConfig(model="m", extra={"max_tokens": 50}).most(request)[1] == 50, (
        "what is sent counts"
    )


def test_batches_are_foreseen_at_their_price(raw: Path) -> None:
    plain = dict(forecast(params(), raw))
    batched = {"strong": {**STRONG, "batch": {"discount": 0.25}}}
    found = forecast(params(refine=batched, evaluate=batched), raw)
    assert [(e.usd, e.tokens) for _, e in found] == [
        (pytest.approx(0.75 * (plain[s].usd or 0)), plain[s].tokens) for s, _ in found
    ]
    assert table(found, Budget()).count("in batches, 25% off") == 2
