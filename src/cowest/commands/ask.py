"""`cowest ask "..."`: one question to the champion and the strong model."""

import argparse
import json
import sys
from pathlib import Path

from cowest import config, io
from cowest.commands import add_params
from cowest.records import Message, Query


def main(argv: list[str]) -> int:
    """Prints the draft and the answer. 0: answered; 2: there is nothing to ask."""
    parser = argparse.ArgumentParser(
        prog="cowest ask", description="Put one question to the champion and the strong model."
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
    known = _held_out()
    asked = given.question
    if asked is None and known is not None:
        asked = known.prompt[-1].content
    if asked is None or not asked.strip():
        print(
            "cowest ask: what? Give a question in quotes "
            "(there is no data/queries.jsonl to take one from)",
            file=sys.stderr,
        )
        return 2
    with open_live(settings, given.version, given.any) as live:
        answer = live.answer((Message(role="user", content=asked),))
    for line in account.egress():
        print(line, file=sys.stderr)
    if given.json:
        print(json.dumps(answer.model_dump(), indent=2))
        return 0
    print(f"question  {asked}\ndraft     {answer.draft}\nanswer    {answer.answer}")
    if known and asked == known.prompt[-1].content:
        print(f"target    {' | '.join(known.targets)}")
    print(f"          version {answer.version} drafted, {answer.strong.partition('@')[0]} refined")
    return 0


def _held_out() -> Query | None:
    """The first held-out query of the last turn."""
    queries = Path("data/queries.jsonl")
    return next(io.queries(queries, "test"), None) if queries.is_file() else None
