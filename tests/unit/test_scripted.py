"""The scripted model does what it is told, and no script that it can't follow is taken."""

import asyncio
import time
from pathlib import Path

import pytest

from cowest.config import Sampling, parse
from cowest.errors import ConfigError, ModelError
from cowest.models.scripted import ScriptedConfig, ScriptRule
from cowest.protocols import Completion, Request, Served
from cowest.records import Message

BEFORE = (Message(role="user", content="poison"), Message(role="assistant", content="no"))


def say(
    config: ScriptedConfig, text: str, sampling: Sampling | None = None, sample: int = 0
) -> Completion:
    messages = (*BEFORE, Message(role="user", content=text))
    with config.open() as model:
        (found,) = model.generate([Request(messages, sampling or Sampling(), sample)])
    return found


SCRIPT = ScriptedConfig(
    rules=(
        ScriptRule(match="poison", failed="told to fail"),
        ScriptRule(
            match=r"capital of (\w+)( now)?",
            replies=("{1}? Its capital.{2}", "I forgot {0}", "Ask {1}"),
        ),
        ScriptRule(match="list", replies=("one two three\nfour",)),
    )
)


def test_the_first_rule_that_matches_the_last_message_answers() -> None:
    assert say(SCRIPT, "The capital of Italy?").text == "Italy? Its capital."
    assert say(SCRIPT, "the capital of poison").failed == "told to fail"
    found = say(SCRIPT, "anything else")
    assert (found.text, found.finish, found.failed) == (
        None,
        "failed",
        "no rule of the script matches",
    )


def test_samples_differ_and_come_back() -> None:
    warm = Sampling(temperature=1, n=20)
    texts = [say(SCRIPT, "capital of Italy", warm, sample).text for sample in range(20)]
    assert set(texts) == {"Italy? Its capital.", "I forgot capital of Italy", "Ask Italy"}
    assert texts == [say(SCRIPT, "capital of Italy", warm, sample).text for sample in range(20)]


def test_ends_as_a_model_does() -> None:
    whole, cut = (
        say(SCRIPT, "list", Sampling(stop=("\n",))),
        say(SCRIPT, "list", Sampling(max_tokens=2)),
    )
    assert (whole.text, whole.finish, whole.completion_tokens) == ("one two three", "stop", 3)
    assert (cut.text, cut.finish, cut.completion_tokens) == ("one two", "length", 2)


def test_takes_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="takes no adapter"), SCRIPT.open(adapter=tmp_path):
        pass


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ([], "rules"),
        ([{"match": "(", "replies": ["x"]}], "rules.0: match: "),
        ([{"match": "x", "replies": ["{1}"]}], "beyond the pattern's 0 groups"),
        ([{"match": "x"}], "either replies or failed"),
        ([{"replies": ["x"], "failed": "y"}], "either replies or failed"),
    ],
)
def test_scripts_refused(rules: list[dict[str, object]], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse(ScriptedConfig, {"provider": "scripted", "rules": rules}, "test")


def test_order_of_rules_is_part_of_the_name() -> None:
    with SCRIPT.open() as one, ScriptedConfig(rules=SCRIPT.rules[::-1]).open() as other:
        assert one.name != other.name


def test_a_streamed_answer_is_the_same_answer() -> None:
    async def streamed(text: str) -> list[str | Completion]:
        async with SCRIPT.open_async() as model:
            messages = (*BEFORE, Message(role="user", content=text))
            request = Request(messages, Sampling())
            served = Served("1", until=time.monotonic() + 10)
            return [piece async for piece in model.stream(request, served)]

    for asked in ("list", "the capital of Italy?", "poison"):
        *texts, last = asyncio.run(streamed(asked))
        assert last == say(SCRIPT, asked)
        assert isinstance(last, Completion)
        assert "".join(map(str, texts)) == (last.text or "")
    with pytest.raises(ModelError, match="no adapter"):
        asyncio.run(_opened_with_an_adapter())


async def _opened_with_an_adapter() -> None:
    async with SCRIPT.open_async(Path("adapter")):
        pass
