"""A call store on PostgreSQL when the server, its owner or its address is against it."""

import random
import selectors
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from cowest.commands import doctor
from cowest.errors import ConfigError, CoWestError, StoreError
from cowest.ledger import postgres, schema
from cowest.ledger.claims import (
    Budget,
    ClaimRequest,
    Claims,
    Refused,
    Released,
    Settled,
    open_turn,
    spent,
)
from cowest.ledger.database import Db
from cowest.ledger.store import CallStore, StoredAnswer, accounting
from cowest.protocols import Completion
from tests import stores


@pytest.fixture
def server() -> stores.Server:
    """The one of this process, up before and after."""
    return stores.server()


@pytest.fixture
def place(server: stores.Server) -> str:
    return server.database()


def answer(key: str) -> StoredAnswer:
    return StoredAnswer(key, Completion(f"answer to {key}", "m"), 0.1)


def name(place: str) -> str:
    return place.rpartition("/")[2]


def secretless(error: BaseException) -> str:
    """What an error says; neither it nor what it came from holds the password, in any form."""
    told: BaseException | None = error
    while told is not None:
        assert not any(
            word in f"{told} {told!r}" for word in (stores.PASSWORD, stores.QUOTED, "canary")
        )
        told = told.__cause__ or (None if told.__suppress_context__ else told.__context__)
    return str(error)


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_server_that_is_started_again_is_waited_for(
    mode: str, server: stores.Server, place: str
) -> None:
    kept = CallStore(place)
    with accounting("refine"):
        open_turn(kept, "t", Budget(usd=1))
        beside = CallStore(place)
        claims, other = Claims(kept), Claims(beside)
        kept.write(lambda db: claims.make(db, [ClaimRequest("a", 0.25, 1)]), durable=True)
        server.stop(mode)
        back = threading.Timer(0.5, server.start)
        back.start()
        assert kept.get(["a"]) == {}
        back.join()
        # Our session is lost with the server, and who asks before we are back must not take the
        # call for nobody's.
        refused = beside.write(lambda db: other.make(db, [ClaimRequest("a", 0.25, 1)]))
        assert refused == [Refused.TAKEN]
        kept.write(lambda db: claims.make(db, [Settled(answer("a"), 0.125, 1)]))
        assert spent(kept, "t").usd == 0.125
        assert kept.read(lambda db: kept.living(db, {claims.owner})) == {claims.owner}
    assert CallStore(place).get(["a"])["a"].text == "answer to a"


def test_nothing_is_lost_or_done_twice_while_sessions_are_cut_and_the_server_crashes(
    server: stores.Server, place: str
) -> None:
    """Answers and money of a writer, through twenty cuts at seeded moments."""
    kept, luck, calls = CallStore(place), random.Random(3), 300
    cut = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name(place)}'"

    def work() -> None:
        with accounting("refine"):
            open_turn(kept, "t", Budget())
            claims = Claims(kept)
            for number in range(calls):
                ask = ClaimRequest(str(number), 1.0, 1)
                kept.write(lambda db, ask=ask: claims.make(db, [ask]))
                move = (
                    Released(ask, 0.5, 1) if number % 3 == 0 else Settled(answer(ask.key), 0.25, 1)
                )
                kept.write(lambda db, move=move: claims.make(db, [move]))

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        for moment in range(20):
            time.sleep(luck.uniform(0, 0.1))
            if moment % 10 == 9:
                server.stop("immediate")
                server.start()
            else:
                server.sql(cut)
        working.result(timeout=60)
    now = spent(kept, "t")
    assert (now.tokens, now.usd) == (calls, pytest.approx(calls / 3 * 0.5 + calls * 2 / 3 * 0.25))
    assert len(kept.get([str(number) for number in range(calls)])) == calls * 2 // 3
    assert kept.fetch("SELECT COUNT(*) FROM claims") == [(0,)]


class Wire:
    """A port before the server's, on which the connection breaks when a client sends COMMIT:
    before the server has it, or after.
    """

    def __init__(self, port: int) -> None:
        self._server, self._listening = port, socket.create_server(("127.0.0.1", 0))
        self.port, self.breaks = self._listening.getsockname()[1], ""
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, server = (
                self._listening.accept()[0],
                socket.create_connection(("127.0.0.1", self._server)),
            )
            threading.Thread(target=self._carry, args=(client, server), daemon=True).start()

    def _carry(self, client: socket.socket, server: socket.socket) -> None:
        ends, ready = {client: server, server: client}, selectors.DefaultSelector()
        for end in ends:
            ready.register(end, selectors.EVENT_READ)
        while True:
            for end in (key.fileobj for key, _ in ready.select()):
                assert isinstance(end, socket.socket)
                content = end.recv(1 << 16)
                broken = self.breaks if end is client and b"COMMIT" in content else ""
                if not content or broken:
                    self.breaks = ""
                    if broken == "after":
                        server.sendall(content)
                        assert server.recv(1 << 16), "it was committed"
                    client.close(), server.close(), ready.close()
                    return
                ends[end].sendall(content)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_commit_whose_answer_is_lost_is_done_once(
    when: str, server: stores.Server, place: str
) -> None:
    wire = Wire(server.port)
    kept = CallStore(place.replace(str(server.port), str(wire.port)))
    tries: list[int] = []

    def release(db: Db) -> list[Refused | None]:
        tries.append(1)
        return claims.make(db, [Released(ClaimRequest("a", 0.25, 1), 0.5, 1)])

    with accounting("refine"):
        open_turn(kept, "t", Budget())
        claims = Claims(kept)
        wire.breaks = when
        kept.write(release)
    assert (len(tries), wire.breaks) == ({"before": 2, "after": 1}[when], "")
    assert spent(kept, "t").usd == 0.5
    assert kept.read(lambda db: kept.living(db, {claims.owner})) == {claims.owner}, (
        "the session in its place says that we live"
    )


def test_a_server_that_stays_away_is_one_clear_error(
    server: stores.Server, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = CallStore(place)
    monkeypatch.setattr(postgres, "PATIENCE", 0.5)
    server.stop()
    try:
        with pytest.raises(
            StoreError, match=r"calls_\d+ can't be written: .* is the server up"
        ) as away:
            kept.put([answer("a")])
        with pytest.raises(
            StoreError,
            match=rf"the call store postgresql://127.0.0.1:{server.port}/calls_\d+ can't be opened",
        ) as down:
            CallStore(place)
    finally:
        server.start()
    assert "\n" not in secretless(away.value) + secretless(down.value)
    kept.put([answer("a")])


def test_a_wrong_password_or_database_is_said_without_it(
    server: stores.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StoreError, match=r"authentication failed.* PGPASSWORD") as wrong:
        CallStore(server.url("postgres", word="canary-is-wrong"))
    secretless(wrong.value)
    with pytest.raises(
        StoreError, match=r'"nowhere" does not exist.* make the database'
    ) as nowhere:
        CallStore(server.url("nowhere"))
    secretless(nowhere.value)
    monkeypatch.setenv("PGPASSWORD", stores.PASSWORD)
    assert CallStore(f"postgresql://cowest@127.0.0.1:{server.port}/postgres").get(["a"]) == {}


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:can@ary@127.0.0.1/db",
        "postgresql://u:can/ary@127.0.0.1/db",
        "postgresql://u:12/34canary@127.0.0.1/db",
        "postgresql://u:%zzcanary@127.0.0.1/db",
        "postgresql://u:canary@127.0.0.1:port/db",
        "postgresql://u:canary@127.0.0.1/db?sslmod=canary",
    ],
)
def test_an_address_that_is_none_is_never_quoted(url: str) -> None:
    stores.absent("psycopg is not installed", lambda: __import__("psycopg"))
    with pytest.raises(ConfigError, match="no address that PostgreSQL understands") as wrong:
        CallStore(url)
    assert not any(word in secretless(wrong.value) for word in ("ary", "34"))


def test_a_role_that_may_not_is_told_what_it_needs(server: stores.Server, place: str) -> None:
    server.sql(
        f"DROP ROLE IF EXISTS guest_{name(place)}",
        f"CREATE ROLE guest_{name(place)} LOGIN PASSWORD 'canary-guest'",
    )
    guest = server.url(name(place), f"guest_{name(place)}", "canary-guest")
    with pytest.raises(StoreError, match=r"permission denied.* CREATE on the database") as first:
        CallStore(guest)
    secretless(first.value)
    CallStore(place).put([answer("a")])
    with pytest.raises(StoreError, match=r"permission denied.* GRANT USAGE ON SCHEMA cowest"):
        CallStore(guest).get(["a"])
    grants = (
        f"GRANT USAGE ON SCHEMA cowest TO guest_{name(place)}",
        f"GRANT ALL ON ALL TABLES IN SCHEMA cowest TO guest_{name(place)}",
    )
    server.sql(*grants, database=name(place))
    kept = CallStore(guest)
    beside = CallStore(place)
    claims, other = Claims(kept), Claims(beside)
    request = ClaimRequest("b", 1.0, 1)
    assert kept.get(["a"]) and kept.write(lambda db: claims.make(db, [request])) == [None]
    assert kept.read(lambda db: kept.living(db, {other.owner})) == {other.owner}
    assert beside.read(lambda db: beside.living(db, {claims.owner})) == {claims.owner}


def test_an_older_store_keeps_its_answers(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as older:
        older.setattr(schema, "POSTGRES", schema.POSTGRES[:1])
        CallStore(place).put([answer("a")])
    with accounting("refine") as account:
        kept = CallStore(place)
        kept.put([answer("b")])
        account.hedged = 3
        kept.close_account(account, 1.0)
    assert CallStore(place).get(["a", "b"]).keys() == {"a", "b"}
    assert [row.hedged for row in kept.ledger()] == [3]


def test_a_newer_store_is_left_alone(server: stores.Server, place: str) -> None:
    CallStore(place)
    server.sql("UPDATE cowest.store SET version = 99", database=name(place))
    with pytest.raises(StoreError, match="newer CoWest"):
        CallStore(place)


def test_a_full_disk_is_one_clear_error_and_keeps_what_was_there(
    server: stores.Server, place: str
) -> None:
    kept = CallStore(place)
    kept.put([answer("a")])
    full = (
        "BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE "
        "= '53100'; END"
    )
    server.sql(
        f"CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $${full}$$",
        "CREATE TRIGGER full_disk BEFORE INSERT ON cowest.calls EXECUTE FUNCTION full_disk()",
        database=name(place),
    )
    with pytest.raises(
        StoreError,
        match=r"can't be written: could not extend file.*; what was answered before is kept: make "
        r"room",
    ):
        kept.put([answer("b")])
    server.sql("DROP TRIGGER full_disk ON cowest.calls", database=name(place))
    kept.put([answer("b")])
    assert kept.get(["a", "b"]).keys() == {"a", "b"}


def test_an_answer_is_durable_whatever_the_server_takes_for_its_default(
    server: stores.Server, place: str
) -> None:
    server.sql(f"ALTER DATABASE {name(place)} SET synchronous_commit = off")
    kept, commits = CallStore(place), "SHOW synchronous_commit"
    assert kept.write(lambda db: db.execute(commits).fetchone()[0], durable=True) == "on"
    assert kept.write(lambda db: db.execute(commits).fetchone()[0], durable=False) == "off"
    assert kept.write(lambda db: db.execute(commits).fetchone()[0], durable=True) == "on"


def test_who_holds_the_store_too_long_is_said(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    holder = CallStore(place)
    monkeypatch.setitem(postgres.SETTINGS, "lock_timeout", "200ms")
    kept = CallStore(place)

    def hold(_: object) -> None:
        with pytest.raises(StoreError, match="another process has held it"):
            kept.put([answer("a")])

    holder.write(hold)
    kept.put([answer("a")])


def test_the_doctor_shows_the_store_without_its_password(
    place: str, server: stores.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COWEST_STORE", place)
    found = doctor.call_store()
    assert found.fit and "canary" not in str(found)
    assert found.found == f"postgresql://127.0.0.1:{server.port}/{name(place)}"
    monkeypatch.setenv("COWEST_STORE", server.url("nowhere"))
    missing = doctor.call_store()
    assert (
        missing.fit is False
        and "canary" not in str(missing)
        and "make the database" in missing.found
    )


def test_no_dump_of_the_database_holds_the_password(server: stores.Server, place: str) -> None:
    kept = CallStore(place)
    with accounting("refine"):
        kept.put([answer("a")])
        Claims(kept)
    tables = server.sql(
        "SELECT tablename FROM pg_tables WHERE schemaname = 'cowest'", database=name(place)
    )
    assert len(tables) >= 7
    for (table,) in tables:
        assert "canary" not in str(
            server.sql(f"SELECT * FROM cowest.{table}", database=name(place))
        )
    with pytest.raises(CoWestError):
        CallStore("postgresql://canary:canary@127.0.0.1:1/canary")


def test_a_process_that_stands_still_in_a_transaction_holds_up_nobody_for_long(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server ends its session; when it goes on, it finds that and does its work again."""
    monkeypatch.setitem(postgres.SETTINGS, "idle_in_transaction_session_timeout", "300ms")
    still, other, tries = CallStore(place), CallStore(place), []

    def stand(db: Db) -> None:
        tries.append(time.monotonic())
        still.keep(db, [answer("mine")])
        db.execute(
            "SELECT 1"
        )  # after a pipeline (`executemany`) alone the server's clock does not run
        time.sleep(4 if len(tries) == 1 else 0)

    with ThreadPoolExecutor(1) as pool:
        standing = pool.submit(still.write, stand)
        while not tries:
            time.sleep(0.01)
        other.put([answer("theirs")])
        assert time.monotonic() - tries[0] < 3.5, "it waited for nobody"
        standing.result(timeout=30)
    assert len(tries) == 2 and len(other.get(["mine", "theirs"])) == 2
