"""Show every decision: promotions, refusals, rollbacks, holds, releases, approvals.

cowest history               a table, the newest last
cowest history --jsonl       everything that is known of each, one JSON object per line

In the table, `champion` says from which version to which: `3 > 4` where it changed.
"""

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from cowest.commands.acting import cut, moment, parser_of, registry_of
from cowest.lineage import data_of
from cowest.records import Decision

WIDTH = 100
"""Characters of a line of the table."""
HEAD = "version  when              decision       by        champion     "
COST = "    cost  "
"""Head of a column that is left out where no cost is known."""
DIGESTS = ("digest", "answers", "base", "code", "params", "prompts", "report")
"""Names of digests, and of the base model, which holds one."""
COUNTS = ("gates", "cost", "reported")
"""Tags whose values are JSON."""
Line = tuple[Decision, int | None, int | None]
"""A decision, with the champion before it and after it."""


def main(argv: list[str]) -> int:
    """Prints the log. Raises ConfigError and RegistryError."""
    parser = parser_of("history", __doc__)
    parser.add_argument(
        "--jsonl", action="store_true", help="for programs: one JSON object per decision"
    )
    parser.add_argument(
        "--limit", type=int, metavar="N", help="only the last N decisions (all, if left out)"
    )
    given = parser.parse_args(argv)
    if given.limit is not None and given.limit < 1:
        parser.error("--limit: 1 or more")
    config = registry_of(given.params)
    # To look must not make a registry, as `open` would.
    log = config.open().log() if config.begun() else []
    lines = list(with_champions(log))
    if given.limit is not None:
        lines = lines[-given.limit :]
    if given.jsonl:
        for line in lines:
            print(json.dumps(_row(line), ensure_ascii=False))
        return 0
    if not lines:
        print("nothing was decided yet: run `cowest turn`")
        return 0
    costs = any("cost" in decision.tags for decision, _, _ in lines)
    print(f"{HEAD}{COST if costs else ''}why")
    for line in lines:
        print(_line(line, costs))
    return 0


def with_champions(log: Sequence[Decision]) -> Iterator[Line]:
    """Each decision, with the champion before it and after it."""
    champion: int | None = None
    for decision in log:
        before = champion
        if decision.promoted:
            champion = decision.version
        yield decision, before, champion


def named(decision: Decision) -> str:
    """Names a decision in a word or two."""
    if decision.kind in ("turn", "waiting"):
        return decision.verdict
    counts = decision.promoted or decision.verdict == "noted"
    return decision.kind if counts else f"{decision.kind} {decision.verdict}"


def _line(line: Line, costs: bool) -> str:
    """One line of the table, with the column of costs if it is shown."""
    decision, before, after = line
    champion = _number(after) if before == after else f"{_number(before)} > {_number(after)}"
    why = decision.reason
    if decision.kind in ("rollback", "approval"):
        why = f"of {decision.of}: {why}"
    said = (
        f"{decision.version:>7}  {moment(decision.at):<16}  {cut(named(decision), 13):<13}  "
        f"{cut(decision.by or '', 8):<8}  {champion:<11}  "
    )
    if costs:
        said += f"{_cost(decision):>8}  "
    return (said + cut(why, max(WIDTH - len(said), 8))).rstrip()


def _cost(decision: Decision) -> str:
    cost = _parsed(decision.tags.get("cost"))
    return f"${cost['usd']:,.2f}" if isinstance(cost, dict) and "usd" in cost else ""


def _number(version: int | None) -> str:
    return "none" if version is None else str(version)


def _row(line: Line) -> dict[str, Any]:
    """Everything that is known of a decision, for programs."""
    decision, before, after = line
    tags = decision.tags
    at = decision.at
    found: dict[str, Any] = {
        "version": decision.version,
        "at": None if at is None else datetime.fromtimestamp(at, UTC).isoformat(),
        "kind": decision.kind,
        "verdict": decision.verdict,
        "by": decision.by,
        "turn": decision.turn,
        "against": decision.against,
        "of": decision.of,
        "champion_before": before,
        "champion_after": after,
        "reason": decision.reason,
    }
    found |= {name: tags.get(name) for name in DIGESTS} | {"digest": decision.digest}
    found["strong"], found["scorer"] = tags.get("strong"), tags.get("scorer")
    found |= {name: _parsed(tags.get(name)) for name in COUNTS}
    found["data"] = {name: one.model_dump(exclude_none=True) for name, one in data_of(tags).items()}
    return found


def _parsed(value: str | None) -> Any:
    """The value of a tag that holds JSON; a tag that was changed by hand stops nobody."""
    try:
        return None if value is None else json.loads(value)
    except ValueError:
        return None
