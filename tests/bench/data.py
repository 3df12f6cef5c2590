"""`make bench-data`: prepare and validate a million rows, against the plain script that a user
would write, in the same run.

python tests/bench/data.py                  1,000,000 rows (about 5 minutes, 2 GB in a temporary
folder); docs/bench/data.json and .svg python tests/bench/data.py --rows 200000 --out /tmp/data.json

Rows of the file: name, value, unit, better (higher or lower), target, peers (the plain script's
value).
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
OUT = ROOT / "docs" / "bench" / "data.json"
SCRIPT = Path(__file__).parent / "plain_script.py"
TABLE = {
    "prompt": "question",
    "targets": "answer",
    "id": "id",
    "group": "product",
    "ideal": "why",
    "tags": ["topic"],
}
SAME = {"kind": "queries", "near": None, "private": {"personal": None, "secrets": None}}
"""The rules that the script has too. What it has not, near copies over splits, personal data and
keys, is timed by itself.
"""
PARAMS = {"prepare": {"domain": "table", "table": TABLE}, "validate": {"queries": SAME}}
WHOLE = {**PARAMS, "validate": {"queries": {"kind": "queries"}}}
TENTH = 10
"""The suite as it comes is timed on so much fewer rows."""


def invent(path: Path, rows: int) -> None:
    """A table of questions of 14 invented words, 20 a product, with an answer and an
    explanation: about 270 bytes a row.
    """
    draw = random.Random(0)
    syllables = [
        first + second
        for first in "bdfgklmnprstvz"
        for second in ("a", "e", "i", "o", "u", "an", "er")
    ]
    words = ["".join(draw.choices(syllables, k=draw.choice((1, 2, 3)))) for _ in range(20_000)]
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            row = {
                "id": f"r{number}",
                "question": f"{' '.join(draw.choices(words, k=14))} {number}?",
                "answer": draw.choice(words),
                "why": " ".join(draw.choices(words, k=16)),
                "product": f"p{draw.randrange(rows // 20)}",
                "topic": f"t{draw.randrange(12)}",
            }
            file.write(json.dumps(row) + "\n")


Took = tuple[float, float, float]


def took(command: list[str], folder: Path) -> Took:
    """Seconds, processor seconds, and peak memory in MiB of one process, its start included.
    Raises SystemExit where it fails.
    """
    started = time.monotonic()
    with (folder / "said.txt").open("wb") as said:
        child = os.posix_spawn(
            command[0],
            command,
            {**os.environ, "COWEST_STORE": str(folder / "calls.sqlite")},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, said.fileno(), 1),
                (os.POSIX_SPAWN_DUP2, said.fileno(), 2),
            ],
        )
        _, status, usage = os.wait4(child, 0)
    if status:
        raise SystemExit(
            f"{' '.join(command)} "
            f"failed:\n{(folder / 'said.txt').read_text(errors='replace')[-3000:]}"
        )
    memory = usage.ru_maxrss / (1024 if sys.platform == "linux" else 2**20)
    return time.monotonic() - started, usage.ru_utime + usage.ru_stime, memory


def measure(rows: int, folder: Path) -> dict[str, Took]:
    """What each of them took, by turns."""
    raw, params = folder / "raw" / "table.jsonl", folder / "params.yaml"
    raw.parent.mkdir()
    invent(raw, rows)
    params.write_text(yaml.safe_dump(PARAMS))
    cowest = [sys.executable, "-m", "cowest.cli"]
    ports = [
        f"--queries={folder}/queries.raw.jsonl",
        f"--corpus={folder}/corpus.jsonl",
        f"--quarantine={folder}/quarantine.jsonl",
    ]
    script = [sys.executable, str(SCRIPT)]
    whole, few = folder / "whole.yaml", folder / "few.jsonl"
    whole.write_text(yaml.safe_dump(WHOLE))
    against = f"--against={raw.parent}"
    page = [against, f"--valid={folder}/queries.jsonl", f"--page={folder}/queries.html"]
    validate = [*cowest, "validate@queries"]
    commands = {
        "prepare": [*cowest, "prepare", f"--params={params}", f"--raw={raw.parent}", *ports],
        "plain prepare": [
            *script,
            "prepare",
            str(raw),
            f"{folder}/plain.raw.jsonl",
            f"{folder}/plain.corpus.jsonl",
        ],
        "validate": [*validate, f"--params={params}", f"--rows={folder}/queries.raw.jsonl", *page],
        "plain validate": [
            *script,
            "validate",
            f"{folder}/plain.raw.jsonl",
            f"{folder}/plain.jsonl",
        ],
        "whole validate": [*validate, f"--params={whole}", f"--rows={few}", *page],
    }
    found = {}
    for name, command in commands.items():
        if name == "whole validate":
            rows //= TENTH
            with (folder / "queries.raw.jsonl").open("rb") as source, few.open("wb") as target:
                target.writelines(islice(source, rows))
        found[name] = took(command, folder)
        print(
            f"{name:<16} {rows / found[name][0]:>9.0f} rows/s  {found[name][0]:>6.1f} s  "
            f"{found[name][1]:>6.1f} s of a processor  {found[name][2]:>6.0f} MiB",
            flush=True,
        )
    return found


def report(found: dict[str, Took], rows: int) -> list[dict[str, Any]]:
    """The rows of the file. Speed is by the processor's time: all of them run on one, and the
    clock counts others' work as well.
    """
    peer = "pandas + Great Expectations"
    told = []
    for name, most in (("prepare", 300), ("validate", 2048)):
        ours, plain = found[name], found[f"plain {name}"]
        speed = {
            "name": f"{name}_rows_per_processor_second",
            "value": round(rows / ours[1]),
            "unit": "rows/s",
            "better": "higher",
        }
        told.append(
            {
                **speed,
                "target": f"> {rows / plain[1]:.0f}",
                "peers": {peer: round(rows / plain[1])},
                "rows": rows,
            }
        )
        clock = {
            "name": f"{name}_seconds",
            "value": round(ours[0], 1),
            "unit": "s by the clock",
            "better": "lower",
        }
        told.append({**clock, "target": None, "peers": {peer: round(plain[0], 1)}, "rows": rows})
        peak = {
            "name": f"{name}_peak_memory",
            "value": round(ours[2]),
            "unit": "MiB",
            "better": "lower",
            "target": f"<= {most}",
        }
        told.append({**peak, "peers": {peer: round(plain[2])}, "rows": rows})
    _, processor, memory = found["whole validate"]
    speed = {
        "name": "validate_whole_rows_per_processor_second",
        "value": round(rows / TENTH / processor),
        "unit": "rows/s",
    }
    told.append({**speed, "better": "higher", "target": None, "peers": {}, "rows": rows // TENTH})
    peak = {
        "name": "validate_whole_peak_memory",
        "value": round(memory),
        "unit": "MiB",
        "better": "lower",
    }
    told.append({**peak, "target": "<= 2048", "peers": {}, "rows": rows // TENTH})
    return told


def plot(told: list[dict[str, Any]], path: Path) -> None:
    """Bars: rows a second, and peak memory, beside the plain script's."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "cowest"
    from matplotlib import pyplot

    figure, sides = pyplot.subplots(1, 2, figsize=(8, 2.4), layout="constrained")
    for side, end, title in (
        (sides[0], "rows_per_processor_second", "rows a second of a processor"),
        (sides[1], "peak_memory", "peak memory, MiB"),
    ):
        its = [row for row in told if row["name"].endswith(end)][::-1]
        names = [
            row["name"]
            .removesuffix(f"_{end}")
            .replace("validate_whole", "validate, near copies\nand private data too")
            for row in its
        ]
        places = range(len(its))
        plain = [next(iter(row["peers"].values()), 0) for row in its]
        bars = side.barh(
            [place + 0.2 for place in places],
            [row["value"] for row in its],
            0.38,
            color="#1f7a8c",
            label="CoWest",
        )
        others = side.barh(
            [place - 0.2 for place in places],
            plain,
            0.38,
            color="#b8b8b8",
            label="pandas + Great Expectations",
        )
        side.bar_label(bars, fmt="{:,.0f}", padding=3, fontsize=8)
        side.bar_label(
            others,
            labels=[f"{value:,.0f}" if value else "" for value in plain],
            padding=3,
            fontsize=8,
        )
        side.set_yticks(list(places), names, fontsize=8)
        side.set_title(title, fontsize=9)
        side.margins(x=0.22)
        side.spines[["top", "right", "bottom"]].set_visible(False)
        side.set_xticks([])
    sides[1].legend(fontsize=7, frameon=False, loc="lower right")
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Measures, and writes the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cowest-bench-") as folder:
        told = report(measure(given.rows, Path(folder)), given.rows)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    plot(told, given.out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
