"""Tries rules for the drafts to ask about first, without any model: so `refine.select` was chosen.

    python -m tests.bench.evidence.sites.select_simulation

The questions are the training questions of invented knowledge bases. Their drafts are invented too:
habits by shares that differ from question to question, some facts recalled wrongly, and a draft
helps by the rates that docs/LOG.md and docs/evidence.md have. So only large differences say
anything. Prints the pairs that half of the calls keep by each rule: docs/LOG.md has the table.
"""

import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from cowest.batched import batched
from cowest.domains import invent, invent_sites
from cowest.protocols import BLOCK
from cowest.records import Message, Query
from cowest.selecting import QueryDrafts, Select, Waves

SAMPLES = 6
MOST_PAIRS = 2
"""Pairs of a question, as `pair.rule.per_query` has it."""
HALF = 0.5
NEAR = 0.6
"""Share of common words from which two texts count as near."""

HANDBOOK = {"plant": 0.27, "core": 0.295, "answer": 0.23, "record": 0.15, "letter": 0.055}
"""Sampled drafts before alignment, as the first evidence counted them (docs/evidence.json)."""
SITES = {"needed": 0.38, "other": 0.185, "answer": 0.23, "record": 0.15, "letter": 0.055}
"""A guess: the handbook's shares of what states no fact, and as many needed facts as the pilot's
unaligned policy was right by."""
RIGHT_GUESS = 0.19
"""Guesses that are right: the policy alone was right in .043 of its sampled drafts, .23 of which
were guesses."""


@dataclass(frozen=True)
class Asked:
    """A question with its different drafts."""

    query: Query
    counts: Mapping[str, int]
    """Times that each draft was sampled, in order; 0 for a candidate that was not."""
    helped: Mapping[str, bool]
    """True where the strong model is right with a draft."""
    right: Mapping[str, bool]
    """True where a draft is right by itself."""

    @property
    def drafts(self) -> list[str]:
        """The different drafts, in order."""
        return list(self.counts)

    @property
    def calls(self) -> int:
        """The calls of asking about all drafts."""
        return 1 + len(self.counts)


Chosen = list[tuple[Asked, Sequence[str]]]
"""The drafts of each question that are asked about."""
Rule = Callable[[list[Asked], float, random.Random], Chosen]
"""From all questions, the calls that may be made, and dice."""


def handbook(seed: int) -> list[Asked]:
    """The training questions of a knowledge base of the handbook, with invented drafts."""
    dice = random.Random(f"handbook {seed}")
    products, _, questions = invent.knowledge_base(seed)
    of = {product["product"]: product for product in products}
    values = {"plant": list(invent.PLANTS), "core": list(invent.CORES)}
    rates = {"record": 0.92}

    def text(row: Mapping[str, Any], habit: str) -> str:
        known = _recalled(of[row["product"]], values, 0.05, dice)
        if habit == "record":
            return invent.RECORD.format(**known)
        return invent.FACTS[habit].format(**known)

    found = []
    for row in questions:
        if row["split"] == "train":
            drafts = _sampled(row, HANDBOOK, 2, dice, text)
            record = invent.RECORD.format(**of[row["product"]])
            found.append(_asked(row, drafts, {record: rates["record"]}, dice))
    return found


def sites(seed: int) -> list[Asked]:
    """Those of a knowledge base of `sites`, with the four direct replies as candidates."""
    dice = random.Random(f"sites {seed}")
    products, _, questions = invent_sites.knowledge_base(seed)
    of = {product["product"]: product for product in products}
    values = {site: list(invent.PLANTS) for site in invent_sites.SITES}

    def text(row: Mapping[str, Any], habit: str) -> str:
        known = _recalled(of[row["product"]], values, 0.07, dice)
        if habit == "record":
            return invent_sites.RECORD.format(**known)
        site = row["tags"][0]
        if habit == "other":
            site = dice.choice([one for one in invent_sites.SITES if one != site])
        return invent_sites.SITES[site].format(**known)

    found = []
    for row in questions:
        if row["split"] == "train":
            drafts = _sampled(row, SITES, 1.5, dice, text)
            for sentence in invent_sites.SITES.values():
                known = _recalled(of[row["product"]], values, 0.07, dice)
                drafts.setdefault(sentence.format(**known), 0)
            record = invent_sites.RECORD.format(**of[row["product"]])
            found.append(_asked(row, drafts, {record: 0.24}, dice))
    return found


def _recalled(
    product: Mapping[str, str],
    values: Mapping[str, Sequence[str]],
    wrong: float,
    dice: random.Random,
) -> dict[str, str]:
    """A product's facts, some of them recalled wrongly."""
    known = dict(product)
    for fact, all_values in values.items():
        if dice.random() < wrong:
            known[fact] = dice.choice(all_values)
    return known


def _sampled(
    row: Mapping[str, Any],
    shares: Mapping[str, float],
    concentration: float,
    dice: random.Random,
    text: Callable[[Mapping[str, Any], str], str],
) -> dict[str, int]:
    """The samples of a question, by shares of habits that are its own (Dirichlet)."""
    weights = [dice.gammavariate(concentration * share, 1) for share in shares.values()]
    found: Counter[str] = Counter()
    for habit in dice.choices(list(shares), weights, k=SAMPLES):
        if habit == "letter":
            found[dice.choice(invent.FORM_LETTERS)] += 1
        elif habit == "answer":
            guess = row["answer"] if dice.random() < RIGHT_GUESS else _other(row["answer"], dice)
            found[invent.ANSWER.format(answer=guess)] += 1
        else:
            found[text(row, habit)] += 1
    return dict(found)


def _other(answer: str, dice: random.Random) -> str:
    """A wrong answer of the same kind."""
    countries, languages = zip(*invent.PLANTS.values(), strict=True)
    for answers in (countries, languages, tuple(invent.CORES.values())):
        if answer in answers:
            return str(dice.choice([one for one in answers if one != answer]))
    raise ValueError(f"{answer!r} is no country, language or symbol")


def _asked(
    row: Mapping[str, Any],
    counts: Mapping[str, int],
    rates: Mapping[str, float],
    dice: random.Random,
) -> Asked:
    """A question with what its drafts are worth. The needed fact and a right guess help in .98."""
    guess = invent.ANSWER.format(answer=row["answer"])
    rates = {row["fact"]: 0.98, guess: 0.98, **rates}
    said = (Message(role="user", content=row["question"]),)
    query = Query(
        group=row["product"], split="train", prompt=said, targets=(row["answer"],), source="it:1"
    )
    helped = {text: dice.random() < rates.get(text, 0.0) for text in counts}
    return Asked(query, counts, helped, {text: text == guess for text in counts})


def pairs(asked: Asked, drafts: Sequence[str]) -> int:
    """The pairs that the answers to some drafts make: one that helped with one that did not."""
    helped = sum(asked.helped[text] for text in drafts)
    return min(MOST_PAIRS, helped * (len(drafts) - helped))


def far(one: str, another: str) -> float:
    """The share of the words of two texts that only one of them has."""
    words, others = set(one.lower().split()), set(another.lower().split())
    return 1 - len(words & others) / len(words | others)


def meanings(asked: Asked) -> list[str]:
    """The drafts that are near to none before them."""
    found: list[str] = []
    for text in asked.drafts:
        if all(1 - far(text, other) < NEAR for other in found):
            found.append(text)
    return found


def uncertain(asked: Asked) -> float:
    """The entropy of the samples."""
    shares = [count / SAMPLES for count in asked.counts.values() if count]
    return -math.fsum(share * math.log(share) for share in shares)


def spread(asked: Asked) -> float:
    """The mean distance of two drafts."""
    apart = [far(one, another) for one, another in combinations(asked.drafts, 2)]
    return math.fsum(apart) / len(apart) if apart else 0.0


def three(asked: Asked) -> list[str]:
    """The first draft, and twice the one that is farthest from those before."""
    found = asked.drafts[:1]
    while len(found) < min(3, len(asked.drafts)):
        left = [text for text in asked.drafts if text not in found]
        found.append(max(left, key=lambda text: min(far(text, other) for other in found)))
    return found


def first(order: Callable[[Asked], float], drafts: Callable[[Asked], Sequence[str]]) -> Rule:
    """Asks about the questions with the highest order, equal ones at random."""

    def rule(all_asked: list[Asked], left: float, dice: random.Random) -> Chosen:
        found: Chosen = []
        shuffled = dice.sample(all_asked, len(all_asked))
        for asked in sorted(shuffled, key=order, reverse=True):
            texts = drafts(asked)
            if 1 + len(texts) <= left:
                found.append((asked, texts))
                left -= 1 + len(texts)
        return found

    return rule


def in_waves(wave: Callable[[Asked, Sequence[str]], Sequence[str]]) -> Rule:
    """Asks about random questions, each until its wave of further drafts is empty."""

    def rule(all_asked: list[Asked], left: float, dice: random.Random) -> Chosen:
        found: Chosen = []
        for asked in dice.sample(all_asked, len(all_asked)):
            texts: list[str] = []
            left -= 1
            while (more := list(wave(asked, texts))) and len(more) <= left:
                texts += more
                left -= len(more)
            if not texts:
                break
            found.append((asked, texts))
        return found

    return rule


def then_the_others(asked: Asked, texts: Sequence[str]) -> Sequence[str]:
    """Three drafts, and all others where these make no pair."""
    if not texts:
        return asked.drafts[:3]
    return [] if pairs(asked, texts) or len(texts) > 3 else asked.drafts[3:]


def one_by_one(asked: Asked, texts: Sequence[str]) -> Sequence[str]:
    """Two drafts, and then one at a time until the question has its pairs."""
    if not texts:
        return asked.drafts[:2]
    if pairs(asked, texts) == MOST_PAIRS:
        return []
    return asked.drafts[len(texts) : len(texts) + 1]


def select(all_asked: list[Asked], left: float, _: random.Random) -> Chosen:
    """The rule of `refine.select` itself, in blocks as the stage has them."""
    share = left / sum(asked.calls for asked in all_asked)
    found: Chosen = []
    for block in batched(all_asked, BLOCK):
        choice = Select(share=share).choice([QueryDrafts(one.query, one.drafts) for one in block])
        found += zip(block, choice, strict=True)
    return found


def stop(all_asked: list[Asked], left: float, _: random.Random) -> Chosen:
    """The rule of `refine.select.stop`: draft by draft, in blocks as the stage has them."""
    share = left / sum(asked.calls for asked in all_asked)
    found: Chosen = []
    for block in batched(all_asked, BLOCK):
        drafted = [QueryDrafts(one.query, one.drafts) for one in block]
        waves = Waves(min(share, 1.0), drafted, [one.drafts for one in block])
        settled = [False] * len(block)
        while waves.ask_more(settled):
            both = zip(block, waves.chosen, strict=True)
            settled = [pairs(asked, texts) == MOST_PAIRS for asked, texts in both]
        found += zip(block, waves.chosen, strict=True)
    return found


def everything(asked: Asked) -> Sequence[str]:
    """All drafts."""
    return asked.drafts


RULES: Mapping[str, Rule] = {
    "random queries, all drafts": first(lambda _: 0.0, everything),
    "most different texts first": first(lambda asked: asked.calls, everything),
    "most meanings first (near texts as one)": first(
        lambda asked: len(meanings(asked)), everything
    ),
    "random queries, a draft of each meaning": first(lambda _: 0.0, meanings),
    "most uncertain first (entropy of the samples)": first(uncertain, everything),
    "largest mean distance of words first": first(spread, everything),
    "drafts' own scores differ first": first(
        lambda asked: len(set(asked.right.values())), everything
    ),
    "random queries, the three most different drafts": first(lambda _: 0.0, three),
    "**fewest different drafts first, from three on**": select,
    "**the same order, draft by draft until a query has two pairs** (`stop`)": stop,
    "three drafts, then the others where these tie (two waves)": in_waves(then_the_others),
    "draft by draft until a query has two pairs (up to nine waves), random queries": in_waves(
        one_by_one
    ),
}


def kept(all_asked: list[Asked], rule: Rule, share: float, seed: int) -> tuple[float, float]:
    """The shares of all pairs, and of all calls, that a rule keeps and makes."""
    calls = sum(asked.calls for asked in all_asked)
    whole = sum(pairs(asked, asked.drafts) for asked in all_asked)
    chosen = rule(all_asked, share * calls, random.Random(f"order {seed}"))
    made = sum(1 + len(texts) for _, texts in chosen if texts)
    assert made <= share * calls
    return sum(pairs(asked, texts) for asked, texts in chosen) / whole, made / calls


def shuffled(base: list[Asked]) -> list[Asked]:
    """The same questions with their drafts in an order that says nothing of their prompt."""
    found = []
    for asked in base:
        order = random.Random(f"shuffled {asked.query.id}").sample(asked.drafts, len(asked.drafts))
        counts = {text: asked.counts[text] for text in order}
        found.append(replace(asked, counts=counts))
    return found


def lines() -> list[str]:
    """The table of docs/LOG.md, and what is said below it: means over eight knowledge bases."""
    own = [sites(seed) for seed in range(8)]
    worlds = {
        "handbook": [handbook(seed) for seed in range(100, 108)],
        "`sites`": own,
        "`sites`, drafts in random order": [shuffled(base) for base in own],
    }
    found = [f"| rule, at half of the calls | {' | '.join(worlds)} |"]
    found.append("| --- " * (len(worlds) + 1) + "|")
    for said, rule in RULES.items():
        cells = []
        for bases in worlds.values():
            shares = [kept(base, rule, HALF, number)[0] for number, base in enumerate(bases)]
            cells.append(_two(shares))
        found.append(f"| {said} | {' | '.join(cells)} |")
    for name, bases in worlds.items():
        calls = sum(asked.calls for base in bases for asked in base) / len(bases)
        made = sum(pairs(asked, asked.drafts) for base in bases for asked in base) / len(bases)
        took = [kept(base, stop, 1.0, number) for number, base in enumerate(bases)]
        assert all(share == 1 for share, _ in took), "draft by draft finds all pairs in the end"
        found.append(
            f"- {name}: {calls:,.0f} calls of asking all, {made:.0f} pairs; draft by draft makes "
            f"all of them for {_two([share for _, share in took])} of the calls"
        )
    return found


def _two(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.2f}".removeprefix("0")


if __name__ == "__main__":
    print("\n".join(lines()))
