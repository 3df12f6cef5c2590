"""A vLLM server as policy: it loads an adapter by its digest's name, and lets it go after.

The server here is tests/servers.py, in vLLM's words; vLLM's own is asked by `make test-vllm`.
"""

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from cowest.config import file_digest, parse
from cowest.errors import CallError, ConfigError, ModelError
from cowest.ledger import store
from cowest.models.hf import HFConfig
from cowest.models.openai import OpenAIConfig
from cowest.net.client import Client, Reply
from tests import endpoints, tiny
from tests.endpoints import answers, ask, parts, whole
from tests.servers import chat_server

pytestmark = pytest.mark.usefixtures("own_store")


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return tiny.make_adapter(tmp_path / "adapter")


def config(server: Any, **settings: Any) -> OpenAIConfig:
    return endpoints.config(server, adapters_of=HFConfig(model=str(tiny.model())), **settings)


def test_it_is_loaded_by_its_digest_and_gone_after(adapter: Path) -> None:
    with chat_server() as server:
        server.adapters = {}
        name = f"tiny+{file_digest(adapter)[:12]}"
        with config(server).open(adapter=adapter) as model:
            assert server.adapters == {name: str(adapter)}
            list(model.generate([ask("one"), ask("two")]))
            plain = answers(config(server), "one")
        assert server.adapters == {}
    assert [body["model"] for body in server.bodies] == [name, name, "tiny"]
    assert plain[0].model != model.name and model.name.startswith(f"{name}@127.0.0.1")


def test_it_is_gone_after_an_error_too(adapter: Path) -> None:
    with chat_server() as server:
        server.adapters = {}
        with pytest.raises(ZeroDivisionError), config(server).open(adapter=adapter):
            raise ZeroDivisionError
        assert server.adapters == {}


def test_one_that_somebody_else_loaded_stays(adapter: Path) -> None:
    with chat_server() as server:
        server.adapters = {f"tiny+{file_digest(adapter)[:12]}": "elsewhere"}
        with config(server).open(adapter=adapter) as model:
            assert next(iter(model.generate([ask("one")]))).text == "answer to one"
        assert list(server.adapters.values()) == ["elsewhere"]


def test_two_shards_that_share_it_both_draft_to_their_end(adapter: Path) -> None:
    """An adapter that its loader unloads while another drafts is loaded again for that one."""
    with chat_server() as server:
        server.adapters = {}
        settings = config(server, concurrency=4)
        with contextlib.ExitStack() as first:
            first.enter_context(settings.open(adapter=adapter))
            with settings.open(adapter=adapter) as second:
                first.close()
                assert server.adapters == {}
                late = list(second.generate([ask(f"late {n}") for n in range(20)]))
                assert server.adapters
        assert server.adapters == {}, "who has it loaded last lets it go"
    assert [one.text for one in late] == [f"answer to late {n}" for n in range(20)]


def test_a_server_that_never_keeps_it_ends_the_stage(adapter: Path) -> None:
    with chat_server() as server:
        server.adapters, server.forgets = {}, True
        with (
            pytest.raises(CallError, match="no such model"),
            config(server).open(adapter=adapter) as model,
        ):
            list(model.generate([ask("one")]))
        assert server.calls == 1 + 3


def test_a_call_holds_nothing_once_its_adapter_is_loaded_no_more(adapter: Path) -> None:
    with chat_server() as server:
        server.adapters = {}
        with config(server).open(adapter=adapter) as model:
            server.adapters.clear()
            (adapter / "adapter_config.json").unlink()
            with pytest.raises(ModelError, match="does not load"):
                list(model.generate([ask("one")]))
            # This process goes on, and others would wait for a call that nobody makes.
            assert endpoints.claims() == 0


def test_a_call_that_breaks_off_in_whatever_way_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def lost(*_: object) -> Reply:
        raise MemoryError

    monkeypatch.setattr(Client, "post", lost)
    with (
        chat_server() as server,
        pytest.raises(MemoryError),
        endpoints.config(server).open() as model,
    ):
        list(model.generate([ask("one")]))
    # The process goes on, and so does its number.
    assert store.open_store().fetch("SELECT owner FROM claims") == [(0,)]


def test_people_who_wait_have_it_loaded_again(adapter: Path) -> None:
    with chat_server() as server:
        server.adapters = {}

        async def served() -> list[str]:
            found = []
            async with config(server).open_async(adapter=adapter) as model:
                for text in ("one", "two"):
                    found.append(str(whole(await parts(model, ask(text))).text))
                    assert server.adapters is not None
                    server.adapters.clear()
            return found

        assert asyncio.run(served()) == ["answer to one", "answer to two"]


def test_people_who_wait_are_answered_with_it(adapter: Path) -> None:
    with chat_server() as server:
        server.adapters = {}

        async def served() -> str:
            async with config(server).open_async(adapter=adapter) as model:
                assert server.adapters
                return str(whole(await parts(model, ask("one"))).text)

        assert asyncio.run(served()) == "answer to one"
        assert server.adapters == {} and server.bodies[0]["model"].startswith("tiny+")


def test_what_a_server_refuses_is_said_with_what_to_do(
    adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVER_KEY", "sk-0123456789abcdef")
    with chat_server() as server:
        settings = config(server, key_env="SERVER_KEY")
        with (
            pytest.raises(ModelError, match=r"HTTP 404.*--enable-lora and VLLM_ALLOW_RUNTIME"),
            settings.open(adapter=adapter),
        ):
            pass
        assert server.headers[-1]["authorization"] == "Bearer sk-0123456789abcdef"
        server.adapters = {}
        shape = json.loads((adapter / "adapter_config.json").read_text())
        large = tiny.make_adapter(adapter.parent / "large", rank=8)
        with (
            pytest.raises(ModelError, match=r"LoRA rank 8 is greater.*on the base that the server"),
            settings.open(adapter=large),
        ):
            pass
        assert shape["r"] == 4 and server.adapters == {} and not server.bodies
    with pytest.raises(CallError, match="out of reach"), settings.open(adapter=adapter):
        pass


def test_a_server_that_keeps_it_is_said_and_stops_nobody(
    adapter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with chat_server() as server:
        server.adapters, server.unloads = {}, False
        with config(server).open(adapter=adapter):
            pass
    assert "still holds the adapter tiny+" in capsys.readouterr().err


def test_a_batch_would_outlive_it() -> None:
    base = {"provider": "hf", "model": str(tiny.model())}
    with pytest.raises(ConfigError, match="adapters_of and batch"):
        parse(OpenAIConfig, {"model": "m", "adapters_of": base, "batch": {}}, "params.yaml: draft")
