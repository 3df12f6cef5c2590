"""`cowest ask`: what is asked, and what a terminal is shown of the answer."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cowest import io
from cowest.commands import ask, shown
from cowest.commands.acting import cut
from cowest.errors import RegistryError
from cowest.online import live
from cowest.online.ask_api import Answer
from cowest.records import Decision, Message
from tests import tiny
from tests.factories import make_query

asked: list[tuple[Message, ...]] = []
"""The prompts that were asked in a test."""


class Live:
    """A version that says what a terminal would obey."""

    def answer(self, prompt: tuple[Message, ...]) -> Answer:
        asked.append(prompt)
        said = {"draft": "\x1b]0;mine\x07one\ntwo", "answer": "yes\x1b[2J"}
        return Answer(version=1, policy="p", strong="s@h", **said)


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project that answers; it is the working folder."""

    @contextmanager
    def opened(*_: Any) -> Iterator[Live]:
        yield Live()

    asked.clear()
    tiny.copy_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(live, "open_live", opened)
    return tmp_path


def test_a_terminal_is_given_nothing_to_obey(capsys: pytest.CaptureFixture[str]) -> None:
    ask.main(["is it\x1b[31m?"])
    said = capsys.readouterr().out
    assert "\x1b" not in said and "\x07" not in said
    assert "one\ntwo" in said and "answer    yes\N{REPLACEMENT CHARACTER}[2J" in said
    assert cut("because\x1b[2J of\tit", 40) == "because\N{REPLACEMENT CHARACTER}[2J of it"
    assert (
        shown("f\u00fcr\u00a0\U0001f469\u200d\U0001f680")
        == "f\u00fcr\u00a0\U0001f469\u200d\U0001f680"
    )


def test_a_question_needs_no_data(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "data" / "queries.jsonl").write_text("damaged")
    assert ask.main(["Is it?"]) == 0
    assert asked == [(Message(role="user", content="Is it?"),)]
    assert "target" not in capsys.readouterr().out


def test_a_held_out_query_is_asked_whole(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompt = (
        Message(role="system", content="Be brief."),
        Message(role="user", content="Is it?"),
    )
    query = make_query(prompt=prompt)
    io.write(project / "data" / "queries.jsonl", [query])
    assert ask.main([]) == 0
    assert asked == [prompt]
    assert f"target    {' | '.join(query.targets)}" in capsys.readouterr().out


class Decided:
    """A registry without a champion, and its log."""

    def __init__(self, *verdicts: str) -> None:
        self._log = []
        for number, verdict in enumerate(verdicts, 1):
            tags = {"kind": {"noted": "hold", "waiting": "waiting"}.get(verdict, "turn")}
            given: dict[str, Any] = {"turn": f"t{number}", "verdict": verdict, "tags": tags}
            line = Decision(version=number, against=None, reason=f"why {number}", **given)
            self._log.append(line)

    def begun(self) -> bool:
        return True

    def open(self) -> "Decided":
        return self

    def log(self) -> list[Decision]:
        return self._log

    def champion(self) -> int | None:
        return None

    def fetch(self, version: int, folder: Path) -> None:
        pass


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        (["refused", "noted"], "version 1, which was refused (why 1)"),
        (["refused", "waiting"], "version 2, which waits for approval (why 2)"),
        (["refused", "late", "noted"], "version 2, which came late (why 2)"),
    ],
)
def test_with_any_the_last_version_is_taken_and_no_hold(
    verdicts: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config: Any = SimpleNamespace(baked=None, registry=Decided(*verdicts))
    number = live.fetch(config, tmp_path / "version", refused_too=True)
    assert f"this is {said}" in capsys.readouterr().err
    assert f"version {number}, " in said


def test_with_any_a_hold_alone_is_no_version(tmp_path: Path) -> None:
    config: Any = SimpleNamespace(baked=None, registry=Decided("noted"))
    with pytest.raises(RegistryError, match="no version is champion yet"):
        live.fetch(config, tmp_path / "version", refused_too=True)
