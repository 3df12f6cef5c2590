"""`python -m tests.bench.sft`: a step of SFT with packed rows, beside TRL's padded ones.

Writes docs/bench/sft.json (rows: name, value, unit, better, target, peers) and the table of
docs/performance.md. Each way trains the demo's policy on the same rows, in float32 on one thread
and in a process of its own: the demo's corpus, and drawn rows of 10 to 400 tokens, which share
nothing.
"""

import argparse
import json
import math
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cowest import environment

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
MODEL = "smollm2-135m-instruct"
OURS, BEFORE, DEFAULTS = "packed", "TRL, as CoWest set it", "TRL's defaults"
"""The second pads rows of about one length, and scores answers alone."""
CORPORA = {"10 to 400 tokens": 8, "the demo": 16}
"""Rows of a step, by corpus."""
ROWS = 256
"""Drawn rows. All are laid out, and STEPS of the batches are computed."""
STEPS = 2
Row = dict[str, Any]


def drawn() -> list[tuple[list[int], int]]:
    """Rows of random tokens, whose lengths are spread evenly by logarithm; half is the prompt."""
    dice = random.Random(0)
    found = []
    for _ in range(ROWS):
        length = round(math.exp(dice.uniform(math.log(10), math.log(400))))
        found.append(([dice.randrange(5, 40000) for _ in range(length)], length // 2))
    return found


def of_demo() -> list[tuple[list[int], int]]:
    """The demo's corpus as its policy learns it."""
    from cowest.domains import domain
    from cowest.models import hf
    from cowest.models.hf import HFConfig

    handbook = domain("handbook")
    chat = hf.open_chat(HFConfig(model=MODEL))
    found = []
    for row in handbook.corpus(ROOT / "data" / "raw" / "handbook"):
        asked = handbook.prompts.draft.render(row.prompt)
        found.append((chat.learned(asked, row.completion), len(chat.asked(asked))))
    return found


def policy() -> Any:
    """The demo's policy with an adapter as the demo shapes it."""
    import torch
    from peft import LoraConfig, get_peft_model

    from cowest.models import hf
    from cowest.models.hf import HFConfig

    model, _ = hf.load(HFConfig(model=MODEL))
    torch.manual_seed(0)
    names = ["gate_proj", "up_proj", "down_proj"]
    layers = list(range(8, 30))
    shape = LoraConfig(r=32, lora_alpha=64, target_modules=names, layers_to_transform=layers)
    shape.task_type = "CAUSAL_LM"
    return get_peft_model(model, shape).train()


def trainer_of(way: str, rows: list[tuple[list[int], int]], size: int) -> Any:
    """A trainer of one way, on so many rows a step."""
    import datasets
    import transformers
    import trl
    from transformers import AutoTokenizer

    from cowest.models.hf import HFConfig
    from cowest.training import score_completions_only
    from cowest.trees import packed

    model = policy()
    settings = {
        "output_dir": tempfile.mkdtemp(),
        "per_device_train_batch_size": size,
        "learning_rate": 0.003,
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    if way != DEFAULTS:
        settings |= {"train_sampling_strategy": "group_by_length", "gradient_checkpointing": False}
    if way == OURS:
        texts = [packed.text(tokens[:start], tokens) for tokens, start in rows]
        arguments = transformers.TrainingArguments(**settings, remove_unused_columns=False)
        made = packed.make(model, texts, arguments)
        assert packed.reason_against(made, texts) is None
        return made
    if way == BEFORE:
        score_completions_only()
    examples = []
    for tokens, start in rows:
        labels = [-100] * start + tokens[start:]
        examples.append({"input_ids": tokens, "labels": labels})
    return trl.SFTTrainer(
        model=model,
        args=trl.SFTConfig(**settings, max_length=None),
        train_dataset=datasets.Dataset.from_list(examples),
        processing_class=AutoTokenizer.from_pretrained(HFConfig(model=MODEL).folder()),
    )


def one(way: str, corpus: str) -> dict[str, float]:
    """Measures a way: tokens computed per real token, CPU time per real token, the loss.

    Of TRL's defaults only the tokens are counted.
    """
    import torch

    torch.set_num_threads(1)
    rows = of_demo() if corpus == "the demo" else drawn()
    made = trainer_of(way, rows, CORPORA[corpus])
    sizes: list[int] = []
    collate = made.data_collator

    def collated(given: Any) -> Any:
        sizes.append(sum(len(one["input_ids"]) for one in given))
        return collate(given)

    made.data_collator = collated
    torch.manual_seed(0)
    batches = list(made.get_train_dataloader())
    computed = sum(batch["input_ids"].numel() for batch in batches)
    if way == DEFAULTS:
        return {"computed": computed / sum(sizes)}
    taken, losses = 0.0, []
    # Spread over the epoch, since the first has the longest rows.
    apart = len(batches) // STEPS
    chosen = range(0, apart * STEPS, apart)
    for number in chosen:
        batch = batches[number]
        count = batch["labels"].ne(-100).sum()
        started = time.process_time()
        loss = made.training_step(made.model, batch, count)
        taken += time.process_time() - started
        losses.append(loss.item())
    return {
        "computed": computed / sum(sizes),
        "milliseconds": 1000 * taken / sum(sizes[number] for number in chosen),
        "loss": sum(losses) / len(losses),
    }


def measured(*words: str) -> dict[str, float]:
    """Measures in a process of its own."""
    command = [sys.executable, "-m", "tests.bench.sft", "--one", *words]
    surroundings = {**os.environ, **environment.QUIET, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=surroundings, stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(*words, found, file=sys.stderr, flush=True)
    return found


def rows_of(corpus: str) -> list[Row]:
    """The rows of one corpus."""
    found = {way: measured(way, corpus) for way in (OURS, BEFORE, DEFAULTS)}
    rows = []
    for unit, name, what, digits, target in (
        ("computed", "tokens computed per real token", "tokens", 3, 1.05),
        ("milliseconds", "CPU time per real token", "ms", 2, None),
        ("loss", f"mean loss of {STEPS} steps", "nats", 4, None),
    ):
        peers = {way: round(one[unit], digits) for way, one in found.items() if unit in one}
        row = {"name": f"{name}, {corpus}", "value": peers.pop(OURS), "unit": what}
        rows.append({**row, "better": "lower", "target": target, "peers": peers})
    return rows


def tell(rows: list[Row]) -> None:
    """The table of docs/performance.md."""
    page = DOCS / "performance.md"
    head, _, rest = page.read_text(encoding="utf-8").partition("<!-- sft -->\n")
    end = "<!-- end of sft -->"
    lines = [f"| | packed | aim | {BEFORE} | {DEFAULTS} |", "|" + " --- |" * 5]
    for one in rows:
        aim = "" if one["target"] is None else f"<= {one['target']:g}"
        peers = [str(one["peers"].get(way, "")) for way in (BEFORE, DEFAULTS)]
        cells = [f"{one['name']}, {one['unit']}", f"**{one['value']:g}**", aim, *peers]
        lines.append(f"| {' | '.join(cells)} |")
    load = " ".join(f"{part:.0f}" for part in os.getloadavg())
    lines += [
        "",
        f"{os.cpu_count()} cores ({platform.machine()}), one thread each, Python "
        f"{platform.python_version()}; load averages at the end: {load}.",
    ]
    text = f"{head}<!-- sft -->\n{chr(10).join(lines)}\n{end}{rest.partition(end)[2]}"
    page.write_text(text, encoding="utf-8")


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.sft", description=__doc__)
    parser.add_argument("--one", nargs=2, metavar=("WAY", "CORPUS"))
    given = parser.parse_args(argv)
    environment.settle()
    environment.hush()
    if given.one:
        print(json.dumps(one(*given.one)))
        return
    rows = []
    for corpus in CORPORA:
        rows += rows_of(corpus)
    (DOCS / "bench" / "sft.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    tell(rows)


if __name__ == "__main__":
    main(sys.argv[1:])
