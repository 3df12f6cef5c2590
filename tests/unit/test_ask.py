"""`cowest ask`: what is asked, and what a terminal is shown of the answer."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cowest import io
from cowest.commands import ask, shown
from cowest.commands.acting import cut
from cowest.online import live
from cowest.online.ask_api import Answer
from cowest.records import Message
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
