"""`python -m tests.bench.train`: a step of DPO over trees, beside TRL's on the same pairs.

Writes docs/bench/train.json (rows: name, value, unit, better, target, peers), the plot and the
table of docs/performance.md. The model is the demo's policy with an adapter on all linear layers,
in float32 on one thread; prompts and drafts are random tokens that share nothing but the prompt.
Each way is measured in a process of its own, and the one-off pass of the reference is left out.

What TRL computes grows with the pairs, as it computes them one by one. So its FLOPs are those of
one pair, and its CPU time that of AT_ONCE pairs at once, times as many as there are.
"""

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

from cowest import environment
from tests.bench.rows import Row, row

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
MODEL = "smollm2-135m-instruct"
SHAPES = ((96, 32), (512, 128), (256, 256))
"""Tokens of a prompt, and of a draft."""
TARGETS = {2: (3.0, 3.0, 2.5), 4: (13.0, 14.0, 9.0), 8: (35.0, 40.0, 23.0)}
"""By drafts of a query, all pairs of which are trained: how many times TRL's FLOPs, by shape."""
AT_ONCE = 2
DEFAULTS, TODAY, TRITON = "TRL's defaults", "TRL, reference kept", "TRL's defaults on a GPU"
"""The second is what CoWest set before; the third scores completions alone, as Triton has it."""
Pairs = list[tuple[tuple[int, ...], ...]]


def pairs_of(prompt: int, draft: int, drafts: int, queries: int) -> Pairs:
    """All pairs of so many drafts of so many queries, as tokens."""
    dice = random.Random(0)

    def text(length: int) -> tuple[int, ...]:
        return tuple(dice.randrange(5, 40000) for _ in range(length))

    found: Pairs = []
    for _ in range(queries):
        asked, all_drafts = text(prompt), [text(draft) for _ in range(drafts)]
        found += [(asked, *both) for both in combinations(all_drafts, 2)]
    return found


def policy() -> Any:
    """The demo's policy with an adapter that is not zero."""
    import torch
    from peft import LoraConfig, get_peft_model

    from cowest.models import hf
    from cowest.models.hf import HFConfig

    torch.set_num_threads(1)
    model, _ = hf.load(HFConfig(model=MODEL))
    torch.manual_seed(0)
    shape = LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear")
    model = get_peft_model(model, shape)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.01)
    return model.train()


def moved(model: Any) -> None:
    """Takes the policy away from its reference."""
    import torch

    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if weight.requires_grad and ".default." in name:
            weight.data += 0.002 * torch.randn_like(weight)


def tree_step(model: Any, pairs: Pairs, after: Callable[[], None]) -> Callable[[], Any]:
    """A step of CoWest; `after` comes between the reference's pass and the step."""
    import torch

    from cowest.trees import plan, scores, trainer
    from cowest.trees.losses import Objective

    trees = plan.trees_of(pairs)
    head = model.get_output_embeddings()
    trainer.attends_to_branches(model, True)
    reference = []
    for one in trees:
        with torch.no_grad():
            inputs = trainer.tensors([one], True)
            reference.append(scores.drafts(model, head, inputs).tolist())
    after()
    (share,) = plan.shares(trees, range(len(trees)), 1)

    def step() -> Any:
        inputs = trainer.collate(trees, reference, share, True)
        found = scores.drafts(model, head, inputs)
        return trainer.loss_of(Objective("sigmoid", 0.1, 1.0, 0.0), found, inputs)[0]

    return step


def trl_step(model: Any, pairs: Pairs, way: str, after: Callable[[], None]) -> Callable[[], Any]:
    """A step of TRL's trainer."""
    import datasets
    import trl
    from transformers import AutoTokenizer

    from cowest.models.hf import HFConfig
    from cowest.training import score_completions_only
    from tests.trl_reference import tokenized

    if way == TRITON:
        score_completions_only()
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    rows = [dict(zip(names, map(list, one), strict=True)) for one in pairs]

    kept: dict[str, Any] = {}
    if way == TODAY:
        kept = {"precompute_ref_log_probs": True, "gradient_checkpointing": False}
    made = tokenized(trl.DPOTrainer)(
        model=model,
        args=trl.DPOConfig(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=len(rows),
            loss_type=["sigmoid", "sft"],
            loss_weights=[1.0, 1.0],
            bf16=False,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            **kept,
        ),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(HFConfig(model=MODEL).folder()),
    )
    if made.args.gradient_checkpointing:
        # The Trainer does so when training begins.
        made.model.gradient_checkpointing_enable({"use_reentrant": False})
    after()
    batch = next(iter(made.get_train_dataloader()))
    return lambda: made.compute_loss(made.model.train(), batch)


def one(way: str, prompt: int, draft: int, drafts: int) -> dict[str, float]:
    """Measures a step of one way: FLOPs and CPU seconds per pair, and MiB at the peak."""
    model = policy()

    def step_of(pairs: Pairs) -> Callable[[], Any]:
        if way == "ours":
            return tree_step(model, pairs, lambda: None)
        if "ref" in model.peft_config:
            model.delete_adapter("ref")
        return trl_step(model, pairs, way, lambda: None)

    queries = AT_ONCE if drafts == 2 else 1
    pairs = pairs_of(prompt, draft, drafts, queries)
    step = step_of(pairs if way == "ours" else pairs[:AT_ONCE])
    before = _resident()
    started = time.process_time()
    step().backward()
    first = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    started = time.process_time()
    step().backward()
    # The first of two has to be allocated for.
    taken = min(first, time.process_time() - started)
    counter = flop_counter()
    counted = pairs if way == "ours" else pairs[:1]
    counting = step_of(counted)
    with counter:
        counting().backward()
    each = len(pairs) if way == "ours" else min(AT_ONCE, len(pairs))
    return {
        "flops": counter.get_total_flops() / len(counted),
        "seconds": taken / each,
        "mebibytes": peak,
    }


def flop_counter() -> Any:
    """Torch's counter, with attention on a CPU, which it leaves out, counted as on a GPU.

    A causal mask or one of a tree saves nothing there: all pairs of a row's tokens count.
    """
    import torch
    from torch.utils import flop_counter

    def forward(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return int(flop_counter.sdpa_flop_count(query, key, value))

    def backward(slope: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return int(flop_counter.sdpa_backward_flop_count(slope, query, key, value))

    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    ways = {attention: forward}
    ways[torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward] = backward
    return flop_counter.FlopCounterMode(display=False, custom_mapping=ways)


def _resident() -> float:
    """MiB of this process now; the peak so far is set back to that."""
    Path("/proc/self/clear_refs").write_text("5")
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def difference(prompt: int, draft: int, drafts: int) -> dict[str, float]:
    """Returns how far our gradients are from TRL's, of the matrix where that is furthest."""
    pairs = pairs_of(prompt, draft, drafts, 1)
    found = []
    for way in ("ours", DEFAULTS):
        model = policy()

        def after(model: Any = model) -> None:
            moved(model)

        step = (
            tree_step(model, pairs, after) if way == "ours" else trl_step(model, pairs, way, after)
        )
        loss = step()
        loss.backward()
        slopes = {}
        for name, weight in model.named_parameters():
            if weight.grad is not None:
                slopes[name] = weight.grad
        found.append((loss.item(), slopes))
    (ours, own), (theirs, other) = found
    assert own.keys() == other.keys()
    apart = [float((own[name] - other[name]).norm() / other[name].norm()) for name in own]
    return {"gradients": max(apart), "loss": abs(ours - theirs) / abs(theirs)}


def measured(*words: object) -> dict[str, float]:
    """Measures in a process of its own."""
    command = [sys.executable, "-m", "tests.bench.train", "--one", *map(str, words)]
    surroundings = {**os.environ, **environment.QUIET, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=surroundings, stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(*words, found, file=sys.stderr, flush=True)
    return found


def rows_of(number: int) -> list[Row]:
    """The rows of one shape."""
    prompt, draft = SHAPES[number]
    theirs = {way: measured(way, prompt, draft, 4) for way in (DEFAULTS, TODAY, TRITON)}
    found = []
    for drafts, targets in TARGETS.items():
        ours = measured("ours", prompt, draft, drafts)
        what = f"{prompt}/{draft}, {drafts} drafts"
        for unit, name, digits in (("flops", "FLOPs", 2), ("seconds", "CPU time", 2)):
            times = {way: round(one[unit] / ours[unit], digits) for way, one in theirs.items()}
            target = targets[number] if unit == "flops" else None
            value = times.pop(DEFAULTS)
            found.append(row(f"{name}, {what}", value, "times less", "higher", target, times))
        peers = {way: round(one["mebibytes"]) for way, one in theirs.items()}
        found.append(
            row(f"peak memory, {what}", round(ours["mebibytes"]), "MiB", "lower", None, peers)
        )
    return found


def tell(rows: list[Row]) -> None:
    """The two tables of docs/performance.md: times less than each of TRL's ways, and the rest."""
    page = DOCS / "performance.md"
    head, _, rest = page.read_text(encoding="utf-8").partition("<!-- train -->\n")
    end = "\n<!-- end of train -->"
    times = [one for one in rows if one["unit"] == "times less"]
    others = [one for one in rows if one["unit"] != "times less"]
    load = " ".join(f"{part:.0f}" for part in os.getloadavg())
    lines = [
        f"| times less | than {DEFAULTS} | aim | than {TODAY} | than {TRITON} |",
        *_table(times, (TODAY, TRITON)),
        "",
        f"| | a step over trees | aim | {DEFAULTS} | {TODAY} | {TRITON} |",
        *_table(others, (DEFAULTS, TODAY, TRITON)),
        "",
        f"{os.cpu_count()} cores ({platform.machine()}), one thread each, Python "
        f"{platform.python_version()}; load averages at the end: {load}.",
    ]
    text = f"{head}<!-- train -->\n{chr(10).join(lines)}{end}{rest.partition(end)[2]}"
    page.write_text(text, encoding="utf-8")


def _table(rows: list[Row], ways: tuple[str, ...]) -> list[str]:
    lines = ["|" + " --- |" * (3 + len(ways))]
    for one in rows:
        sign = ">=" if one["better"] == "higher" else "<="
        aim = "" if one["target"] is None else f"{sign} {one['target']:g}"
        unit = "" if one["unit"] in ("times less", "ratio") else f", {one['unit']}"
        cells = [f"{one['name']}{unit}", f"**{one['value']:g}**", aim]
        cells += [f"{one['peers'][way]:g}" if way in one["peers"] else "" for way in ways]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def plot(rows: list[Row]) -> None:
    """The plot beside it: how many times fewer FLOPs, by shape and drafts."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "cowest"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(10, 3), layout="constrained")
    bars = [one for one in rows if one["name"].startswith("FLOPs")]
    for axis, drafts in zip(axes, TARGETS, strict=True):
        own = [one for one in bars if one["name"].endswith(f", {drafts} drafts")]
        names = [one["name"].split(", ")[1] for one in own]
        places = range(len(own))
        axis.bar([n - 0.2 for n in places], [one["value"] for one in own], 0.38, color="#1b5e9b")
        kept = [one["peers"][TODAY] for one in own]
        axis.bar([n + 0.2 for n in places], kept, 0.38, color="#9cc3e4")
        axis.scatter([n - 0.2 for n in places], [one["target"] for one in own], color="#c0392b")
        axis.set_xticks(list(places), names)
        count = drafts * (drafts - 1) // 2
        axis.set_title(f"{drafts} drafts, " + ("1 pair" if count == 1 else f"all {count} pairs"))
    axes[0].set_ylabel("times fewer FLOPs")
    figure.legend(["aim", f"than {DEFAULTS}", f"than {TODAY}"], loc="outside lower center", ncols=3)
    figure.savefig(DOCS / "train.svg", metadata={"Date": None})


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.train", description=__doc__)
    parser.add_argument("--one", nargs=4, metavar=("WAY", "PROMPT", "DRAFT", "DRAFTS"))
    parser.add_argument("--plot", action="store_true", help="draw what was measured last, again")
    given = parser.parse_args(argv)
    environment.settle()
    environment.hush()
    place = DOCS / "bench" / "train.json"
    if given.plot:
        plot(json.loads(place.read_text(encoding="utf-8")))
        return
    if given.one:
        way, *sizes = given.one
        prompt, draft, drafts = map(int, sizes)
        if way == "difference":
            found = difference(prompt, draft, drafts)
        else:
            found = one(way, prompt, draft, drafts)
        print(json.dumps(found))
        return
    rows = []
    for number in range(len(SHAPES)):
        rows += rows_of(number)
    apart = measured("difference", 96, 32, 4)
    for name in ("loss", "gradients"):
        what = f"{name}: relative difference to TRL's, float32"
        rows.append(row(what, float(f"{apart[name]:.2g}"), "ratio", "lower", 1e-4))
    place.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    tell(rows)
    plot(rows)


if __name__ == "__main__":
    main(sys.argv[1:])
