"""What each record kind must meet before it is used. One file a kind of record, named as its rows are:

queries.py      Query: before anything is spent
corpus.py       Demonstration: before the policy learns it
feedback.py     Feedback: before preferences are made of it
pairs.py        PreferencePair: before anything is trained

Each holds the kind's settings, its rules, and the narrow frame that they are judged on: one row a record, numbers alone, derived
while the rows stream by. Great Expectations judges the frames and never sees a text (engine.py).

rules.py        what a rule is, and what comes of one that is not met        columns.py    frames that stay narrow
near.py         near copies, by MinHash                                      language.py   which language a text is in
benchmarks.py   questions that nothing may be learned of
instructions.py texts that instruct their reader
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
