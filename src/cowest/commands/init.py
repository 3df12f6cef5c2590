"""Make a project from a sample of your data: JSONL, CSV or Parquet. Says what it understood; never writes over a file.

cowest init questions.csv                        a project here
cowest init questions.csv --out quiz             a project in quiz/
cowest init rows.jsonl --prompt text --targets label
"""

import argparse
import csv
import re
import shutil
from collections.abc import Iterator
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any

from cowest import io
from cowest.commands.scaffold.guess import Guess, guess
from cowest.config import parse
from cowest.domains.table import SHARES, Source, Splits, Table
from cowest.errors import ConfigError, RecordError
from cowest.raw import tables
from cowest.raw.intake import Intake
from cowest.records import Split

LOOKED_AT = 2000
"""Rows from which columns are guessed."""
GROUPS_KEPT = 10_000
"""Groups whose splits are tried; with more, no split stays empty."""
SEEDS = 200
FEW_WORDS = 5
"""Of an answer: a draft of it needs no more tokens than that takes."""
KEPT = {".gitignore": "gitignore", ".dvcignore": "dvcignore"}
"""Files that stay where they are there already."""
REMARKS = {
    "prompt": "what is asked: a column, or a template over columns; {choices} shows the options, a line each",
    "choices": "the options: a column each, or one column with the list",
    "targets": "the right answers: a column, or several; any of them will do",
    "keyed": "how a target names its option: text, letter, from_0, from_1",
    "splits": "train is learned from, dev is for tuning, test is judged on",
    "id": "must not repeat",
    "group": "rows that share their luck stay in one split",
    "ideal": "the best draft that could be given: the ceiling of collaboration",
    "corpus": "what the policy learns to say, of training rows alone; left out, the ideal draft or the first target",
    "tags": "slices that the report shows apart",
}


def main(argv: list[str]) -> int:
    """Writes a project, or nothing. Raises InputError for a sample that is no table, ConfigError for what can't be told or is there."""
    parser = argparse.ArgumentParser(
        prog="cowest init",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "sample", type=Path, metavar="SAMPLE_FILE", help="a table: .jsonl, .csv, .tsv or .parquet"
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
    delimiter = _delimiter(sample)
    rows = [row for _, row in islice(tables.rows(sample, None, delimiter), LOOKED_AT)]
    made = guess(rows, given.prompt, given.targets)
    made.table = {
        "file": sample.name,
        **({"delimiter": delimiter} if delimiter else {}),
        **made.table,
    }
    table = parse(Table, made.table, "what was guessed")
    counts = _tried(sample, table, made)
    written, kept = _write(sample, out, raw, _texts(made, raw, name, sample, out))
    _say(sample, out, made, counts, written, kept)
    return 0


def _refuse_to_overwrite(sample: Path, out: Path, raw: Path) -> None:
    copy = out / raw / sample.name
    there = [str(path) for path in (out / "params.yaml", out / "dvc.yaml") if path.exists()]
    there += (
        [str(copy)] if copy.exists() and not (sample.exists() and copy.samefile(sample)) else []
    )
    if there:
        raise ConfigError(
            f"{', '.join(there)} exists, and init writes over nothing: give another folder with --out"
        )


def _delimiter(sample: Path) -> str | None:
    """What parts the header into most columns; None where it is what the ending says."""
    tables.ordinary(sample)
    if tables.format_of(sample) != "csv":
        return None
    header = next((line for line in tables.text_lines(sample) if line.strip()), "")
    widths = {mark: len(next(csv.reader([header], delimiter=mark), [])) for mark in ",;\t|"}
    usual = "\t" if sample.suffix.lower() == ".tsv" else ","
    best = max(widths, key=lambda mark: (widths[mark], mark == usual))
    return None if best == usual else best


def _tried(sample: Path, table: Table, made: Guess) -> dict[Split, int]:
    """How the whole sample falls into splits; what would stop `prepare` is said, and a seed is found that leaves no split empty."""
    drawn = table.splits.column is None
    trial = table.model_copy(update={"splits": Splits(shares={"train": 1})}) if drawn else table
    counts: dict[Split, int] = {}
    groups: dict[str, int] = {}
    intake = Intake(0)
    try:
        for query in Source(trial).load(sample, intake):
            counts[query.split] = counts.get(query.split, 0) + 1
            if len(groups) <= GROUPS_KEPT:
                groups[query.group] = groups.get(query.group, 0) + 1
        intake.judge()
    except RecordError as error:
        made.unclear.append(f"rows that don't fit, and that `cowest prepare` stops at: {error}")
    if not drawn:
        return counts
    if len(groups) > GROUPS_KEPT:
        return {}
    for seed in range(SEEDS):
        splits = Splits(seed=seed)
        counts = {}
        for group, count in groups.items():
            split = splits.drawn(group)
            counts[split] = counts.get(split, 0) + count
        if len(counts) == len(SHARES):
            made.table["splits"]["seed"] = seed
            return counts
    made.unclear.append(
        f"how to part {len(groups)} groups into {', '.join(SHARES)}: `cowest prepare` stops there; see `splits`"
    )
    return {}


def _texts(made: Guess, raw: Path, name: str, sample: Path, out: Path) -> dict[str, str]:
    """The files of the project, by their names."""
    asked = {
        "choice": "Reply with the letter of the right option and nothing else.",
        "exact_match": f"Reply with one of these and nothing else: {', '.join(made.labels)}.",
        "contains": "Reply with the answer alone, in a few words.",
        "token_f1": "Reply with the answer alone.",
    }[made.scorer]
    drafts = 128 if "ideal" in made.table or made.words > FEW_WORDS else 48
    answers = {"choice": 8, "exact_match": 16, "contains": 24}.get(made.scorer, 256)
    places = {
        "file": " ".join(sample.name.split()), "raw": raw.as_posix(), "name": name, "scorer": made.scorer, "why_scorer": made.why,
        "refine": _inline(f"{{query}}\n\nNotes, which may be wrong:\n{{draft}}\n\n{asked}\nAnswer:"),
        "solo": _inline(f"{{query}}\n\n{asked}\nAnswer:"), "draft_tokens": str(drafts), "answer_tokens": str(answers),
        "table": "\n".join(f"    {line}" for line in _table_lines(made.table)),
        "no_scm": "" if any((folder / ".git").exists() for folder in (out.absolute(), *out.absolute().parents)) else "    no_scm = true",
    }  # fmt: skip
    names = {"params.yaml": "params.yaml", "dvc.yaml": "dvc.yaml", **KEPT}
    if not any((folder / ".dvc").is_dir() for folder in (out.absolute(), *out.absolute().parents)):
        names |= {".dvc/config": "dvcconfig", ".dvc/.gitignore": "dvcgitignore"}
    folder = resources.files("cowest.commands.scaffold")
    texts = {
        path: (folder / f"{template}.template").read_text(encoding="utf-8")
        for path, template in names.items()
    }
    return {
        path: re.sub(r"@(\w+)@", lambda place: places[place[1]], text)
        for path, text in texts.items()
    }


def _table_lines(table: dict[str, Any]) -> Iterator[str]:
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
    """Which files were written, and which were there and stay."""
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
            print(f"  - {what}")
    print(f"\nwritten in {out}: {', '.join(written)}")
    if kept:
        print(f"there already, and left as they are: {', '.join(kept)}")
    enter = "" if out == Path() else f"cd {out}; "
    print(
        f"\nnext: {enter}read params.yaml, name your models, then `cowest doctor` and `cowest turn`"
    )
