"""Rules that records must meet before they are used. One file per kind of record:

queries.py      Query: before anything is spent
corpus.py       Demonstration: before the policy learns it
feedback.py     Feedback: before preferences are made of it
pairs.py        PreferencePair: before anything is trained

Each holds the settings and the rules of one kind, and the narrow frame on which they are judged:
one row per record, only numbers, derived while the rows stream by. Great Expectations judges the
frames and never sees a text (engine.py).

rules.py        a rule, its severity, and its outcome
columns.py      frames that stay narrow
near.py         near copies, by MinHash
numbering.py    numbers before and after a question, which make no other question of it
language.py     the language of a text
benchmarks.py   questions of benchmarks, which must not be learned
private.py      personal data and secrets
"""

from typing import Annotated

from pydantic import Field

from cowest.expectations.corpus import CorpusSuite
from cowest.expectations.feedback import FeedbackSuite
from cowest.expectations.pairs import PairSuite
from cowest.expectations.queries import QuerySuite

AnySuite = Annotated[
    QuerySuite | CorpusSuite | FeedbackSuite | PairSuite, Field(discriminator="kind")
]
"""`kind: queries`, `corpus`, `feedback` or `pairs`, with its settings."""
