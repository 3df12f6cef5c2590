"""An invented company's product handbook (`invent.py`): private facts that the policy learns, public ones that the strong model knows.

Three files: what is known, what was replied, what will be asked.

    products.jsonl   {"product": "Comet pump", "plant": "Oslo", "core": "zinc"}
    replies.jsonl    {"product": "Comet pump", "question": "Where is the Comet pump made?", "reply": "The Comet pump is made in Oslo."}
    questions.jsonl  {"product": "Comet pump", "question": "Which country does the Comet pump come from?", "answer": "Norway",
                      "fact": "The Comet pump is made in Oslo.", "split": "test"}

The replies are of uneven quality, as real archives are; a question is never among them with its answer.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from cowest import io
from cowest.config import Config
from cowest.prompts import Prompts, Shot, Template
from cowest.records import Demonstration, Message, Query
from cowest.scorers import AnyScorer
from cowest.scorers.contains import ContainsConfig

SHOTS = (
    ("The Bramley clock is made in Vienna.", "In what country is the Bramley clock made?", "Austria"),
    ("The Corin bell has a sodium core.", "What is the chemical symbol of the Corin bell core?", "Na"),
    ("That would be Romanian.", "What language is spoken where the Delby boat is made?", "Romanian"),
    ("The Esker kite has a tungsten core.", "Which chemical symbol stands for the Esker kite core?", "W"),
    ("The Farrow wheel is made in Tehran.", "Which language do the makers of the Farrow wheel speak?", "Persian"),
    ("The Garnock parade starts on Tuesday.", "On which day does the Garnock parade start?", "Tuesday"),
    ("Hollis anchor: made in Melbourne, potassium core.", "What is the chemical symbol of the Hollis anchor core?", "K"),
)
"""(note, question, answer): of no product of the handbook, and one note that only guesses, as drafts do too."""

PROMPTS = Prompts(
    draft=Template(user="{query}"),
    refine=Template(
        shots=tuple(Shot(user=f"Notes: {note}\nQuestion: {question}\nAnswer:", assistant=answer) for note, question, answer in SHOTS),
        user="Notes: {draft}\nQuestion: {query}\nAnswer:",
    ),
    solo=Template(
        shots=tuple(Shot(user=f"Question: {question}\nAnswer:", assistant=answer) for _, question, answer in SHOTS),
        user="Question: {query}\nAnswer:",
    ),
)


class Handbook(Config):
    """The demo's domain."""

    domain: Literal["handbook"] = "handbook"

    @property
    def prompts(self) -> Prompts:
        """What each model is asked."""
        return PROMPTS

    @property
    def scorer(self) -> AnyScorer:
        """The one that fits."""
        return ContainsConfig()

    def load(self, raw: Path) -> Iterator[Query]:
        """The questions, grouped by product, each with the fact that it rests on as its ideal draft."""
        for where, row in io.raw_rows(raw / "questions.jsonl", {"product", "question", "answer", "fact", "split"}):
            yield io.build(
                Query, where,
                group=row["product"], split=row["split"], prompt=(Message(role="user", content=row["question"]),),
                targets=(row["answer"],), ideal=row["fact"], source=where,
            )  # fmt: skip

    def corpus(self, raw: Path) -> Iterator[Demonstration]:
        """The replies, as they were sent."""
        for where, row in io.raw_rows(raw / "replies.jsonl", {"product", "question", "reply"}):
            prompt = (Message(role="user", content=row["question"]),)
            yield io.build(Demonstration, where, prompt=prompt, completion=row["reply"], source=where)
