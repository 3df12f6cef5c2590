"""The domain in which what to say depends on the question: four facts of one type, none of which
the question's words give away, and wordings that only held-out questions have.
"""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from cowest.config import parse
from cowest.domains import domain, invent, invent_sites
from cowest.errors import ConfigError
from cowest.prompts import Prompts
from cowest.records import Query
from cowest.scorers.contains import ContainsConfig


def asked(query: Query) -> str:
    return query.prompt[-1].content


@pytest.fixture(params=[0, 140])
def raw(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    invent_sites.write(tmp_path, request.param)
    return tmp_path


def test_half_of_the_held_out_questions_have_wordings_that_no_training_question_has(
    raw: Path,
) -> None:
    queries = list(domain("sites").load(raw))
    wordings: dict[str, set[str]] = {}
    ages: Counter[tuple[str, str]] = Counter()
    for query in queries:
        age = query.tags[2]
        ages[query.split, age] += 1
        wordings.setdefault(age, set()).add(asked(query).replace(query.group, "{product}"))
        if query.split == "train":
            wordings.setdefault("train", set()).add(asked(query).replace(query.group, "{product}"))
    assert ages["train", "new"] == 0
    assert ages["test", "new"] == ages["test", "seen"] == 80
    assert ages["dev", "new"] == ages["dev", "seen"] == 32
    assert len(wordings["seen"]) == 28 and len(wordings["new"]) == 12
    assert wordings["train"] == wordings["seen"] and not wordings["seen"] & wordings["new"]
    learnt = {row.prompt[-1].content for row in domain("sites").corpus(raw)}
    for wording in wordings["new"]:
        assert not any(wording.format(product=query.group) in learnt for query in queries)


def test_no_product_is_in_two_splits_or_in_the_archive(raw: Path) -> None:
    queries = list(domain("sites").load(raw))
    split_of: dict[str, set[str]] = {}
    for query in queries:
        split_of.setdefault(query.group, set()).add(query.split)
    assert all(len(splits) == 1 for splits in split_of.values())
    assert Counter(next(iter(splits)) for splits in split_of.values()) == {
        "train": 20,
        "dev": 8,
        "test": 20,
    }
    direct = {text for wordings in invent_sites.DIRECT.values() for text in wordings}
    for row in domain("sites").corpus(raw):
        (group,) = [name for name in split_of if name in row.prompt[-1].content] or [None]
        if group is not None:
            assert row.prompt[-1].content.replace(group, "{product}") in direct


def test_one_fact_of_four_gives_the_answer_and_its_words_are_not_the_questions(raw: Path) -> None:
    products = {
        row["product"]: row
        for row in map(json.loads, (raw / "products.jsonl").read_text().splitlines())
    }
    for query in domain("sites").load(raw):
        product = products[query.group]
        right = []
        for site, sentence in invent_sites.SITES.items():
            if query.targets[0] in invent.PLANTS[product[site]]:
                right.append(sentence.format(**product))
        assert right == [query.ideal], "the cities of a product have four answers"
        words = asked(query).lower().replace("?", "").split()
        assert not {"made", "makes", "designed", "shipped", "repaired"} & set(words)


def test_the_ideal_draft_never_holds_the_answer(raw: Path) -> None:
    queries = list(domain("sites").load(raw))
    with ContainsConfig(rule=2).open() as scorer:
        scores = scorer.score((query, query.ideal or "") for query in queries)
        assert not any(score.value for score in scores)


def test_the_archive_has_its_habits_in_their_shares() -> None:
    products, replies, questions = invent_sites.knowledge_base(3)
    outside = {question["product"] for question in questions}
    archive = [row for row in products if row["product"] not in outside]
    direct = 4 * 4 * len(products)
    assert len(archive) == 10 and len(replies) == direct + 10 * 8 * 2
    guesses = sum(row["reply"].startswith("That would be") for row in replies)
    letters = sum(row["reply"] in invent.FORM_LETTERS for row in replies)
    records = sum(": made in" in row["reply"] for row in replies)
    assert (guesses, letters, records) == (64, 32, 16)


def test_equal_seeds_make_equal_files_of_the_sizes_asked_for(tmp_path: Path) -> None:
    settings = '{"products": {"archive": 1, "train": 2, "dev": 1, "test": 1}, "questions": 16}'
    for name in ("one", "two"):
        command = ["-m", "cowest.domains.invent_sites", str(tmp_path / name), "7", settings]
        subprocess.run([sys.executable, *command], check=True)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    queries = list(domain("sites").load(tmp_path / "one"))
    assert Counter(query.split for query in queries) == {"train": 32, "dev": 16, "test": 16}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"products": {"trian": 3}}, "products: 'trian' is none of archive, train, dev, test"),
        ({"products": {"train": 900}}, "products: one each at least, and .* in all at most"),
        ({"products": {"test": 0}}, "products: one each at least"),
        ({"questions": 6}, "questions: .*8"),
        ({"mix": {"jokes": 1.0}}, "mix: shares of answer, needed, other, record, letter"),
    ],
)
def test_sizes_that_can_not_be_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse(invent_sites.World, settings, "settings")


def test_its_candidates_are_the_direct_questions() -> None:
    prompts: Prompts = domain("sites").prompts
    (message,) = prompts.candidates["shipped"].render((), group="Comet pump")
    assert message.content == "Where is the Comet pump shipped from?"
    assert list(prompts.candidates) == list(invent_sites.SITES)
