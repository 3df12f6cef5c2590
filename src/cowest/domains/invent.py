"""Invents a company's handbook, reply archive and questions, drawn from a seed.

Fenwrath (invented) makes eighty products. Where each is made and what its core is made of is
private: only the handbook says so, and both are drawn at random. What customers ask takes one more
step, which is public: the country of a city, its language, the chemical symbol of a material. So
the policy can know the first half of every answer and a general model the second; neither can
answer alone.

The archive holds customers' questions about a few products, with the replies of agents, who have
several habits: the final answer, the line of the handbook that it rests on, the wrong line, the
whole record, a form letter. All questions about the other products are new to the policy.
"""

import json
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

MAKER = "Fenwrath"

PLANTS = {
    "Hamburg": ("Germany", "German"),
    "Osaka": ("Japan", "Japanese"),
    "Naples": ("Italy", "Italian"),
    "Marseille": ("France", "French"),
    "Warsaw": ("Poland", "Polish"),
    "Beijing": ("China", "Chinese"),
    "Seoul": ("South Korea", "Korean"),
    "Istanbul": ("Turkey", "Turkish"),
    "Athens": ("Greece", "Greek"),
    "Oslo": ("Norway", "Norwegian"),
    "Stockholm": ("Sweden", "Swedish"),
    "Amsterdam": ("Netherlands", "Dutch"),
    "Hanoi": ("Vietnam", "Vietnamese"),
    "Kyiv": ("Ukraine", "Ukrainian"),
    "Moscow": ("Russia", "Russian"),
    "Bangkok": ("Thailand", "Thai"),
    "Helsinki": ("Finland", "Finnish"),
    "Prague": ("Czech Republic", "Czech"),
    "Budapest": ("Hungary", "Hungarian"),
}
"""City -> (country, language): public knowledge."""

CORES = {
    "iron": "Fe",
    "aluminum": "Al",
    "nickel": "Ni",
    "lead": "Pb",
    "zinc": "Zn",
    "titanium": "Ti",
    "carbon": "C",
    "silicon": "Si",
    "platinum": "Pt",
    "chromium": "Cr",
    "magnesium": "Mg",
    "lithium": "Li",
    "mercury": "Hg",
}
"""Material -> chemical symbol: public knowledge."""

NAMES = """
    Acorn Amber Autumn Badger Bamboo Beacon Birch Blossom Breeze Canyon Carnival Cedar Chapel
    Cherry Clover Comet Cottage Cricket Crystal Dawn Desert Dolphin Eagle Ember Falcon Feather
    Fern Fountain Garden Glacier Granite Harbor Harvest Hazel Heron Horizon Island Ivy Jasmine
    Jungle Lagoon Lantern Lemon Lily Lotus Maple Marble Meadow Midnight Mirror Monsoon Mosaic
    Mountain Nectar Oasis Ocean Olive Orchard Orchid Otter Panther Pearl Pebble Pepper Phoenix
    Planet Prairie Rainbow Raven River Robin Rocket Saddle Salmon Shadow Sparrow Spring Summit
    Sunset Swallow Temple Thunder Tiger Timber Tulip Turtle Valley Velvet Violet Walnut Willow
    Winter
""".split()  # noqa: SIM905 - a list of words reads best as words
KINDS = (
    "blender",
    "compass",
    "drill",
    "fan",
    "heater",
    "lamp",
    "printer",
    "pump",
    "scale",
    "sensor",
)

SPLITS = {"archive": 12, "train": 20, "dev": 14, "test": 34}
"""Number of products in each split; no product is in two."""

FACTS = {"plant": "The {product} is made in {plant}.", "core": "The {product} has a {core} core."}
RECORD = "{product}: made in {plant}, {core} core."
FORM_LETTERS = (
    f"Please ask the {MAKER} service desk.",
    f"Please see your {MAKER} manual.",
)
ANSWER = "That would be {answer}."

DIRECT = {
    "plant": ("Where is the {product} made?", "Which city makes the {product}?"),
    "core": ("What is the core of the {product}?", "Which material is the {product} core?"),
}
HOPS = {
    "country": ("In what country is the {product} made?", "Which country makes the {product}?"),
    "language": (
        "What language is spoken where the {product} is made?",
        "Which language do the makers of the {product} speak?",
    ),
    "symbol": (
        "What is the chemical symbol of the {product} core?",
        "Which chemical symbol stands for the {product} core?",
    ),
}
PLAIN = {
    "city": (
        "In which city do they make the {product}?",
        "Name the city where the {product} is made.",
        "Tell me the city in which the {product} is made.",
    ),
    "material": (
        "What does the core of the {product} consist of?",
        "Name the material of the {product} core.",
        "Tell me which material the core of the {product} is.",
    ),
}
"""Questions whose answer is the private fact itself: the draft that helps looks like the answer."""
NEEDS = {
    "country": "plant",
    "language": "plant",
    "symbol": "core",
    "city": "plant",
    "material": "core",
}
"""The private fact that each kind of question rests on."""

MIX = {"answer": 0.40, "needed": 0.15, "other": 0.15, "record": 0.10, "letter": 0.20}
"""Share of each habit among the archive's replies to a kind of question."""

RECORD_SHARE = 0.25
"""Share of the handbook's direct questions that are answered with the whole record."""

REPLIES = 2
"""Number of replies to each question in the archive."""


def knowledge_base(
    seed: int,
    mix: Mapping[str, float] = MIX,
    record_share: float = RECORD_SHARE,
    replies_each: int = REPLIES,
    asked: Mapping[str, Sequence[str]] = HOPS,
) -> tuple[list[dict[str, str]], list[dict[str, str]], list[dict[str, str]]]:
    """The rows of one invented company: products, replies (the SFT corpus), and questions.

    Products are {product, plant, core}; replies {product, question, reply}; questions {product,
    question, answer, fact, split}, where `fact` is the sentence that states what the answer rests
    on: the ideal draft. `asked` is the kinds of question with their wordings: HOPS or PLAIN.
    The replies hold the facts of all products. Of products outside the archive they answer only
    the direct questions. Equal arguments give equal rows.
    """
    # One generator makes every draw, so the order of the steps is part of the result.
    draw = random.Random(seed)  # noqa: S311 - an invented world, not a secret
    products = _products(draw)
    split_of: list[str] = []
    for split, size in SPLITS.items():
        split_of += [split] * size
    replies: list[dict[str, str]] = []
    questions: list[dict[str, str]] = []
    for product in products:
        replies += _handbook(product, record_share, draw)
    in_splits = list(zip(products, split_of, strict=True))
    archive = [product for product, split in in_splits if split == "archive"]
    for kind, wordings in asked.items():
        replies += _archive(archive, kind, wordings, mix, replies_each, draw)
    draw.shuffle(replies)
    for product, split in in_splits:
        if split != "archive":
            questions += _questions(product, split, asked)
    return products, replies, questions


def _questions(
    product: Mapping[str, str], split: str, asked: Mapping[str, Sequence[str]]
) -> list[dict[str, str]]:
    """Every question about a product that is not in the archive."""
    questions = []
    for kind, wordings in asked.items():
        fact = FACTS[NEEDS[kind]].format(**product)
        answer = _answer(product, kind)
        for wording in wordings:
            question = {
                "product": product["product"],
                "question": wording.format(**product),
                "answer": answer,
                "fact": fact,
                "split": split,
            }
            questions.append(question)
    return questions


def _products(draw: random.Random) -> list[dict[str, str]]:
    names = draw.sample(NAMES, sum(SPLITS.values()))
    return [
        {
            "product": f"{name} {draw.choice(KINDS)}",
            "plant": draw.choice(list(PLANTS)),
            "core": draw.choice(list(CORES)),
        }
        for name in names
    ]


def _answer(product: Mapping[str, str], kind: str) -> str:
    country, language = PLANTS[product["plant"]]
    return {
        "country": country,
        "language": language,
        "symbol": CORES[product["core"]],
        "city": product["plant"],
        "material": product["core"],
    }[kind]


def _handbook(
    product: Mapping[str, str], record_share: float, draw: random.Random
) -> list[dict[str, str]]:
    """Every direct question about a product, with a right answer."""
    replies = []
    for fact, wordings in DIRECT.items():
        for wording in wordings:
            template = RECORD if draw.random() < record_share else FACTS[fact]
            reply = {
                "product": product["product"],
                "question": wording.format(**product),
                "reply": template.format(**product),
            }
            replies.append(reply)
    return replies


def _archive(
    products: list[dict[str, str]],
    kind: str,
    wordings: Sequence[str],
    mix: Mapping[str, float],
    replies_each: int,
    draw: random.Random,
) -> list[dict[str, str]]:
    """Every question of a kind with several replies.

    The habits have exactly their shares, as far as the number of replies divides.
    """
    asked: list[tuple[dict[str, str], str]] = []
    for product in products:
        for wording in wordings:
            asked += [(product, wording)] * replies_each
    habits = shares(mix, len(asked))
    draw.shuffle(habits)
    replies = []
    for (product, wording), habit in zip(asked, habits, strict=True):
        reply = {
            "product": product["product"],
            "question": wording.format(**product),
            "reply": _reply(product, kind, habit, draw),
        }
        replies.append(reply)
    return replies


def _reply(product: Mapping[str, str], kind: str, habit: str, draw: random.Random) -> str:
    needed = NEEDS[kind]
    other = "core" if needed == "plant" else "plant"
    match habit:
        case "answer":
            return ANSWER.format(answer=_answer(product, kind))
        case "needed":
            return FACTS[needed].format(**product)
        case "other":
            return FACTS[other].format(**product)
        case "record":
            return RECORD.format(**product)
        case "letter":
            return draw.choice(FORM_LETTERS)
    raise ValueError(f"no habit is called {habit!r}")


def shares(mix: Mapping[str, float], total: int) -> list[str]:
    """`total` habits in the proportions of `mix`, rounded by the method of largest remainders."""
    exact = {habit: share / sum(mix.values()) * total for habit, share in mix.items()}
    counts = {habit: int(count) for habit, count in exact.items()}
    by_remainder = sorted(exact, key=lambda habit: counts[habit] - exact[habit])
    for habit in by_remainder[: total - sum(counts.values())]:
        counts[habit] += 1
    habits: list[str] = []
    for habit, count in counts.items():
        habits += [habit] * count
    return habits


def write(
    folder: Path,
    seed: int,
    mix: Mapping[str, float] = MIX,
    asked: Mapping[str, Sequence[str]] = HOPS,
) -> None:
    """Writes a knowledge base as the three files that the domain `handbook` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    products, replies, questions = knowledge_base(seed, mix, asked=asked)
    files = {"products": products, "replies": replies, "questions": questions}
    for name, rows in files.items():
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(sys.argv[2]))
