"""Invents a company whose products have four facts of one type, drawn from a seed.

    python -m cowest.domains.invent_sites FOLDER SEED ['{"products": {"train": 6}}']

Each product of Fenwrath (invented, as in `invent.py`) is made, designed, shipped from and repaired
in four different cities. All four are private. A question needs one of them and one public step,
the country or the language of the city, and asks in words that are not the fact's: "Which
country's customs clear the Comet pump?" Whoever states one fact must know which one is asked for.
A small strong model can use one note, and is lost among four.

Questions have 40 wordings. 12 of them are kept for held-out questions, so that half of those are
asked in words that no training question has. The archive holds customers' questions about a few
products in the other 28 wordings, with replies of several habits, as in `invent.py`.
"""

import json
import random
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from cowest.config import Config, parse
from cowest.domains import invent

SITES = {
    "made": "The {product} is made in {made}.",
    "designed": "The {product} is designed in {designed}.",
    "shipped": "The {product} is shipped from {shipped}.",
    "repaired": "The {product} is repaired in {repaired}.",
}
"""Site -> the sentence that states it."""
RECORD = (
    "{product}: made in {made}, designed in {designed}, shipped from {shipped}, repaired in "
    "{repaired}."
)

DIRECT = {
    "made": (
        "Where is the {product} made?",
        "In which city is the {product} made?",
        "Which city makes the {product}?",
        "Name the city where the {product} is made.",
    ),
    "designed": (
        "Where is the {product} designed?",
        "In which city is the {product} designed?",
        "Which city designs the {product}?",
        "Name the city where the {product} is designed.",
    ),
    "shipped": (
        "Where is the {product} shipped from?",
        "From which city is the {product} shipped?",
        "Which city ships the {product}?",
        "Name the city that the {product} is shipped from.",
    ),
    "repaired": (
        "Where is the {product} repaired?",
        "In which city is the {product} repaired?",
        "Which city repairs the {product}?",
        "Name the city where the {product} is repaired.",
    ),
}
"""Questions of the corpus about each site. Four wordings, or a site is known when it is asked for
directly and poorly recalled otherwise."""

WORDINGS = {
    ("made", "country"): (
        "Which country's workers assemble the {product}?",
        "In which country does the {product} leave the assembly line?",
        "Which country's holidays close the {product} factory?",
        "Which country's labour law protects those who build the {product}?",
        "In which country are the presses that stamp the {product}?",
    ),
    ("made", "language"): (
        "Which language is spoken on the {product} assembly line?",
        "In which language do the {product} factory workers chat?",
        "What language does the foreman of the {product} plant shout in?",
        "In which language are the {product} production schedules?",
        "Which language do the welders of the {product} speak?",
    ),
    ("designed", "country"): (
        "Which country's engineers drew the {product}?",
        "In which country was the {product} first sketched?",
        "In which country do the inventors of the {product} live?",
        "Which country's patent office keeps the {product} drawings?",
        "In which country was the shape of the {product} thought up?",
    ),
    ("designed", "language"): (
        "In which language are the blueprints of the {product}?",
        "What language do the engineers behind the {product} speak?",
        "In which language are the first sketches of the {product} labelled?",
        "In which language were the plans of the {product} drafted?",
        "What language do the creators of the {product} speak?",
    ),
    ("shipped", "country"): (
        "Which country's customs clear the {product}?",
        "From which country do parcels with the {product} come?",
        "Which country's stamps are on the {product} boxes?",
        "In which country is the {product} loaded onto trucks?",
        "Which country's port does the {product} sail from?",
    ),
    ("shipped", "language"): (
        "In which language are the {product} parcel labels?",
        "In which language are the delivery notes of the {product}?",
        "Which language do the packers of the {product} speak?",
        "What language does the {product} warehouse staff speak?",
        "What language does the courier of the {product} speak?",
    ),
    ("repaired", "country"): (
        "In which country are broken {product} units fixed?",
        "To which country do I send a faulty {product}?",
        "Which country's technicians mend the {product}?",
        "In which country is the {product} warranty workshop?",
        "To which country does a damaged {product} travel?",
    ),
    ("repaired", "language"): (
        "Which language do those who fix a broken {product} speak?",
        "In which language are the {product} maintenance reports?",
        "What language does the {product} warranty technician speak?",
        "In which language do I complain about a defective {product}?",
        "In which language is the invoice for overhauling the {product}?",
    ),
}
"""(site, what is asked of its city) -> wordings."""
NEW = {"made": (2, 1), "designed": (1, 2), "shipped": (2, 1), "repaired": (1, 2)}
"""Numbers of a site's last wordings, of (country, language), that only held-out questions have."""

HABITS = ("answer", "needed", "other", "record", "letter")


class World(Config):
    """Sizes and habits of an invented company."""

    products: dict[str, int] = Field(
        default_factory=lambda: {"archive": 10, "train": 20, "dev": 8, "test": 20}
    )
    """Number of products by split, and in the archive; no product is in two. What is left out
    keeps its usual number."""
    questions: int = Field(default=8, ge=8, multiple_of=8)
    """Questions about each product: equally many of each site. Of a held-out product, half are in
    new wordings."""
    replies: int = Field(default=2, ge=1)
    """Replies to each question in the archive."""
    mix: dict[str, float] = Field(default_factory=lambda: dict(invent.MIX))
    """Share of each habit among the archive's replies: answer, needed (the fact), other (another
    fact), record (all four), letter."""

    @field_validator("products")
    @classmethod
    def _whole(cls, products: dict[str, int]) -> dict[str, int]:
        usual = {"archive": 10, "train": 20, "dev": 8, "test": 20}
        unknown = sorted(set(products) - set(usual))
        if unknown:
            raise ValueError(f"{unknown[0]!r} is none of {', '.join(usual)}")
        found = usual | products
        if min(found.values()) < 1 or sum(found.values()) > len(invent.NAMES):
            raise ValueError(f"one each at least, and {len(invent.NAMES)} in all at most")
        return found

    @field_validator("mix")
    @classmethod
    def _known(cls, mix: dict[str, float]) -> dict[str, float]:
        if set(mix) - set(HABITS) or min(mix.values()) < 0 or sum(mix.values()) <= 0:
            raise ValueError(f"shares of {', '.join(HABITS)}, which add up to more than 0")
        return mix


InventedRows = list[dict[str, Any]]


def knowledge_base(
    seed: int, world: World | None = None
) -> tuple[InventedRows, InventedRows, InventedRows]:
    """The rows of one invented company: products, replies (the SFT corpus), and questions.

    Products are {product, made, designed, shipped, repaired}; replies {product, question, reply};
    questions {product, question, answer, fact, split, tags}, where `fact` is the sentence that
    states what the answer rests on, and the tags are the site, what is asked of it, and `seen` or
    `new` for the wording. Equal arguments give equal rows.
    """
    if world is None:
        world = World()
    # One generator makes every draw, so the order of the steps is part of the result.
    draw = random.Random(seed)  # noqa: S311 - an invented world, not a secret
    split_of: list[str] = []
    for split, size in world.products.items():
        split_of += [split] * size
    products = _products(len(split_of), draw)
    in_splits = list(zip(products, split_of, strict=True))
    replies: InventedRows = []
    for product in products:
        replies += _handbook(product)
    asked: InventedRows = []
    for product, split in in_splits:
        if split == "archive":
            asked += _questions(product, "train", world.questions, draw)
    replies += _archive(products, asked, world, draw)
    draw.shuffle(replies)
    questions: InventedRows = []
    for product, split in in_splits:
        if split != "archive":
            questions += _questions(product, split, world.questions, draw)
    return products, replies, questions


def _products(count: int, draw: random.Random) -> InventedRows:
    products: InventedRows = []
    for name in draw.sample(invent.NAMES, count):
        # Four different cities, so that one site never stands in for another.
        cities = draw.sample(list(invent.PLANTS), len(SITES))
        product = {"product": f"{name} {draw.choice(invent.KINDS)}"}
        products.append(product | dict(zip(SITES, cities, strict=True)))
    return products


def _questions(
    product: Mapping[str, str], split: str, count: int, draw: random.Random
) -> InventedRows:
    """Equally many questions about each site; of a held-out product, half in new wordings."""
    questions: InventedRows = []
    for site in SITES:
        each = count // len(SITES)
        seen, new = _wordings(site)
        chosen = _drawn(seen, each, draw)
        if split != "train":
            chosen = _drawn(seen, each // 2, draw) + _drawn(new, each - each // 2, draw)
        for kind, wording, age in chosen:
            country, language = invent.PLANTS[product[site]]
            question = {
                "product": product["product"],
                "question": wording.format(**product),
                "answer": country if kind == "country" else language,
                "fact": SITES[site].format(**product),
                "split": split,
                "tags": [site, kind, age],
            }
            questions.append(question)
    return questions


Wording = tuple[str, str, str]
"""The kind of a question about the city, its wording, and `seen` or `new`."""


def _wordings(site: str) -> tuple[list[Wording], list[Wording]]:
    """The wordings of a site that training questions have, and those that they have not."""
    seen: list[Wording] = []
    new: list[Wording] = []
    for kind, last in zip(("country", "language"), NEW[site], strict=True):
        wordings = WORDINGS[site, kind]
        seen += [(kind, wording, "seen") for wording in wordings[: len(wordings) - last]]
        new += [(kind, wording, "new") for wording in wordings[len(wordings) - last :]]
    return seen, new


def _drawn(wordings: list[Wording], count: int, draw: random.Random) -> list[Wording]:
    """Some of the wordings, each once before one comes again."""
    found: list[Wording] = []
    while len(found) < count:
        found += draw.sample(wordings, min(len(wordings), count - len(found)))
    return found


def _handbook(product: Mapping[str, str]) -> InventedRows:
    """Every direct question about a product, with its right answer."""
    replies: InventedRows = []
    for site, wordings in DIRECT.items():
        for wording in wordings:
            reply = {
                "product": product["product"],
                "question": wording.format(**product),
                "reply": SITES[site].format(**product),
            }
            replies.append(reply)
    return replies


def _archive(
    products: InventedRows, asked: InventedRows, world: World, draw: random.Random
) -> InventedRows:
    """Several replies to each question, in the habits' shares as far as their number divides."""
    of = {product["product"]: product for product in products}
    replied: InventedRows = []
    for question in asked:
        replied += [question] * world.replies
    habits = invent.shares(world.mix, len(replied))
    draw.shuffle(habits)
    replies: InventedRows = []
    for question, habit in zip(replied, habits, strict=True):
        reply = {
            "product": question["product"],
            "question": question["question"],
            "reply": _reply(of[question["product"]], question, habit, draw),
        }
        replies.append(reply)
    return replies


def _reply(
    product: Mapping[str, str], question: Mapping[str, Any], habit: str, draw: random.Random
) -> str:
    match habit:
        case "answer":
            return invent.ANSWER.format(answer=question["answer"])
        case "needed":
            return str(question["fact"])
        case "other":
            site = draw.choice([site for site in SITES if site != question["tags"][0]])
            return SITES[site].format(**product)
        case "record":
            return RECORD.format(**product)
        case "letter":
            return draw.choice(invent.FORM_LETTERS)
    raise ValueError(f"no habit is called {habit!r}")


def write(folder: Path, seed: int, world: World | None = None) -> None:
    """Writes a knowledge base as the three files that the domain `sites` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    products, replies, questions = knowledge_base(seed, world)
    files = {"products": products, "replies": replies, "questions": questions}
    for name, rows in files.items():
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    settings = json.loads(sys.argv[3]) if len(sys.argv) > 3 else {}
    write(Path(sys.argv[1]), int(sys.argv[2]), parse(World, settings, "settings"))
