"""One knowledge base and one training seed, from its raw files to every system's answers on the
same held-out questions.

    python -m tests.bench.evidence.sites.run '{"seed": 140}' FOLDER

The stages are the product's own, with the settings of params.yaml and those of the plan. What is
in FOLDER already is not made again, so a run that was cut goes on where it was, also on another
machine that the folder is taken to. `run.json` at the end holds every score and cost.
"""

import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cowest import collaboration, environment, io, version
from cowest.config import Sampling, load, parse
from cowest.domains import invent, invent_sites, sites
from cowest.ledger import store
from cowest.models.hf import HFConfig
from cowest.preferences import Agreement, PairRule
from cowest.records import Draft, Feedback, PreferencePair, Query, Split, grown
from cowest.scorers.contains import ContainsConfig
from cowest.stages import dpo, draft, prepare, refine, score, sft
from tests.bench.evidence.sites import free, objectives, routers
from tests.bench.evidence.sites.arms import ON_POLICY, TRAINED, WAYS, calls_of, pairs_of
from tests.bench.evidence.sites.plan import Settings

ROOT = Path(__file__).parents[4]
PROMPTS = sites.PROMPTS
SCORER = ContainsConfig(rule=2)
STRONG_TOOK = (
    "SELECT COUNT(*), COALESCE(SUM(prompt_tokens + completion_tokens), 0) FROM calls "
    "WHERE stage = ? AND model = ?"
)


def main(settings: Settings, folder: Path) -> None:
    """Makes whatever of the run is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["COWEST_STORE"] = str(folder / "calls.sqlite")
    environment.settle()
    run = Run(settings, folder)
    run.specialise()
    run.feed_back()
    for arm in settings.trained:
        run.align(arm)
    run.hold_out()
    run.evaluate()


class Run:
    """The steps of a run, each of which makes files of its folder once."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings, self._folder = settings, folder
        params = load(ROOT / "params.yaml")
        for path, value in settings.changes.items():
            _set(params, path.split("."), value)
        for name in ("policy", "strong"):
            given = getattr(settings, name)
            params["models"][name] = given or params["models"][name]
        policy, strong = params["models"]["policy"], params["models"]["strong"]
        prompts = PROMPTS.model_dump(mode="json")
        for stage in ("sft", "draft", "dpo"):
            params[stage]["policy"] = policy
        for stage in ("sft", "refine", "pair"):
            params[stage]["prompts"] = prompts
        params["refine"]["strong"] = strong
        params["score"]["scorer"] = SCORER.model_dump()
        for stage in ("sft", "dpo"):
            params[stage]["training"]["seed"] = settings.seed
        self._params = params
        self.policy = parse(HFConfig, policy, "models.policy")
        self.strong = parse(HFConfig, strong, "models.strong")
        self.answering = parse(Sampling, params["refine"]["sampling"], "refine.sampling")
        self._rule = parse(PairRule, params["pair"]["rule"], "pair.rule")
        self._greedy = parse(Sampling, params["evaluate"]["drafting"], "evaluate.drafting")
        costs = self._at("costs.json")
        self._costs: dict[str, Any] = json.loads(costs.read_text()) if costs.exists() else {}

    def specialise(self) -> None:
        """The policy as SFT leaves it."""
        settings, at = self._settings, self._at
        if not at("raw").exists():
            with io.replacing_folder(at("raw")) as made:
                invent_sites.write(made, settings.seed, settings.world)
        version.write_none(at("start"))
        reading = parse(prepare.PrepareConfig, {"domain": "sites"}, "prepare")
        self._once(
            "prepare",
            "queries.jsonl",
            lambda out: prepare.main(
                at("raw"), out, at("corpus.jsonl"), at("quarantine.jsonl"), reading
            ),
        )
        trained = parse(sft.SFTConfig, self._params["sft"], "sft")
        self._once(
            "sft", "policy", lambda out: sft.main(at("corpus.jsonl"), at("start"), out, trained)
        )

    def feed_back(self) -> None:
        """Samples and candidates of the training questions, refined and scored; on dev, what
        thresholds and penalties are chosen by.
        """
        drafting = parse(draft.DraftConfig, self._params["draft"], "draft")
        self._feed_back("train", drafting)
        greedy = drafting.model_copy(update={"sampling": self._greedy, "split": "dev"})
        self._feed_back("dev", greedy)

    def align(self, arm: str) -> None:
        """An arm's pairs, and the policy aligned on them."""
        way, at = WAYS[arm], self._at

        def pair(out: Path) -> None:
            groups = self._groups("train")
            io.write(out, pairs_of(way, groups, self._rule, PROMPTS.draft, self._settings.seed))

        self._once(f"pair_{arm}", f"pairs_{arm}.jsonl", pair)
        config = parse(dpo.DPOConfig, self._params["dpo"], "dpo")
        self._once(
            f"train_{arm}",
            f"policy_{arm}",
            lambda out: objectives.prefer(
                way,
                at(f"pairs_{arm}.jsonl"),
                at("feedback_train.jsonl"),
                at("policy"),
                out,
                config,
            ),
        )

    def align_on_policy(self) -> None:
        """GRPO, with the calls and the CPU time that the headline arm took."""
        calls = calls_of(TRAINED["aligned_joined"], self._groups("train"), self._rule)
        steps = ("draft_train", "refine_train", "train_aligned_joined")
        seconds = sum(self._costs[step]["cpu_seconds"] for step in steps)
        given, at = self._params, self._at
        ask = {"strong": given["refine"]["strong"], "scorer": given["score"]["scorer"]}
        ask |= {"drafting": given["draft"]["sampling"], "refining": given["refine"]["sampling"]}
        ask |= {"rule": given["pair"]["rule"]}
        params = {**given["dpo"], "align": "grpo", "ask": ask, "grpo": {}}
        params["training"] = dict(params["training"])
        for path, value in self._settings.grpo.items():
            _set(params, path.split("."), value)
        config = parse(dpo.DPOConfig, params, "dpo")
        with objectives.own_store(at("calls_grpo.sqlite")):
            self._once(
                "train_grpo",
                "policy_grpo",
                lambda out: objectives.on_policy(
                    at("feedback_train.jsonl"), at("policy"), out, config, calls, seconds
                ),
            )

    def hold_out(self) -> None:
        """Each system's drafts of the held-out questions."""
        self.align_on_policy()
        asked = list(io.queries(self._at("queries.jsonl"), self._settings.split))
        trained = [f"policy_{name}" for name in (*self._settings.trained, *ON_POLICY)]
        for folder in ("policy", *trained):
            if self._at(folder).exists():
                self._once(
                    f"held_{folder}",
                    f"held_{folder.removeprefix('policy_')}.jsonl",
                    self._drafted,
                    folder,
                    None,
                )
        self._once("held_direct", "direct.jsonl", self._drafted, "policy", self._candidates)
        for name in (*self._settings.free, *self._settings.routed):
            self._once(f"held_{name}", f"held_{name}.jsonl", self._said, name, asked)

    def evaluate(self) -> None:
        """Refines all drafts of a question together, so that equal ones are one call, scores
        them, and writes run.json.
        """
        self._once("answers", "trials.jsonl", self._tried, self.strong)
        if self._settings.second is not None:
            second = parse(HFConfig, self._settings.second, "second")
            self._once("answers_second", "trials_second.jsonl", self._tried, second)
        text = json.dumps(self._summary(), indent=1)
        io.write_text(self._at("run.json"), text + "\n")

    @property
    def _candidates(self) -> Sampling:
        return parse(Sampling, self._params["draft"]["candidates"], "draft.candidates")

    def _feed_back(self, split: Split, drafting: draft.DraftConfig) -> None:
        at = self._at
        refining = parse(refine.RefineConfig, self._params["refine"], "refine")
        scoring = parse(score.ScoreConfig, self._params["score"], "score")
        self._once(
            f"draft_{split}",
            f"drafts_{split}.jsonl",
            lambda out: draft.main(at("queries.jsonl"), at("policy"), out, drafting),
        )
        if split == "dev":
            self._once("everything_dev", "drafts_dev_all.jsonl", self._with_everything)
        drafts = at("drafts_dev_all.jsonl" if split == "dev" else f"drafts_{split}.jsonl")
        self._once(
            f"refine_{split}",
            f"refinements_{split}.jsonl",
            lambda out: refine.main([drafts], out, refining),
        )
        self._once(
            f"score_{split}",
            f"feedback_{split}.jsonl",
            lambda out: score.main([at(f"refinements_{split}.jsonl")], out, scoring),
        )

    def _with_everything(self, out: Path) -> None:
        """The drafts on dev, and after those of each question all its direct replies as one."""

        def rows() -> Iterator[Draft]:
            for group in io.groups(self._at("drafts_dev.jsonl"), Draft):
                yield from group
                text = free.everything(free.direct(group))(group[0])
                fields = {"draft": text, "candidate": "everything", "sample": len(group)}
                yield grown(Draft, group[0], **fields)

        io.write(out, rows())

    def _drafted(self, out: Path, folder: str, candidates: Sampling | None) -> None:
        with self.policy.open(adapter=self._at(folder) / "adapter") as model:
            queries = io.queries(self._at("queries.jsonl"), self._settings.split)
            rows = collaboration.draft(queries, model, PROMPTS, self._greedy, candidates)
            io.write(out, rows)

    def _said(self, out: Path, name: str, asked: Sequence[Query]) -> None:
        """The drafts of an arm that trains no policy, a query each."""
        replies = free.direct(list(io.read(self._at("direct.jsonl"), Draft)))
        says = self._says(name, asked, replies)
        io.write(
            out, (grown(Draft, query, sample=0, draft=says(query), policy=name) for query in asked)
        )

    def _says(self, name: str, asked: Sequence[Query], replies: free.Direct) -> free.Says:
        match name:
            case "everything":
                return free.everything(replies)
            case "record":
                return free.record(self._at("raw"))
            case "bm25_1" | "bm25_3":
                return free.nearest(replies, int(name.removeprefix("bm25_")))
            case "confident":
                return self._confident(asked, free.everything(replies))
            case "routed":
                with self.strong.open() as strong:
                    return free.routed(asked, replies, strong, self.answering)
            case "likelihood":
                return free.likelihood(asked, replies, self.strong, PROMPTS)
        return self._by_feedback(name, asked, replies)

    def _confident(self, asked: Sequence[Query], otherwise: free.Says) -> free.Says:
        dev = self._groups("dev")
        with self.policy.open(adapter=self._at("policy") / "adapter") as policy:
            on_dev = free.own_drafts([group[0] for group in dev], policy, PROMPTS, self._greedy)
            own = free.own_drafts(asked, policy, PROMPTS, self._greedy)
        threshold = free.threshold_of(on_dev, free.dev_scores(dev))
        return free.confident(own, threshold, otherwise)

    def _by_feedback(self, name: str, asked: Sequence[Query], replies: free.Direct) -> free.Says:
        train = self._groups("train")
        if name == "best_prompt":
            prompt = routers.best_prompt(train)
            if prompt == routers.OWN:
                own = {
                    row.id: row.draft or "" for row in io.read(self._at("held_policy.jsonl"), Draft)
                }
                return lambda query: own[query.id]
            return lambda query: replies[query.id][prompt]
        if name == "table":
            entries, other = routers.table(train)
            return lambda query: replies[query.id][entries.get(routers.wording(query), other)]
        assert name == "ridge"
        dev = [
            [row for row in group if row.candidate != "everything"] for group in self._groups("dev")
        ]
        features = [
            routers.hidden_states(queries, self.policy, PROMPTS)
            for queries in ([group[0] for group in train], [group[0] for group in dev], asked)
        ]
        named, _ = routers.routes((features[0], train), (features[1], dev), features[2])
        sites_of = {query.id: site for query, site in zip(asked, named, strict=True)}
        return lambda query: replies[query.id][sites_of[query.id]]

    def systems(self) -> list[str]:
        """Systems with drafts of the held-out questions, in the order of the trials."""
        known = ["policy", *self._settings.trained, *ON_POLICY]
        known += [*self._settings.free, *self._settings.routed]
        return [name for name in known if self._at(f"held_{name}.jsonl").exists()]

    def _tried(self, out: Path, model: HFConfig) -> None:
        files = [io.groups(self._at(f"held_{name}.jsonl"), Draft) for name in self.systems()]

        def together() -> Iterator[list[Draft]]:
            for groups in zip(*files, strict=True):
                query = groups[0][0]
                assert query.ideal is not None, "every question's fact is known"
                ideal = grown(Draft, query, sample=0, draft=query.ideal, policy="ideal")
                yield [*(group[0] for group in groups), ideal]

        with model.open() as strong, SCORER.open() as scorer:
            refined = collaboration.refine(together(), strong, PROMPTS, self.answering)
            io.write(out, collaboration.score(collaboration.by_query(refined), scorer))

    def _summary(self) -> dict[str, Any]:
        groups = self._groups_of("trials.jsonl")
        found: dict[str, Any] = {
            "settings": self._settings.model_dump(mode="json"),
            "products": [group[0].group for group in groups],
            "asked": [group[0].id for group in groups],
            "tags": [list(group[0].tags) for group in groups],
            "scores": self._scores(groups),
            "says": self._sites_said(groups),
            "pairs": self._pairs(),
            "agreement": self._agreement(),
            "costs": self._costs,
        }
        if self._at("trials_second.jsonl").exists():
            found["second"] = {"scores": self._scores(self._groups_of("trials_second.jsonl"))}
        return found

    def _scores(self, groups: Sequence[list[Feedback]]) -> dict[str, list[float]]:
        names = [*self.systems(), "ideal"]
        found: dict[str, list[float]] = {}
        for group in groups:
            if failed := [row.failed for row in group if row.failed is not None]:
                raise SystemExit(f"{self._folder}: query {group[0].id} failed: {failed[0]}")
            found.setdefault("strong alone", []).append(group[0].solo_score or 0.0)
            for name, row in zip(names, group, strict=True):
                found.setdefault(name, []).append(row.score or 0.0)
                if name in ("policy", *WAYS, *ON_POLICY):
                    found.setdefault(f"{name} alone", []).append(row.draft_score or 0.0)
        return found

    def _sites_said(self, groups: Sequence[list[Feedback]]) -> dict[str, dict[str, int]]:
        """Counts the kinds of each system's drafts, the needed fact among them."""
        names = [*self.systems(), "ideal"]
        found: dict[str, Counter[str]] = {name: Counter() for name in names}
        for group in groups:
            for name, row in zip(names, group, strict=True):
                found[name][said(row.draft or "", row)] += 1
        return {name: dict(counter.most_common()) for name, counter in found.items()}

    def _pairs(self) -> dict[str, dict[str, int]]:
        found, groups = {}, self._groups("train")
        for arm in self._settings.trained:
            rows = list(io.read(self._at(f"pairs_{arm}.jsonl"), PreferencePair))
            found[arm] = {
                "pairs": len(rows),
                "queries": len({row.query for row in rows}),
                "candidates chosen": sum(row.candidates[0] is not None for row in rows),
                "calls": calls_of(WAYS[arm], groups, self._rule, self._settings.seed),
            }
        return found

    def _agreement(self) -> dict[str, int]:
        agreement = Agreement()
        for group in self._groups("train"):
            agreement.add(group)
        names = ("compared", "told", "same", "other", "alone")
        return {name: getattr(agreement, name) for name in names}

    def _groups(self, split: Split) -> list[list[Feedback]]:
        return self._groups_of(f"feedback_{split}.jsonl")

    def _groups_of(self, name: str) -> list[list[Feedback]]:
        return list(io.groups(self._at(name), Feedback))

    def _at(self, name: str) -> Path:
        return self._folder / name

    def _once(self, step: str, name: str, make: Callable[..., object], *how: Any) -> None:
        """Makes a file or folder, where it is not there, and notes the cost of that.

        The CPU time of a step that was cut is lost: `begun` tells it by being above 1. A file
        whose cost was not noted any more is made again.
        """
        if self._at(name).exists():
            if "cpu_seconds" in self._costs.get(step, {}):
                return
            made = self._at(name)
            if made.is_dir():
                shutil.rmtree(made)
            else:
                made.unlink()
        begun = self._costs.get(step, {}).get("begun", 0) + 1
        self._costs[step] = {"begun": begun}
        io.write_text(self._at("costs.json"), json.dumps(self._costs, indent=1))
        wall, cpu = time.monotonic(), time.process_time()
        with store.accounting(step) as account:
            make(self._at(name), *how)
        strong_calls, strong_tokens = self._strong_took(step)
        self._costs[step] = {
            "seconds": round(time.monotonic() - wall, 1),
            "cpu_seconds": round(time.process_time() - cpu, 1),
            "prompt_tokens": account.prompt_tokens,
            "completion_tokens": account.completion_tokens,
            "calls": account.asked,
            "strong_calls": strong_calls,
            "strong_tokens": strong_tokens,
            "begun": begun,
        }
        io.write_text(self._at("costs.json"), json.dumps(self._costs, indent=1))
        cost = self._costs[step]
        told = f"{step} {cost['cpu_seconds']:.0f} CPU-s, {cost['seconds']:.0f} s"
        print(f"{self._folder.name}: {told}", file=sys.stderr, flush=True)

    def _strong_took(self, step: str) -> tuple[int, int]:
        """Calls to the strong model in a step and their tokens, also those before it was cut."""
        name = self.strong.base_name(self.strong.folder())
        ((calls, tokens),) = store.open_store().fetch(STRONG_TOOK, (step, name))
        return calls, tokens


def said(text: str, query: Query) -> str:
    """Returns the kind of a draft: needed fact, another, several, a guess, a letter, or other."""
    if text == query.ideal:
        return "needed"
    if text.startswith("That would be"):
        return "guess"
    starts = []
    for sentence in invent_sites.SITES.values():
        starts.append(sentence.removeprefix("The {product} is ").partition("{")[0])
    stated = sum(start in text for start in starts)
    if stated > 1:
        return "several"
    if stated == 1:
        return "needed, not as it is" if query.tags[0] in text else "another"
    return "letter" if invent.MAKER in text else "none of them"


def _set(params: dict[str, Any], path: Sequence[str], value: Any) -> None:
    *sections, name = path
    place: Any = params
    for section in sections:
        place = place[section]
    place[name] = value


if __name__ == "__main__":
    main(Settings.model_validate_json(sys.argv[1]), Path(sys.argv[2]))
