"""Products with four facts of one type (`invent_sites.py`): what to say depends on the question.

Each product is made, designed, shipped from and repaired in four cities, which the policy learns.
A question needs one of them, and asks in other words than the fact's. The files are those of the
domain `handbook`:

    products.jsonl   {"product": "Comet pump", "made": "Oslo", "designed": "Seoul",
                      "shipped": "Hanoi", "repaired": "Kyiv"}
    replies.jsonl    {"product": "Comet pump", "question": "Where is the Comet pump made?",
                      "reply": "The Comet pump is made in Oslo."}
    questions.jsonl  {"product": "Comet pump", "answer": "Vietnam", "split": "test",
                      "question": "Which country's customs clear the Comet pump?",
                      "fact": "The Comet pump is shipped from Hanoi.",
                      "tags": ["shipped", "country", "seen"]}
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from cowest.config import Config
from cowest.domains import handbook, invent_sites
from cowest.prompts import Prompts, Shot, Template
from cowest.raw.intake import Intake
from cowest.records import Demonstration, Query
from cowest.scorers import AnyScorer
from cowest.scorers.contains import ContainsConfig

SHOTS = (
    (
        "The Bramley clock is made in Vienna.",
        "Which country's workers assemble the Bramley clock?",
        "Austria",
    ),
    (
        "The Corin bell is shipped from Lisbon.",
        "In which language are the parcel labels of the Corin bell?",
        "Portuguese",
    ),
    (
        "That would be Romanian.",
        "What language do the engineers behind the Delby boat speak?",
        "Romanian",
    ),
    (
        "The Esker kite is repaired in Madrid.",
        "To which country do I send a faulty Esker kite?",
        "Spain",
    ),
    (
        "The Farrow wheel is designed in Tehran.",
        "In which language are the blueprints of the Farrow wheel?",
        "Persian",
    ),
    (
        "The Garnock parade starts on Tuesday.",
        "On which day does the Garnock parade start?",
        "Tuesday",
    ),
    (
        "Hollis anchor: made in Cairo, designed in Dublin, shipped from Havana, repaired in Lima.",
        "In which country was the Hollis anchor first sketched?",
        "Ireland",
    ),
)
"""(note, question, answer), of products that the company does not have. One note only guesses, and
one says everything, as drafts do too."""

PROMPTS = Prompts(
    draft=Template(user="{query}"),
    refine=Template(
        shots=tuple(
            Shot(user=f"Notes: {note}\nQuestion: {question}\nAnswer:", assistant=answer)
            for note, question, answer in SHOTS
        ),
        user="Notes: {draft}\nQuestion: {query}\nAnswer:",
    ),
    solo=Template(
        shots=tuple(
            Shot(user=f"Question: {question}\nAnswer:", assistant=answer)
            for _, question, answer in SHOTS
        ),
        user="Question: {query}\nAnswer:",
    ),
    candidates={
        site: Template(user=questions[0].format(product="{group}"))
        for site, questions in invent_sites.DIRECT.items()
    },
)
"""The policy's replies to the four direct questions about a product are candidates."""


class Sites(Config):
    """Products with four facts of one type: it has no settings."""

    domain: Literal["sites"] = "sites"

    @property
    def prompts(self) -> Prompts:
        """The prompts of all models."""
        return PROMPTS

    @property
    def scorer(self) -> AnyScorer:
        """The scorer that fits short answers."""
        return ContainsConfig(rule=2)

    def rows(self, raw: Path, intake: Intake) -> Iterator[Query | Demonstration]:
        """The questions, and then the replies."""
        yield from handbook.questions(raw, intake)
        yield from handbook.replies(raw, intake)

    def load(self, raw: Path, intake: Intake | None = None) -> Iterator[Query]:
        """The questions, grouped by product. The fact that one rests on is its ideal draft."""
        return handbook.questions(raw, intake or Intake())

    def corpus(self, raw: Path) -> Iterator[Demonstration]:
        """The replies, as they were sent."""
        return handbook.replies(raw, Intake())
