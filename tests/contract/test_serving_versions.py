"""A running service takes up what the registry decides, and drops or mixes no request."""

import asyncio
import threading
from collections.abc import AsyncGenerator
from typing import Any

from cowest.protocols import Completion, Request, Served
from tests.serving import POLICY, STRONG, Faulty, Running, asking, down, post, running


def version_of(server: Running) -> int:
    status, _, reply = post(server.port, asking())
    assert status == 200
    found: int = reply["cowest"]["version"]
    return found


def test_a_promotion_and_a_rollback_are_taken_up() -> None:
    with running(watch=0.1) as server:
        assert version_of(server) == 3
        server.shelf.number = 4
        server.wait(lambda: version_of(server) == 4)
        server.wait(lambda: server.shelf.open == [4])
        server.shelf.number = 5
        server.wait(lambda: version_of(server) == 5)
        assert {row.version for row in server.rows} == {3, 4, 5}
    assert server.shelf.open == []


def test_a_request_under_way_ends_on_the_version_that_it_began_with() -> None:
    goes_on = threading.Event()

    async def slow(request: Request, served: Served) -> AsyncGenerator[str | Completion, None]:
        async with STRONG.open_async() as model:
            async for piece in model.stream(request, served):
                yield piece
                if "slowly" in request.messages[-1].content:
                    while not goes_on.is_set():
                        await asyncio.sleep(0.01)

    found: dict[str, Any] = {}

    def ask() -> None:
        found["reply"] = post(server.port, asking("slowly, where is it made?", stream=True))

    with running(strong=Faulty(STRONG, "strong", slow), watch=0.1) as server:
        asker = threading.Thread(target=ask)
        asker.start()
        server.wait(lambda: server.service.admission.taken == 1)
        server.shelf.number = 4
        server.wait(lambda: version_of(server) == 4)
        assert sorted(server.shelf.open) == [3, 4]
        goes_on.set()
        asker.join(timeout=30)
        server.wait(lambda: server.shelf.open == [4])
    status, headers, pieces = found["reply"]
    assert status == 200 and pieces[-1] == "[DONE]"
    assert headers["x-cowest-version"] == "3"
    assert {piece["cowest"]["version"] for piece in pieces[:-1] if piece.get("cowest")} == {3}


def test_a_version_that_does_not_answer_is_refused_and_the_one_before_goes_on() -> None:
    with running(watch=0.1) as server:
        server.policies[4] = Faulty(POLICY, "broken", down)
        server.shelf.number = 4
        server.wait(lambda: server.service.desk.problem() is not None)
        problem = server.service.desk.problem() or ""
        assert "version 4 is not taken up" in problem and "connection refused" in problem
        assert server.service.desk.reason() is None
        assert version_of(server) == 3
        # The decision after it is not made to wait for the one that failed.
        server.shelf.number = 5
        server.wait(lambda: version_of(server) == 5)
        assert server.service.desk.problem() is None


def test_a_fault_of_ours_in_a_new_version_leaves_the_one_before() -> None:
    with running(watch=0.1) as server:
        server.policies[4] = None  # type: ignore[assignment]
        server.shelf.number = 4
        server.wait(lambda: server.service.desk.problem() is not None)
        assert version_of(server) == 3


def test_a_registry_that_is_gone_stops_no_answer() -> None:
    with running(watch=0.1) as server:
        server.shelf.gone = "the registry is out of reach"
        server.wait(lambda: server.service.desk.problem() == "the registry is out of reach")
        assert version_of(server) == 3
        server.shelf.gone = None
        server.shelf.number = 4
        server.wait(lambda: version_of(server) == 4)


def test_without_watching_the_first_version_stays() -> None:
    with running(watch=None) as server:
        server.shelf.number = 4
        server.shelf.gone = "nobody looks"
        assert version_of(server) == 3
        assert server.service.desk.problem() is None
