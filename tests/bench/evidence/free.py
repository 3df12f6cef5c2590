"""Drafts that need no feedback: what a person would try before paying for any.

Each is one greedy draft of a held-out question. No policy is aligned, and no call is made for it.

both_facts   the unaligned policy is asked both questions that its own corpus asks of a product, and
             says both replies
bm25_1       the archive's reply that is nearest to the question by words
bm25_3       the nearest three
record       the product's line of the handbook, with no policy at all
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cowest import collaboration, io
from cowest.config import Sampling
from cowest.domains import invent
from cowest.models.hf import HFConfig
from cowest.prompts import Prompts
from cowest.records import Demonstration, Draft, Message, Query, grown

FREE = ("both_facts", "bm25_1", "bm25_3", "record")
ASKED = tuple(questions[0] for questions in invent.DIRECT.values())
"""The corpus's own questions about a product, one of each of its facts."""
K1, B = 1.5, 0.75
"""Constants of BM25, as most libraries set them (Robertson & Zaragoza 2009, 3.5)."""

Says = Callable[[Query], str]


class BM25:
    """Ranks texts by the words that they share with a query (Robertson & Zaragoza 2009, 3.2)."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts
        self._counts = [Counter(words(text)) for text in texts]
        self._length = sum(counts.total() for counts in self._counts) / len(texts)
        found = Counter(word for counts in self._counts for word in counts)
        self._weights = {}
        for word, texts_with in found.items():
            rest = len(texts) - texts_with
            self._weights[word] = math.log(1 + (rest + 0.5) / (texts_with + 0.5))

    def best(self, query: str, count: int) -> list[str]:
        """The nearest texts, the nearest first; of equally near ones, the first."""
        asked = words(query)
        order = sorted(range(len(self._texts)), key=lambda n: -self.score(n, asked))
        return [self._texts[number] for number in order[:count]]

    def score(self, number: int, asked: list[str]) -> float:
        counts = self._counts[number]
        damp = K1 * (1 - B + B * counts.total() / self._length)
        total = 0.0
        for word in asked:
            if counts[word]:
                total += self._weights[word] * counts[word] * (K1 + 1) / (counts[word] + damp)
        return total


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def drafts(
    arm: str,
    queries: Path,
    split: str,
    *,
    raw: Path,
    corpus: Path,
    policy: HFConfig,
    adapter: Path,
    prompts: Prompts,
    sampling: Sampling,
) -> Iterator[Draft]:
    """The drafts of one arm, a query each."""
    asked = [query for query in io.read(queries, Query) if query.split == split]
    if arm == "both_facts":
        says = _both_facts(asked, policy, adapter, prompts, sampling)
    elif arm == "record":
        says = _record(raw)
    else:
        says = _nearest(corpus, int(arm.removeprefix("bm25_")))
    for query in asked:
        yield grown(Draft, query, sample=0, draft=says(query), policy=arm)


def _record(raw: Path) -> Says:
    lines = (raw / "products.jsonl").read_text(encoding="utf-8").splitlines()
    records = {}
    for line in lines:
        product = json.loads(line)
        records[product["product"]] = invent.RECORD.format(**product)
    return lambda query: records[query.group]


def _nearest(corpus: Path, count: int) -> Says:
    replies = dict.fromkeys(row.completion for row in io.read(corpus, Demonstration))
    index = BM25(list(replies))
    return lambda query: " ".join(index.best(query.prompt[-1].content, count))


def _both_facts(
    asked: Sequence[Query], policy: HFConfig, adapter: Path, prompts: Prompts, sampling: Sampling
) -> Says:
    products = dict.fromkeys(query.group for query in asked)
    questions = []
    for product in products:
        for question in ASKED:
            said = (Message(role="user", content=question.format(product=product)),)
            questions.append(
                Query(
                    group=product,
                    split="test",
                    prompt=said,
                    targets=("any",),
                    source="free.py",
                )
            )
    replies: dict[str, list[str]] = {}
    with policy.open(adapter=adapter) as model:
        for row in collaboration.draft(questions, model, prompts, sampling):
            replies.setdefault(row.group, []).append(row.draft or "")
    return lambda query: " ".join(replies[query.group])
