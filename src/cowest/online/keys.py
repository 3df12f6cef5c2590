"""Keys: who may ask the service, how often, and at what daily cost.

Settings hold a key's SHA-256 and never the key, so that nobody who reads them can ask. A slow hash,
as passwords need, would only make each request slower: a key is 256 random bits, which nobody
guesses, however fast the guesses are checked.
"""

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from cowest.config import Config
from cowest.ledger.claims import Budget
from cowest.ledger.purses import set_budget
from cowest.ledger.store import open_store

OpenPart = Literal["metrics", "docs", "page"]
"""A part of the service that `serve.open` may open to those without a key."""
PREFIX = "sk-cowest-"
"""Prefix of every key, by which scanners for secrets, ours included, find it."""
LONGEST = 512
"""Length, in characters, beyond which a text is no key of ours."""


class KeyConfig(Config):
    """One key: `cowest key --name NAME` makes it, and prints the line that stands here."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Name of the key's owner in logs, metrics and the ledger: up to 64 letters, digits, `.`, `_`
    and `-`, of which the first is a letter or digit. The daily budget belongs to the name: a new
    key with an old name has what is left of that name's budget."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the key, in 64 hexadecimal digits (0-9, a-f): `cowest key` makes the line."""
    rate: int | None = Field(default=60, ge=1)
    """Requests per minute, which may come all at once; null for no limit."""
    budget: Budget = Budget()
    """Most that its calls to hosted models may cost per day (UTC), in US dollars (`usd`) and in
    `tokens`. With a budget in dollars, a model without a `price` can't be asked."""


def set_budgets(keys: Iterable[KeyConfig]) -> None:
    """Writes what each key may spend a day into the call store, where calls are claimed.

    It counts today's earlier calls, and holds from the next call on. Raises StoreError.
    """
    store = open_store()
    for key in keys:
        set_budget(store, key.name, key.budget)


def new_key() -> str:
    """Makes a key."""
    return PREFIX + secrets.token_urlsafe(32)


def digest_of(key: str) -> str:
    """Hex SHA-256 of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(slots=True)
class Rate:
    """A token bucket: it holds `per_minute` tokens, and is refilled at that rate per minute."""

    per_minute: int
    clock: Callable[[], float] = time.monotonic
    _places: float = -1.0
    _at: float = 0.0

    def wait(self) -> float:
        """Takes a place and returns 0; or returns the seconds until there is one."""
        now = self.clock()
        if self._places < 0:
            self._places, self._at = float(self.per_minute), now
        gained = (now - self._at) * self.per_minute / 60
        self._places = min(float(self.per_minute), self._places + gained)
        self._at = now
        if self._places >= 1:
            self._places -= 1
            return 0.0
        return (1 - self._places) * 60 / self.per_minute


class Keys:
    """The keys of a service, with the requests that each may still make this minute. One process
    holds them."""

    def __init__(
        self, keys: Sequence[KeyConfig], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._keys = tuple(keys)
        self._rates = {key.name: Rate(key.rate, clock) for key in keys if key.rate is not None}

    def __bool__(self) -> bool:
        """True if there is a key. Without keys, only this machine is answered."""
        return bool(self._keys)

    def find(self, given: str) -> KeyConfig | None:
        """Returns the settings of a key; None if it is none of ours.

        Takes the same time for every key, right or wrong.
        """
        found = None
        digest = digest_of(given) if len(given) <= LONGEST else ""
        for key in self._keys:
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return found

    def wait(self, key: KeyConfig) -> float:
        """Counts a request, and returns 0; or returns the seconds after which one may come."""
        rate = self._rates.get(key.name)
        return 0.0 if rate is None else rate.wait()
