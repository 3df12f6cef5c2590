"""What calls to an endpoint take, beside other clients on the same machine at the same time.

    make bench-calls                        everything, about ten minutes
    python -m tests.bench.calls speed       one piece: speed, tail, faults, resume, memory

Each piece writes its rows into docs/bench/calls.json, and the table and the plot of
docs/performance.md from all rows there. The peers are installed into environments of their own (in
COWEST_PEERS, or .bench), in the versions of tests/bench/peers_*.txt.
"""

import json
import os
import platform
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DOCS = HERE.parent.parent / "docs"
CALLS, CONCURRENCY, SECONDS = 2000, 64, 0.1
LIMIT = CALLS * SECONDS / CONCURRENCY
PEERS = {
    "raw": "raw asyncio",
    "aiohttp": "aiohttp + uvloop + orjson",
    "openai": "openai (official)",
    "litellm": "litellm",
    "curator": "Bespoke Curator",
}
TIMES = 3
Row = dict[str, Any]


def row(
    name: str,
    value: float,
    unit: str,
    better: str,
    target: float | None,
    peers: dict[str, float] | None = None,
) -> Row:
    """One line of calls.json."""
    peers = {PEERS[name]: round(found, 3) for name, found in (peers or {}).items()}
    return {
        "name": name,
        "value": round(value, 3),
        "unit": unit,
        "better": better,
        "target": target,
        "peers": peers,
    }


def peers_python(client: str) -> Path:
    """The Python of a peer's environment, which is made where it is not there. The others hold
    the official client back.
    """
    name = "openai" if client == "openai" else "others"
    folder = Path(os.environ.get("COWEST_PEERS") or HERE.parent.parent / ".bench").absolute() / name
    if not (folder / "bin" / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run(
            [str(folder / "bin" / "pip"), "install", "-q", "-r", str(HERE / f"peers_{name}.txt")],
            check=True,
        )
    return folder / "bin" / "python"


@contextmanager
def endpoint() -> Iterator[str]:
    """The URL of the server, in a process of its own."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.bench.endpoint"],
        cwd=DOCS.parent,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        try:
            yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
        finally:
            server.kill()


def stats(url: str) -> dict[str, float]:
    """What the server did since it was last asked."""
    with urllib.request.urlopen(f"{url}/stats") as response:
        return json.load(response)  # type: ignore[no-any-return]


def command(client: str, url: str, kind: str, calls: int, settings: dict[str, Any]) -> list[str]:
    python = sys.executable if client == "cowest" else str(peers_python(client))
    words = [f"{name}={json.dumps(value)}" for name, value in settings.items()]
    return [
        python,
        str(HERE / "clients.py"),
        client,
        f"{url}/{kind}/v1",
        str(calls),
        str(CONCURRENCY),
        *words,
    ]


def run(client: str, url: str, kind: str, calls: int = CALLS, **settings: Any) -> dict[str, float]:
    """What a client took, with what the server has to say about it."""
    stats(url)
    with tempfile.TemporaryDirectory() as folder:
        line = command(client, url, kind, calls, settings)
        done = subprocess.run(
            line, cwd=folder, env=_surroundings(client), capture_output=True, text=True, timeout=500
        )
    if done.returncode and client == "cowest":
        raise SystemExit(f"{' '.join(line)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    if done.returncode:
        print(client, kind, "crashed:", done.stderr.strip().splitlines()[-1][:200], flush=True)
        return {}
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    server = stats(url)
    found |= {
        "calls": server["calls"],
        "waited": server["waited"],
        "server": server["cpu"] / server["calls"] * 1000,
    }
    print(
        client, kind, settings, {name: round(value, 3) for name, value in found.items()}, flush=True
    )
    return found


def _surroundings(client: str) -> dict[str, str]:
    keep = {
        name: value for name, value in os.environ.items() if not name.startswith("COWEST_STORE")
    }
    if client != "cowest":
        keep.pop("PYTHONPATH", None)
    return keep


def speed(url: str) -> list[Row]:
    """2,000 calls of 100 ms, 64 at once; the median of three runs, taken in turns."""
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(TIMES):
        for client in ("cowest", *PEERS):
            found.setdefault(client, []).append(run(client, url, "fixed-100"))
    wall = {
        client: statistics.median(each["wall"] for each in runs) / LIMIT
        for client, runs in found.items()
    }
    cpu = {
        client: statistics.median(each["cpu"] for each in runs) for client, runs in found.items()
    }
    server = statistics.median(each["server"] for each in found["cowest"])
    return [
        row(
            "wall over the physical limit at 640 calls/s",
            wall.pop("cowest"),
            "ratio",
            "lower",
            1.05,
            wall,
        ),
        row("CPU per call", cpu.pop("cowest"), "ms", "lower", 0.5, cpu),
        row("CPU per call of the test's server", server, "ms", "lower", None),
    ]


def tail(url: str) -> list[Row]:
    """The same with one answer of twenty ten times as late; the bound is all waiting by 64."""
    found = {client: run(client, url, "tail-100", warm=False) for client in ("cowest", *PEERS)}
    hedged = run("cowest", url, "tail-100", warm=False, hedge=0.1)
    bound = found["cowest"]["waited"] / CONCURRENCY
    ratio = {client: each["wall"] / bound for client, each in found.items()}
    ours = ratio.pop("cowest")
    return [
        row("heavy tail over its bound", ours, "ratio", "lower", 1.25, ratio),
        row(
            "heavy tail over its bound, hedged",
            hedged["wall"] / bound,
            "ratio",
            "lower",
            1.1,
            ratio,
        ),
        row("calls made twice by hedging", hedged["calls"] - CALLS, "calls", "lower", CALLS * 0.1),
    ]


def faults(url: str) -> list[Row]:
    """1,000 rows at 50 ms with every fault; those that lose rows are quicker by what they lose."""
    found = {
        client: run(client, url, "mixed-50", 1000, warm=False)
        for client in ("aiohttp", "openai", "litellm", "curator")
    }
    ours = run("cowest", url, "mixed-50", 1000, warm=False, timeout=0.8)

    def each(name: str) -> dict[str, float]:
        return {client: one[name] for client, one in found.items() if one}

    lost = {client: 1000 - answered for client, answered in each("answered").items()}
    return [
        row(
            "mixed faults: rows answered of 992",
            ours["answered"],
            "rows",
            "higher",
            992,
            each("answered"),
        ),
        row(
            "mixed faults: rows set aside or lost",
            1000 - ours["answered"],
            "rows",
            "lower",
            8,
            lost,
        ),
        row("mixed faults: calls", ours["calls"], "calls", "lower", 1242, each("calls")),
        row("mixed faults: wall", ours["wall"], "s", "lower", 5, each("wall")),
    ]


def resume(url: str) -> list[Row]:
    """Killed about half way; then the whole process, from its start to its end, less the time
    that the calls left need.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "calls.sqlite"
        line = command("cowest", url, "fixed-100", CALLS, {"warm": False})
        surroundings = {**_surroundings("cowest"), "COWEST_STORE": str(place)}
        with subprocess.Popen(
            line, cwd=folder, env=surroundings, stdout=subprocess.DEVNULL, process_group=0
        ) as first:
            while _answered(place) < CALLS / 2:
                time.sleep(0.05)
            os.killpg(first.pid, signal.SIGKILL)
        kept, before = _answered(place), stats(url)["calls"]
        began = time.monotonic()
        subprocess.run(line, cwd=folder, env=surroundings, stdout=subprocess.DEVNULL, check=True)
        took = time.monotonic() - began
    again = stats(url)["calls"] + before - CALLS
    return [
        row(
            "resume after a kill, beyond the work left",
            took - (CALLS - kept) * SECONDS / CONCURRENCY,
            "s",
            "lower",
            1,
        ),
        row("calls made again after a kill", again, "calls", "lower", CONCURRENCY),
    ]


def _answered(place: Path) -> int:
    try:
        with closing(sqlite3.connect(f"file:{place}?mode=ro", uri=True)) as db:
            return int(db.execute("SELECT COUNT(*) FROM calls").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def memory(url: str) -> list[Row]:
    """Peak of the process, as rows grow tenfold."""
    small, large = (
        run("cowest", url, "fixed-1", calls, warm=False)["peak"] for calls in (20_000, 200_000)
    )
    return [
        row("peak memory at 20,000 rows", small, "MiB", "lower", None),
        row("peak memory from 20,000 to 200,000 rows", large / small, "ratio", "lower", 1.1),
    ]


PIECES = {"speed": speed, "tail": tail, "faults": faults, "resume": resume, "memory": memory}


def keep(rows: list[Row]) -> list[Row]:
    """Puts rows into calls.json, in place of those of the same name."""
    path = DOCS / "bench" / "calls.json"
    path.parent.mkdir(exist_ok=True)
    before = {
        each["name"]: each for each in (json.loads(path.read_text()) if path.exists() else [])
    }
    merged = sorted(
        (before | {each["name"]: each for each in rows}).values(),
        key=lambda each: _order(each["name"]),
    )
    path.write_text(json.dumps(merged, indent=1) + "\n")
    return merged


def _order(name: str) -> int:
    starts = ("wall", "CPU", "heavy", "calls made twice", "mixed", "resume")
    return next(
        (number for number, start in enumerate(starts) if name.startswith(start)), len(starts)
    )


def tell(rows: list[Row]) -> None:
    """The table and the plot of docs/performance.md."""
    page = DOCS / "performance.md"
    head, _, rest = page.read_text(encoding="utf-8").partition("<!-- calls -->\n")
    lines = [
        f"| | CoWest | aim | {' | '.join(PEERS.values())} |",
        "| --- |" + " --- |" * (2 + len(PEERS)),
    ]
    for each in rows:
        aim = (
            ""
            if each["target"] is None
            else f"{'>=' if each['better'] == 'higher' else '<='} {each['target']:g}"
        )
        shown = [
            f"{each['peers'][name]:,g}" if name in each["peers"] else "" for name in PEERS.values()
        ]
        lines.append(
            f"| {each['name']}, {each['unit']} | **{each['value']:,g}** | {aim} | "
            f"{' | '.join(shown)} |"
        )
    lines.append(
        f"\n{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}."
    )
    end = "\n<!-- end of calls -->"
    page.write_text(
        f"{head}<!-- calls -->\n{chr(10).join(lines)}{end}{rest.partition(end)[2]}", "utf-8"
    )
    plot(rows)


def plot(rows: list[Row]) -> None:
    """Wall and CPU of all clients."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "cowest"
    from matplotlib import pyplot

    shown = [
        each
        for each in rows
        if each["name"]
        in (
            "wall over the physical limit at 640 calls/s",
            "CPU per call",
            "heavy tail over its bound",
        )
    ]
    if not shown:
        return
    figure, panels = pyplot.subplots(
        1, len(shown), figsize=(4 * len(shown), 2.8), sharey=True, squeeze=False
    )
    for panel, each in zip(panels[0], shown, strict=True):
        bars = {"CoWest": each["value"], **each["peers"]}
        panel.barh(
            list(bars), list(bars.values()), color=["#1b6ca8"] + ["#b8c4cc"] * len(each["peers"])
        )
        panel.axvline(each["target"], color="#c0392b", linewidth=1, linestyle="--")
        panel.set(title=f"{each['name']}\n({each['unit']}; dashed: the aim {each['target']:g})")
        panel.title.set_fontsize(8)
        panel.tick_params(labelsize=7)
        for place, value in enumerate(bars.values()):
            panel.text(value, place, f" {value:.3g}", va="center", fontsize=7)
        panel.margins(x=0.2)
    panels[0][0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(DOCS / "calls.svg", metadata={"Date": None})


def main(pieces: list[str]) -> None:
    """Measures, and writes what it found."""
    for client in PEERS:
        peers_python(client)
    rows: list[Row] = []
    with endpoint() as url:
        for piece in pieces or PIECES:
            rows = keep(PIECES[piece](url))
    tell(rows)


if __name__ == "__main__":
    main(sys.argv[1:])
