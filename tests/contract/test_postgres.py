"""A call store on PostgreSQL when the server, its owner or its address is against it."""

import random
import selectors
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

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


def test_who_lost_its_session_lives_on_in_the_eyes_of_others(
    server: stores.Server, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it writes nothing: its call goes on."""
    monkeypatch.setattr(postgres, "BEAT", 0.5)
    kept, beside = CallStore(place), CallStore(place)
    with accounting("refine"):
        claims, other = Claims(kept), Claims(beside)
        kept.write(lambda db: claims.make(db, [ClaimRequest("a", 0.25, 1)]))
        time.sleep(1)
        monkeypatch.setattr(postgres, "AWAY", 1)
        holders = f"{postgres.HOLDING} AND objid = {claims.owner}"

        def holds() -> bool:
            return beside.fetch(holders) != []

        assert holds()
        server.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' "
            f"AND objid = {claims.owner}"
        )
        until = time.monotonic() + 3
        while time.monotonic() < until:
            refused = beside.write(lambda db: other.make(db, [ClaimRequest("a", 0.25, 1)]))
            assert refused == [Refused.TAKEN]
        assert holds(), "another session of it says that it lives"


def test_who_does_not_say_that_it_lives_is_gone_after_a_while(
    server: stores.Server, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = [0.0]

    class Clock:
        """Goes ahead as far as it is told to."""

        sleep = staticmethod(time.sleep)

        @staticmethod
        def monotonic() -> float:
            return time.monotonic() + later[0]

    monkeypatch.setattr(postgres, "time", Clock)
    kept = CallStore(place)

    def said(seconds: int) -> int:
        """The number of a process that last said so that long ago."""
        insert = f"INSERT INTO owners (at) VALUES (clock_timestamp() - interval '{seconds} s')"
        return int(kept.write(lambda db: db.execute(f"{insert} RETURNING id").fetchone()[0]))

    lately, before, long_ago = said(5), said(120), said(1200)
    everyone = {lately, before, long_ago}

    def living() -> set[int]:
        return kept.read(lambda db: kept.living(db, everyone))

    assert living() == {lately, before}, "the server may have been away until now"
    later[0] = postgres.AWAY
    assert living() == {lately}
    server.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OURS}")
    assert living() == {lately, before}


def test_who_ends_is_gone_at_once(place: str) -> None:
    kept, beside = CallStore(place), CallStore(place)
    owner = Claims(kept).owner
    assert beside.read(lambda db: beside.living(db, {owner})) == {owner}
    kept.close()
    # The server lets go of the lock when it sees the session end.
    until = time.monotonic() + postgres.AWAY / 2
    while beside.read(lambda db: beside.living(db, {owner})):
        assert time.monotonic() < until
        time.sleep(0.01)


def test_what_a_role_sets_for_its_sessions_does_not_break_the_store(
    server: stores.Server, place: str
) -> None:
    for setting in ("default_transaction_isolation = 'serializable'", "idle_session_timeout = 300"):
        server.sql(f"ALTER DATABASE {name(place)} SET {setting}")
    kept = CallStore(place)
    backend = kept.fetch("SELECT pg_backend_pid()")
    levels = [kept.fetch("SHOW transaction_isolation")]
    levels.append(kept.write(lambda db: db.execute("SHOW transaction_isolation").fetchall()))
    assert levels == [[("read committed",)]] * 2, "a writer sees what the one before wrote"
    time.sleep(1)
    assert kept.fetch("SELECT pg_backend_pid()") == backend, "who calls for a while is not cut off"


def test_the_tables_are_made_by_one_who_sees_those_of_others(
    server: stores.Server, place: str
) -> None:
    server.sql(f"ALTER DATABASE {name(place)} SET default_transaction_isolation = 'serializable'")
    with ThreadPoolExecutor(4) as pool:
        for kept in pool.map(CallStore, [place] * 4):
            assert kept.get(["a"]) == {}


def test_a_machine_that_is_gone_is_noticed_in_seconds(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psycopg

    made, connect = [], psycopg.connect

    def connected(**given: Any) -> Any:
        made.append(connect(**given))
        return made[-1]

    monkeypatch.setattr(psycopg, "connect", connected)
    kept = CallStore(place)
    (ours,) = {int(one.info.get_parameters()["tcp_user_timeout"]) for one in made}
    theirs = kept.fetch("SHOW tcp_user_timeout")
    # We come back before the server lets go of the lock that says that we live.
    assert theirs == [("25000",)] and ours + postgres.BEAT * 1000 < 25_000


def test_the_patience_with_a_server_begins_when_it_is_found_away(
    server: stores.Server, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = CallStore(place)
    monkeypatch.setattr(postgres, "PATIENCE", 0.5)
    tries: list[int] = []

    def slow(db: Db) -> None:
        tries.append(1)
        if len(tries) == 1:
            # As a host that is gone: nothing is heard of it for longer than that.
            time.sleep(0.7)
            server.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OURS}")
        kept.keep(db, [answer("a")])

    kept.write(slow)
    assert len(tries) == 2 and kept.get(["a"]).keys() == {"a"}


OURS = "application_name = 'cowest'"
"""Sessions of call stores."""


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


@pytest.mark.parametrize("steps", [1, 2, 5, 6])
def test_a_role_that_may_not_make_newer_tables_is_told_who_may(
    server: stores.Server, place: str, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """After 1 and 6 steps the next one adds a column, after 2 and 5 it makes a table."""
    guest = f"guest_{name(place)}"
    with monkeypatch.context() as older:
        older.setattr(schema, "POSTGRES", schema.POSTGRES[:steps])
        CallStore(place).put([answer("a")])
    server.sql(
        f"DROP ROLE IF EXISTS {guest}",
        f"CREATE ROLE {guest} LOGIN PASSWORD 'canary-guest'",
        f"GRANT USAGE ON SCHEMA cowest TO {guest}",
        grants := f"GRANT ALL ON ALL TABLES IN SCHEMA cowest TO {guest}",
        database=name(place),
    )
    url = server.url(name(place), guest, "canary-guest")
    with pytest.raises(StoreError, match=r"older CoWest.*role that made the store open") as refused:
        CallStore(url)
    secretless(refused.value)
    CallStore(place)
    server.sql(grants, database=name(place))
    assert CallStore(url).get(["a"]).keys() == {"a"}


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


def test_an_answer_waits_a_second_time_for_who_holds_the_store(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = CallStore(place)
    monkeypatch.setitem(postgres.SETTINGS, "lock_timeout", "1s")
    kept, holds = CallStore(place), threading.Event()

    def hold(db: Db) -> None:
        holds.set()
        db.execute("SELECT pg_sleep(1.5)")

    with ThreadPoolExecutor(1) as pool:
        holding = pool.submit(holder.write, hold)
        assert holds.wait(10)
        kept.put([answer("a")])
        holding.result()
    assert kept.get(["a"]).keys() == {"a"}


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
        time.sleep(4 if len(tries) == 1 else 0)

    with ThreadPoolExecutor(1) as pool:
        standing = pool.submit(still.write, stand)
        while not tries:
            time.sleep(0.01)
        other.put([answer("theirs")])
        assert time.monotonic() - tries[0] < 3.5, "it waited for nobody"
        standing.result(timeout=30)
    assert len(tries) == 2 and len(other.get(["mine", "theirs"])) == 2
