"""`python -m tests.bench.gate [--sims N]`: misses, coverage, false promotions, power and wear.

Writes docs/bench/gate.json (rows: name, value, unit, better, target, peers) and gate.svg. About
eight minutes on one core with 4,000 simulations.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cowest.intervals import difference_of, estimates
from tests.bench.gate.figure import draw
from tests.bench.gate.ways import all_ways, open_to_judge, ours, parts_of
from tests.bench.gate.wear import histories
from tests.bench.gate.world import Case, samples, scores

OUT = Path(__file__).parents[3] / "docs" / "bench" / "gate.json"
CLUSTERS = (2, 5, 8, 10, 12, 16, 24, 34, 50, 100, 200)
FEWEST_INTERVAL = 5
"""With fewer there is no interval."""
FEWEST_CLUSTERS = 10
"""As `compare.min_groups`: with fewer a gate is closed."""
CASES = (
    Case("amid, equal", (0.5, 0.5)),
    Case("amid, +.1", (0.5, 0.6)),
    Case("low, +.1", (0.1, 0.2)),
    Case("high, equal", (0.9, 0.9)),
    Case("high, +.1", (0.8, 0.9)),
    Case("ceiling, equal", (0.95, 0.95)),
    Case("ceiling, +.1", (0.88, 0.98)),
)
WORSE = (
    Case("high, -.1", (0.9, 0.8)),
    Case("ceiling, -.1", (0.98, 0.88)),
)
"""The truths at which a gate that lets a challenger be worse by .1 is just not met."""
ASKED = 0.005
"""`at_least` of the default gates."""
SPENT = (0.0, 1.0)
"""Powers of wear that divide a level: without and with the default of compare.spend."""
Misses = dict[tuple[str, int], dict[str, tuple[float, float, float]]]
"""By case and clusters, by way: shares below and above the truth, and covered of those judged."""


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gate", description=__doc__)
    parser.add_argument("--sims", type=int, default=4000)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args(argv)
    cases = [*CASES, *(Case(f"{one.name}, graded", one.means, True) for one in CASES)]
    worse = [*WORSE, *(Case(f"{one.name}, graded", one.means, True) for one in WORSE)]
    misses = grid(cases, CLUSTERS, given.sims)
    beyond = grid(worse, (10, 34, 100), given.sims)
    rows = [product_agrees()]
    rows += [*missed(misses, cases), *covered(misses, cases), *missed_by_worse(beyond, worse)]
    power = powers(given.sims)
    rows += [*together(given.sims), *power]
    worn = list(wear(max(given.sims // 2, 50)))
    rows += [*worn, *powers_worn(given.sims)]
    given.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    draw(misses, [case.name for case in cases], power, given.out.with_suffix(".svg"))
    late = [row["name"] for row in rows if not met(row)]
    print("\n".join(f"{row['value']:>8} {row['unit']:<9} {row['name']}" for row in rows))
    print("missed their targets:", late or "none")
    return 0


def row(
    name: str,
    value: float,
    unit: str,
    better: str,
    target: float | None = None,
    peers: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    return {
        "name": name,
        "value": round(value, 4),
        "unit": unit,
        "better": better,
        "target": target,
        "peers": {name: round(peer, 4) for name, peer in (peers or {}).items()},
    }


def met(one: Mapping[str, Any]) -> bool:
    if one["target"] is None:
        return True
    if one["better"] == "lower":
        return bool(one["value"] <= one["target"])
    return bool(one["value"] >= one["target"])


def grid(cases: list[Case], clusters: tuple[int, ...], sims: int) -> Misses:
    """Counts the misses of every way in every case."""
    found: Misses = {}
    for number, case in enumerate(cases):
        for count in clusters:
            one = samples(case, count, sims, number)
            tops, truth = one.sums[1] - one.sums[0], case.means[1] - case.means[0]
            judged = open_to_judge(one.differ[1])
            shares = {}
            with np.errstate(all="ignore"):
                parts = parts_of(tops, one.sizes, one.sizes)
                ways = all_ways(parts, tops, one.sizes, number)
            for name, (low, high) in ways.items():
                below = (low > truth + 1e-9) & judged
                above = (high < truth - 1e-9) & judged
                held = judged & ~below & ~above
                within = held.sum() / max(judged.sum(), 1)
                shares[name] = (below.mean(), above.mean(), within)
            found[case.name, count] = shares
        print(case.name, file=sys.stderr, flush=True)
    return found


def missed(misses: Misses, cases: list[Case]) -> Iterator[dict[str, Any]]:
    """By clusters, the worst share of lower ends above the truth, over the cases."""
    for count in CLUSTERS:
        worst: dict[str, float] = defaultdict(float)
        for case in cases:
            for name, (below, _, _) in misses[case.name, count].items():
                worst[name] = max(worst[name], 100 * below)
        target = 3.0 if count >= FEWEST_CLUSTERS else None
        name = f"lower end above the truth, worst of {len(cases)} cases, {count} clusters"
        yield row(name, worst.pop("ours"), "%", "lower", target, worst)


def covered(misses: Misses, cases: list[Case]) -> Iterator[dict[str, Any]]:
    """By clusters, the least and the largest coverage where both means lie between .1 and .9."""
    amid = [case for case in cases if case.amid]
    for count in CLUSTERS:
        if count < FEWEST_INTERVAL:
            continue
        asked = count >= FEWEST_CLUSTERS
        by_way: dict[str, list[float]] = defaultdict(list)
        for case in amid:
            for name, (_, _, within) in misses[case.name, count].items():
                by_way[name].append(within)
        least = {name: min(values) for name, values in by_way.items()}
        most = {name: max(values) for name, values in by_way.items()}
        where = f"of {len(amid)} cases, {count} clusters"
        for name, shares, better, target in (
            ("coverage, least", least, "higher", 0.93),
            ("coverage, largest", most, "lower", 0.97),
        ):
            bound = target if asked else None
            yield row(f"{name} {where}", shares.pop("ours"), "share", better, bound, shares)


def missed_by_worse(misses: Misses, cases: list[Case]) -> Iterator[dict[str, Any]]:
    """The same where the challenger is worse by .1 near the ceiling."""
    for count in (10, 34, 100):
        worst: dict[str, float] = defaultdict(float)
        for case in cases:
            for name, (below, _, _) in misses[case.name, count].items():
                worst[name] = max(worst[name], 100 * below)
        name = f"lower end above a truth of -.1 near the ceiling, {count} clusters"
        yield row(name, worst.pop("ours"), "%", "lower", 3.0, worst)


def together(sims: int) -> Iterator[dict[str, Any]]:
    """False promotions where none of four systems is better: by the three default gates on scores
    together, without the guards, which refuse further ones, and by one gate.
    """
    case = Case("four equal", (0.6, 0.6, 0.6, 0.6))
    for count in (10, 16, 34, 100):
        one = samples(case, count, sims, 77)
        # The first is after alignment; the gates are over before, the champion, the best single.
        passes = []
        for other in (1, 2, 3):
            tops = one.sums[0] - one.sums[other]
            low, _ = ours(parts_of(tops, one.sizes, one.sizes))
            passes.append((low >= ASKED) & open_to_judge(one.differ[other]))
        name = f"false promotions by the three default gates on scores together, {count} clusters"
        alone = {"one gate alone": 100 * passes[0].mean()}
        yield row(name, 100 * np.logical_and.reduce(passes).mean(), "%", "lower", 3.0, alone)


def powers(sims: int) -> list[dict[str, Any]]:
    """The share of better challengers that one gate lets pass, beside t and the bootstrap."""
    found = []
    for gain in (0.05, 0.1, 0.2):
        case = Case(f"+{gain:g}", (0.6, 0.6 + gain))
        for count in CLUSTERS:
            one = samples(case, count, sims, 78)
            tops = one.sums[1] - one.sums[0]
            ways = all_ways(parts_of(tops, one.sizes, one.sizes), tops, one.sizes, 78)
            judged = open_to_judge(one.differ[1])
            # A gate is closed where there are fewer groups than `compare.min_groups`.
            if count < FEWEST_CLUSTERS:
                judged = np.zeros_like(judged)
            passing = {}
            for name, (low, _) in ways.items():
                passing[name] = 100 * ((low >= ASKED) & judged).mean()
            name = f"power of one gate, {gain:+g} in truth, {count} clusters"
            found.append(row(name, passing.pop("ours"), "%", "higher", None, passing))
    return found


def wear(sims: int) -> Iterator[dict[str, Any]]:
    """50 weekly challengers of which none is better, with and without spent confidence."""
    for clusters in (34, 16):
        for changing in (0.1, 0.3, 1.0):
            without, spent = (histories(clusters, changing, one, sims=sims) for one in SPENT)
            where = f"{clusters} clusters, {changing:.0%} of the answers change each week"
            peers = {"confidence not spent": 100 * without.promoted}
            name = f"histories of 50 weeks that promote by chance, {where}"
            yield row(name, 100 * spent.promoted, "%", "lower", 10.0, peers)
            peers = {"confidence not spent": without.risen}
            name = f"rise of the champion's reported score by chance, {where}"
            yield row(name, spent.risen, "score", "lower", None, peers)


def powers_worn(sims: int) -> Iterator[dict[str, Any]]:
    """What spent confidence costs: the power on a set that was looked at before."""
    for gain in (0.1, 0.2):
        for count in (16, 34, 100):
            one = samples(Case("worn", (0.6, 0.6 + gain)), count, sims, 79)
            tops = one.sums[1] - one.sums[0]
            parts = parts_of(tops, one.sizes, one.sizes)
            for looks in (0, 5, 20, 50):
                low, _ = ours(parts, 0.05 / (1 + looks))
                name = f"power after {looks} looks, {gain:+g} in truth, {count} clusters"
                yield row(name, 100 * (low >= ASKED).mean(), "%", "higher")


def product_agrees() -> dict[str, Any]:
    """The largest difference of the ends that the product gives and those simulated here."""
    largest = 0.0
    for graded in (False, True):
        for means in ((0.5, 0.6), (0.88, 0.98)):
            for seed in range(60):
                rng = np.random.default_rng(seed)
                sizes = rng.integers(2, 41, size=(10, 34)[seed % 2])
                before, after = scores(Case("one", means, graded), sizes, rng)
                groups = np.repeat(np.arange(len(sizes)), sizes)
                ratio = difference_of(after, before)
                (found,) = estimates([f"{group:03}" for group in groups], [ratio])
                tops = np.bincount(groups, weights=after - before)[None]
                size = sizes.astype(np.float64)[None]
                low, high = ours(parts_of(tops, size, size))
                if found is None or found.low is None or found.high is None:
                    differ = np.bincount(groups, weights=after != before) > 0
                    assert not open_to_judge(differ[None])[0]
                    continue
                largest = max(largest, abs(found.low - low[0]), abs(found.high - high[0]))
    return row("ends of the product, beside those simulated", largest, "score", "lower", 1e-4)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
