"""What holds for every domain, on invented rows in its format, and on the published ones where they
are at hand.

A new domain is tested unasked as soon as it is in `AnyDomain`; `tests/published.py` says how its
raw data are laid out.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from cowest import io
from cowest.config import parse
from cowest.domains import NAMES, AnyDomain, domain
from cowest.errors import CoWestError, RecordError
from cowest.records import Demonstration, Query
from cowest.sametext import normalise
from cowest.stages import prepare
from cowest.stages.prepare import PrepareConfig
from cowest.stages.sft import SFTConfig
from tests.published import INVENTED, PUBLISHED

KINDS = {kind.model_fields["domain"].default: kind for kind in get_args(get_args(AnyDomain)[0])}


def settings() -> Iterator[dict[str, Any]]:
    """Every domain with its defaults, and with each other value that one of its settings may
    take.
    """
    for name, kind in KINDS.items():
        yield {"domain": name}
        for field, info in kind.model_fields.items():
            for value in get_args(info.annotation) or (
                (True, False) if info.annotation is bool else ()
            ):
                if (
                    value != info.default and field != "first"
                ):  # which says how the raw rows are written, not what is made of them
                    yield {"domain": name, field: value}


SETTINGS = list(settings())
every_setting = pytest.mark.parametrize(
    "values", SETTINGS, ids=lambda values: " ".join(map(str, values.values()))
)
every_domain = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(params=["invented", "published"])
def raw(request: pytest.FixtureRequest, values: dict[str, Any], tmp_path: Path) -> Path:
    name = values["domain"]
    if request.param == "invented":
        assert name in INVENTED, f"tests/published.py: INVENTED has no rows for domain {name}"
        INVENTED[name](tmp_path / "raw")
        return tmp_path / "raw"
    if name not in PUBLISHED:
        pytest.skip(f"{name} is not published")
    if not PUBLISHED[name].is_dir():
        pytest.skip(f"the published {name} is not here: COWEST_DATA names the folder that holds it")
    return PUBLISHED[name]


@every_setting
def test_its_queries_are_sound(values: dict[str, Any], raw: Path) -> None:
    queries = list(domain(values).load(raw))
    assert len({query.id for query in queries}) == len(queries) > 0, "an id comes twice"
    splits: dict[str, set[str]] = defaultdict(set)
    asked: dict[str, set[str]] = defaultdict(set)
    for query in queries:
        splits[query.group].add(query.split)
        asked[normalise(query.prompt[-1].content)].add(query.split)
        assert not query.choices or set(query.targets) <= set(query.choices), (
            f"{query.source}: a target is no choice"
        )
    assert all(len(its) == 1 for its in splits.values()), "a group is in two splits"
    assert all(len(its) == 1 for its in asked.values()), "a question is in two splits"
    assert {query.split for query in queries} & {"dev", "test"} and any(
        query.split == "train" for query in queries
    )


@every_setting
def test_its_corpus_knows_no_held_out_query_with_its_target(
    values: dict[str, Any], raw: Path
) -> None:
    source = domain(values)
    held_out = {
        (query.prompt, normalise(target))
        for query in source.load(raw)
        if query.split != "train"
        for target in query.targets
    }
    prompts = {prompt for prompt, _ in held_out}
    try:
        corpus = list(source.corpus(raw))
    except CoWestError as error:
        assert "draft" in str(error) and raw == PUBLISHED.get(values["domain"]), (
            "invented rows must give a corpus"
        )
        pytest.skip(f"what is at hand of the published rows has none in this format: {error}")
    assert corpus
    asked = {query.source for query in source.load(raw)}
    assert len(asked) == sum(1 for _ in source.load(raw)), "two queries say they come from one row"
    for row in corpus:
        assert row.of_query == (row.source in asked), (
            f"{row.source}: what `validate` sets aside of it would be learned"
        )
        assert row.prompt not in prompts, f"{row.source}: a held-out question is in the corpus"


@every_setting
def test_its_prompts_render_and_its_settings_are_taken_by_the_stages(
    values: dict[str, Any], raw: Path
) -> None:
    source = domain(values)
    query = next(source.load(raw))
    question = query.prompt[-1].content
    for template, draft in (
        (source.prompts.draft, None),
        (source.prompts.solo, None),
        (source.prompts.refine, "a {draft} {query}"),
    ):
        said = template.render(query.prompt, draft)[-1].content
        assert question in said and (draft is None or draft in said)
    assert parse(PrepareConfig, values, "prepare").domain == source
    trained = {
        "policy": {"provider": "hf", "model": "any"},
        "training": {"learning_rate": 0.001, "epochs": 1, "batch_size": 1},
    }
    assert parse(SFTConfig, {**trained, "prompts": values}, "sft").prompts == source.prompts


@every_setting
def test_its_scorer_knows_a_target_from_nothing(values: dict[str, Any], raw: Path) -> None:
    source = domain(values)
    queries = [query for _, query in zip(range(300), source.load(raw), strict=False)]
    with source.scorer.open() as scorer:
        right = [
            score.value
            for score in scorer.score((query, f"Answer: {query.targets[0]}") for query in queries)
        ]
        nothing = [score.value for score in scorer.score((query, "") for query in queries)]
    assert sum(value or 0 for value in right) >= 0.99 * len(queries) and not any(nothing)


@every_setting
def test_its_ideal_draft_is_better_than_nothing(values: dict[str, Any], raw: Path) -> None:
    """Where a draft gives the answer, by its score; where it gives what the answer rests on, it
    must at least say something.
    """
    source = domain(values)
    ideal = [query for query in source.load(raw) if query.ideal is not None]
    if raw == PUBLISHED.get(values["domain"]) and not ideal:
        pytest.skip("what is at hand of the published rows has no ideal draft in this format")
    assert ideal and all((query.ideal or "").strip() for query in ideal)
    with source.scorer.open() as scorer:
        scores = [
            score.value or 0.0
            for score in scorer.score((query, query.ideal or "") for query in ideal)
        ]
    if getattr(source, "draft", "knowledge") != "knowledge":
        assert sum(scores) >= 0.98 * len(ideal)
    else:
        assert sum(scores) < 0.5 * len(ideal), "knowledge gives the answer away"


@every_domain
def test_a_broken_row_is_named_by_file_and_line(name: str, tmp_path: Path) -> None:
    """A number for each field of the last row of each raw file: the row is named, unless the
    field may be absent.
    """
    INVENTED[name](tmp_path / "raw")
    named = 0
    for path in sorted((tmp_path / "raw").iterdir()):
        whole = path.read_text(encoding="utf-8")
        listed = whole.startswith("[")
        rows = json.loads(whole) if listed else [json.loads(line) for line in whole.splitlines()]
        for field in rows[-1]:
            last = json.dumps({**rows[-1], field: 0.5})
            lines = (
                ["[", *(json.dumps(row) + "," for row in rows[:-1]), last, "]"]
                if listed
                else [*map(json.dumps, rows[:-1]), last]
            )
            path.write_text("\n".join(lines), encoding="utf-8")
            try:
                _ = (
                    list(domain(name).load(tmp_path / "raw")),
                    list(domain(name).corpus(tmp_path / "raw")),
                )
            except RecordError as error:
                assert f"{path.name}:{len(rows) + listed}: {field}: " in str(error)
                named += 1
        path.write_text(whole, encoding="utf-8")
    assert named >= 2


@every_domain
def test_prepare_writes_the_same_bytes_twice(name: str, tmp_path: Path) -> None:
    INVENTED[name](tmp_path / "raw")
    written = []
    for turn in ("first", "second"):
        paths = {
            port: tmp_path / turn / f"{port}.jsonl" for port in ("queries", "corpus", "quarantine")
        }
        prepare.main(tmp_path / "raw", **paths, config=PrepareConfig(domain=domain(name)))
        written.append([path.read_bytes() for path in paths.values()])
        assert list(io.groups(paths["queries"], Query)) and list(
            io.read(paths["corpus"], Demonstration)
        )
    assert written[0] == written[1]
