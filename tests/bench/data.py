"""`make bench-data`: prepare and validate a million rows, against the plain script that a user would write, in the same run.

python tests/bench/data.py                  1,000,000 rows (about 10 minutes, 2 GB in a temporary folder); writes docs/bench/data.json
python tests/bench/data.py --rows 200000 --out /tmp/data.json

Rows of the file: name, value, unit, better (higher or lower), target, peers (the plain script's value).
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
OUT = ROOT / "docs" / "bench" / "data.json"
SCRIPT = Path(__file__).parent / "plain_script.py"
TABLE = {"prompt": "question", "targets": "answer", "id": "id", "group": "product", "ideal": "why", "tags": ["topic"]}
PARAMS = {"prepare": {"domain": "table", "table": TABLE}, "validate": {"queries": {"kind": "queries"}}}


def invent(path: Path, rows: int) -> None:
    """A table of questions of 14 invented words, 20 a product, with an answer and an explanation: about 280 bytes a row."""
    draw = random.Random(0)
    words = [
        f"{a}{b}{c}" for a in ("ka", "mo", "ri", "tu", "se") for b in ("lan", "ber", "dok", "fin") for c in ("a", "el", "is", "on", "u")
    ]
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


def took(command: list[str], folder: Path) -> tuple[float, float]:
    """Seconds and peak memory in MiB of one process, its start included. Raises SystemExit where it fails."""
    started = time.monotonic()
    with (folder / "said.txt").open("wb") as said:
        child = os.posix_spawn(
            command[0], command, {**os.environ, "COWEST_STORE": str(folder / "calls.sqlite")},
            file_actions=[(os.POSIX_SPAWN_DUP2, said.fileno(), 1), (os.POSIX_SPAWN_DUP2, said.fileno(), 2)],
        )  # fmt: skip
        _, status, usage = os.wait4(child, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed:\n{(folder / 'said.txt').read_text(errors='replace')[-3000:]}")
    return time.monotonic() - started, usage.ru_maxrss / (1024 if sys.platform == "linux" else 2**20)


def measure(rows: int, folder: Path) -> dict[str, tuple[float, float]]:
    """What each of the four took, by turns: (seconds, MiB)."""
    raw, params = folder / "raw" / "table.jsonl", folder / "params.yaml"
    raw.parent.mkdir()
    invent(raw, rows)
    params.write_text(yaml.safe_dump(PARAMS))
    cowest = [sys.executable, "-m", "cowest.cli"]
    ports = [f"--queries={folder}/queries.raw.jsonl", f"--corpus={folder}/corpus.jsonl", f"--quarantine={folder}/quarantine.jsonl"]
    script = [sys.executable, str(SCRIPT)]
    page = [f"--rows={folder}/queries.raw.jsonl", f"--valid={folder}/queries.jsonl", f"--page={folder}/queries.html"]
    commands = {
        "prepare": [*cowest, "prepare", f"--params={params}", f"--raw={raw.parent}", *ports],
        "plain prepare": [*script, "prepare", str(raw), f"{folder}/plain.raw.jsonl", f"{folder}/plain.corpus.jsonl"],
        "validate": [*cowest, "validate@queries", f"--params={params}", *page],
        "plain validate": [*script, "validate", f"{folder}/plain.raw.jsonl", f"{folder}/plain.jsonl"],
    }
    found = {}
    for name, command in commands.items():
        found[name] = took(command, folder)
        print(f"{name:<16} {rows / found[name][0]:>9.0f} rows/s  {found[name][0]:>6.1f} s  {found[name][1]:>6.0f} MiB", flush=True)
    return found


def report(found: dict[str, tuple[float, float]], rows: int) -> list[dict[str, Any]]:
    """The rows of the file."""
    told = []
    for name, most in (("prepare", 300), ("validate", 2048)):
        (seconds, memory), (plain_seconds, plain_memory) = found[name], found[f"plain {name}"]
        speed = {"name": f"{name}_rows_per_second", "value": round(rows / seconds), "unit": "rows/s", "better": "higher"}
        plain = round(rows / plain_seconds)
        told.append({**speed, "target": f"> {plain}", "peers": {"pandas + Great Expectations": plain}, "rows": rows})
        peak = {"name": f"{name}_peak_memory", "value": round(memory), "unit": "MiB", "better": "lower", "target": f"<= {most}"}
        told.append({**peak, "peers": {"pandas + Great Expectations": round(plain_memory)}, "rows": rows})
    return told


def main() -> None:
    """Measures, and writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cowest-bench-") as folder:
        told = report(measure(given.rows, Path(folder)), given.rows)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
