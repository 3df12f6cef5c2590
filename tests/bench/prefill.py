"""`python -m tests.bench.prefill`: how much of its prompts the strong model reads twice.

Adds its rows to docs/bench/drafts.json (name, value, unit, better, target, peers) and writes their
table in docs/performance.md. The demo's strong model refines replies of the demo's archive, each
query alone and with several, greedily and in float32 on one thread, as a stage asks it (`hf`) and
as a user would (`transformers`): a prompt at a time, by `generate`. Each is measured in a process
of its own; loading is left out.

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


def hf() -> dict[str, Any]:
    """Measures the provider, with a stage's store."""
    import torch

    from cowest.config import Sampling
    from cowest.models.hf import HFConfig
    from cowest.models.sequences import Sequences
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

    with tempfile.TemporaryDirectory() as folder, HFConfig(model=MODEL).open() as model:
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


def rows_of(own: dict[str, Any], plain: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows, and what the loop gives beside them."""
    same = sum(map(str.__eq__, plain["texts"], own["texts"]))
    found = []
    for name, value, unit, better, target, peers in (
        (
            "refinement: CPU time per answer",
            1000 * own["seconds"],
            "ms",
            "lower",
            None,
            {"transformers": round(1000 * plain["seconds"], 1)},
        ),
        (
            "refinement: CPU time with the prefix cache, against without",
            plain["seconds"] / own["seconds"],
            "times less",
            "higher",
            5.0,
            {},
        ),
        (
            "refinement: prompt tokens computed over those of the trie of all prompts",
            own["read"] / own["fewest"],
            "ratio",
            "lower",
            1.05,
            {"transformers": round(own["all"] / own["fewest"], 2)},
        ),
        ("refinement: answers equal to the loop's", same, f"of {LOOPED}", "higher", None, {}),
    ):
        row = {"name": name, "value": round(value, 3), "unit": unit, "better": better}
        found.append({**row, "target": target, "peers": peers})
    return found


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
    lines = ["| | `hf` | aim | `transformers` |", "| --- | --- | --- | --- |"]
    for row in rows:
        sign = ">=" if row["better"] == "higher" else "<="
        aim = "" if row["target"] is None else f"{sign} {row['target']:g}"
        beside = " ".join(f"{value:g}" for value in row["peers"].values())
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
    if argv:
        print(json.dumps({"hf": hf, "transformers": loop}[argv[-1]]()))
        return
    write(rows_of(measured("hf"), measured("transformers")))


if __name__ == "__main__":
    main(sys.argv[1:])
