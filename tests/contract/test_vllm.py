"""The vLLM provider: its process, its messages, and what it does with those that can't be right.

The worker is real, and so is the process; the engine in it is tests/fake_vllm.py. What vLLM itself
answers is tests/contract/test_real_vllm.py (`make test-vllm`).
"""

import ast
import io
import json
import os
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cowest.agreement import AgreementConfig, judged_side
from cowest.config import Sampling, parse
from cowest.domains.handbook import PROMPTS
from cowest.errors import ConfigError, ModelError
from cowest.ledger import store
from cowest.lineage import local_models
from cowest.models import vllm_worker
from cowest.models.answer_config import AnswerConfig
from cowest.models.hf import HFConfig
from cowest.models.vllm import VLLMConfig, VLLMModel
from cowest.models.vllm_process import surroundings
from cowest.protocols import BLOCK, Request
from cowest.registry import mlmodel
from tests import fake_vllm, tiny
from tests.factories import GREEDY, ask, make_query

WARM = Sampling(temperature=1.0, max_tokens=10, n=4)
Make = Callable[..., VLLMConfig]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    monkeypatch.setenv("COWEST_STORE", str(tmp_path / "calls.sqlite"))

    def config(mode: str = "good", **settings: object) -> VLLMConfig:
        python = fake_vllm.interpreter(tmp_path / "fake", mode)
        return VLLMConfig(model=str(tiny.model()), python=python, **settings)

    return config


def asked(tmp_path: Path) -> list[dict[str, object]]:
    """The requests that engines were given."""
    return [line["request"] for line in fake_vllm.log(tmp_path / "fake") if "request" in line]


def is_alive(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def framed(message: object) -> str:
    """The frame of a message, in hexadecimal, as the mode `raw` takes it."""
    content = json.dumps(message).encode()
    return (struct.pack(">I", len(content)) + content).hex()


def test_the_engine_is_given_token_ids_and_seeds_and_what_is_missing_alone(
    make: Make, tmp_path: Path
) -> None:
    requests = [ask(text, WARM, sample) for text in ("one", "two") for sample in range(4)]
    config = make()
    with config.open() as model:
        first = list(model.generate(requests[:3]))
        whole = list(model.generate(requests))
    assert whole[:3] == first and len({found.text for found in whole}) == 8
    given = asked(tmp_path)
    assert len(given) == 8, "what the store has is not asked again"
    assert [len(set(map(str, column))) for column in zip(*map(_shape, given), strict=True)] == [
        2,  # prompts
        8,  # seeds
        1,  # ends
    ]
    with HFConfig(model=str(tiny.model())).open() as reference:
        assert given[0]["prompt"] == reference.tokens(requests[0])
        assert set(_ints(given[0]["ends"])) == set(reference.chat.ends)
    assert [one["seed"] for one in given] == [
        int(request.key(model.name)[:15], 16) for request in requests
    ]


def _shape(request: dict[str, object]) -> tuple[object, object, object]:
    return request["prompt"], request["seed"], request["ends"]


def _ints(found: object) -> list[int]:
    assert isinstance(found, list)
    return found


def test_a_sample_asked_alone_is_the_same(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [ask("one", WARM, sample) for sample in range(4)]
    with make().open() as model:
        together = list(model.generate(requests))
    monkeypatch.setenv("COWEST_STORE", str(tmp_path / "another"))
    with make().open() as model:
        assert next(iter(model.generate(requests[2:3]))) == together[2]


def test_it_ends_before_a_stop_text_and_counts_as_the_local_model_does(make: Make) -> None:
    long = Sampling(max_tokens=40)
    with make().open() as model:
        (whole,) = model.generate([ask("one", long)])
        assert whole.text
        stop = whole.text[len(whole.text) // 2 : len(whole.text) // 2 + 2]
        (found,) = model.generate([ask("one", long.model_copy(update={"stop": (stop,)}))])
    assert found.text == whole.text[: whole.text.index(stop)].strip()
    assert found.finish == "stop" and found.completion_tokens < whole.completion_tokens
    # The fake engine gives each token, and the one that ended it, the same log-probability.
    tokens = whole.completion_tokens + (whole.finish == "stop")
    assert whole.logprob == pytest.approx(-0.25 * tokens)


def test_its_name_is_the_bases_with_the_adapter_and_who_decodes(make: Make, tmp_path: Path) -> None:
    """Settings of the engine are no part of it, and reach the worker."""
    adapter = tiny.make_adapter(tmp_path / "adapter")
    local = HFConfig(model=str(tiny.model()))
    handed = {"context": 256, "rows": 7, "gpu_memory": 0.5, "tensor_parallel": 2, "eager": True}
    with make(**handed, cache=1.5).open() as plain, make().open(adapter=adapter) as adapted:
        assert plain.name == local.base_name(local.folder()) + "~vllm"
        assert adapted.name != plain.name and adapted.name.endswith("~vllm")
        (first,), (second,) = plain.generate([ask("one")]), adapted.generate([ask("one")])
    with local.open(adapter=adapter) as same:
        assert adapted.name == f"{same.name}~vllm"
    assert first.text != second.text
    loaded = [line["settings"] for line in fake_vllm.log(tmp_path / "fake") if "pid" in line]
    assert [one["adapter"] for one in loaded] == [None, {"path": str(adapter), "rank": 4}]
    assert {name: loaded[0][name] for name in handed} == handed
    assert loaded[0]["cache"] == 3 * 2**29, "in bytes"
    unset = (None, 256, 0.9, 1, False, None)
    assert tuple(loaded[1][name] for name in (*handed, "cache")) == unset


def test_calls_of_a_template_that_asks_the_date_have_a_name_of_their_own(make: Make) -> None:
    with make(chat_template="{{ strftime_now('%Y') }}" + tiny.CHATML).open() as model:
        assert model.name.endswith("~vllm~3")


def test_the_engine_is_given_the_settings_by_vllms_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of vLLM stand names of it that keep what they are given."""
    kept: dict[str, Any] = {}
    engine = SimpleNamespace(
        __version__="0",
        SamplingParams=None,
        EngineArgs=kept.update,
        LLMEngine=SimpleNamespace(from_engine_args=id),
        exceptions=SimpleNamespace(VLLMClientError=ValueError),
    )
    requests = SimpleNamespace(LoRARequest=None)
    params = SimpleNamespace(RequestOutputKind=SimpleNamespace(FINAL_ONLY=None))
    for name, module in (("", engine), (".lora.request", requests), (".sampling_params", params)):
        monkeypatch.setitem(sys.modules, f"vllm{name}", module)
    shape = {"model": "/m", "dtype": "float32", "context": 64, "rows": 7, "gpu_memory": 0.5}
    more = {"cache": 2**30, "tensor_parallel": 2, "eager": True, "adapter": None}
    vllm_worker.VLLMEngine(shape | more)
    names = ["model", "dtype", "max_model_len", "max_num_seqs", "gpu_memory_utilization"]
    names += ["kv_cache_memory_bytes", "tensor_parallel_size", "enforce_eager"]
    assert [kept[name] for name in names] == ["/m", "float32", 64, 7, 0.5, 2**30, 2, True]
    assert kept["enable_prefix_caching"] and not kept["trust_remote_code"]


def test_a_worker_that_dies_leaves_what_was_answered(make: Make, tmp_path: Path) -> None:
    requests = [ask(f"What is {number}?") for number in range(40)]
    with make("dies").open() as model:
        with pytest.raises(
            ModelError, match=r"ended in the middle \(exit code 3.*out of luck"
        ) as said:
            list(model.generate(requests))
        assert "what was answered before is kept" in str(said.value)
    kept = store.open_store().get([request.key(model.name) for request in requests])
    assert len(kept) >= 5
    before = len(asked(tmp_path))
    with make().open() as model:
        found = list(model.generate(requests))
    assert len(found) == 40 and all(one.text is not None for one in found)
    assert len(asked(tmp_path)) - before == 40 - len(kept), "and is not asked again"


def test_answers_of_a_worker_that_died_before_the_next_requests_are_kept(make: Make) -> None:
    requests = [ask(f"What is {number}?") for number in range(BLOCK + 10)]

    def slowly(model: VLLMModel) -> Iterator[Request]:
        yield from requests[:BLOCK]
        # The pipe to it is broken now, and five answers lie unread in the one from it.
        assert model.worker.ended(300)
        yield from requests[BLOCK:]

    with make("dies").open() as model:
        with pytest.raises(ModelError, match=r"ended in the middle \(exit code 3.*out of luck"):
            list(model.generate(slowly(model)))
        kept = store.open_store().get([request.key(model.name) for request in requests])
    assert len(kept) >= 5


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("refuses", "can't go on with this model.*no kernel for this quantisation"),
        ("kills itself", "killed by signal 9, as a machine does that runs out of memory"),
        ("sleeps", "said nothing in 0.5 s: raise timeout"),
        ("raw 00 and gone", r"ended in the middle \(exit code 0"),
    ],
)
def test_a_model_that_does_not_load_is_said_in_a_word(make: Make, mode: str, said: str) -> None:
    config = make(mode, timeout=0.5) if mode == "sleeps" else make(mode, timeout=30)
    with pytest.raises(ModelError, match=said), config.open() as model:
        list(model.generate([ask("one")]))


GOOD = {"id": 1, "tokens": [5, 6], "logprobs": [-0.5, -0.5]}


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ("ffffffff", "a message of 4,294,967,295 bytes"),
        ("00000002" + b"[]".hex(), "a message that is no object"),
        ("00000003" + b"{]}".hex(), "3 bytes that are not JSON"),
        (framed({"told": []}), "no answer"),
        (framed({"said": [GOOD]}), "no answer"),
        (framed({"told": [GOOD], "more": 1}), "no answer"),
        (framed({"told": [{**GOOD, "id": 2}]}), "a call 2 that nobody made"),
        (framed({"told": [GOOD, GOOD]}), "no answer|nobody made"),
        (framed({"told": [{**GOOD, "tokens": ["5", 6]}]}), "no answer"),
        (framed({"told": [{**GOOD, "tokens": [-5, 6]}]}), "no token id"),
        (framed({"told": [{**GOOD, "logprobs": [float("nan"), -1.0]}]}), "no answer"),
        (framed({"told": [{**GOOD, "logprobs": [3.0, -1.0]}]}), "the logarithm of more than 1"),
        (framed({"told": [{**GOOD, "logprobs": [-1.0]}]}), "2 tokens and 1 log-probabilities"),
        (framed({"told": [{"id": 1}]}), "0 tokens and 0 log-probabilities"),
        (framed({"told": [{"id": 1, "tokens": [5] * 11, "logprobs": [-1.0] * 11}]}), "11 tokens"),
    ],
)  # fmt: skip
def test_answers_that_can_not_be_are_refused(make: Make, sent: str, said: str) -> None:
    with (
        make(f"raw {sent}", timeout=30).open() as model,
        pytest.raises(ModelError, match=f"the worker of .* sent .*({said})"),
    ):
        list(model.generate([ask("one")]))
    assert not store.open_store().get([ask("one").key(model.name)])


def test_silence_ends_a_stage(make: Make) -> None:
    # A busy machine may need longer to start it, which is silence as well.
    with (
        pytest.raises(ModelError, match="said nothing in 3 s"),
        make("hangs", timeout=3.0).open() as model,
    ):
        list(model.generate([ask("one")]))


def test_a_request_that_the_engine_does_not_take_fails_alone(make: Make) -> None:
    with make("takes none").open() as model:
        (found,) = model.generate([ask("one")])
    assert (found.text, found.finish) == (None, "failed")
    assert found.failed == "ValueError: no room for this one"


def test_no_process_is_left(make: Make, tmp_path: Path) -> None:
    """After a stage, after a reader that stopped, and after an error in the middle."""
    with make().open() as model:
        list(model.generate([ask("one")]))
    with make("hangs").open() as model:
        started = time.monotonic()
        answers = model.generate([ask(f"What is {number}?") for number in range(4)])
        with pytest.raises(ModelError):
            raise ModelError("the reader has a fault of its own")
        del answers
    assert time.monotonic() - started < 30
    pids = [line["pid"] for line in fake_vllm.log(tmp_path / "fake") if "pid" in line]
    assert len(pids) == 2 and not any(map(is_alive, pids))


def test_a_worker_gets_no_secrets_and_phones_nobody(make: Make, tmp_path: Path) -> None:
    given = {"OPENAI_API_KEY": "sk-1", "HF_TOKEN": "hf-1", "COWEST_STORE": "x", "PATH": "/bin"}
    found = surroundings(given)
    assert found["PATH"] == "/bin" and not {"sk-1", "hf-1", "x"} & set(found.values())
    assert found["VLLM_NO_USAGE_STATS"] == found["HF_HUB_OFFLINE"] == "1"
    with make().open():
        pass
    (line,) = [line for line in fake_vllm.log(tmp_path / "fake") if "pid" in line]
    assert "COWEST_STORE" not in line["environment"]


def test_an_interpreter_that_is_not_there_or_has_no_vllm_is_found_before_a_turn(
    tmp_path: Path,
) -> None:
    missing = VLLMConfig(model=str(tiny.model()), python=str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="no program that can be started"):
        missing.has_vllm()
    with pytest.raises(ConfigError, match="no program"), missing.open():
        pass
    with pytest.raises(ConfigError, match="has no vllm: install it"):
        VLLMConfig(model=str(tiny.model()), python=sys.executable).has_vllm()


def test_it_serves_nobody_who_waits(make: Make) -> None:
    config = make()
    with pytest.raises(ModelError, match="answers batches"):
        config.open_async()
    settings = {"policy": config.model_dump(), "strong": config.model_dump()}
    with pytest.raises(ConfigError, match="policy: provider vllm answers batches"):
        parse(AnswerConfig, settings, "params.yaml: serve")


def test_a_version_that_it_judged_is_answered_by_the_same_base_in_the_process(make: Make) -> None:
    config = make(dtype="bfloat16")
    params = {"evaluate": {"policy": config.model_dump(), "strong": config.model_dump()}}
    found = mlmodel.settings_of(params)
    assert found is not None
    policy = HFConfig.model_validate(found["policy"])
    assert policy.base_name(policy.folder()) == config.base().base_name(policy.folder())


def test_the_base_counts_for_the_turn_whatever_decodes_it(make: Make) -> None:
    local = HFConfig(model=str(tiny.model()))
    config = make()
    assert local_models({"draft": {"policy": config.model_dump()}}) == local_models(
        {"draft": {"policy": local.model_dump()}}
    )


def test_a_worker_that_serves_is_compared_with_the_judged_adapter(
    make: Make, tmp_path: Path
) -> None:
    adapter = tiny.make_adapter(tmp_path / "adapter")
    queries = [make_query(number) for number in range(3)]
    config = AgreementConfig(queries=3, served=make())
    with HFConfig(model=str(tiny.model())).open(adapter=adapter) as judged:
        found = judged_side(judged, queries, PROMPTS, GREEDY, config, adapter).endpoint
    assert found is not None and found.model.endswith("~vllm")
    # The engine makes its tokens up, so it can't agree.
    assert (found.queries, found.changed, found.failed) == (3, 3, 0)
    (loaded,) = [line["settings"] for line in fake_vllm.log(tmp_path / "fake") if "pid" in line]
    assert loaded["adapter"]["path"] == str(adapter)


def test_the_worker_needs_nothing_of_this_environment() -> None:
    tree = ast.parse(Path(vllm_worker.__file__).read_text())
    top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = set()
    for node in top:
        modules = (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [name.name for name in node.names]
        )
        names |= {module.split(".")[0] for module in modules}
    assert names <= sys.stdlib_module_names
    assert "cowest" not in {
        (node.module or "").split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
    }


@given(st.dictionaries(st.text(), st.lists(st.integers()) | st.text() | st.none()))
def test_a_frame_comes_back(message: dict[str, object]) -> None:
    stream = io.BytesIO()
    vllm_worker.send(stream, message)
    vllm_worker.send(stream, {"a": 1})
    stream.seek(0)
    assert vllm_worker.receive(stream) == message
    assert vllm_worker.receive(stream) == {"a": 1}
    assert vllm_worker.receive(stream) is None


@given(st.binary(max_size=64))
def test_bytes_of_any_kind_are_a_message_an_end_or_an_error(content: bytes) -> None:
    try:
        found = vllm_worker.receive(io.BytesIO(content))
    except vllm_worker.FrameError:
        return
    assert found is None or isinstance(found, dict)
