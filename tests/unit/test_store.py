"""The call store: durable, first answer wins, and honest accounts."""

from pathlib import Path

import pytest

from cowest.errors import CoWestError, StoreError
from cowest.models import store
from cowest.models.store import Answer, CallStore
from cowest.protocols import Completion


def answer(key: str, text: str | None = "yes", cost: float | None = None) -> Answer:
    failed = None if text is not None else "no power"
    return Answer(key, Completion(text, "m", failed=failed, logprob=-0.5, prompt_tokens=3, completion_tokens=2), 0.1, cost, "m-2026")


def test_what_was_put_is_got_by_another_connection(tmp_path: Path) -> None:
    CallStore(tmp_path / "calls").put([answer("a"), answer("b", "no")])
    found = CallStore(tmp_path / "calls").get(["b", "a", "c"])
    assert {key: completion.text for key, completion in found.items()} == {"a": "yes", "b": "no"}
    assert found["a"] == answer("a").completion


def test_more_keys_than_a_statement_takes(tmp_path: Path) -> None:
    kept = CallStore(tmp_path / "calls")
    kept.put([answer(str(number)) for number in range(2500)])
    assert len(kept.get([str(number) for number in range(3000)])) == 2500


def test_the_first_answer_wins(tmp_path: Path) -> None:
    kept = CallStore(tmp_path / "calls")
    kept.put([answer("a", "first")])
    kept.put([answer("a", "second")])
    assert kept.get(["a"])["a"].text == "first"


def test_a_failure_is_not_kept(tmp_path: Path) -> None:
    kept = CallStore(tmp_path / "calls")
    kept.put([answer("a", None)])
    assert kept.get(["a"]) == {}


def test_all_of_a_put_or_none(tmp_path: Path) -> None:
    kept = CallStore(tmp_path / "calls")
    bad = Answer("b", Completion("x", "m", logprob=object()), 0.1)  # type: ignore[arg-type]
    with pytest.raises(StoreError):
        kept.put([answer("a"), bad])
    assert kept.get(["a"]) == {}
    kept.put([answer("a")])
    assert "a" in kept.get(["a"])


def test_a_stage_is_accounted_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COWEST_STORE", str(tmp_path / "calls"))
    with store.accounting("refine") as account:
        kept = store.open_store()
        kept.put([answer("a", cost=0.25), answer("b", cost=0.5)])
        kept.get(["a", "b", "c"])
        account.seconds = 1.5
    (row,) = store.open_store().ledger()
    assert (row.stage, row.seconds, row.asked, row.stored, row.prompt_tokens, row.completion_tokens, row.cost) == (
        "refine",
        1.5,
        2,
        2,
        6,
        4,
        0.75,
    )
    assert row.peak_memory > 10 * 2**20


def test_a_stage_that_fails_has_no_account_and_the_next_starts_at_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COWEST_STORE", str(tmp_path / "calls"))
    with pytest.raises(RuntimeError), store.accounting("refine"):
        store.open_store().put([answer("a")])
        raise RuntimeError
    with store.accounting("score"):
        pass
    assert [(row.stage, row.asked) for row in store.open_store().ledger()] == [("score", 0)]


@pytest.mark.parametrize("place", ["postgresql://somebody:secret@host/db", "/dev/null/calls"])
def test_a_place_that_is_none_is_said_without_its_secrets(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COWEST_STORE", place)
    with pytest.raises(CoWestError) as said:
        store.open_store()
    assert "secret" not in str(said.value)
