"""`python -m tests.bench.prefill`: how much of its prompts the strong model reads twice.

Adds its rows to docs/bench/drafts.json (name, value, unit, better, target, peers) and writes their
table in docs/performance.md. The demo's strong model refines replies of the demo's archive, each
query alone and with several, greedily and in float32 on one thread, as a stage asks it (`hf`), as
it would be with no beginning of a prompt kept (`no cache`: the same prompts in the same batches),
and as a user would (`transformers`): a prompt at a time, by `generate`. Each is measured in a
process of its own; loading is left out.

Prompts begin alike: all with their shots, and those of a query in more. The fewest tokens that
could be computed are those of the trie of all prompts.
"""

import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cowest import environment

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
HANDBOOK = ROOT / "data" / "raw" / "handbook"
MODEL = "gemma3-270m"
QUERIES, DRAFTS = 8, 6
CACHED, UNCACHED, LOOP = "hf", "no cache", "transformers"
LOOPED = 8
"""Prompts that the loop answers: it takes as long for each."""
TOKENS = 8
"""Tokens of an answer at most; it also ends with its line."""


def conversations() -> list[tuple[Any, ...]]:
    """Returns the prompts: of each query one alone, and one with each draft."""
    from cowest.domains import domain

    handbook = domain("handbook")
    replies: dict[str, list[str]] = {}
    for line in (HANDBOOK / "replies.jsonl").open(encoding="utf-8"):
        row = json.loads(line)
        replies.setdefault(row["product"], []).append(row["reply"])
    products = list(replies)
    dice = random.Random(0)
    found = []
    for number, query in enumerate(handbook.load(HANDBOOK)):
        if number == QUERIES:
            break
        found.append(handbook.prompts.solo.render(query.prompt))
        own = replies.get(str(query.group), [])
        drafts = list(dict.fromkeys(own))
        while len(drafts) < DRAFTS:
            drafts.append(dice.choice(replies[dice.choice(products)]))
        for draft in drafts[:DRAFTS]:
            found.append(handbook.prompts.refine.render(query.prompt, draft))
    return found


def trie(prompts: Sequence[Sequence[int]]) -> int:
    """Tokens of all prompts, those that they begin with alike counted once."""
    from cowest.models.prefixes import alike

    count, before = 0, ()
    for prompt in sorted(map(tuple, prompts)):
        count += len(prompt) - alike(before, prompt)
        before = prompt
    return count


def hf(cached: bool) -> dict[str, Any]:
    """Measures the provider, with a stage's store; if not `cached`, each prompt is read whole."""
    import torch

    from cowest.config import Sampling
    from cowest.models.decoding import HFModel
    from cowest.models.hf import HFConfig
    from cowest.models.sequences import Prefix, Sequences
    from cowest.protocols import Request

    sampling = Sampling(max_tokens=TOKENS, stop=("\n",))
    asked = [Request(messages, sampling, 0, 0) for messages in conversations()]
    read, steps = 0, 0
    advance = Sequences.advance

    def counted(_: Any, given: tuple[Any, ...]) -> None:
        nonlocal read
        read += given[0].numel()

    def step(self: Any, chosen: "torch.Tensor") -> None:
        nonlocal steps
        steps += chosen.numel()
        advance(self, chosen)

    class Uncached(HFModel):
        def _prefix(self, prompts: list[list[int]], to_come: int) -> Prefix:
            return Prefix([], None)

    config = HFConfig(model=MODEL)
    with tempfile.TemporaryDirectory() as folder, config.open() as model:
        if not cached:
            model = Uncached(model.name, model.model, model.tokenizer, config.rows)
        os.environ["COWEST_STORE"] = f"{folder}/calls.sqlite"
        torch.set_num_threads(1)
        list(model.generate([Request(asked[0].messages, Sampling(max_tokens=1), 0, 1)]))
        Sequences.advance = step  # type: ignore[method-assign]
        model.model.register_forward_pre_hook(counted)
        started = time.process_time()
        texts = [completion.text for completion in model.generate(asked)]
        seconds = time.process_time() - started
        prompts = [model.tokens(request) for request in asked]
    return {
        "texts": texts,
        "seconds": seconds / len(asked),
        "read": read - steps,
        "fewest": trie(prompts),
        "all": sum(map(len, prompts)),
    }


def loop() -> dict[str, Any]:
    """Measures what a user would write, with the tokens that the provider makes of a prompt."""
    import torch
    import transformers

    from cowest.models import hf
    from cowest.models.hf import HFConfig

    torch.set_num_threads(1)
    config = HFConfig(model=MODEL)
    chat = hf.open_chat(config)
    tokenizer = transformers.AutoTokenizer.from_pretrained(config.folder())
    model = transformers.AutoModelForCausalLM.from_pretrained(config.folder(), dtype=torch.float32)
    # Its line ends at any of several tokens.
    lines = [number for token, number in tokenizer.get_vocab().items() if "\n" in token]
    prompts = [chat.asked(messages) for messages in conversations()[:LOOPED]]

    def answer(prompt: list[int]) -> str:
        tokens = torch.tensor([prompt])
        with torch.no_grad():
            found = model.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                max_new_tokens=TOKENS,
                do_sample=False,
                eos_token_id=[*chat.ends, *lines],
            )
        text = tokenizer.decode(found[0, len(prompt) :], skip_special_tokens=True)
        return str(text).strip()

    answer(prompts[0][-8:])
    started = time.process_time()
    texts = [answer(prompt) for prompt in prompts]
    return {"texts": texts, "seconds": (time.process_time() - started) / len(prompts)}


def measured(way: str) -> dict[str, Any]:
    """Measures in a process of its own."""
    surroundings = {**os.environ, **environment.QUIET, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.bench.prefill", "--one", way]
    done = subprocess.run(
        command, cwd=ROOT, env=surroundings, stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(way, {**found, "texts": len(found["texts"])}, file=sys.stderr, flush=True)
    return found


def rows_of(found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, and what the other ways give beside them."""
    own, bare, loop = (found[way] for way in (CACHED, UNCACHED, LOOP))
    millis = {way: round(1000 * one["seconds"], 1) for way, one in found.items() if one is not own}
    read = {UNCACHED: bare["read"], LOOP: own["all"]}
    times = {way: round(count / own["fewest"], 2) for way, count in read.items()}
    rows = []
    for what, value, unit, better, target, peers in (
        ("CPU time per answer", 1000 * own["seconds"], "ms", "lower", None, millis),
        (
            "CPU time with the prefix cache, against without",
            bare["seconds"] / own["seconds"],
            "times less",
            "higher",
            5.0,
            {},
        ),
        (
            "CPU time with the prefix cache, against the loop",
            loop["seconds"] / own["seconds"],
            "times less",
            "higher",
            None,
            {},
        ),
        (
            "prompt tokens computed over those of the trie of all prompts",
            own["read"] / own["fewest"],
            "ratio",
            "lower",
            1.05,
            times,
        ),
        (
            "answers equal to those without the prefix cache",
            sum(map(str.__eq__, bare["texts"], own["texts"])),
            f"of {len(own['texts'])}",
            "higher",
            None,
            {},
        ),
        (
            "answers equal to the loop's",
            sum(map(str.__eq__, loop["texts"], own["texts"])),
            f"of {LOOPED}",
            "higher",
            None,
            {},
        ),
    ):
        row = {"name": f"refinement: {what}", "value": round(value, 3), "unit": unit}
        rows.append({**row, "better": better, "target": target, "peers": peers})
    return rows


def write(rows: list[dict[str, Any]]) -> None:
    """Puts the rows in place of those of the same name, and writes their table."""
    place = DOCS / "bench" / "drafts.json"
    new = {row["name"]: row for row in rows}
    kept = json.loads(place.read_text(encoding="utf-8")) if place.exists() else []
    whole = [new.pop(row["name"], row) for row in kept] + list(new.values())
    place.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")

    page = DOCS / "performance.md"
    head, _, rest = page.read_text(encoding="utf-8").partition("<!-- prefill -->\n")
    end = "<!-- end of prefill -->"
    peers = (UNCACHED, LOOP)
    lines = [f"| | `hf` | aim | without the prefix cache | `{LOOP}` |", "|" + " --- |" * 5]
    for row in rows:
        sign = ">=" if row["better"] == "higher" else "<="
        aim = "" if row["target"] is None else f"{sign} {row['target']:g}"
        beside = " | ".join(f"{row['peers'][way]:g}" if row["peers"] else "" for way in peers)
        lines.append(f"| {row['name']}, {row['unit']} | **{row['value']:g}** | {aim} | {beside} |")
    load = " ".join(f"{part:.0f}" for part in os.getloadavg())
    lines += [
        "",
        f"{os.cpu_count()} cores ({platform.machine()}), one thread, Python "
        f"{platform.python_version()}; load averages at the end: {load}.",
    ]
    text = f"{head}<!-- prefill -->\n{chr(10).join(lines)}\n{end}{rest.partition(end)[2]}"
    page.write_text(text, encoding="utf-8")


def main(argv: list[str]) -> None:
    environment.settle()
    environment.hush()
    ways = {CACHED: lambda: hf(True), UNCACHED: lambda: hf(False), LOOP: loop}
    if argv:
        print(json.dumps(ways[argv[-1]]()))
        return
    write(rows_of({way: measured(way) for way in ways}))


if __name__ == "__main__":
    main(sys.argv[1:])
