"""What a turn will cost at most: counted from raw data and settings, and never less than it does
cost.
"""

from pathlib import Path
from typing import Any

import pytest

from cowest import config
from cowest.collaboration import refine
from cowest.config import parse
from cowest.domains import domain
from cowest.forecast import forecast, repeated, table
from cowest.ledger import store
from cowest.ledger.claims import Budget
from cowest.ledger.store import StoredAnswer
from cowest.models.estimate import Counting, longest
from cowest.models.openai import OpenAIConfig
from cowest.protocols import Completion, Request
from cowest.records import Draft, Query, grown
from cowest.stages.refine import RefineConfig
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


JUDGE = {"scorer": "judge", "model": {**STRONG, "model": "judge"}}


@pytest.mark.parametrize("align", ["self", "grpo"])
def test_a_judge_scores_drafts_that_no_strong_model_is_asked_about(raw: Path, align: str) -> None:
    given = params(refine={"align": align}, score={"scorer": JUDGE})
    found = dict(forecast(given, raw))
    assert found["refine"].calls == 0
    assert found["score"].calls == len(queries(raw, "train")) * 6


def test_a_judge_scores_the_drafts_of_later_rounds_without_the_strong_model(raw: Path) -> None:
    ask = {"strong": STRONG, "scorer": JUDGE, "drafting": {"temperature": 1.0, "n": 4}}
    dpo = {"align": "self", "rounds": 3, "ask": ask}
    given = params(refine={"align": "self"}, pair={"align": "self"}, dpo=dpo)
    found = dict(forecast(given, raw))
    assert "dpo" not in found, "the strong model is asked nothing"
    assert found["dpo, judge"].calls == 2 * 4 * len(queries(raw, "train"))


def test_the_drafts_that_are_chosen_may_be_the_longest(raw: Path) -> None:
    prompts = domain("handbook").prompts.model_dump(mode="json")
    prompts["candidates"] = {"a": {"user": "Say {query}"}, "b": {"user": "Briefly: {query}"}}
    short, long = config.Sampling(max_tokens=16), config.Sampling(max_tokens=512)
    given = params(
        draft={"sampling": short.model_dump(), "candidates": long.model_dump()},
        sft={"prompts": prompts},
        refine={"select": {"share": 0.75}},
    )
    foreseen = dict(forecast(given, raw))["refine"]

    def drafted(query: Query) -> list[Draft]:
        """Drafts of which the policy's own is cut, and no use."""
        return [
            grown(Draft, query, sample=0, policy="p", draft=longest(short, 0), cut=True),
            grown(Draft, query, sample=1, policy="p", draft=longest(long, 1)),
            grown(Draft, query, sample=2, policy="p", draft=longest(long, 2)),
        ]

    settings = parse(RefineConfig, given["refine"], "refine")
    assert settings.select is not None
    made = Counting(settings.strong)
    groups = map(drafted, queries(raw, "train"))
    choice = settings.select.choice
    for _ in refine(groups, made, settings.prompts, settings.sampling, choice):
        pass
    assert made.estimate.calls == 3 * len(queries(raw, "train"))
    assert foreseen.calls >= made.estimate.calls and foreseen.tokens >= made.estimate.tokens


def masked(*terms: str) -> dict[str, Any]:
    return {**STRONG, "egress": {"on_found": "mask", "terms": terms, "detect": ["term"]}}


def test_what_is_masked_is_foreseen_as_it_is_sent(raw: Path) -> None:
    given = params()
    strong = OpenAIConfig.model_validate(STRONG)
    prompts, sampling = (
        domain("handbook").prompts,
        config.Sampling.model_validate(given["refine"]["sampling"]),
    )
    keys = []
    for query in queries(raw, "train"):
        keys.append(Request(prompts.solo.render(query.prompt), sampling).key(strong.name))
    store.open_store().put(
        [StoredAnswer(key, Completion("known", strong.name), 0.1) for key in keys]
    )
    plain = dict(forecast(given, raw))
    assert plain["refine"].stored == len(keys)
    given["refine"]["strong"] = given["evaluate"]["strong"] = masked("is", "of", "the")
    found = dict(forecast(given, raw))
    assert found["refine"].stored == 0, "what is stored was asked unmasked"
    assert found["refine"].calls == plain["refine"].calls + len(keys)
    assert found["evaluate"].tokens > plain["evaluate"].tokens, "placeholders are longer"


def test_what_is_not_sent_is_not_foreseen(raw: Path) -> None:
    refusing = {
        **STRONG,
        "egress": {"on_found": "refuse", "terms": ["country"], "detect": ["term"]},
    }
    served = {"served": refusing, "queries": 10_000}
    given = params(evaluate={"agreement": served})
    plain = len(queries(raw, "test"))
    assert 0 < dict(forecast(given, raw))["evaluate, served"].calls < plain


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
