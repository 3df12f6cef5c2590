"""`cowest ask "..."`: one question to the champion and the strong model."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cowest import config, io
from cowest.commands import add_params, shown
from cowest.records import Message, Query

if TYPE_CHECKING:
    from cowest.online.ask_api import Answer


def main(argv: list[str]) -> int:
    """Prints the draft and the answer. 0: answered; 2: there is nothing to ask."""
    parser = argparse.ArgumentParser(
        prog="cowest ask",
        description="Put one question to the champion and the strong model.",
        epilog="Its settings are those of `serve`: `python -m cowest_serving serve --help`.",
    )
    parser.add_argument(
        "question", nargs="?", help="in words; without it, a held-out question of the last turn"
    )
    parser.add_argument(
        "--version", type=int, help="a version of the registry in place of the champion"
    )
    parser.add_argument(
        "--any",
        action="store_true",
        help="where there is no champion yet, ask the last version, though it was refused",
    )
    add_params(parser)
    parser.add_argument("--json", action="store_true", help="the answer as JSON")
    given = parser.parse_args(argv)

    from cowest.ledger import account
    from cowest.online.live import ServeConfig, open_live

    params = config.load(given.params)
    settings = config.parse(
        ServeConfig, config.section(params, "serve", str(given.params)), f"{given.params}: serve"
    )
    config.enter(given.params)
    # What was asked in words needs no data, which may not be here or be damaged.
    known = _held_out() if given.question is None else None
    prompt: tuple[Message, ...] = ()
    if known is not None:
        prompt = known.prompt
    elif given.question is not None and given.question.strip():
        prompt = (Message(role="user", content=given.question),)
    if not prompt:
        print(
            "cowest ask: what? Give a question in quotes "
            "(there is no data/queries.jsonl to take one from)",
            file=sys.stderr,
        )
        return 2
    with open_live(settings, given.version, given.any) as live:
        answer = live.answer(prompt)
    for line in account.egress():
        print(line, file=sys.stderr)
    if given.json:
        print(json.dumps(answer.model_dump(), indent=2))
        return 0
    # A model may say anything, and a terminal does as it is told.
    print(shown(_told(prompt, answer, known)))
    return 0


def _told(prompt: tuple[Message, ...], answer: "Answer", known: Query | None) -> str:
    """The question, its draft and its answer in words, with the target where it is known."""
    lines = [
        f"question  {prompt[-1].content}",
        f"draft     {answer.draft}",
        f"answer    {answer.answer}",
    ]
    if known is not None:
        lines.append(f"target    {' | '.join(known.targets)}")
    strong = answer.strong.partition("@")[0]
    lines.append(f"          version {answer.version} drafted, {strong} refined")
    return "\n".join(lines)


def _held_out() -> Query | None:
    """The first held-out query of the last turn."""
    queries = Path("data/queries.jsonl")
    return next(io.queries(queries, "test"), None) if queries.is_file() else None
