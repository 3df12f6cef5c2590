"""Make a project from a sample of your data: JSONL, JSON, CSV or Parquet.

It says what it understood, and never writes over a file.

cowest init questions.csv                        a project here
cowest init questions.csv --out quiz             a project in quiz/
cowest init rows.jsonl --prompt text --targets label
"""

import argparse
import re
import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any

from cowest import io
from cowest.commands.scaffold.guess import Guess, guess
from cowest.config import parse
from cowest.domains.mapping import SHARES, Splits, Table
from cowest.domains.table import Source
from cowest.errors import ConfigError, ContractError, RecordError
from cowest.gates import Rules
from cowest.raw import csv_rows, files, tables
from cowest.raw.intake import Intake
from cowest.records import Split

LOOKED_AT = 2000
"""Number of rows from which columns are guessed."""
GROUPS_KEPT = 10_000
"""Number of groups whose splits are tried; with more, no split stays empty."""
SEEDS = 200
"""Number of seeds that are tried."""
FEW_WORDS = 5
"""Words of a short answer: a draft of one needs few tokens."""
KEPT = {".gitignore": "gitignore", ".dvcignore": "dvcignore"}
"""Files that stay as they are if they are there already."""
REMARKS = {
    "prompt": (
        "what is asked: a column, or a template over columns; {choices} shows the options, a line "
        "each"
    ),
    "choices": "the options: a column each, or one column with the list",
    "targets": "the right answers: a column, or several; any of them will do",
    "keyed": "how a target names its option: text, letter, from_0, from_1",
    "labels": "the options' own labels, by which a target names one",
    "lists": "texts of lists under targets are lists: read; or text, to take them as they are",
    "splits": "train is learned from, dev is for tuning, test is judged on",
    "id": "must not repeat",
    "group": "rows that share their luck stay in one split",
    "ideal": "the best draft that could be given: the ceiling of collaboration",
    "corpus": (
        "what the policy learns to say, of training rows alone; left out, the ideal draft or the "
        "first target"
    ),
    "tags": "slices that the report shows apart",
}


def main(argv: list[str]) -> int:
    """Writes a project, or nothing.

    Raises InputError for a sample that is no table; ConfigError if a column can't be guessed, and
    if there is a project already.
    """
    parser = argparse.ArgumentParser(
        prog="cowest init",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "sample",
        type=Path,
        metavar="SAMPLE_FILE",
        help="a table: .jsonl, .json, .csv, .tsv or .parquet",
    )
    parser.add_argument(
        "--out", type=Path, default=Path(), metavar="DIR", help="the project's folder (here)"
    )
    parser.add_argument(
        "--prompt",
        metavar="COLUMN",
        help="the question: a column, or a template as in '{passage} {question}'",
    )
    parser.add_argument("--targets", metavar="COLUMN", help="the right answer")
    given = parser.parse_args(argv)
    sample, out = given.sample, given.out
    name = re.sub(r"[^a-z0-9]+", "-", sample.stem.lower()).strip("-") or "table"
    raw = Path("data", "raw", name)
    _refuse_to_overwrite(sample, out, raw)
    delimiter = tables.likely_delimiter(sample)
    # Where each row has a field that may be meant or not, it is taken as meant.
    rows = _first_rows(sample, delimiter, None) or _first_rows(sample, delimiter, "read")
    made = guess(rows, given.prompt, given.targets)
    file = {"file": sample.name}
    if delimiter is not None:
        file["delimiter"] = delimiter
    made.table = {**file, **made.table}
    table = parse(Table, made.table, "what was guessed")
    counts = _tried(sample, table, made)
    written, kept = _write(sample, out, raw, _texts(made, raw, name, sample, out))
    _say(sample, out, made, counts, written, kept)
    return 0


def _refuse_to_overwrite(sample: Path, out: Path, raw: Path) -> None:
    there = [str(path) for path in (out / "params.yaml", out / "dvc.yaml") if path.exists()]
    copy = out / raw / sample.name
    # The sample may lie where its copy would: then there is nothing to write over.
    if copy.exists() and not (sample.exists() and copy.samefile(sample)):
        there.append(str(copy))
    if there:
        exist = "exists" if len(there) == 1 else "exist"
        raise ConfigError(
            f"{', '.join(there)} {exist}, and init writes over nothing: give another folder with "
            "--out"
        )


def _first_rows(
    sample: Path, delimiter: str | None, quotes: csv_rows.Quotes | None
) -> list[files.Row]:
    """The rows from which columns are guessed. Raises RecordError for a bad one."""
    # A row that a lone quote may have swallowed asks for a setting, and there is no project yet in
    # which to set it: `_tried` says which rows ask.
    numbered = (
        (number, row)
        for number, row in tables.rows(sample, None, delimiter, quotes=quotes)
        if not isinstance(row, files.Bad) or row.reason != csv_rows.SWALLOWED
    )
    return [row for _, row in islice(tables.sound(sample, numbered), LOOKED_AT)]


def _tried(sample: Path, table: Table, made: Guess) -> dict[Split, int]:
    """The number of rows of each split, found by reading the whole sample.

    Says what would stop `prepare`, or keep the gate closed, and looks for a seed that leaves no
    split empty. The result is empty if there is none, or if there are too many groups to try.
    """
    drawn = table.splits.column is None
    trial = table
    if drawn:
        # With all rows in one split, no empty split stops the reading.
        trial = table.model_copy(update={"splits": Splits(shares={"train": 1})})
    groups: dict[Split, Counter[str]] = {split: Counter() for split in SHARES}
    rows: Counter[Split] = Counter()
    source = Source(trial)
    intake = Intake(0)
    try:
        try:
            for query in source.load(sample, intake):
                rows[query.split] += 1
                found = groups[query.split]
                name = source.drawn_by(query)
                if name in found or len(found) <= GROUPS_KEPT:
                    found[name] += 1
        except ContractError:
            # No row is left. As in `prepare`, bad rows are the better message.
            if not intake.bad:
                raise
        intake.judge()
    except RecordError as error:
        made.unclear.append(f"rows that don't fit, and that `cowest prepare` stops at: {error}")
    made.unclear += [f"in {count} rows {what}" for what, count in intake.notes.items()]
    if drawn:
        drawn_groups = _seeded(groups["train"], made)
        return {split: found.total() for split, found in drawn_groups.items()}
    _warn_of_few(groups, made)
    return dict(rows)


def _seeded(groups: Counter[str], made: Guess) -> dict[Split, Counter[str]]:
    """The groups of each split, with the first seed that leaves none empty."""
    if len(groups) > GROUPS_KEPT:
        return {}
    for seed in range(SEEDS):
        found = _drawn(groups, seed)
        if len(found) == len(SHARES):
            made.table["splits"]["seed"] = seed
            _warn_of_few(found, made)
            return found
    made.unclear.append(
        f"how to part {len(groups)} groups into {', '.join(SHARES)}: `cowest prepare` stops "
        "there; see `splits`"
    )
    return {}


def _warn_of_few(groups: Mapping[Split, Collection[str]], made: Guess) -> None:
    """Says that no challenger can be promoted while the held-out split has too few groups."""
    least = Rules.model_fields["min_groups"].default
    there = len(groups["test"])
    if there < least:
        made.unclear.append(
            f"whether a new policy is better: the split `test` has {there} groups, and the gate "
            f"stays closed below {least} (`compare.min_groups`): add rows of other groups, or give "
            "`test` a larger part in `splits`"
        )


def _drawn(groups: Mapping[str, int], seed: int) -> dict[Split, Counter[str]]:
    """The groups of each split, with the splits that a seed draws for them."""
    splits = Splits(seed=seed)
    found: dict[Split, Counter[str]] = {}
    for group, count in groups.items():
        found.setdefault(splits.drawn(group), Counter())[group] = count
    return found


def _texts(made: Guess, raw: Path, name: str, sample: Path, out: Path) -> dict[str, str]:
    """The files of the project, by their names."""
    asked = {
        "choice": "Reply with the letter of the right option and nothing else.",
        "exact_match": f"Reply with one of these and nothing else: {', '.join(made.labels)}.",
        "contains": "Reply with the answer alone, in a few words.",
        "token_f1": "Reply with the answer alone.",
    }[made.scorer]
    notes = "Notes, which may be wrong:\n{draft}"
    drafts = 128 if "ideal" in made.table or made.words > FEW_WORDS else 48
    answers = {"choice": 8, "exact_match": 16, "contains": 24}.get(made.scorer, 256)
    around = (out.absolute(), *out.absolute().parents)
    in_git = any((folder / ".git").exists() for folder in around)
    in_dvc = any((folder / ".dvc").is_dir() for folder in around)
    places = {
        "file": " ".join(sample.name.split()),
        "raw": raw.as_posix(),
        "name": name,
        "scorer": made.scorer,
        "why_scorer": made.why,
        "refine": _inline(f"{{query}}\n\n{notes}\n\n{asked}\nAnswer:"),
        "solo": _inline(f"{{query}}\n\n{asked}\nAnswer:"),
        "draft_tokens": str(drafts),
        "answer_tokens": str(answers),
        "table": "\n".join(f"    {line}" for line in _table_lines(made.table)),
        "no_scm": "" if in_git else "    no_scm = true",
    }
    templates = {"params.yaml": "params.yaml", "dvc.yaml": "dvc.yaml", **KEPT}
    if not in_dvc:
        templates |= {".dvc/config": "dvcconfig", ".dvc/.gitignore": "dvcgitignore"}
    folder = resources.files("cowest.commands.scaffold")
    texts = {}
    for path, template in templates.items():
        text = (folder / f"{template}.template").read_text(encoding="utf-8")
        texts[path] = re.sub(r"@(\w+)@", lambda place: places[place[1]], text)
    return texts


def _table_lines(table: dict[str, Any]) -> Iterator[str]:
    """The settings of the table, each with a remark, and in comments those that it has not."""
    for key, value in table.items():
        if key in REMARKS:
            yield f"# {REMARKS[key]}"
        yield f"{key}: {_inline(value)}"
    for key in ("group", "ideal", "corpus", "tags"):
        if key not in table:
            example = {"corpus": "{completion: COLUMN}", "tags": "[COLUMN]"}.get(key, "COLUMN")
            yield f"# {key}: {example}    # {REMARKS[key]}"


def _inline(value: Any) -> str:
    """A value as YAML on one line."""
    import yaml

    style = '"' if isinstance(value, str) else None
    text = yaml.safe_dump(
        value,
        default_flow_style=True,
        default_style=style,
        width=10**9,
        allow_unicode=True,
        sort_keys=False,
    )
    return text.removesuffix("...\n").strip()


def _write(
    sample: Path, out: Path, raw: Path, texts: dict[str, str]
) -> tuple[list[str], list[str]]:
    """Writes the files. Returns those that were written, and those that were there and stay."""
    written, kept = [], []
    copy = out / raw / sample.name
    if not copy.exists():
        with io.replacing(copy) as temporary:
            shutil.copyfile(sample, temporary)
        written.append(str(raw / sample.name))
    for name, text in texts.items():
        if (out / name).exists():
            kept.append(name)
        else:
            io.write_text(out / name, text)
            written.append(name)
    return written, kept


def _say(
    sample: Path,
    out: Path,
    made: Guess,
    counts: dict[Split, int],
    written: list[str],
    kept: list[str],
) -> None:
    print(f"{sample}: what init understood")
    for what, how in made.understood:
        print(f"  {what:<14} {how}")
    if counts:
        print(f"  {'rows':<14} {', '.join(f'{counts.get(split, 0)} {split}' for split in SHARES)}")
    if made.unclear:
        print("\nwhat it could not tell")
        for what in made.unclear:
            # Rows that don't fit stand below what they are about.
            print(f"  - {what}".replace("\n", "\n  "))
    print(f"\nwritten in {out}: {', '.join(written)}")
    if kept:
        print(f"there already, and left as they are: {', '.join(kept)}")
    enter = "" if out == Path() else f"cd {out}; "
    print(
        f"\nnext: {enter}read params.yaml, name your models (`cowest fetch` brings the small one "
        "that is named there now), then `cowest doctor`, `cowest turn --dry-run` and `cowest turn`"
    )
