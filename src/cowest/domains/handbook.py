"""An invented company's product handbook (`invent.py`), the data set of the demo.

Some facts are private: the policy learns them. Others are public: the strong model knows them.
Three files hold the products, an archive of replies, and the questions:

    products.jsonl   {"product": "Comet pump", "plant": "Oslo", "core": "zinc"}
    replies.jsonl    {"product": "Comet pump", "question": "Where is the Comet pump made?",
                      "reply": "The Comet pump is made in Oslo."}
    questions.jsonl  {"product": "Comet pump", "answer": "Norway", "split": "test",
                      "question": "Which country does the Comet pump come from?",
                      "fact": "The Comet pump is made in Oslo."}

The replies are of uneven quality, as in real archives. No question of questions.jsonl is among
them with its answer.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, TypeVar

from cowest.config import Config
from cowest.prompts import Prompts, Shot, Template
from cowest.raw import tables
from cowest.raw.files import Bad, Row
from cowest.raw.intake import Intake, Unfit, build
from cowest.records import Demonstration, Message, Query
from cowest.scorers import AnyScorer
from cowest.scorers.contains import ContainsConfig

T = TypeVar("T")
SHOTS = (
    (
        "The Bramley clock is made in Vienna.",
        "In what country is the Bramley clock made?",
        "Austria",
    ),
    (
        "The Corin bell has a sodium core.",
        "What is the chemical symbol of the Corin bell core?",
        "Na",
    ),
    (
        "That would be Romanian.",
        "What language is spoken where the Delby boat is made?",
        "Romanian",
    ),
    (
        "The Esker kite has a tungsten core.",
        "Which chemical symbol stands for the Esker kite core?",
        "W",
    ),
    (
        "The Farrow wheel is made in Tehran.",
        "Which language do the makers of the Farrow wheel speak?",
        "Persian",
    ),
    (
        "The Garnock parade starts on Tuesday.",
        "On which day does the Garnock parade start?",
        "Tuesday",
    ),
    (
        "Hollis anchor: made in Melbourne, potassium core.",
        "What is the chemical symbol of the Hollis anchor core?",
        "K",
    ),
)
"""(note, question, answer), of products that the handbook does not have. One note only guesses, as
drafts do too."""

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
)


class Handbook(Config):
    """The demo's data set: it has no settings."""

    domain: Literal["handbook"] = "handbook"

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
        yield from questions(raw, intake)
        yield from replies(raw, intake)

    def load(self, raw: Path, intake: Intake | None = None) -> Iterator[Query]:
        """The questions, grouped by product. The fact that one rests on is its ideal draft."""
        return questions(raw, intake or Intake())

    def corpus(self, raw: Path) -> Iterator[Demonstration]:
        """The replies, as they were sent."""
        return replies(raw, Intake())


def questions(raw: Path, intake: Intake) -> Iterator[Query]:
    """The rows of questions.jsonl, which may have `tags`."""

    def make(row: Row, source: str) -> Query:
        prompt = (Message(role="user", content=row["question"]),)
        return build(
            Query,
            group=row["product"],
            split=row["split"],
            prompt=prompt,
            targets=(row["answer"],),
            ideal=row["fact"],
            tags=row.get("tags", ()),
            source=source,
        )

    fields = {"product", "question", "answer", "fact", "split"}
    return _made(raw / "questions.jsonl", fields, make, intake)


def replies(raw: Path, intake: Intake) -> Iterator[Demonstration]:
    """The rows of replies.jsonl."""

    def make(row: Row, source: str) -> Demonstration:
        prompt = (Message(role="user", content=row["question"]),)
        return build(Demonstration, prompt=prompt, completion=row["reply"], source=source)

    return _made(raw / "replies.jsonl", {"product", "question", "reply"}, make, intake)


def _made(
    path: Path, fields: set[str], make: Callable[[Row, str], T], intake: Intake
) -> Iterator[T]:
    """Records that `make` makes of each row and its place, `file:line`."""
    for number, row in tables.raw_rows(path, fields):
        if isinstance(row, Bad):
            intake.quarantine(path, number, row.reason, row.raw)
            continue
        try:
            made = make(row, f"{path.name}:{number}")
        except Unfit as error:
            intake.quarantine(path, number, str(error), row)
        else:
            intake.used += 1
            yield made
