"""The batch mode against a real server on this machine: the same answers as one by one, bought
once, whatever happens.
"""

import json
import logging
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cowest.config import parse
from cowest.errors import BudgetError, CallError, ConfigError
from cowest.ledger import journal, postgres, store
from cowest.ledger.account import Account
from cowest.models.endpoint.batch_api import BatchApi
from cowest.models.endpoint.batch_files import outcomes
from cowest.models.endpoint.settings import BatchConfig
from cowest.models.estimate import announce
from cowest.models.openai import OpenAIConfig
from cowest.net.client import LARGEST
from cowest.online.live import ServeConfig
from cowest.protocols import Completion
from tests import servers, stores, tiny
from tests.batch_server import EXPIRED, MISSING, BatchServer, Fault, batch_server
from tests.endpoints import CANARY, PRICE, budget, claims, faces_of, now, priced
from tests.endpoints import short as ask
from tests.endpoints import short_answers as answers
from tests.servers import Fate, completion, error

COST = (7 * 1.0 + 3 * 10.0) / 1e6 / 2
"""Of a call to the server, at half the price: it says 7 and 3 tokens."""


BOTH = pytest.mark.parametrize("stage", stores.KINDS, indirect=True)
"""On each kind of store; the other tests take SQLite."""


@pytest.fixture(autouse=True)
def stage(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Account]:
    """A stage of the turn `t`."""
    monkeypatch.setenv("COWEST_STORE", stores.place(getattr(request, "param", "sqlite"), tmp_path))
    with store.accounting("refine") as account:
        yield account


def config(
    server: BatchServer, batch: dict[str, Any] | None = None, **settings: Any
) -> OpenAIConfig:
    given = {"batch": {"poll": 0.02, "wait": 20, **(batch or {})}, **settings}
    return priced(server, **given)


def texts_of(found: list[Completion]) -> list[str | None]:
    return [c.text for c in found]


def good(*texts: object) -> list[str | None]:
    return [f"answer to {text}" for text in texts]


def ended() -> list[str | None]:
    return [
        row[0]
        for row in store.open_store().read(
            lambda db: db.execute("SELECT ended FROM batches ORDER BY number").fetchall()
        )
    ]


@BOTH
def test_answers_in_order_each_bought_once_at_half_the_price(stage: Account) -> None:
    budget(usd=1)
    with batch_server(takes=0.1) as server:
        found = answers(config(server), 1, 2, 1, 3)
        assert texts_of(found) == good(1, 2, 1, 3)
        assert server.bought == {"1": 1, "2": 1, "3": 1} and len(server.batches) == 1
        assert now().usd == pytest.approx(3 * COST) == pytest.approx(stage.cost) and claims() == 0
        assert answers(config(server), 3, 2, 1) == [found[3], found[1], found[0]]
        assert len(server.batches) == 1 and not server.direct
    assert (
        "7 completions asked = 7 answered + 0 set aside" in stage.line()
        and "3 calls brought 3 answers" in stage.line()
    )


def test_what_one_mode_bought_the_other_does_not_buy_again() -> None:
    with batch_server() as server:
        direct = answers(config(server, batch=None).model_copy(update={"batch": None}), 1, 2)
        batched = answers(config(server), 1, 2, 3)
        assert batched[:2] == direct and server.bought == {"3": 1}
        again = answers(config(server).model_copy(update={"batch": None}), 1, 2, 3)
        assert again == batched and server.direct == {"1": 1, "2": 1}


def test_windows_and_file_sizes_make_several_batches() -> None:
    with batch_server() as server:
        assert texts_of(answers(config(server, {"requests": 4}), *range(10))) == good(*range(10))
        assert [len(made.rows) for made in server.batches.values()] == [4, 4, 2]
        before = len(server.batches)
        assert texts_of(answers(config(server, {"megabytes": 0.0006}), *range(20, 26))) == good(
            *range(20, 26)
        )
        sizes = [len(server.files[made.file]) for made in server.batches.values()][before:]
        assert len(sizes) == 3 and max(sizes) <= 600
    assert all(rows == 1 for rows in server.bought.values())


@BOTH
def test_rows_that_fail_are_set_aside_or_asked_again() -> None:
    script = {
        "poison": [error(400, "too long")] * 9,
        "busy": [error(429), error(500)],
        "late": [EXPIRED],
        "lost": [MISSING],
        "blank": [servers.EMPTY],
        "bad": [error(500)] * 9,
        "no": [Fate(body=completion(None, refusal="no"))],
    }
    budget(usd=1)
    with batch_server(script) as server:
        poison, busy, late, lost, blank, bad, no, well = answers(
            config(server, retries=2), *script, "well"
        )
        assert (
            poison.failed == "HTTP 400: too long"
            and bad.failed == "HTTP 500: it said no, at the last of 3 batches"
        )
        assert (no.finish, no.failed) == ("refused", "refused: no")
        assert texts_of([busy, late, lost, blank, well]) == good(
            "busy", "late", "lost", "blank", "well"
        )
        assert [len(made.rows) for made in server.batches.values()] == [8, 5, 2], (
            "only what had not been answered is asked again"
        )
        paid = sum(server.bought.values())
        assert paid == 7 and now().usd == pytest.approx((paid + 1) * COST), (
            "the row that got lost may have been paid for"
        )
    assert claims() == 0


def test_an_error_that_may_have_been_paid_for_stands_for_no_answer_that_is_missing() -> None:
    budget(usd=1)
    with batch_server({"late": [error(504)], "lost": [MISSING]}) as server:
        found = answers(config(server), "late", "lost", "well")
        assert texts_of(found) == good("late", "lost", "well")
    assert now().usd == pytest.approx(5 * COST) and claims() == 0


def test_a_row_that_says_what_every_call_would_meet_stops_and_the_others_are_kept() -> None:
    with batch_server({"2": [error(404, "no such model")]}) as server:
        with pytest.raises(CallError, match="no such model"):
            answers(config(server), 1, 2, 3)
        assert texts_of(answers(config(server), 1, 3)) == good(1, 3)
        assert len(server.batches) == 1


@BOTH
@pytest.mark.parametrize("status", ["expired", "cancelled"])
def test_a_batch_that_ends_early_keeps_what_it_answered(status: str) -> None:
    budget(usd=1)
    with batch_server(ends=[status]) as server:
        assert texts_of(answers(config(server), *range(8))) == good(*range(8))
        assert [len(made.rows) for made in server.batches.values()] == [8, 4] and set(
            server.bought.values()
        ) == {1}
    assert ended() == [status, "completed"] and now().usd == pytest.approx(8 * COST)


def test_a_batch_that_the_provider_fails_stops_with_its_words() -> None:
    budget(usd=1)
    with batch_server(ends=["failed"]) as server:
        with pytest.raises(
            CallError, match=r"failed batch_\d+: line 1: Enqueued token limit reached"
        ):
            answers(config(server), 1, 2)
        assert claims() == 0 and now().usd == 0
        assert texts_of(answers(config(server), 1, 2)) == good(1, 2)


@BOTH
def test_the_budget_is_reserved_before_a_batch_and_holds() -> None:
    settings = OpenAIConfig(model="m", price=PRICE, batch=BatchConfig())
    most = settings.cost(*settings.most(ask(100))) or 0.0
    budget(usd=10 * most)
    with batch_server() as server:
        assert texts_of(answers(config(server), *range(100, 130))) == good(*range(100, 130))
        sizes = [len(made.rows) for made in server.batches.values()]
        assert sizes[0] == 10 and len(sizes) > 2 and sum(sizes) == 30, (
            "what is left over of the reserved buys more"
        )
    budget(usd=now().usd + most / 2)
    with (
        batch_server() as server,
        pytest.raises(BudgetError, match=r"budget is reached: .* raise pin\.budget"),
    ):
        answers(config(server), "more")
    assert not server.batches and not server.files


def hostile(content: bytes) -> bytes:
    """Another's rows, a row twice, no JSON, a row cut short, lines that are no objects."""
    first, second, *rest, last = content.splitlines(keepends=True)
    foreign = json.loads(second) | {"custom_id": "f" * 64}
    unfit = json.loads(second) | {"custom_id": "\0\ud800"}
    numbers = json.loads(second) | {"custom_id": 7}
    bodiless = json.loads(rest[0]) | {"response": {"status_code": 200, "body": ["x"]}}
    lines = [
        first,
        first,
        *(json.dumps(row).encode() + b"\n" for row in (foreign, unfit)),
        json.dumps(numbers).encode() + b"\n",
        b"not JSON\n",
        b"[1]\n",
        b"\n",
    ]
    deep = b"[" * 100_000 + b"\n"
    return b"".join([*lines, deep, json.dumps(bodiless).encode() + b"\n", *rest[1:], last[:40]])


@BOTH
def test_what_hostile_output_leaves_out_is_asked_again(stage: Account) -> None:
    with batch_server() as server:
        server.rewrites = [hostile]
        assert texts_of(answers(config(server), *range(6))) == good(*range(6))
        assert [len(made.rows) for made in server.batches.values()] == [6, 3]
    assert claims() == 0 and stage.answered == 6 and answered() == 6


def answered() -> int:
    return int(
        store.open_store().read(lambda db: db.execute("SELECT COUNT(*) FROM calls").fetchone()[0])
    )


def test_a_line_that_is_too_long_is_left_out_and_the_next_is_read(tmp_path: Path) -> None:
    lines = [
        b'{"custom_id": "' + b"x" * size + b'", "response": {"status_code": 200, "body": 1}}'
        for size in (5, LARGEST, LARGEST * 2, 7)
    ]
    with (tmp_path / "output").open("w+b") as file:
        file.write(b"\n".join(lines))
        assert [len(outcome.key) for outcome in outcomes(file, OpenAIConfig(model="m"), None)] == [
            5,
            7,
        ]


def test_a_file_that_is_gone_is_as_if_nothing_was_answered(
    capfd: pytest.CaptureFixture[str],
) -> None:
    budget(usd=1)
    with batch_server() as server:
        server.faults["GET /files/*/content"] = [Fault(404)]
        assert texts_of(answers(config(server, retries=1), 1, 2)) == good(1, 2)
        assert server.bought == {"1": 1, "2": 1}, "it was not there yet"
        server.faults["GET /files/*/content"] = [Fault(404)] * 2
        assert texts_of(answers(config(server, retries=1), 3, 4)) == good(3, 4)
        assert server.bought["3"] == server.bought["4"] == 2
    assert "no more: those calls are made again" in capfd.readouterr().err
    assert now().usd == pytest.approx(6 * COST), "the lost answers were paid for"


def test_a_batch_that_the_provider_does_not_know_stops_and_after_a_month_it_is_asked_again() -> (
    None
):
    budget(usd=1)
    with batch_server(takes=0.2) as server:
        server.faults["GET /batches/*"] = [Fault(404)]
        with pytest.raises(CallError, match=r"knows no batch batch_\d+ \(HTTP 404\)"):
            answers(config(server), 1)
        server.faults["GET /batches/*"] = [Fault(404)]
        store.open_store().write(lambda db: db.execute("UPDATE batches SET at = at - 31 * 86400"))
        assert texts_of(answers(config(server), 1)) == good(1) and len(server.batches) == 2
    assert now().usd == pytest.approx(2 * COST), "the first may have been paid for"


HTTP = ("POST /files", "POST /batches", "GET /batches/*", "GET /files/*/content")


@pytest.mark.parametrize("kind", HTTP)
@pytest.mark.parametrize(
    "fault",
    [
        Fault(500),
        Fault(429, {"Retry-After": "0"}),
        Fault(200, body=b"[1]"),
        Fault(lost=True),
        Fault(after=1.2),
    ],
)
def test_http_that_fails_for_a_while_loses_nothing_and_buys_nothing_twice(
    kind: str, fault: Fault
) -> None:
    if kind.startswith("GET /files") and fault.status == 200:
        pytest.skip("that is a file as any other")
    with batch_server(takes=0.1) as server:
        server.faults[kind] = [fault, fault]
        assert texts_of(answers(config(server, timeout=1), 1, 2)) == good(1, 2)
        assert server.bought == {"1": 1, "2": 1} and len(server.batches) == 1


def test_an_endpoint_out_of_reach_stops_and_what_it_holds_is_found_again() -> None:
    with batch_server(takes=0.2) as server:
        server.faults["POST /batches"] = [Fault(lost=True)]
        server.faults["GET /batches"] = [Fault(500)] * 2
        with pytest.raises(
            CallError, match=r"out of reach \(HTTP 500: it said no, at the last of 2 attempts\)"
        ):
            answers(config(server, retries=1), 1, 2)
        assert texts_of(answers(config(server), 1, 2)) == good(1, 2)
        assert len(server.batches) == 1


def test_a_batch_whose_reply_was_lost_is_found_again_after_a_refusal() -> None:
    with batch_server(takes=0.2) as server:
        server.faults["POST /batches"] = [Fault(lost=True), Fault(401)]
        # It does not stand in the list yet.
        server.faults["GET /batches"] = [Fault(200, body=b'{"data": []}')]
        with pytest.raises(CallError, match="the key is not accepted"):
            answers(config(server), 1, 2)
        assert ended() == [None]
        assert texts_of(answers(config(server), 1, 2)) == good(1, 2)
        assert server.bought == {"1": 1, "2": 1} and len(server.batches) == 1


@pytest.mark.parametrize("kind", HTTP)
def test_a_key_that_is_not_accepted_stops_at_once(kind: str) -> None:
    with batch_server() as server:
        server.faults[kind] = [Fault(401)]
        with pytest.raises(CallError, match="the key is not accepted"):
            answers(config(server), 1, 2)
        assert server.asked(kind) == 1
        assert texts_of(answers(config(server), 1, 2)) == good(1, 2)
        assert set(server.bought.values()) == {1}


def test_an_endpoint_without_batches_says_so() -> None:
    with batch_server() as server, pytest.raises(CallError, match="has no batch interface"):
        server.faults["POST /files"] = [Fault(404)]
        answers(config(server), 1)
    assert claims() == 0


def test_a_batch_that_takes_too_long_goes_on_and_is_collected_later() -> None:
    with batch_server(takes=2) as server:
        with pytest.raises(
            CallError,
            match=r"tiny: batch_\d+ goes on at the provider after 0.2 s of waiting: run the same "
            r"again",
        ):
            answers(config(server, {"wait": 0.2}), 1, 2)
        (batch,) = journal.under_way(store.open_store())
        assert re.fullmatch(
            r"batch_\d+ of tiny@\S+ is under way for 0\.0 h: what asked for it collects it",
            str(batch),
        )
        assert texts_of(answers(config(server), 2, 3, 1)) == good(2, 3, 1)
        assert server.bought == {"1": 1, "2": 1, "3": 1} and len(server.batches) == 2


@BOTH
def test_one_by_one_nothing_is_asked_that_is_in_a_batch(capfd: pytest.CaptureFixture[str]) -> None:
    with batch_server(takes=3) as server:
        with pytest.raises(CallError):
            answers(config(server, {"wait": 0.01}), 1, 2)
        direct = config(server).model_copy(update={"batch": None})
        with pytest.raises(CallError, match="in a batch that is under way"):
            answers(direct, 0, 1, 2)
        assert "1" not in server.direct
        time.sleep(3)
        assert texts_of(answers(direct, 0, 1, 2)) == good(0, 1, 2), (
            "what ended is collected when the model is opened"
        )
        assert server.direct == {"0": 1} and server.bought == {"1": 1, "2": 1}


def test_a_download_that_is_redirected_elsewhere_goes_without_the_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    with batch_server() as server, batch_server() as other:
        other.files = server.files
        server.elsewhere = f"{other.url}/files/{{file}}/content?signature=s"
        assert texts_of(answers(config(server, key_env="OPENAI_API_KEY"), 1)) == good(1)
        assert {headers["authorization"] for _, headers in server.requests} == {f"Bearer {CANARY}"}
        assert other.requests and not any(
            "authorization" in headers for _, headers in other.requests
        )


def test_a_model_that_changes_in_the_middle_can_stop_a_stage() -> None:
    budget()
    other = json.dumps({**json.loads(completion("new")), "model": "tiny-2027"}).encode()
    with batch_server({"2": [Fate(body=other)]}) as server:
        with pytest.raises(
            CallError,
            match=r"it reported tiny-2026-01-01 fp_1 and tiny-2027 fp_1|it reported tiny-2027",
        ):
            answers(config(server, on_version_change="stop"), 1, 2)
        assert (
            texts_of(answers(config(server), 1, 2)) == ["answer to 1", "new"]
            and len(server.batches) == 1
        )


def test_what_leaves_in_a_batch_passes_the_egress_filter() -> None:
    with batch_server() as server:
        settings = config(server, egress={"on_found": "mask", "detect": ["email"]})
        assert texts_of(answers(settings, "write to a.b@example.com", "x")) == good(
            "write to a.b@example.com", "x"
        )
        assert not any(b"a.b@example.com" in content for content in server.files.values())
        assert server.bought == {"write to [EMAIL_1]": 1, "x": 1}


@pytest.mark.parametrize(
    "place",
    [
        "http://169.254.169.254/latest",
        "http://[fe80::1]/x",
        "file:///etc/passwd",
        "http://a:b@127.0.0.1/x",
        "http://[::1/x",
        "https://x%00y/",
    ],
)
def test_a_download_is_not_followed_to_where_no_file_is(place: str) -> None:
    with batch_server() as server:
        server.elsewhere = place
        with pytest.raises(CallError, match="redirects a download to"):
            answers(config(server), 1)
        server.elsewhere = f"{server.url}/files/{{file}}/content"
        before = server.asked("GET /files/*/content")
        with pytest.raises(CallError, match="redirects a download more than 5 times"):
            answers(config(server), 1)
        assert server.asked("GET /files/*/content") - before == 6
        server.elsewhere = None
        assert texts_of(answers(config(server), 1)) == good(1) and server.bought == {"1": 1}


def test_the_key_is_sent_and_seen_nowhere_else(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    caplog.set_level(logging.DEBUG)
    told = json.dumps({"error": {"message": f"Incorrect API key provided: {CANARY}"}}).encode()
    with batch_server({"poison": [Fate(400, told)]}, ends=["completed", "failed"]) as server:
        settings = config(server, key_env="OPENAI_API_KEY")
        found = answers(settings, "fine", "poison")
        errors = []
        server.faults = {
            "GET /batches/*": [Fault(500, body=told)],
            "POST /files": [Fault(), Fault(400, body=told), Fault(401, body=told)],
        }
        for _ in range(3):
            with pytest.raises(CallError) as raised:
                answers(settings, "next")
            errors.append(raised.value)
    assert found[1].failed == "HTTP 400: Incorrect API key provided: ***"
    seen = [
        *(face for error in errors for face in faces_of(error)),
        str(found),
        caplog.text,
        *capfd.readouterr(),
    ]
    assert not any(CANARY in text for text in seen)
    assert not any(
        CANARY.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()
    )
    rows = [
        store.open_store().read(lambda db, t=t: db.execute(f"SELECT * FROM {t}").fetchall())
        for t in ("batches", "calls")
    ]
    assert all(rows) and CANARY not in str(rows)
    assert not any(
        CANARY.encode() in content for name, content in server.files.items() if "in" in name
    )


CHILD = """\
import sys
from cowest.errors import CoWestError
from cowest.ledger import journal, store
from cowest.models.openai import OpenAIConfig
from tests.contract.test_batch import ask
settings = OpenAIConfig.model_validate_json(sys.argv[1])
with store.accounting("refine"), settings.open() as model:
    found = list(model.generate(ask(n) for n in range(int(sys.argv[2]))))
    print(*[c.text for c in found], sep="\\n")
"""


def child(
    settings: OpenAIConfig, calls: int, stderr: int = subprocess.PIPE
) -> subprocess.Popen[str]:
    """Another process that asks for so many answers."""
    surroundings = {**tiny.surroundings(), "COWEST_STORE": os.environ["COWEST_STORE"]}
    command = [sys.executable, "-c", CHILD, settings.model_dump_json(), str(calls)]
    return subprocess.Popen(
        command, env=surroundings, stdout=subprocess.PIPE, stderr=stderr, text=True
    )


def when(happened: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not happened() and time.monotonic() < until:
        time.sleep(0.005)
    assert happened()


MOMENTS: dict[str, tuple[str, Fault, int]] = {
    "before the upload": ("POST /files", Fault(before=0.3), 1),
    "the upload is there, its name not": ("POST /files", Fault(after=0.3), 1),
    "the batch will be there, its name not": ("POST /batches", Fault(before=0.3), 1),
    "the batch is there, its name not": ("POST /batches", Fault(after=0.3), 1),
    "it is under way": ("GET /batches/*", Fault(), 2),
    "it has ended": ("GET /files/*/content", Fault(after=0.3), 1),
    "half of it is collected": ("GET /files/*/content", Fault(after=0.3), 2),
}
"""When a process is killed: at which HTTP request, what then happens to that, and the how
many-th of its kind it is.
"""


@BOTH
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_any_moment_the_batch_is_found_again_and_nothing_bought_twice(
    moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On PostgreSQL a process without a session may be about to come back.
    monkeypatch.setattr(postgres, "AWAY", 0.0)
    kind, fault, number = MOMENTS[moment]
    budget(usd=1)
    calls = 8
    with batch_server({"0": [error(400)]}, takes=0.5) as server:
        settings = config(server, {"poll": 0.5, "requests": 1000})
        server.faults[kind] = [*[Fault()] * (number - 1), fault]
        killed = child(settings, calls)
        when(lambda: server.asked(kind) >= number)
        time.sleep(0.1)
        killed.kill()
        killed.communicate()
        found = answers(settings, *range(calls))
        assert texts_of(found)[1:] == good(*range(1, calls))
        assert set(server.bought.values()) == {1}, "a call was paid for twice"
        assert sum(made.rows != [] for made in server.batches.values()) <= 2
    assert (
        now().usd == pytest.approx((calls - 1 + (found[0].text is not None)) * COST)
        and claims() == 0
    )


@BOTH
def test_processes_that_ask_the_same_share_a_batch() -> None:
    with batch_server(takes=1.5) as server:
        server.faults["POST /batches"] = [Fault(before=1.5)]
        twins = [child(config(server), 12) for _ in range(3)]
        said = [twin.communicate(timeout=300)[0].splitlines() for twin in twins]
        assert said == [good(*range(12))] * 3
        assert server.bought == {str(n): 1 for n in range(12)}


@BOTH
@pytest.mark.parametrize("step", ["upload", "create"])
def test_a_batch_that_others_took_for_never_made_is_not_bought_a_second_time(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They do so where the process that makes it lost its session in the call store."""
    budget(usd=1)
    real, lost = getattr(BatchApi, step), []

    def made(api: BatchApi, *given: Any) -> str:
        done: str = real(api, *given)
        if not lost:
            (batch,) = journal.under_way(store.open_store())
            lost.append(batch)
            journal.Journal(store.open_store()).end(batch, journal.NEVER_MADE)
            assert claims() == 0
        return done

    monkeypatch.setattr(BatchApi, step, made)
    with batch_server(takes=0.1) as server:
        assert texts_of(answers(config(server, retries=0), 1, 2)) == good(1, 2)
        assert server.bought == {"1": 1, "2": 1} and len(server.batches) == 1
    assert ended() == {"upload": [journal.NEVER_MADE, "completed"], "create": ["completed"]}[step]
    assert now().usd == pytest.approx(2 * COST) and claims() == 0


def test_a_batch_that_others_collected_before_its_maker_noted_it_is_not_booked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    budget(usd=1)
    real = BatchApi.create
    with batch_server(takes=0.1) as server:

        def made(api: BatchApi, *given: Any) -> str:
            done = real(api, *given)
            assert texts_of(answers(config(server), 1, 2)) == good(1, 2)
            assert ended() == ["completed"] and claims() == 0
            return done

        monkeypatch.setattr(BatchApi, "create", made)
        assert texts_of(answers(config(server), 1, 2)) == good(1, 2)
        assert server.bought == {"1": 1, "2": 1} and len(server.batches) == 1
    assert ended() == ["completed"] and claims() == 0
    assert now().usd == pytest.approx(2 * COST)


def test_interrupted_it_leaves_the_batch_and_says_how_to_come_back() -> None:
    with batch_server(takes=2) as server:
        stopped = child(config(server), 4)
        when(lambda: server.asked("GET /batches/*") > 1)
        stopped.send_signal(signal.SIGINT)
        said = stopped.communicate(timeout=30)[1]
        assert (
            "tiny: batch_2 goes on at the provider: run the same again to wait on and collect"
            in said
        )
        assert "answered" not in said.partition("cowest:")[0], (
            "no progress where there is no terminal"
        )
        assert texts_of(answers(config(server), *range(4))) == good(*range(4))
        assert len(server.batches) == 1


def test_a_terminal_is_shown_how_a_batch_stands() -> None:
    ours, theirs = pty.openpty()
    with batch_server(takes=0.5) as server:
        asking = child(config(server), 4, stderr=theirs)
        assert asking.communicate(timeout=30)[0].splitlines() == good(*range(4))
    os.close(theirs)
    shown = os.read(ours, 2**16).decode()
    assert re.search(r"batch_\d+ in_progress: 0 of 4 answered, 0 failed, \d:\d\d", shown)
    assert re.search(r"completed: 4 of 4 answered, 0 failed, \d:\d\d\r\n$", shown)


def test_the_estimate_has_the_discount(capfd: pytest.CaptureFixture[str]) -> None:
    plain = OpenAIConfig(model="m", price=PRICE)
    batched = plain.model_copy(update={"batch": BatchConfig(discount=0.4)})
    for settings in (plain, batched):
        announce("refine", settings, lambda model: model.generate([ask(1)]))
    one, other = capfd.readouterr().err.splitlines()
    full = plain.cost(*plain.most(ask(1)))
    assert full and f"${full:,.4f}" in one and f"${full * 0.6:,.4f} in batches, 40% off" in other


def test_what_is_served_can_not_wait_for_a_batch() -> None:
    strong = {"provider": "openai", "model": "m", "batch": {}}
    section = {
        "registry": {"uri": "sqlite:///x.db", "name": "x"},
        "policy": {"provider": "hf", "model": "x"},
        "strong": strong,
    }
    with pytest.raises(ConfigError, match="strong: a question can't wait for a batch"):
        parse(ServeConfig, section, "serve")
    assert (
        parse(
            ServeConfig, {**section, "strong": {**strong, "batch": None}}, "serve"
        ).strong.provider
        == "openai"
    )
