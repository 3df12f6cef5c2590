"""Counts what a stage takes in this process: calls, tokens, money, and what was left unanswered.

One account is current at a time. Models count into it where they make calls and yield completions,
and `store.accounting` writes it into the call store when its stage ends.
"""

import resource
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from cowest.protocols import Completion, Request

NAMED_VERSIONS = 5
"""Versions of a model that messages name at most: some endpoints report another per answer."""
SUMMED = (
    "seconds", "asked", "stored", "prompt_tokens", "completion_tokens", "cost", "requests",
    "answered", "aside", "attempts", "hedged",
)  # fmt: skip
"""Numbers of an account that add up over several runs of its stage."""
FILTERED = {"allow": "let go", "mask": "masked", "refuse": "kept in"}
"""The words of the account's line for each action of the egress filter."""


@dataclass(slots=True)
class Account:
    """The calls, tokens, money, time and memory that one stage took in this process."""

    stage: str
    seconds: float = 0.0
    peak_memory: int = 0
    """Bytes, of the whole process; of the largest where several trained."""
    asked: int = 0
    """Calls answered by a model."""
    stored: int = 0
    """Calls answered by the store."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    """US dollars, of the answers whose price is known."""
    requests: int = 0
    """Completions that the stage asked for. Each is answered or set aside."""
    answered: int = 0
    aside: int = 0
    """Completions without a text: failed or refused."""
    attempts: int = 0
    """Calls over the network, including those that failed."""
    hedged: int = 0
    """Calls that were made a second time because the first was slow."""
    versions: dict[str, dict[str, int]] = field(default_factory=dict)
    """Answers per reported version, per model."""
    filtered: dict[str, Counter[str]] = field(default_factory=dict)
    """Finds of the egress filter, per action: the number of requests, and of finds per kind."""

    def with_run(self, other: "Account") -> "Account":
        """Returns the sums of two runs of the stage; of memory, the higher of two peaks."""
        both = Account(self.stage, peak_memory=max(self.peak_memory, other.peak_memory))
        for name in SUMMED:
            setattr(both, name, getattr(self, name) + getattr(other, name))
        return both

    def line(self) -> str:
        """Says in one line what became of everything that was asked."""
        said = (
            f"{self.requests} completions asked = {self.answered} answered + {self.aside} set aside"
        )
        left = self.requests - self.answered - self.aside
        if left:
            said += f" + {left} not come to"
        if self.stored:
            said += f"; {self.stored} from the store"
        if self.attempts:
            tokens = self.prompt_tokens + self.completion_tokens
            said += (
                f"; {self.attempts} calls brought {self.asked} answers, "
                f"for {tokens:,} tokens and ${self.cost:,.4f}"
            )
        if self.hedged:
            said += f"; {self.hedged} calls were made twice at once (hedge)"
        for model, versions in self.versions.items():
            if len(versions) > 1:
                said += f"; {model} reported several versions: {_listed(versions)}"
        for line in self.egress():
            said += f"; {line}"
        return said

    def egress(self) -> list[str]:
        """Says how much of each kind the egress filter found, and never the text that it found."""
        lines = []
        for action, found in self.filtered.items():
            kinds = sorted(kind for kind in found if kind != "requests")
            counts = ", ".join(f"{found[kind]} {kind}" for kind in kinds)
            lines.append(
                f"egress {FILTERED[action]} {counts} (in {found['requests']} of the requests)"
            )
        return lines


def _listed(versions: Mapping[str, int]) -> str:
    # A version with no answers here was seen by an earlier stage of the turn.
    counts = [f"{count} by {version}" for version, count in versions.items() if count]
    said = ", ".join(counts[:NAMED_VERSIONS])
    if len(counts) > NAMED_VERSIONS:
        said += f" and {len(counts) - NAMED_VERSIONS} more"
    return said


# Outside of a stage, an account without a name is counted into. It is never written anywhere.
_current = Account("")


def peak(who: int) -> int:
    """Returns the most bytes that this process held at once, or the largest of its children."""
    used = resource.getrusage(who).ru_maxrss
    # Linux counts the resident set in KiB, macOS in bytes.
    return used if sys.platform == "darwin" else used * 1024


def current() -> Account:
    """Returns the account of the stage that runs; outside of a stage, one whose name is empty."""
    return _current


@contextmanager
def opened(stage: str) -> Iterator[Account]:
    """Makes a new account the current one, until the block ends."""
    global _current
    before = _current
    _current = Account(stage)
    try:
        yield _current
    finally:
        _current = before


def counted(
    answer: Callable[[Iterable[Request]], Iterator[Completion]], requests: Iterable[Request]
) -> Iterator[Completion]:
    """Yields a model's completions, and counts requests, answers, and those set aside."""
    # A generator may be read on after its stage has ended: it counts for the stage that began it.
    account = _current

    def asked() -> Iterator[Request]:
        for request in requests:
            account.requests += 1
            yield request

    for completion in answer(asked()):
        if completion.text is None:
            account.aside += 1
        else:
            account.answered += 1
        yield completion


def stopped() -> None:
    """Leaves out what was asked and never answered, where a stage goes on without it."""
    _current.requests = _current.answered + _current.aside


def attempted() -> None:
    """Counts a call over the network."""
    _current.attempts += 1


def hedged() -> None:
    """Counts a call that is made a second time because the first is slow."""
    _current.hedged += 1


def filtered(action: str, found: Mapping[str, int]) -> None:
    """Counts a request in which the egress filter found something. One it refuses is set aside."""
    counter = _current.filtered.setdefault(action, Counter())
    counter.update({"requests": 1, **found})
    if action == "refuse":
        # The model behind the filter never sees this request, so `counted` does not count it.
        _current.requests += 1
        _current.aside += 1


def reported(model: str) -> list[str]:
    """Returns the versions that a model reported in this turn, oldest first.

    It knows those of answers that this process saw, and those that earlier stages wrote down.
    """
    return list(_current.versions.get(model, ()))


def egress() -> list[str]:
    """Says what the egress filter found in this stage; outside of one, in this process."""
    return _current.egress()
