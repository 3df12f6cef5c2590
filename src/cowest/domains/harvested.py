"""Harvested rows beside a table: queries of `train`, and what the policy learns of them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from cowest.config import key
from cowest.raw.files import Bad
from cowest.raw.harvested import NAME, Harvested, read
from cowest.raw.intake import Intake, Unfit, build
from cowest.records import Demonstration, Message, Query
from cowest.sametext import caseless, seen


def beside(raw: Path, path: Path) -> Path | None:
    """The file of harvested rows in a raw folder, beside the table at `path`; None without one."""
    found = raw / NAME
    # A turn whose raw data are one file knows the version of no file beside it.
    if not raw.is_dir() or not found.is_file() or found.samefile(path):
        return None
    return found


def rows(
    path: Path, held: set[str], intake: Intake, learn: bool
) -> Iterator[Query | Demonstration]:
    """Yields queries, each followed by its demonstration if `learn`; all are of `train`.

    Nobody may say by a verdict what is held out, and what is right there. A row that asks one of
    `held` (`asked` of the held-out queries), in any part of its conversation, is left out.
    """
    for number, row in read(path):
        if isinstance(row, Bad):
            intake.quarantine(path, number, row.reason, row.raw)
            continue
        if not held.isdisjoint(_parts(row.prompt)):
            intake.leave_out(f"a harvested row asks a held-out question ({NAME})")
            continue
        source = f"{path.name}:{number}"
        try:
            query = _query(row, source)
        except Unfit as error:
            intake.quarantine(path, number, str(error), row.model_dump_json())
            continue
        intake.used += 1
        yield query
        if learn and row.source == "better":
            yield Demonstration(
                prompt=row.prompt, completion=row.targets[0], source=source, of_query=True
            )


def asked(prompt: Sequence[Message]) -> str:
    """Names what a conversation asks, to compare it with others."""
    return key("\n".join(caseless(seen(message.content)) for message in prompt))[:16]


def _parts(prompt: Sequence[Message]) -> list[str]:
    """`asked` of the whole conversation, of what its user says, and of each message by itself.

    Whoever gives a verdict on a conversation chose its roles, and may have asked before. A table's
    own query is one message, so no run of several is compared.
    """
    of_user = [message for message in prompt if message.role == "user"]
    return [asked(prompt), asked(of_user), *(asked([message]) for message in prompt)]


def _query(row: Harvested, source: str) -> Query:
    """The row as a query. Raises Unfit."""
    # A table's own queries of one message have the same group.
    name = key("\n".join(caseless(message.content) for message in row.prompt))[:16]
    return build(
        Query,
        group=f"g{name}",
        split="train",
        prompt=row.prompt,
        targets=row.targets,
        choices=row.choices,
        source=source,
    )
