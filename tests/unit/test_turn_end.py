"""A turn that was killed after its decision, and is given again: only its end is written down."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cowest.commands import turn
from cowest.ledger.claims import Budget, open_turn
from cowest.ledger.store import accounting, open_store

OWN, OTHER = "a" * 64, "b" * 64


@contextmanager
def no_notes(_: list[str]) -> Iterator[list[str]]:
    yield []


def test_the_end_of_a_turn_counts_for_that_turn_whoever_was_pinned_last(
    own_store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = open_store()
    open_turn(kept, OWN, Budget())
    open_turn(kept, OTHER, Budget())
    with accounting("train") as of_another:
        of_another.peak_memory = 2**50

    def close(*_: Any) -> None:
        with accounting("register"):
            pass

    registry = SimpleNamespace(champion=lambda: None, log=list)
    registering = SimpleNamespace(registry=SimpleNamespace(open=lambda: registry))
    stands_in: dict[str, Any] = {
        "_amended": no_notes,
        "_read_settings": dict,
        "preflight": lambda _: None,
        "probe_notes": lambda *_: [],
        "section": lambda *_: {},
        "parse": lambda *_: registering,
        "_raw": lambda _: Path("raw"),
        "turn_of": lambda *_: SimpleNamespace(key=OWN),
        "settled": lambda *_: SimpleNamespace(turn=OWN),
        "_finished": lambda _: False,
        "_at_hand": lambda _: True,
        "_close": close,
    }
    for name, value in stands_in.items():
        monkeypatch.setattr(turn, name, value)
    turn.go_through([], force=False, lock=0)
    assert [line.stage for line in kept.ledger(OWN)] == ["register"]
    assert [line.stage for line in kept.ledger(OTHER)] == ["train"]
    assert "the largest stage, register," in capsys.readouterr().out
