"""Drafts that need no feedback: nearest replies by a formula computed by hand, and the record."""

import math
from pathlib import Path

import pytest

from cowest import io
from cowest.config import Sampling, parse
from cowest.domains import domain, invent
from cowest.models.hf import HFConfig
from cowest.records import Query
from cowest.stages import prepare
from tests.bench.evidence import free

TEXTS = ("the pump is made in Oslo", "the lamp is made in Rome", "please ask the desk")


def test_bm25_is_its_formula() -> None:
    index = free.BM25(TEXTS)
    mean = (6 + 6 + 4) / 3
    rare = math.log(1 + (3 - 1 + 0.5) / (1 + 0.5))
    common = math.log(1 + (3 - 3 + 0.5) / (3 + 0.5))
    gain = 2.5 / (1 + 1.5 * (0.25 + 0.75 * 6 / mean))
    asked = free.words("The pump?")
    assert index.score(0, asked) == pytest.approx((rare + common) * gain)
    assert index.score(1, asked) == pytest.approx(common * gain)
    assert index.best("Where is the LAMP made?", 2) == [TEXTS[1], TEXTS[0]]
    assert index.best("nothing of it", 1) == [TEXTS[0]], "of equally near ones, the first"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A knowledge base, its queries and its corpus."""
    folder = tmp_path_factory.mktemp("free")
    invent.write(folder / "raw", 3, invent.MIX, invent.HOPS)
    prepare.main(
        folder / "raw",
        folder / "queries.jsonl",
        folder / "corpus.jsonl",
        folder / "quarantine.jsonl",
        parse(prepare.PrepareConfig, {"domain": "handbook"}, "prepare"),
    )
    return folder


@pytest.mark.parametrize("arm", ["record", "bm25_1", "bm25_3"])
def test_each_held_out_question_has_one_draft(base: Path, arm: str) -> None:
    rows = list(
        free.drafts(
            arm,
            base / "queries.jsonl",
            "test",
            raw=base / "raw",
            corpus=base / "corpus.jsonl",
            policy=HFConfig(model="none"),
            adapter=base,
            prompts=domain("handbook").prompts,
            sampling=Sampling(),
        )
    )
    asked = [row.id for row in io.read(base / "queries.jsonl", Query) if row.split == "test"]
    assert [row.id for row in rows] == asked
    if arm == "record":
        for row in rows:
            assert row.draft is not None and row.ideal is not None
            assert row.draft.startswith(row.group)
            fact = row.ideal.removesuffix(".").removesuffix(" core").split()[-1]
            assert fact in row.draft, "it holds the fact that the question needs"
