"""Measures the domain as a test, before any policy is trained: the arms that train none, on dev,
with the facts themselves as the policy's direct replies.

    python -m tests.bench.evidence.sites.design FOLDER SEED ...

A policy that was taught the corpus answers the direct questions rightly, so these arms are as good
here as they will be in a run, or a little better. Knowledge bases 0 to 9 are for design.
"""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from cowest import collaboration, environment
from cowest.config import Sampling, load, parse
from cowest.domains import domain, invent_sites, sites
from cowest.models.hf import HFConfig
from cowest.records import Draft, Feedback, Query, grown
from cowest.scorers.contains import ContainsConfig
from tests.bench.evidence.sites import free, routers

ROOT = Path(__file__).parents[4]
ARMS = ("everything", "bm25_1", "bm25_3", "routed", "likelihood", "table", "ridge")
Seen = dict[str, list[float]]


def main(folder: Path, seeds: Sequence[int]) -> None:
    """Prints, per knowledge base and over all, each arm's score on dev, and by wording."""
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["COWEST_STORE"] = str(folder / "calls.sqlite")
    environment.settle()
    params = load(ROOT / "params.yaml")
    strong = parse(HFConfig, params["models"]["strong"], "models.strong")
    policy = parse(HFConfig, params["models"]["policy"], "models.policy")
    answering = parse(Sampling, params["refine"]["sampling"], "refine.sampling")
    whole: dict[str, Seen] = {}
    for seed in seeds:
        found = measured(folder / f"raw-{seed}", seed, strong, policy, answering)
        for arm, scores in found.items():
            for wording, values in scores.items():
                whole.setdefault(arm, {}).setdefault(wording, []).extend(values)
        _say(f"knowledge base {seed}", found)
    _say(f"all {len(seeds)}", whole)


def measured(
    raw: Path,
    seed: int,
    strong: HFConfig,
    policy: HFConfig,
    answering: Sampling,
    world: invent_sites.World | None = None,
) -> dict[str, Seen]:
    """Scores of each arm on the dev questions of one knowledge base: arm -> wording -> scores."""
    invent_sites.write(raw, seed, world)
    queries = list(domain("sites").load(raw))
    facts = _facts(queries, raw)
    train, dev = (
        [query for query in queries if query.split == split] for split in ("train", "dev")
    )
    prompts = sites.PROMPTS

    def fed(asked: Sequence[Query]) -> list[list[Feedback]]:
        return _refined([_rows(query, facts[query.id]) for query in asked], strong, answering)

    on_train, on_dev = fed(train), fed(dev)
    says: dict[str, free.Says] = {"everything": free.everything(facts)}
    says["bm25_1"], says["bm25_3"] = free.nearest(facts, 1), free.nearest(facts, 3)
    with strong.open() as model:
        says["routed"] = free.routed(dev, facts, model, answering)
    says["likelihood"] = free.likelihood(dev, facts, strong, prompts)
    entries, other = routers.table(on_train)
    says["table"] = lambda query: facts[query.id][entries.get(routers.wording(query), other)]
    features = [routers.hidden_states(part, policy, prompts) for part in (train, dev)]
    # The penalty is chosen on the very questions that are asked, so this arm is flattered.
    named, _ = routers.routes((features[0], on_train), (features[1], on_dev), features[1])
    chosen = {query.id: site for query, site in zip(dev, named, strict=True)}
    says["ridge"] = lambda query: facts[query.id][chosen[query.id]]
    drafted = []
    for query in dev:
        rows = []
        for number, arm in enumerate(ARMS):
            rows.append(grown(Draft, query, sample=number, draft=says[arm](query), policy=arm))
        drafted.append(rows)
    found: dict[str, Seen] = {}
    for group in _refined(drafted, strong, answering):
        for row in group:
            for wording in ("all", row.tags[2]):
                found.setdefault(row.policy, {}).setdefault(wording, []).append(row.score or 0.0)
    return found


def _facts(queries: Sequence[Query], raw: Path) -> dict[str, dict[str, str]]:
    """The four facts about each query's product, by site, in place of a policy's replies."""
    products = {}
    for line in (raw / "products.jsonl").read_text(encoding="utf-8").splitlines():
        product = json.loads(line)
        products[product["product"]] = product
    found = {}
    for query in queries:
        stated = {}
        for site, sentence in invent_sites.SITES.items():
            stated[site] = sentence.format(**products[query.group])
        found[query.id] = stated
    return found


def _rows(query: Query, facts: dict[str, str]) -> list[Draft]:
    rows = []
    for number, (site, text) in enumerate(facts.items()):
        fields = {"sample": number, "draft": text, "candidate": site, "policy": "facts"}
        rows.append(grown(Draft, query, **fields))
    return rows


def _refined(
    groups: Sequence[list[Draft]], strong: HFConfig, answering: Sampling
) -> list[list[Feedback]]:
    def scored() -> Iterator[Feedback]:
        with strong.open() as model, ContainsConfig(rule=2).open() as scorer:
            refined = collaboration.refine(iter(groups), model, sites.PROMPTS, answering)
            yield from collaboration.score(collaboration.by_query(refined), scorer)

    return list(collaboration.by_query(scored()))


def _say(what: str, found: dict[str, Seen]) -> None:
    print(what)
    for arm, scores in found.items():
        cells = []
        for wording, values in sorted(scores.items()):
            cells.append(f"{wording} {sum(values) / len(values):.3f} of {len(values)}")
        print(f"  {arm}: {', '.join(cells)}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(seed) for seed in sys.argv[2:]])
