"""Measures questions to the embedded pair as they are served, beside the pipeline's decoder.

    python -m tests.bench.serving_decoder [--adapter models/policy/adapter] [--times 3]

A question is a draft and its refinement with the handbook's prompts, in float32, each token the
likeliest. Without an adapter the policy is its base, whose drafts run to their limit of 20 tokens.
Walls are the least of several runs, taken in turns, since the machine may be busy.
"""

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cowest import collaboration
from cowest.config import Sampling
from cowest.domains.handbook import PROMPTS
from cowest.models.hf import HFConfig
from cowest.protocols import AsyncChatModel, ChatModel, Completion, Request, Served
from cowest.records import Message

POLICY = HFConfig(model="smollm2-135m-instruct")
STRONG = HFConfig(model="gemma3-270m")
DRAFTING, REFINING = Sampling(max_tokens=20), Sampling(max_tokens=8, stop=("\n",))
ROOT = Path(__file__).parent.parent.parent
AT_ONCE = 16
ALONE, BLOCK = "HFModel, one at a time", "HFModel, one block"
Row = dict[str, Any]
Answered = tuple[Completion, Completion | None]


@dataclass
class Taken:
    """Wall and CPU seconds of each run of one kind of work."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def note(self, work: Callable[[], Any]) -> Any:
        """Runs and times it."""
        wall, cpu = time.monotonic(), time.process_time()
        found = work()
        self.wall.append(time.monotonic() - wall)
        self.cpu.append(time.process_time() - cpu)
        return found


def row(
    name: str, value: float, unit: str, target: float | None, peers: dict[str, float] | None = None
) -> Row:
    """One line of serve.json; less is better in all of them."""
    rounded = {peer: round(found, 3) for peer, found in (peers or {}).items()}
    return {
        "name": name,
        "value": round(value, 3),
        "unit": unit,
        "better": "lower",
        "target": target,
        "peers": rounded,
    }


def questions(count: int) -> list[tuple[Message, ...]]:
    """Questions of the handbook, from all of its products."""
    lines = (ROOT / "data" / "raw" / "handbook" / "questions.jsonl").read_text().splitlines()
    apart = lines[:: max(1, len(lines) // count)][:count]
    return [(Message(role="user", content=json.loads(line)["question"]),) for line in apart]


def plain(
    asked: Sequence[tuple[Message, ...]], policy: ChatModel, strong: ChatModel
) -> list[Answered]:
    """Answers in one block, by the pipeline's decoder, with an empty store."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patched:
        patched.setenv("COWEST_STORE", f"{folder}/calls.sqlite")
        return collaboration.answers(asked, policy, strong, PROMPTS, DRAFTING, REFINING)


async def answer(
    prompt: tuple[Message, ...], policy: AsyncChatModel, strong: AsyncChatModel
) -> Answered:
    """The draft and the refinement of one question, each streamed to its end."""
    draft = await last(policy, Request(PROMPTS.draft.render(prompt), DRAFTING))
    assert draft.text is not None
    return draft, await last(strong, Request(PROMPTS.refine.render(prompt, draft.text), REFINING))


async def last(model: AsyncChatModel, request: Request) -> Completion:
    served = Served("bench", time.monotonic() + 3600)
    found = [piece async for piece in model.stream(request, served)][-1]
    assert isinstance(found, Completion)
    return found


def rows(adapter: Path | None = None, times: int = 3) -> list[Row]:
    """All rows. Takes about 20 CPU-seconds a time."""
    asked = questions(AT_ONCE)
    one, many, alone, block = Taken(), Taken(), Taken(), Taken()
    with (
        POLICY.open(adapter) as policy,
        STRONG.open() as strong,
        asyncio.Runner() as runner,
    ):
        contexts = POLICY.open_async(adapter), STRONG.open_async()
        served = [runner.run(context.__aenter__()) for context in contexts]

        def together(some: Sequence[tuple[Message, ...]]) -> list[Answered]:
            async def at_once() -> list[Answered]:
                return await asyncio.gather(*(answer(prompt, *served) for prompt in some))

            return runner.run(at_once())

        # The shots are read by the first question.
        together(asked[:1])
        expected: list[Answered] = []
        for _ in range(times):
            found = many.note(lambda: together(asked))
            each = []
            for prompt in asked[:6]:
                each += one.note(partial(together, [prompt]))
            expected = alone.note(lambda: [plain([prompt], policy, strong)[0] for prompt in asked])
            block.note(lambda: plain(asked, policy, strong))
        for context in contexts:
            runner.run(context.__aexit__(None, None, None))
    apart = sum(map(differ, [*found, *each], [*expected, *expected[:6]]))
    ones = [min(one.wall[first::6]) for first in range(6)]
    best = sum(ones) / len(ones)
    lone = min(alone.wall) / AT_ONCE
    return [
        row("embedded pair: one warm question", best, "s", 0.8, {ALONE: lone}),
        row(
            "embedded pair: 16 questions at once",
            min(many.wall),
            "s",
            None,
            {ALONE: min(alone.wall), BLOCK: min(block.wall)},
        ),
        row("embedded pair: 16 at once over one", min(many.wall) / best, "ratio", 4.0),
        row(
            "embedded pair: CPU of one warm question",
            sum(one.cpu) / len(one.cpu),
            "s",
            None,
            {ALONE: min(alone.cpu) / AT_ONCE},
        ),
        row(
            "embedded pair: CPU of 16 questions at once",
            min(many.cpu),
            "s",
            None,
            {ALONE: min(alone.cpu), BLOCK: min(block.cpu)},
        ),
        row("embedded pair: answers that differ from the pipeline's, of 22", apart, "answers", 0),
    ]


def differ(one: Answered, other: Answered) -> bool:
    """Says whether a draft or a refinement is another text."""
    return [found and found.text for found in one] != [found and found.text for found in other]


def main() -> None:
    """Prints the rows, and how busy the machine was."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--times", type=int, default=3)
    given = parser.parse_args()
    for found in rows(given.adapter, given.times):
        print(json.dumps(found))
    print("load", *os.getloadavg())


if __name__ == "__main__":
    main()
