"""Cases of endpoints: the published servers and scripts, asked through CoWest."""

import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cowest.errors import BudgetError, CoWestError
from cowest.ledger import store
from cowest.protocols import Completion
from tests import tiny
from tests.cases.outcome import Outcome
from tests.endpoints import answers, budget, config, now, priced, short_answers
from tests.servers import Fate, chat_server, completion, free_port

STOPPED = r"calls= *[12] +CallError: .*"
REPLIES = {
    "list-shaped error, bad key": ("what it said; stops", STOPPED + r"not one of ours.*key_env"),
    "error is a text": ("what it said; stops", STOPPED + r"must be strictly positive"),
    "plain text 400": ("what it said; stops", STOPPED + r"at most 4 sequences"),
    "finish model_length": ("cut is cut", r"calls= *2 .*finish=length failed=None"),
    "finish max_tokens": ("cut is cut", r"calls= *2 .*finish=length failed=None"),
    "blocked, no message": ("refused once", r"calls= *2 .*text=None finish=refused"),
    "blocked SAFETY null": ("refused once", r"calls= *2 .*text=None finish=refused"),
    "network_error half": ("asked again, no answer", r"calls=12 .*text=None finish=failed"),
    "all in reasoning_content": ("no answer", r"calls= *6 .*text=None .*thoughts \(reasoning_cont"),
    "tool call, null": ("no answer", r"calls= *6 .*text=None .*a call of a tool"),
    "think in content": ("kept in the store as it came", r"calls= *2 .*text='<think>"),
    "empty by stop": ("no answer", r"calls= *6 .*text=None .*an empty answer"),
    "usage floats": ("counted", r"calls= *2 .*tokens=\(7, 3\)"),
    "SSE for an answer": ("stops at once", STOPPED + r"streams its answers"),
    "blank lines first": ("an answer", r"calls= *2 .*text='fine' finish=stop"),
}
"""What is right for each body of replies.py, and the line that says so. Two rows are asked."""


def cases(folder: Path) -> Iterator[Outcome]:
    """Run each, in order."""
    at = folder / "endpoints"
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["COWEST_STORE"] = f"{scratch}/calls.sqlite"
        yield from streams(at)
        lines = printed(at / "replies.py", scratch)
        for name, (right, pattern) in REPLIES.items():
            line = next((line for line in lines if line.startswith(name)), "nothing was printed")
            yield Outcome(f"replies: {name}", right, line, re.search(pattern, line) is not None)
        yield says_nothing()
        yield from errors(at)
        for line in printed(at / "no_proxy.py", scratch):
            kind, _, said = line.partition(" -> ")
            right = "goes straight, as with curl and requests"
            yield Outcome(kind.strip(), right, said, "the proxy saw 0 call(s), key []" in said)
        yield whole_path()
        yield bills_more()


def streams(at: Path) -> Iterator[Outcome]:
    """The server that streams unless it is told not to; then one that does so all the same."""
    kind, right = "streams by default", "`stream: false` is sent: one call, answered"
    for extra in ({}, {"stream": False}):
        with published(at / "streams_by_default.py") as server:
            said = outcome_of(server, "hello", extra=extra)
            holds = "'Arlen'" in said and calls_of(server) == 1
            yield Outcome(f"{kind}, extra: {extra}", right, said, holds)
    with published(at / "streams_by_default.py") as server:
        said = outcome_of(server, *map(str, range(50)), extra={"stream": None}, concurrency=2)
        holds = "streams its answers" in said and calls_of(server) <= 2
        yield Outcome(
            f"{kind}, untold", "stops at once", f"{calls_of(server)} calls; {said}", holds
        )


def errors(at: Path) -> Iterator[Outcome]:
    """The server whose errors are a list, and the one whose errors are a text."""
    for form, words in (("list", "not one of ours"), ("text", "temperature must be above 0")):
        with published(at / "errors_as_list_or_text.py", form) as server:
            said = outcome_of(server, *map(str, range(50)), concurrency=2)
            calls = calls_of(server)
        holds = said.startswith("CallError") and words in said and calls <= 2
        yield Outcome(f"errors as a {form}", "what it said; stops", f"{calls} calls; {said}", holds)


def says_nothing() -> Outcome:
    """An endpoint whose every answer lies in `reasoning_content`."""
    fate = Fate(body=completion(None, reasoning_content="It is Oslo."))
    with chat_server(otherwise=fate) as server:
        said = outcome_of(server, *map(str, range(200)), concurrency=4)
        holds = "turn thinking off" in said and server.calls <= 24
        return Outcome("every answer is empty", "stops", f"{server.calls} calls; {said}", holds)


def whole_path() -> Outcome:
    """A base_url that ends in /chat/completions."""
    with chat_server() as server:
        server.url += "/chat/completions"
        said = outcome_of(server, "hello")
    return Outcome("base_url holds the whole path", "answered", said, "answer to hello" in said)


def bills_more() -> Outcome:
    """An endpoint that bills 207 tokens where a call allows 54, in a turn with a budget."""
    body = completion("yes").replace(b'"completion_tokens": 3', b'"completion_tokens": 200')
    budget(usd=0.1)
    said = "no stop"
    with chat_server(otherwise=Fate(body=body)) as server, store.accounting("refine"):
        try:
            short_answers(priced(server, concurrency=4), *range(100))
        except BudgetError as reached:
            said = str(reached)
    spent = now().usd
    holds = 0.09 < spent <= 0.1 and said != "no stop"
    return Outcome("bills more than allowed", "the budget holds", f"${spent:.4f}; {said}", holds)


def outcome_of(server: Any, *texts: str, **settings: Any) -> str:
    """The first answer or the error, and what became of all in short."""
    try:
        found: list[Completion] = answers(config(server, backoff=0.001, **settings), *texts)
    except CoWestError as error:
        return f"{type(error).__name__}: {error}"
    return f"text={found[0].text!r} failed={found[0].failed!r}"


def printed(script: Path, scratch: str) -> list[str]:
    """The lines that a published script prints."""
    surroundings = {**tiny.surroundings(), "PYTHONPATH": ".", "TMPDIR": scratch}
    command = [sys.executable, str(script)]
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@contextmanager
def published(script: Path, *arguments: str) -> Iterator[Any]:
    """A published server, with its `url`, while it runs."""
    port = free_port()
    process = subprocess.Popen([sys.executable, str(script), str(port), *arguments])
    server = SimpleNamespace(url=f"http://127.0.0.1:{port}/v1")
    try:
        for _ in range(200):
            try:
                calls_of(server)
                break
            except OSError:
                time.sleep(0.05)
        yield server
    finally:
        process.kill()
        process.wait()


def calls_of(server: Any) -> int:
    """How often a published server was asked."""
    with urllib.request.urlopen(server.url) as reply:
        return int(reply.read())
