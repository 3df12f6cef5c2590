"""`python -m tests.bench.drafts [WAY ...]`: the policy's drafts, beside the loop of a user.

Writes docs/bench/drafts.json (rows: name, value, unit, better, target, peers), the plot and the
table of docs/performance.md. A run that measures some of the ways keeps the rows of the others.

The model is the demo's policy without an adapter, in float32; the prompts are the handbook's, which
share their shots. *Greedy* is one likeliest answer of each prompt: the same outputs from every way,
apart from near ties, which are counted. *Sampled* are several samples of fewer prompts, drawn by
each way's own numbers. Loading is left out. Each way is measured in a process of its own, in CPU
seconds of all its processes, since a wall on a shared machine says what else was running.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from cowest import environment
from tests.bench.rows import Row, row

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
HANDBOOK = ROOT / "data" / "raw" / "handbook" / "questions.jsonl"
MODEL = "smollm2-135m-instruct"
LOOP, HF, WORKER, SERVER = "transformers", "hf", "vllm", "vllm server"
WAYS = (LOOP, HF, WORKER, SERVER)


class Size(NamedTuple):
    """Numbers of prompts and samples."""

    prompts: int
    """Prompts that are answered greedily."""
    tokens: int
    """Tokens of an answer at most."""
    sampled: int
    """Prompts with several samples."""
    samples: int


WHOLE, SHORT = Size(24, 24, 4, 8), Size(8, 16, 2, 8)


def messages(size: Size) -> list[list[dict[str, str]]]:
    """The prompts, as a user would hold them."""
    from cowest.domains.handbook import PROMPTS as HANDBOOKS
    from cowest.records import Message

    found = []
    for line in islice(HANDBOOK.open(encoding="utf-8"), size.prompts):
        asked = (Message(role="user", content=json.loads(line)["question"]),)
        rendered = HANDBOOKS.draft.render(asked)
        found.append([{"role": one.role, "content": one.content} for one in rendered])
    return found


class Taken:
    """CPU and wall seconds since it was made, of this process and those of other groups."""

    def __init__(self, *groups: int) -> None:
        self._groups = groups
        self._wall, self._cpu = time.monotonic(), self._used()

    def so_far(self) -> tuple[float, float]:
        """CPU seconds and wall seconds."""
        return self._used() - self._cpu, time.monotonic() - self._wall

    def _used(self) -> float:
        used = time.process_time()
        for place in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = place.read_text().rpartition(")")[2].split()
            except OSError:
                # It ended meanwhile.
                continue
            if int(fields[2]) in self._groups:
                used += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return used


def measured(work: Callable[[], tuple[list[str], int]], *groups: int) -> dict[str, Any]:
    """Texts, tokens, and the seconds that a piece of work takes."""
    taken = Taken(*groups)
    texts, tokens = work()
    cpu, wall = taken.so_far()
    return {"texts": texts, "tokens": tokens, "cpu": cpu, "wall": wall}


def loop(size: Size) -> dict[str, Any]:
    """The loop that a user would write: a prompt at a time, by `generate`."""
    import torch
    import transformers

    from cowest.models.hf import HFConfig

    folder = HFConfig(model=MODEL).folder()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def answers(prompts: list[Any], **how: Any) -> tuple[list[str], int]:
        texts, tokens = [], 0
        for prompt in prompts:
            inputs = tokenizer.apply_chat_template(
                prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
            with torch.no_grad():
                found = model.generate(**inputs, max_new_tokens=size.tokens, **how)
            for one in found[:, inputs["input_ids"].shape[1] :]:
                texts.append(tokenizer.decode(one, skip_special_tokens=True).strip())
                tokens += int((one != tokenizer.pad_token_id).sum())
        return texts, tokens

    prompts = messages(size)
    answers(prompts[:1], do_sample=False)
    greedy = measured(lambda: answers(prompts, do_sample=False))
    several = {"do_sample": True, "temperature": 0.9, "num_return_sequences": size.samples}
    return {
        "greedy": greedy,
        "sampled": measured(lambda: answers(prompts[: size.sampled], **several)),
    }


def asked(model: Any, size: Size, *groups: int) -> dict[str, Any]:
    """Drafts by a ChatModel, with the store of a stage."""
    from cowest.config import Sampling
    from cowest.protocols import BLOCK, Request
    from cowest.records import Message

    prompts = []
    for one in messages(size):
        prompts.append(tuple(Message.model_validate(message) for message in one))

    def answers(found: list[Any], sampling: Sampling) -> tuple[list[str], int]:
        requests = []
        for number, prompt in enumerate(found):
            for sample in range(sampling.n):
                requests.append(Request(prompt, sampling, sample, number // BLOCK))
        completions = list(model.generate(requests))
        assert all(one.text is not None for one in completions), completions
        # The token that ends an answer was computed too.
        ends = sum(one.finish == "stop" for one in completions)
        tokens = ends + sum(one.completion_tokens for one in completions)
        return [str(one.text) for one in completions], tokens

    warm = Sampling(temperature=0.9, max_tokens=size.tokens, n=size.samples)
    answers(prompts[:1], Sampling(max_tokens=2))
    greedy = measured(lambda: answers(prompts, Sampling(max_tokens=size.tokens)), *groups)
    return {
        "greedy": greedy,
        "sampled": measured(lambda: answers(prompts[: size.sampled], warm), *groups),
    }


def one(way: str, size: Size) -> dict[str, Any]:
    """Measures one way in this process, and those that it starts."""
    environment.settle()
    if way == LOOP:
        return loop(size)
    from cowest.models.hf import HFConfig

    with tempfile.TemporaryDirectory() as folder:
        os.environ["COWEST_STORE"] = f"{folder}/calls.sqlite"
        if way == HF:
            with HFConfig(model=MODEL).open() as model:
                return asked(model, size)
        from tests import real_vllm

        if way == WORKER:
            with real_vllm.config(MODEL, context=1024).open() as model:
                return asked(model, size, model.worker.group)
        with _server(Path(folder)) as (url, group):
            from cowest.models.openai import OpenAIConfig

            with OpenAIConfig(model="policy", base_url=url, key_env=None).open() as served:
                return asked(served, size, group)


@contextmanager
def _server(folder: Path) -> Iterator[tuple[str, int]]:
    from cowest.models.hf import HFConfig
    from tests import real_vllm

    with real_vllm.server(
        HFConfig(model=MODEL).folder(), "policy", "--max-model-len", "1024", "--max-num-seqs", "32"
    ) as found:
        yield found


def run(way: str, short: bool) -> dict[str, Any]:
    """Measures in a process of its own."""
    surroundings = {**os.environ, **environment.QUIET, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.bench.drafts", "--one", way, *["--short"] * short]
    done = subprocess.run(
        command, cwd=ROOT, env=surroundings, stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    for what, values in found.items():
        shown = {name: values[name] for name in ("tokens", "cpu", "wall")}
        print(way, what, shown, file=sys.stderr, flush=True)
    return found


def rows_of(found: Mapping[str, dict[str, Any]]) -> list[Row]:
    """The rows of each way but the loop, whose figures are beside them."""
    rows = []
    for what in ("greedy", "sampled"):
        peers = {}
        for unit, name in (("cpu", "CPU second"), ("wall", "second")):
            plain = found[LOOP][what]
            peers = {LOOP: round(plain["tokens"] / plain[unit], 2)}
            for way in found:
                if way != LOOP:
                    speed = round(found[way][what]["tokens"] / found[way][what][unit], 2)
                    title = f"{what}: {way}, tokens per {name}"
                    rows.append(row(title, speed, f"tokens/{name}", "higher", None, peers))
    for way in found:
        if way != LOOP:
            pairs = zip(found[LOOP]["greedy"]["texts"], found[way]["greedy"]["texts"], strict=True)
            same = sum(mine == other for mine, other in pairs)
            asked_of = len(found[LOOP]["greedy"]["texts"])
            title = f"greedy: {way}, completions equal to the loop's"
            rows.append(row(title, same, f"of {asked_of}", "higher", None))
    return rows


def write(rows: list[Row]) -> list[Row]:
    """Adds rows to those that were measured before, in the place of those of the same name."""
    place = DOCS / "bench" / "drafts.json"
    kept: list[Row] = json.loads(place.read_text()) if place.exists() else []
    new = {one["name"]: one for one in rows}
    whole = [new.pop(one["name"], one) for one in kept] + list(new.values())
    place.write_text(json.dumps(whole, indent=1) + "\n")
    return whole


def tell(rows: list[Row]) -> None:
    """The table of docs/performance.md."""
    page = DOCS / "performance.md"
    head, _, rest = page.read_text(encoding="utf-8").partition("<!-- drafts -->\n")
    end = "\n<!-- end of drafts -->"
    lines = ["| | CoWest | aim | beside it |", "| --- | --- | --- | --- |"]
    for one in rows:
        # Those of the strong model's prompts (tests/bench/prefill.py) have a table of their own.
        if one["name"].startswith("refinement"):
            continue
        aim = ""
        if one["target"] is not None:
            aim = f"{'>=' if one['better'] == 'higher' else '<='} {one['target']:g}"
        beside = ", ".join(f"{name} {value:g}" for name, value in one["peers"].items())
        lines.append(f"| {one['name']}, {one['unit']} | **{one['value']:g}** | {aim} | {beside} |")
    load = " ".join(f"{part:.0f}" for part in os.getloadavg())
    lines += [
        "",
        f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}; load "
        f"averages at the end: {load}.",
    ]
    text = f"{head}<!-- drafts -->\n{chr(10).join(lines)}{end}{rest.partition(end)[2]}"
    page.write_text(text, encoding="utf-8")


def plot(rows: list[Row]) -> None:
    """The plot beside it: tokens per CPU second of each way, and of the loop in the same run."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "cowest"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(8, 3), layout="constrained")
    for axis, what in zip(axes, ("greedy", "sampled"), strict=True):
        own = [
            one
            for one in rows
            if one["name"].startswith(f"{what}: ") and one["unit"] == "tokens/CPU second"
        ]
        names = [one["name"].removeprefix(f"{what}: ").partition(",")[0] for one in own]
        places = range(len(own))
        axis.bar([n - 0.2 for n in places], [one["value"] for one in own], 0.38, color="#1b5e9b")
        loops = [one["peers"][LOOP] for one in own]
        axis.bar([n + 0.2 for n in places], loops, 0.38, color="#9cc3e4")
        axis.set_xticks(list(places), names)
        axis.set_title(what)
    axes[0].set_ylabel("tokens per CPU second")
    figure.legend(["as named", f"{LOOP}, same run"], loc="outside lower center", ncols=2)
    figure.savefig(DOCS / "drafts.svg", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ways", nargs="*", choices=[*WAYS, []], help="all, if none is named")
    parser.add_argument("--short", action="store_true", help="a third of the prompts")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(given.one, SHORT if given.short else WHOLE)))
        return
    ways = [LOOP, *[way for way in given.ways or WAYS if way != LOOP]]
    found = {way: run(way, given.short) for way in ways}
    rows = write(rows_of(found))
    tell(rows)
    plot(rows)


if __name__ == "__main__":
    main()
