"""A running service over a real registry: decisions are taken up under load, and a registry that
goes away stops no answer.
"""

import asyncio
import shutil
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cowest import collaboration, version
from cowest.models.scripted import ScriptedConfig
from cowest.online import live
from cowest.online.breaker import Breaker
from cowest.online.live import ServeConfig
from cowest.online.shelf import RegistryShelf
from cowest.online.upstream import Upstream
from cowest.protocols import Completion, Request, Served
from cowest.records import Query, Refinement
from cowest.registry.mlflow import RegistryConfig
from tests import champions, tiny
from tests.deciders import mlflow_server
from tests.factories import make_query
from tests.registries import empty_registry
from tests.servers import free_port
from tests.serving import Faulty, Running, asking, post, running

pytestmark = [pytest.mark.slow, pytest.mark.minutes]

PATIENCE = 120.0
"""Seconds that a busy machine is given; the setting `watch` is half a second here."""
THINGS = ("lamp", "fan", "pump", "heater", "blender", "kettle", "clock", "radio")


@pytest.fixture(autouse=True)
def own_environment(own_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The shelf sets it. What it was is set again afterwards.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "7")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES")


class HeldShelf(RegistryShelf):
    """The versions of a registry, with a strong model that stops in the midst of its answers."""

    def __init__(self, config: ServeConfig) -> None:
        super().__init__(config)
        assert isinstance(config.strong, ScriptedConfig)
        self.model = Faulty(config.strong, "strong", self._slow)
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.begun = 0
        """Answers that stopped after their first piece."""

    async def _slow(
        self, request: Request, served: Served
    ) -> AsyncGenerator[str | Completion, None]:
        holds = not self.goes_on.is_set() and "slowly" in request.messages[-1].content
        async with self.model.script.open_async() as model:
            async for piece in model.stream(request, served):
                yield piece
                if holds:
                    holds = False
                    self.begun += 1
                    while not self.goes_on.is_set():
                        await asyncio.sleep(0.01)

    @asynccontextmanager
    async def strong(self) -> AsyncIterator[Upstream]:
        breaker = Breaker(self.config.breaker, "the strong model")
        yield Upstream(self.model, breaker, self.config.deadline)


def answered(server: Running, text: str = "Are you there?", **more: Any) -> dict[str, Any]:
    status, _, reply = post(server.port, asking(text, **more))
    assert status == 200, reply
    found: dict[str, Any] = reply
    return found


def answers_by(server: Running, number: int) -> bool:
    """True once a new request is answered by this version."""
    return version_of(server) == number


def version_of(server: Running) -> int:
    found: int = answered(server)["cowest"]["version"]
    return found


def text_of(reply: dict[str, Any]) -> str:
    found: str = reply["choices"][0]["message"]["content"]
    return found


def test_streams_under_way_end_on_their_version_through_a_promotion_and_a_rollback(
    tmp_path: Path,
) -> None:
    config = champions.make_project(tmp_path)
    questions = [f"slowly, where is the {name} made?" for name in THINGS]
    shelf = HeldShelf(config)
    with running(config=config, shelf=shelf) as server, ThreadPoolExecutor(8) as pool:
        expected = [[text_of(answered(server, one)) for one in questions]]
        assert len(set(expected[0])) == len(THINGS)
        for decide, before, after in (
            (champions.promote, 1, 2),
            (champions.roll_back, 2, 3),
        ):
            shelf.goes_on.clear()
            shelf.begun = 0
            streams = []
            for one in questions:
                streams.append(pool.submit(post, server.port, asking(one, stream=True)))
            server.wait(lambda: shelf.begun == 8, PATIENCE)
            assert decide(tmp_path) == after
            server.wait(partial(answers_by, server, after), PATIENCE)
            assert not any(stream.done() for stream in streams)
            shelf.goes_on.set()
            for stream, text in zip(streams, expected[-1], strict=True):
                status, headers, pieces = stream.result(timeout=PATIENCE)
                assert (status, headers["x-cowest-version"]) == (200, str(before))
                *chunks, end = pieces
                assert end == "[DONE]" and {"cowest"} == {one["model"] for one in chunks}
                assert {one["system_fingerprint"] for one in chunks} == {f"version-{before}"}
                said = [one["choices"][0]["delta"].get("content") or "" for one in chunks]
                assert "".join(said) == text
            expected.append([text_of(answered(server, one)) for one in questions])
    assert expected[0] == expected[2], "the rolled back version is the first one's files"
    assert all(one != other for one, other in zip(expected[0], expected[1], strict=True))


@pytest.mark.parametrize("kind", ["moved away and back", "replaced", "server"])
def test_a_registry_that_is_gone_is_said_and_found_again(kind: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        place = stack.enter_context(ExitStack())
        port = free_port()
        registry = None
        if kind == "server":
            empty_registry(tmp_path)
            uri = place.enter_context(mlflow_server(tmp_path, port))
            registry = RegistryConfig(uri=uri, name="handbook")
        config = champions.make_project(tmp_path, registry)
        server = stack.enter_context(running(config=config, shelf=RegistryShelf(config)))
        service = server.service
        before = text_of(answered(server, "Where?"))
        assert service.detail() is None
        database, away = tmp_path / "mlflow.db", tmp_path / "away.db"
        if kind == "server":
            place.close()
        else:
            database.rename(away)
        server.wait(lambda: service.detail() is not None, PATIENCE)
        assert "registry" in (service.detail() or "")
        assert service.unready() is None and text_of(answered(server, "Where?")) == before
        assert not database.exists() or kind == "server", "it makes no empty registry"
        if kind == "server":
            stack.enter_context(mlflow_server(tmp_path, port))
        elif kind == "replaced":
            shutil.copy(away, database)
        else:
            away.rename(database)
        server.wait(lambda: service.detail() is None, PATIENCE)
        assert champions.promote(tmp_path) == 2
        server.wait(lambda: version_of(server) == 2, PATIENCE)
        assert text_of(answered(server, "Where?")) != before


def judged(config: ServeConfig, queries: list[Query], folder: Path) -> list[Refinement]:
    """The rows of the pipeline: all drafts, then all answers, as its stages make them."""
    live.fetch(config, folder)
    prompts = version.expect(folder).prompts
    with config.policy.open(adapter=folder / "adapter") as policy:
        drafts = list(collaboration.draft(queries, policy, prompts, config.drafting))
    with config.strong.open() as strong:
        groups = collaboration.by_query(drafts)
        return list(collaboration.refine(groups, strong, prompts, config.refining))


def test_two_local_models_answer_as_the_pipeline_did_alone_and_among_sixteen(
    tmp_path: Path,
) -> None:
    """Greedy, in float32: byte for byte, whole and streamed."""
    strong = {"provider": "hf", "model": str(tiny.model()), "dtype": "float32"}
    config = champions.make_project(tmp_path, strong=strong, refining={"max_tokens": 20})
    queries = [make_query(number) for number in range(16)]
    expected = []
    for row in judged(config, queries, tmp_path / "judged"):
        assert row.draft is not None and row.refinement is not None
        expected.append((row.draft.encode(), row.refinement.encode()))
    assert len(set(expected)) == 16

    def ask(number: int, stream: bool) -> tuple[bytes, bytes]:
        asked = asking(queries[number].prompt[-1].content, stream=stream)
        status, _, reply = post(server.port, asked)
        assert status == 200
        if not stream:
            return reply["cowest"]["draft"].encode(), text_of(reply).encode()
        said = [one["choices"][0]["delta"].get("content") or "" for one in reply[:-1]]
        return reply[-2]["cowest"]["draft"].encode(), "".join(said).encode()

    with running(config=config, shelf=RegistryShelf(config)) as server:
        alone = [ask(number, stream=number % 2 == 0) for number in range(16)]
        with ThreadPoolExecutor(16) as pool:
            together = list(pool.map(ask, range(16), [number % 2 == 1 for number in range(16)]))
    assert alone == expected
    assert together == expected
