"""Measures a request to the service, beside bare proxies on the same machine at the same time.

    make bench-serve                                 everything, an hour
    python -m tests.bench.serve --short              the same in 8 minutes
    python -m tests.bench.serve added-20 load        pieces: added-20, added-500, first, load,
                                                     overload, memory, embedded, taken

Load is open: requests begin at a fixed rate, and a latency counts from the intended begin. Peers
take turns in short blocks, and each comparison is of blocks of one round, so that other work on the
machine meets all of them. Each piece writes its rows into docs/bench/serve.json, and the table of
docs/performance.md from all rows there.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.calls import DOCS
from tests.bench.serve_load import Server, Taken, load, of_project, started, until_version
from tests.bench.serve_servers import PLACES, QUEUE

RATE = 50.0
ONE, TWO = "cowest/strong", "cowest"
"""One call of the strong model; a draft, and the strong model with it."""
BLOCKS = [
    ("cowest", ONE),
    ("bento", ONE),
    ("starlette", ONE),
    ("litellm", ONE),
    ("cowest", TWO),
    ("bento", TWO),
    ("starlette", TWO),
]
PEERS = {"bento": "bare BentoML", "starlette": "bare Starlette", "litellm": "LiteLLM proxy"}
CALLS = {ONE: "one call", TWO: "draft and answer"}
Row = dict[str, Any]


@dataclass(frozen=True)
class Length:
    """Lengths of a run."""

    rounds: int
    block: float
    """Seconds of one peer's turn."""
    memory: float
    """Minutes of the memory's run."""
    embedded: int
    """Times that the embedded pair answers."""


LONG, SHORT = Length(5, 10.0, 20.0, 5), Length(3, 3.0, 1.5, 1)


def row(
    name: str,
    values: list[float],
    unit: str,
    target: float | None = None,
    peers: dict[str, list[float]] | None = None,
    better: str = "lower",
) -> Row:
    """One line of serve.json: the median over rounds, with the least and the most of them."""
    shown = {PEERS[peer]: round(statistics.median(of), 3) for peer, of in (peers or {}).items()}
    return {
        "name": name,
        "value": round(statistics.median(values), 3),
        "unit": unit,
        "better": better,
        "target": target,
        "peers": shown,
        "spread": [round(min(values), 3), round(max(values), 3)],
    }


def added_20(folder: Path, length: Length) -> list[Row]:
    """Measures what is added to a bare BentoML proxy at 50 requests a second."""
    return _added_at(20, folder, length)


def added_500(folder: Path, length: Length) -> list[Row]:
    """The same with upstreams of 500 ms."""
    return _added_at(500, folder, length)


def _added_at(milliseconds: int, folder: Path, length: Length) -> list[Row]:
    way = f"fixed-{milliseconds}"
    rounds: list[dict[tuple[str, str], Taken]] = []
    with started(["cowest", *PEERS], folder, way, way) as servers:
        for name, model in BLOCKS:
            load(servers[name], model, RATE, 1.0)
        for number in range(length.rounds):
            rounds.append({})
            # Forth and back, so that a load that grows meets all alike.
            for name, model in BLOCKS if number % 2 else reversed(BLOCKS):
                found = load(servers[name], model, RATE, length.block)
                rounds[-1][name, model] = found
                say(way, name, model, found)
    return [*_added(rounds, ONE, milliseconds), *_added(rounds, TWO, milliseconds)]


def _added(rounds: list[dict[tuple[str, str], Taken]], model: str, milliseconds: int) -> list[Row]:
    """The rows of one model over one upstream."""
    measures: list[tuple[str, float | None, Callable[[Taken], float]]] = [
        ("p50", 1.0, lambda found: found.median),
        ("p99", 5.0, lambda found: found.quantile(0.99)),
    ]
    others = [name for name, asked in BLOCKS if asked == model and name in PEERS]
    title = f"{CALLS[model]}, {milliseconds} ms upstream"
    rows = []
    for measure, target, of in measures:
        beyond: dict[str, list[float]] = {}
        for name in ("cowest", *others):
            if name != "bento":
                beyond[name] = [of(each[name, model]) - of(each["bento", model]) for each in rounds]
        ours = beyond.pop("cowest")
        rows.append(row(f"{title}: beyond bare BentoML, {measure}", ours, "ms", target, beyond))
        whole = {name: [of(each[name, model]) for each in rounds] for name in others}
        ours = [of(each["cowest", model]) for each in rounds]
        rows.append(row(f"{title}: latency, {measure}", ours, "ms", None, whole))
    cpu = {n: [each[n, model].cpu * 1000 for each in rounds] for n in ("cowest", *others)}
    rows.append(row(f"{title}: CPU per request", cpu.pop("cowest"), "ms", None, cpu))
    failed = {n: [float(sum(e[n, model].failed for e in rounds))] for n in ("cowest", *others)}
    rows.append(row(f"{title}: failed", failed.pop("cowest"), "requests", 0, failed))
    return rows


def first(folder: Path, length: Length) -> list[Row]:
    """The time to the first text, over that of the draft and of the strong model's first text."""
    ratios = []
    with started(["cowest"], folder, "fixed-500", "spread-500") as servers:
        load(servers["cowest"], TWO, RATE, 2.0, stream=True)
        for _ in range(length.rounds):
            found = load(servers["cowest"], TWO, RATE, length.block, stream=True)
            say("first", "cowest", TWO, found)
            ratios.append(found)
    medians = [found.median / 1000 for found in ratios]
    late = [found.quantile(0.99) / 1000 for found in ratios]
    name = "time to first token over policy + strong prefill, 500 ms each"
    return [row(f"{name}, p50", medians, "ratio", 1.05), row(f"{name}, p99", late, "ratio")]


def highest(folder: Path, length: Length) -> list[Row]:
    """The highest rate held with a p99 under twice that of an idle service, upstreams of 20 ms."""
    asked = [("cowest", ONE), ("bento", ONE), ("starlette", ONE), ("litellm", ONE), ("cowest", TWO)]
    held: dict[tuple[str, str], list[float]] = {each: [] for each in asked}
    with started(["cowest", *PEERS], folder, "fixed-20", "fixed-20") as servers:
        for _ in range(1 if length is SHORT else 3):
            for name, model in asked:
                held[name, model].append(_held(servers[name], model, length.block))
    one = {name: held[name, ONE] for name in PEERS}
    title = "highest load with p99 under twice its idle value, 20 ms upstream"
    ours, both = held["cowest", ONE], held["cowest", TWO]
    return [
        row(f"{title}: {CALLS[ONE]}", ours, "requests/s", None, one, "higher"),
        row(f"{title}: {CALLS[TWO]}", both, "requests/s", None, {}, "higher"),
    ]


def _held(server: Server, model: str, seconds: float) -> float:
    """Raises the rate by 60 % each time until it is held no more."""
    idle = load(server, model, 10.0, 3 * seconds)
    most = 2 * idle.quantile(0.99)
    rate, held = 40.0, 10.0
    while rate < 1000:
        found = load(server, model, rate, seconds)
        say(f"{rate:.0f}/s, p99 at most {most:.0f}", server.name, model, found)
        if found.failed or found.quantile(0.99) > most:
            break
        rate, held = rate * 1.6, rate
    return held


def overload(folder: Path, length: Length) -> list[Row]:
    """Ten times as many requests as places and upstream of 500 ms can answer, to one model."""
    upstream = 0.5
    # Whoever comes last into the queue waits for all before them, and is then answered.
    longest = upstream * (1 + QUEUE / PLACES)
    over, late, share, unsaid = [], [], [], 0
    with started(["bounded"], folder, "fixed-500", "fixed-500") as servers:
        server = servers["bounded"]
        load(server, ONE, PLACES / upstream / 2, 2.0)
        for _ in range(length.rounds):
            found = load(server, ONE, 10 * PLACES / upstream, length.block)
            say("overload", server.name, ONE, found)
            over.append(_late(found.seconds) / longest)
            late.append(_late(found.refused) * 1000)
            share.append(len(found.refused) / (len(found.seconds) + found.failed))
            unsaid += found.failed - len(found.refused)
    title = "at ten times its capacity"
    return [
        row(f"{title}: p99 of the admitted over the queue's longest wait", over, "ratio", 1.2),
        row(f"{title}: time to a refusal, p99", late, "ms"),
        row(f"{title}: refused, with Retry-After", share, "share"),
        row(f"{title}: failed in another way", [float(unsaid)], "requests", 0),
    ]


def _late(seconds: list[float]) -> float:
    """The p99 of some times."""
    return sorted(seconds)[min(len(seconds) - 1, int(0.99 * len(seconds)))]


def memory(folder: Path, length: Length) -> list[Row]:
    """The growth of the service's memory at 50 requests a second, after a first half minute."""
    with started(["cowest"], folder, "fixed-20", "fixed-20") as servers:
        server = servers["cowest"]
        load(server, TWO, RATE, 30.0)
        sizes = [server.memory()]
        ends = time.monotonic() + length.memory * 60
        while time.monotonic() < ends:
            load(server, TWO, RATE, 15.0)
            sizes.append(server.memory())
    minutes = f"{length.memory:g} minutes at {RATE:g} requests/s"
    print("memory", sizes, flush=True)
    return [
        row("memory of the service: after 30 s", sizes[:1], "MiB"),
        row(f"memory of the service: growth over {minutes}", [sizes[-1] - sizes[0]], "MiB"),
    ]


def embedded(_: Path, length: Length) -> list[Row]:
    """The embedded pair's 16 at once."""
    from tests.bench import serving_decoder

    return serving_decoder.rows(times=length.embedded)


def taken(folder: Path, length: Length) -> list[Row]:
    """The time from a decision in the registry to the first answer by its version.

    Each decision comes right after the one before was taken up, which makes the longest wait.
    """
    from cowest.online.live import ServeConfig
    from tests import champions

    watch = ServeConfig.model_fields["watch"].default
    project = folder / "cowest-taken"
    project.mkdir()
    champions.make_project(project, watch=watch)
    acts = {"promotion": champions.promote, "rollback": champions.roll_back}
    seconds: dict[str, list[float]] = {name: [] for name in acts}
    with of_project(project) as server:
        for _ in range(length.rounds):
            for name, decide in acts.items():
                seconds[name].append(until_version(server, decide(project)))
                print(f"taken {name}: {seconds[name][-1]:.1f} s", flush=True)
    title = f"from a decision to the first answer by its version, `watch` {watch:g} s, tiny policy"
    return [row(f"{title}: {name}", found, "s", 30) for name, found in seconds.items()]


PIECES = {
    "added-20": added_20,
    "added-500": added_500,
    "first": first,
    "load": highest,
    "overload": overload,
    "memory": memory,
    "embedded": embedded,
    "taken": taken,
}


def say(way: str, name: str, model: str, found: Taken) -> None:
    """Prints a block."""
    print(
        f"{way} {name} {model}: p50 {found.median:.1f} p99 {found.quantile(0.99):.1f} ms, "
        f"cpu {found.cpu * 1000:.2f} ms, failed {found.failed}, load {os.getloadavg()[0]:.1f}",
        flush=True,
    )


def keep(piece: str, rows: list[Row]) -> list[Row]:
    """Puts the rows of a piece into serve.json, in place of those it had."""
    path = DOCS / "bench" / "serve.json"
    before: list[Row] = json.loads(path.read_text()) if path.exists() else []
    load_now = round(os.getloadavg()[2], 1)
    made = [{**each, "piece": piece, "load": load_now} for each in rows]
    others = [each for each in before if each["piece"] != piece]
    order = list(PIECES)
    merged = sorted([*others, *made], key=lambda each: order.index(each["piece"]))
    path.write_text(json.dumps(merged, indent=1) + "\n")
    return merged


def tell(rows: list[Row]) -> None:
    """Writes the table of docs/performance.md."""
    page = DOCS / "performance.md"
    head, _, rest = page.read_text(encoding="utf-8").partition("<!-- serve -->\n")
    lines = ["| | CoWest | least to most | aim | beside it |", "| --- |" + " --- |" * 4]
    for each in rows:
        aim = "" if each["target"] is None else f"<= {each['target']:g}"
        low, high = each.get("spread", ("", ""))
        spread = f"{low:,g} to {high:,g}" if low != high else ""
        beside = ", ".join(f"{name} {value:,g}" for name, value in each["peers"].items())
        lines.append(
            f"| {each['name']}, {each['unit']} | **{each['value']:,g}** | {spread} | {aim} | "
            f"{beside} |"
        )
    loads = sorted({each["load"] for each in rows})
    lines.append(
        f"\n{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}, "
        f"load averages from {loads[0]:g} to {loads[-1]:g}, the bench's own part in them."
    )
    end = "\n<!-- end of serve -->"
    table = "\n".join(lines)
    page.write_text(f"{head}<!-- serve -->\n{table}{end}{rest.partition(end)[2]}", "utf-8")


def main() -> None:
    """Measures, and writes what it found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pieces", nargs="*", choices=[[], *PIECES])
    parser.add_argument("--short", action="store_true")
    given = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="cowest.") as folder:
        for piece in given.pieces or PIECES:
            rows = keep(piece, PIECES[piece](Path(folder), SHORT if given.short else LONG))
    tell(rows)


if __name__ == "__main__":
    main()
