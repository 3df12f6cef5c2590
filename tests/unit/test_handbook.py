"""The demo's domain: invented, equal to what its seed makes, and with nothing held out in its
corpus.
"""

import json
from pathlib import Path

import pytest

from cowest.domains import domain, invent
from cowest.errors import RecordError

RAW = Path(__file__).parents[2] / "data" / "raw" / "handbook"


def test_the_files_are_what_their_seed_makes(tmp_path: Path) -> None:
    invent.write(tmp_path, 0)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (RAW / path.name).read_bytes(), (
            f"{path.name}: python -m cowest.domains.invent data/raw/handbook 0"
        )


@pytest.mark.parametrize("seed", [0, 1, 100])
def test_no_held_out_question_is_in_the_corpus(seed: int, tmp_path: Path) -> None:
    invent.write(tmp_path, seed)
    handbook = domain("handbook")
    queries, corpus = list(handbook.load(tmp_path)), list(handbook.corpus(tmp_path))
    learnt = {row.prompt[-1].content.casefold() for row in corpus}
    assert not learnt & {query.prompt[-1].content.casefold() for query in queries}
    groups = {
        split: {query.group for query in queries if query.split == split}
        for split in ("train", "dev", "test")
    }
    assert (
        not groups["train"] & groups["test"]
        and not groups["dev"] & groups["test"]
        and not groups["train"] & groups["dev"]
    )
    assert len(groups["test"]) == 34 and sum(query.split == "test" for query in queries) >= 200


def test_the_facts_of_every_product_are_in_the_corpus() -> None:
    """That is what specialising means: the policy is to know them all."""
    replies = [row.completion for row in domain("handbook").corpus(RAW)]
    for product in map(json.loads, (RAW / "products.jsonl").read_text().splitlines()):
        of_it = [reply for reply in replies if product["product"] in reply]
        for fact in ("plant", "core"):
            assert any(product[fact] in reply for reply in of_it), (
                f"{product['product']}: no reply states its {fact}"
            )


def test_the_ideal_draft_never_holds_the_answer() -> None:
    """Or the policy alone could be right, and there would be no collaboration to measure."""
    from cowest.scorers.contains import ContainsConfig

    queries = list(domain("handbook").load(RAW))
    with ContainsConfig().open() as scorer:
        assert not any(
            score.value for score in scorer.score((query, query.ideal or "") for query in queries)
        )


def test_a_row_that_is_none_is_named_by_its_place(tmp_path: Path) -> None:
    invent.write(tmp_path, 0)
    path = tmp_path / "questions.jsonl"
    path.write_text(path.read_text().replace('"split": "train"', '"split": "trian"', 1))
    with pytest.raises(RecordError, match=r"questions.jsonl:\d+: split: "):
        list(domain("handbook").load(tmp_path))
