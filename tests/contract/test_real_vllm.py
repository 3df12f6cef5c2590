"""vLLM itself against the local provider: `make test-vllm`, which makes its environment first.

The same prompts are answered greedily by both. In float32 an answer may only differ where the two
best logits are nearer than NEAR; in bfloat16 what differs is reported, with the gap at the first
difference. What is printed is kept in docs/bench/vllm.txt.
"""

import json
import shutil
import urllib.request
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from cowest.agreement import Parting, Said, say, with_answers
from cowest.config import Sampling
from cowest.errors import ModelError
from cowest.models.hf import HFConfig
from cowest.models.openai import OpenAIConfig
from cowest.protocols import Completion, Request
from cowest.records import Message
from tests import real_vllm, tiny

pytestmark = [pytest.mark.vllm, pytest.mark.minutes, pytest.mark.usefixtures("own_store")]

NEAR = 1e-4
"""Logits that are nearer than this are a tie, which rounding decides."""
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.05}
"""Largest mean difference per token of the log-probabilities of equal answers."""
HALF = "\ufffd"
GREEDY = Sampling(max_tokens=24)
WARM = Sampling(temperature=1.0, top_p=0.9, max_tokens=12, n=3)


@pytest.fixture(scope="module")
def adapter() -> Path:
    return real_vllm.adapter()


def questions(number: int) -> list[str]:
    found = []
    for line in islice((tiny.HANDBOOK / "questions.jsonl").open(), number):
        found.append(json.loads(line)["question"])
    return found


def asked(texts: list[str], sampling: Sampling = GREEDY) -> list[Request]:
    found = []
    for text in texts:
        for sample in range(sampling.n):
            found.append(Request((Message(role="user", content=text),), sampling, sample))
    return found


def reported(what: str, said: list[Said], found: list[Parting | None], dtype: str) -> list[float]:
    """Prints how far both agree, and returns the gaps where they differ."""
    there = [one for one in found if one is not None]
    assert len(there) == len(said)
    gaps = [one.gap for one in there if one.gap is not None]
    means = [one.mean for one in there if one.mean is not None]
    near = sum(gap < NEAR for gap in gaps)
    print(
        f"\n{what}, {dtype}: {len(said) - len(gaps)} of {len(said)} greedy completions equal; "
        f"{len(gaps)} differ, of which {near} at a gap below {NEAR:g} (largest "
        f"{max(gaps, default=0):.2g}); mean difference of log-probabilities per token of equal "
        f"ones at most {max(means, default=0):.2g}"
    )
    assert max(means, default=0.0) <= TOLERANCE[dtype]
    return gaps


def compared(
    what: str, local: HFConfig, texts: list[str], answers: list[Completion], **more: Any
) -> list[float]:
    with local.open(**more) as judged:
        said = say(judged, asked(texts))
        assert len(said) == len(texts)
        found = []
        for one, answer in zip(said, answers, strict=True):
            # A server leaves half a character at the end of a text out, and writes no mark for it.
            if one.text.rstrip(HALF) == str(answer.text).strip().rstrip(HALF):
                answer = replace(answer, text=one.text)
            found.append(answer)
        return reported(what, said, with_answers(judged, said, found), local.dtype)


def test_a_tiny_model_answers_what_transformers_does() -> None:
    texts = questions(24)
    model = real_vllm.held(real_vllm.config(real_vllm.tiny_model()))
    answers = list(model.generate(asked(texts)))
    local = HFConfig(model=str(real_vllm.tiny_model()))
    gaps = compared("tiny", local, texts, answers)
    assert all(gap < NEAR for gap in gaps)
    assert len({one.text for one in answers}) > 12


def test_a_sample_asked_alone_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = real_vllm.held(real_vllm.config(real_vllm.tiny_model()))
    requests = asked(questions(6), WARM)
    together = list(model.generate(requests))
    assert len({one.text for one in together}) > 12
    monkeypatch.setenv("COWEST_STORE", str(tmp_path / "another"))
    for number in (1, 8, 17):
        (alone,) = model.generate([requests[number]])
        assert alone.text == together[number].text
        assert alone.logprob == pytest.approx(together[number].logprob, abs=1e-3)


def test_it_ends_before_a_stop_text() -> None:
    model = real_vllm.held(real_vllm.config(real_vllm.tiny_model()))
    long = Sampling(max_tokens=40)
    (whole,) = model.generate(asked(questions(1), long))
    assert whole.text
    stop = whole.text[len(whole.text) // 2 : len(whole.text) // 2 + 2]
    (found,) = model.generate(asked(questions(1), long.model_copy(update={"stop": (stop,)})))
    assert found.text == whole.text[: whole.text.index(stop)].strip()
    assert found.finish == "stop"


def test_an_adapter_answers_as_merged_into_its_base(adapter: Path) -> None:
    texts = questions(24)
    model = real_vllm.held(real_vllm.config(real_vllm.tiny_model()), adapter)
    answers = list(model.generate(asked(texts)))
    local = HFConfig(model=str(real_vllm.tiny_model()))
    with local.open() as base:
        plain = list(base.generate(asked(texts)))
    assert sum(one.text != other.text for one, other in zip(answers, plain, strict=True)) > 12
    gaps = compared("tiny with an adapter", local, texts, answers, adapter=adapter)
    assert all(gap < NEAR for gap in gaps)


def embedded(dtype: Any) -> list[float]:
    """The gaps where the embedded model's answers differ."""
    texts = questions(16)
    name = real_vllm.EMBEDDED
    config = real_vllm.config(name, dtype=dtype)
    answers = list(real_vllm.held(config).generate(asked(texts)))
    return compared(name, HFConfig(model=name, dtype=dtype), texts, answers)


def test_the_embedded_model_answers_what_transformers_does() -> None:
    assert all(gap < NEAR for gap in embedded("float32"))


def test_nothing_of_it_is_left_when_it_is_let_go(adapter: Path) -> None:
    """Its processes are gone, and so is all memory that they held."""
    model = real_vllm.held(real_vllm.config(real_vllm.tiny_model()), adapter)
    group = model.worker.group
    assert _members(group)
    real_vllm.let_go()
    assert not _members(group)


def _members(group: int) -> list[str]:
    found = []
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = place.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(place.parent.name)
    return found


def _models(url: str) -> list[str]:
    with urllib.request.urlopen(f"{url}/models", timeout=60) as reply:
        return [one["id"] for one in json.load(reply)["data"]]


def test_a_server_holds_an_adapter_by_its_digest_as_long_as_it_is_asked(adapter: Path) -> None:
    real_vllm.let_go()
    texts = questions(12)
    local = HFConfig(model=str(real_vllm.tiny_model()))
    small = ("--max-model-len", "256", "--max-num-seqs", "8")
    more = (*small, "--enable-lora", "--max-lora-rank", "8")
    with real_vllm.server(real_vllm.tiny_model(), "tiny", *more) as (url, _):
        config = OpenAIConfig(
            model="tiny",
            base_url=url,
            key_env=None,
            adapters_of=local,
            extra={"logprobs": True},
        )
        with config.open(adapter=adapter) as model:
            held = _models(url)
            answers = list(model.generate(asked(texts)))
            with config.open() as base:
                plain = list(base.generate(asked(texts)))
        assert _models(url) == ["tiny"]
    (name,) = set(held) - {"tiny"}
    assert name.startswith("tiny+") and model.name.startswith(f"{name}@127.0.0.1")
    assert sum(one.text != other.text for one, other in zip(answers, plain, strict=True)) > 6
    gaps = compared("tiny behind a server, with an adapter", local, texts, answers, adapter=adapter)
    assert all(gap < NEAR for gap in gaps)


def test_how_far_the_embedded_model_agrees_in_bfloat16_is_reported() -> None:
    gaps = embedded("bfloat16")
    real_vllm.let_go()
    print("gaps at the first difference:", [round(gap, 4) for gap in sorted(gaps)])


def test_a_quantised_base_without_its_library_is_refused_in_a_word(tmp_path: Path) -> None:
    folder = tmp_path / "quantised"
    shutil.copytree(real_vllm.tiny_model(), folder)
    settings = json.loads((folder / "config.json").read_text())
    settings["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps(settings))
    with (
        pytest.raises(ModelError, match=r"(?i)vLLM can't go on.*(bitsandbytes|quantiz)") as said,
        real_vllm.config(folder).open(),
    ):
        pass
    words = str(said.value).partition("vLLM can't go on")[2][:300]
    print(f"\na quantised base without its library: vLLM can't go on{words} ...")
