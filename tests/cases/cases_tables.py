"""Cases of tables: each goes through `cowest init` and the reader of `prepare`."""

import contextlib
import io as streams
import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

from cowest import config
from cowest.cli import main
from cowest.domains.table import Source
from cowest.errors import CoWestError
from cowest.raw.intake import Intake
from cowest.records import Query
from cowest.scorers.contains import ContainsConfig
from cowest.scorers.exact_match import ExactMatchConfig
from cowest.scorers.token_f1 import TokenF1Config
from cowest.stages.prepare import PrepareConfig
from tests.cases.outcome import Outcome

INVISIBLE = ("Dunmark", "Corvey", "Arlen", "Offing", "203", "Eskby")
"""The answers of `invisible.jsonl`, over and over in this order, as a model writes them."""


def cases(folder: Path) -> Iterator[Outcome]:
    """Run each, in order."""
    tables = folder / "tables"
    yield _targets(tables / "lists_as_text.csv", ("Arlen", "the town of Arlen"), "a list")
    yield _targets(tables / "float32.parquet", ("0.1",), "shortest decimal")
    yield _targets(tables / "small_numbers.jsonl", ("0.000012",), "no exponent")
    yield _labels(tables / "labels_out_of_order.jsonl")
    yield _invisible(tables / "invisible.jsonl")
    for name in ("cr_only.csv", "excel_sep_line.csv", "empty_heads.csv"):
        yield _targets(tables / name, ("Arlen",), "read")
    yield _folder(tables / "appledouble")
    yield _clocks(tables / "clocks.csv")


def _made(sample: Path) -> tuple[str, list[Query]]:
    """What `init` prints, and the queries that `prepare` makes with the settings it wrote."""
    said = streams.StringIO()
    with tempfile.TemporaryDirectory() as out:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = main(["init", str(sample), "--out", out])
        if code:
            return said.getvalue(), []
        settings = config.load(Path(out) / "params.yaml")["prepare"]
    try:
        return said.getvalue(), list(PrepareConfig.model_validate(settings).queries(sample))
    except CoWestError as error:
        return f"{said.getvalue()} {error}", []


def _targets(sample: Path, right: tuple[str, ...], how: str) -> Outcome:
    said, queries = _made(sample)
    came = queries[0].targets if queries else said
    return Outcome(sample.name, f"{how}: {right}", str(came), came == right)


def _labels(sample: Path) -> Outcome:
    _, queries = _made(sample)
    named = [query.targets == (query.choices[1],) for query in queries]
    said = f"{sum(named)} of {len(named)} targets are the option labelled A, the second"
    return Outcome(
        sample.name, "labels say which option is meant", said, all(named) and named != []
    )


def _invisible(sample: Path) -> Outcome:
    _, queries = _made(sample)
    wrong: Counter[str] = Counter()
    for scorer_config in (
        ExactMatchConfig(rule=2),
        ContainsConfig(rule=2),
        TokenF1Config(rule=2),
    ):
        with scorer_config.open() as scorer:
            answers = zip(queries, cycle(INVISIBLE), strict=False)
            for score in scorer.score(answers):
                wrong[scorer_config.scorer] += score.value != 1
    said = f"wrong of {len(queries)}: {dict(wrong)}"
    right = "all three text scorers, as init sets them, say right"
    return Outcome(sample.name, right, said, bool(queries) and not wrong.total())


def _folder(raw: Path) -> Outcome:
    settings: dict[str, Any] = {"domain": "table", "table": {"prompt": "question"}}
    settings["table"]["targets"] = "answer"
    source = PrepareConfig.model_validate(settings).source
    assert isinstance(source, Source)
    try:
        said = f"{len(list(source.load(raw, Intake())))} queries"
    except CoWestError as error:
        said = str(error)
    return Outcome(raw.name, "the Mac's own file is passed over", said, said == "24 queries")


def _clocks(sample: Path) -> Outcome:
    said, queries = _made(sample)
    counts = Counter(query.split for query in queries)
    drawn = ", ".join(f"{counts[split]} {split}" for split in ("train", "dev", "test"))
    line = next((line for line in said.splitlines() if " train, " in line), "")
    holds = bool(queries) and drawn in line
    return Outcome(sample.name, "the same draw", f"init: {' '.join(line.split())}; {drawn}", holds)
