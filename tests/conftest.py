"""What every test starts from and leaves behind."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from cowest.ledger import store

hypothesis.settings.register_profile("untimed", deadline=None)  # a machine may be slow, or busy
hypothesis.settings.register_profile("quick", deadline=None, max_examples=20)
hypothesis.settings.load_profile("untimed")

# A shell that starts us in the background has us ignore SIGINT, and children inherit that: those
# that are to be interrupted could not be.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# So does `nohup` with SIGHUP. A handler of ours is not inherited, and does not end the tests.
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)


@pytest.fixture(autouse=True)
def _stores_end_with_their_test() -> Iterator[None]:
    """A process keeps its stores open as long as it lives. This one would have thousands of files
    open in the end.
    """
    yield
    store.close()


@pytest.fixture(autouse=True)
def _a_turn_ends_with_its_test() -> Iterator[None]:
    """A step names its turn in the environment of its process, which here goes on: the claims of
    all tests after it would be counted there.
    """
    yield
    os.environ.pop("COWEST_TURN", None)


@pytest.fixture
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a call store that a test has for itself."""
    monkeypatch.setenv("COWEST_STORE", str(tmp_path / "store" / "calls.sqlite"))
    return tmp_path / "store"


@pytest.fixture
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes out of the environment what whoever runs the tests may have set for endpoints."""
    for name in ("OPENAI_API_KEY", "OPENAI_CUSTOM_HEADERS", "OPENAI_ORG_ID"):
        monkeypatch.delenv(name, raising=False)
