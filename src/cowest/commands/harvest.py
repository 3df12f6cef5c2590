"""Make data of what was served: conversations with the right answers that people gave.

The service keeps its answers, and the verdicts on them (POST /v1/feedback), in a log (serve.log).
harvest makes raw rows of both, in a file beside the project's table, which `prepare` reads with it
from then on, without a setting: a conversation, and as its target the person's better answer. An
answer of ours that somebody called good becomes a target only where the scorer is token_f1 or
judge. A better answer of which the scorer reads our own words, after its marker or as an option, is
one under any scorer, whatever the verdict beside it. Both are marked `source: approved`, and the
policy does not learn to say them. Nor does it learn a better answer that may be ours, since it came
when our answer was gone and an earlier row does not have it: `source: unclear`.

Left out, and counted by reason: what asks a held-out question of the table, or nearly; answers that
speak to their reader; answers called good that were degraded, cut off or failed. Of several
verdicts on one conversation the last counts. Personal data are masked. All rows are of `train`:
what is held out, and what is right there, is for you to say.

The same command again writes the same file; new verdicts add rows, and rows whose log is gone stay.

cowest harvest --dry-run              what would be taken and left out, and why
cowest harvest                        write it, then: cowest data add data/raw/NAME
cowest harvest --since 2026-11-01     from the verdicts of that day on; earlier rows stay
cowest harvest --summary              answers, and the good and bad of them, by version
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cowest import io
from cowest.commands import add_params
from cowest.config import Config, enter, load, parse, section
from cowest.domains.mapping import Table
from cowest.errors import ConfigError, InputError
from cowest.expectations import corpus
from cowest.expectations.near import Known
from cowest.expectations.private import Private, masked_query, query_texts
from cowest.expectations.queries import QuerySuite
from cowest.lineage import TurnConfig
from cowest.online import harvest
from cowest.online.log import LogConfig
from cowest.raw.harvested import NAME, Harvested, read_own
from cowest.records import Query
from cowest.scorers import AnyScorer
from cowest.stages.prepare import PrepareConfig

LONG = 12
"""Words of a target beyond which a scorer of short answers hardly ever finds it."""


class _Scored(Config):
    """The section `score`, as far as a harvest needs it."""

    scorer: AnyScorer


@dataclass(frozen=True, slots=True)
class _Project:
    """The settings that a harvest needs."""

    log: LogConfig
    raw: Path
    prepare: PrepareConfig
    table: Table
    scorer: AnyScorer
    near: float | None


def main(argv: list[str]) -> int:
    """0: done. Raises CoWestError, and then nothing is written."""
    given = _parser().parse_args(argv)
    out = None if given.out is None else given.out.absolute()
    values = load(given.params)
    where = enter(given.params)
    log = _log(values, where)
    since = 0.0 if given.since is None else given.since.timestamp()
    if given.summary:
        _print_summary(log, since)
        return 0
    project = _project(values, where, log)
    out = out or _beside_the_table(project.raw, where)
    earlier = read_own(out)
    rules = harvest.HarvestRules(
        scorer=project.scorer,
        detection=log.detection,
        held=_held_out(project),
        choices=bool(project.table.choices),
    )
    found = harvest.harvest(log.folder, rules, earlier, since)
    _print_found(found, out, earlier, project.scorer)
    if given.dry_run:
        print("\nnothing was written: --dry-run")
    elif found.rows == earlier:
        print(f"\n{out}: as it was" if earlier else "\nnothing to write")
    else:
        # As private as the log that they come from.
        io.write(out, found.rows, 0o600)
        _print_next(out, project)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cowest harvest",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help=f"the file of rows ({NAME} in the folder of the raw data); no other file than one of "
        "harvest's own is written over",
    )
    parser.add_argument(
        "--since",
        type=_moment,
        metavar="DATE",
        help="only verdicts from this day or moment on (UTC): 2026-11-01, 2026-11-01T18:00",
    )
    parser.add_argument("--dry-run", action="store_true", help="write nothing")
    parser.add_argument(
        "--summary", action="store_true", help="only count answers and verdicts by version"
    )
    add_params(parser)
    return parser


def _moment(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: write it as 2026-11-01") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _log(values: Mapping[str, Any], where: Path) -> LogConfig:
    """The settings of the log. Raises ConfigError, and InputError if there is none."""
    serve = section(dict(values), "serve", str(where))
    log = parse(LogConfig, serve.get("log") or {}, f"{where}: serve.log")
    if not log.folder.is_dir():
        off = "" if log.enabled else ", and serve.log.enabled is false"
        raise InputError(
            f"{log.folder}: no log of answers is here (serve.log.folder){off}: the service writes "
            "it where it runs; bring its folder, or name it"
        )
    return log


def _project(values: dict[str, Any], where: Path, log: LogConfig) -> _Project:
    prepare = parse(PrepareConfig, section(values, "prepare", str(where)), f"{where}: prepare")
    if prepare.table is None:
        name = getattr(prepare.domain, "domain", "another domain")
        raise ConfigError(
            f"{where}: prepare.domain is {name}, which reads its own published files alone: "
            "harvested rows are read by `domain: table` (docs/your-data.md). What people said is "
            "counted by `cowest harvest --summary`"
        )
    turn = parse(TurnConfig, section(values, "turn", str(where)), f"{where}: turn")
    scored = {"scorer": section(values, "score", str(where)).get("scorer")}
    queries = section(values, "validate", str(where)).get("queries")
    suite = parse(QuerySuite, queries, f"{where}: validate.queries")
    return _Project(
        log=log,
        raw=turn.path or turn.raw,
        prepare=prepare,
        table=prepare.table,
        scorer=parse(_Scored, scored, f"{where}: score").scorer,
        near=suite.near,
    )


def _beside_the_table(raw: Path, where: Path) -> Path:
    """The place of the rows. Raises InputError if a table would not find them there."""
    if raw.is_file():
        raise InputError(
            f"{raw} is a file, and harvested rows lie beside it in a folder of the raw data: move "
            f"it into a folder of its own and name that in turn.raw ({where}), or give --out"
        )
    if not raw.is_dir():
        raise InputError(f"{raw}: no such folder: {where} names the raw data in turn.raw")
    return raw / NAME


def _held_out(project: _Project) -> Known:
    """The held-out questions of the project's table, masked as what is compared with them."""
    private = Private(personal="mask", secrets="mask", detection=project.log.detection)

    def held_out() -> Iterator[Query]:
        for query in project.prepare.queries(project.raw):
            if query.split == "train":
                continue
            masks = private.masks(private.found(query_texts(query)))
            yield masked_query(query, masks) if any(masks) else query

    with tempfile.TemporaryDirectory(prefix="cowest.") as folder:
        file = Path(folder) / "held-out.jsonl"
        io.write(file, held_out())
        return corpus.known(file, project.near)[1]


def _print_found(
    found: harvest.Harvest, out: Path, earlier: list[Harvested], scorer: AnyScorer
) -> None:
    """Prints what was taken and left out, as a table whose numbers add up."""
    sources = Counter(row.source for row in found.rows)
    _print_line(found.answers, "answers with a verdict, or rows of an earlier harvest")
    _print_line(len(found.rows), "rows")
    _print_line(sources["better"], "  a person's better answer")
    _print_line(sources["approved"], "  words of ours that were called good or kept")
    if sources["unclear"]:
        _print_line(sources["unclear"], "  better answers given when ours was gone: not learned")
    _print_line(found.left_out.total(), "left out")
    for reason, count in found.left_out.most_common():
        _print_line(count, f"  {reason}")
    notes = {
        "verdicts that a later one on the same answer replaced": found.replaced,
        "verdicts that were given twice": found.repeated,
        "conversations on which people disagree: the last verdict counts": found.conflicts,
        f"better answers of over {LONG} words, which hardly an answer meets under "
        f"`{scorer.scorer}`": _long(found.rows, scorer),
    }
    for reason, count in found.unread.items():
        notes[f"{reason}, in the log"] = count
    if any(notes.values()):
        print("\nto note")
    for note, count in notes.items():
        if count:
            _print_line(count, f"  {note}")
    before = {row.id for row in earlier}
    new = sum(row.id not in before for row in found.rows)
    gone = len(before - {row.id for row in found.rows})
    print(f"\n{out.name}: {len(found.rows)} rows, {new} of them new; {gone} are gone")


def _long(rows: list[Harvested], scorer: AnyScorer) -> int:
    """The number of rows whose target is too long for a scorer of short answers."""
    if isinstance(scorer, harvest.OF_ANSWERS):
        return 0
    return sum(len(row.targets[0].split()) > LONG for row in rows if not row.choices)


def _print_line(count: int, words: str) -> None:
    print(f"{count:>8,}  {words}")


def _print_next(out: Path, project: _Project) -> None:
    print(f"written: {out}")
    if out.absolute() == (project.raw / NAME).absolute():
        print(f"next     cowest data add {project.raw}, and commit its pointer; then `cowest turn`")
    else:
        print(
            f"next     a table reads it where it lies as {NAME} in the folder of the raw data "
            f"({project.raw})"
        )


def _print_summary(log: LogConfig, since: float) -> None:
    unread: Counter[str] = Counter()
    counts = harvest.by_version(log.folder, since, unread)
    if not counts:
        print(f"{log.folder}: no answers yet")
    else:
        print(
            f"{'version':>7}  {'model':<13}  {'answers':>8}  {'degraded':>8}  {'failed':>7}  "
            f"{'verdicts':>8}  {'good':>13}  {'bad':>13}  {'better answers':>14}"
        )
    for (version, model), count in counts.items():
        print(
            f"{version:>7}  {model:<13}  {count.answers:>8,}  {count.degraded:>8,}  "
            f"{count.failed:>7,}  {count.judged:>8,}  {_share(count.good, count.judged):>13}  "
            f"{_share(count.bad, count.judged):>13}  {count.better:>14,}"
        )
    for reason, number in unread.items():
        print(f"{number:,} {reason}, in the log")


def _share(count: int, of: int) -> str:
    return f"{count:,} ({count / of:.0%})" if of else "0"
