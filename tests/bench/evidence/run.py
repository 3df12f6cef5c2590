"""One knowledge base and one training seed, from its raw files to every system's answers on the
same held-out questions.

    python -m tests.bench.evidence.run '{"seed": 100, "arms": ["aligned", "shuffled"]}' FOLDER

The stages are the product's own, with the settings of params.yaml. What is in FOLDER already is not
made again, so a run that was cut goes on where it was. `run.json` at the end holds every score, and
what each step cost.
"""

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any, Literal

from pydantic import Field

from cowest import collaboration, environment, io, version
from cowest.config import Config, Sampling, digest, load, parse
from cowest.domains import domain, invent
from cowest.domains.drafts import MARKER
from cowest.ledger import store
from cowest.models.hf import HFConfig
from cowest.preferences import PairRule
from cowest.prompts import Prompts, Shot, Template
from cowest.records import Demonstration, Draft, Feedback, Message, PreferencePair, Query, Split
from cowest.scorers import AnyScorer
from cowest.scorers.choice import ChoiceConfig
from cowest.scorers.contains import ContainsConfig
from cowest.scorers.token_f1 import TokenF1Config
from cowest.stages import dpo, draft, prepare, refine, score, sft
from tests.bench.evidence import free
from tests.bench.evidence.arms import ARMS, HEADLINE, Arm

ROOT = Path(__file__).parents[3]
Modes = dict[str, Sampling]
SCORERS: dict[str, AnyScorer] = {
    "handbook": ContainsConfig(),
    "ifqa": TokenF1Config(marker=MARKER),
    "medmcqa": ChoiceConfig(),
    "prosocial": ChoiceConfig(),
}
"""Scorers that the evidence was measured by: those of rule 1."""
NO_IDEAL = "no ideal draft is known"


class Settings(Config):
    """One run."""

    seed: int
    """Of the knowledge base, and of all training on it."""
    split: Split = "test"
    """Whose questions are asked at the end: dev to choose by, test once."""
    arms: tuple[str, ...] = HEADLINE
    mix: dict[str, float] = Field(default_factory=lambda: dict(invent.MIX))
    """The habits of the archive that the policy learns to answer from."""
    asked: Literal["hops", "plain"] = "hops"
    """hops: what helps the strong model and what looks like the answer differ; plain: they
    agree.
    """
    second_round: bool = False
    """Whether the aligned policy drafts again, and is aligned on what its own drafts were worth
    (arm `aligned_twice`).
    """
    free: tuple[str, ...] = ()
    """Drafts that need no feedback (`free.FREE`): greedy alone."""
    samples: int = 2
    """Sampled drafts of each held-out question, beside the greedy one; 0 for greedy ones alone."""
    domain: dict[str, Any] = Field(default_factory=lambda: {"domain": "handbook"})
    """Whose prompts and scorer are used."""
    raw: Path | None = None
    """Published files in place of an invented knowledge base."""
    most: dict[str, int] = Field(default_factory=dict)
    """Rows of `corpus`, `train` and the split that is asked, at most: the first by digest."""
    longest: int | None = None
    """Characters of what is asked, and of that with its completion, over which rows are left
    out.
    """
    shots: int = 0
    """Training questions that are shown to the strong model with their answers, in place of its
    instructions: a base model follows none.
    """
    changes: dict[str, Any] = Field(default_factory=dict)
    """Settings other than those of params.yaml, by their path: {"dpo.beta": 0.1}."""


def main(settings: Settings, folder: Path) -> None:
    """Makes whatever of the run is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["COWEST_STORE"] = str(folder / "calls.sqlite")
    environment.settle()
    run = _Run(settings, folder)
    run.specialise()
    if settings.arms:
        run.feed_back("policy", "feedback")
    for arm in settings.arms:
        run.align(arm)
    if settings.second_round:
        run.feed_back("aligned", "feedback_2")
        run.align_again()
    run.evaluate()


class _Run:
    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings, self._folder = settings, folder
        params = load(ROOT / "params.yaml")
        self._domain = domain(settings.domain)
        self._prompts = self._domain.prompts
        self._scorer = SCORERS[self._domain.domain]
        params["prepare"] = {"domain": settings.domain}
        params["score"]["scorer"] = self._scorer.model_dump()
        for path, value in settings.changes.items():
            *sections, name = path.split(".")
            place = params
            for section in sections:
                place = place[section]
            place[name] = value
        for stage in ("sft", "dpo"):
            params[stage]["training"]["seed"] = settings.seed
        self._params = params
        self._costs = (
            json.loads(self._at("costs.json").read_text())
            if self._at("costs.json").exists()
            else {}
        )
        self._strong = parse(HFConfig, params["models"]["strong"], "models.strong")
        self._policy = parse(HFConfig, params["models"]["policy"], "models.policy")
        self._answering = parse(Sampling, params["refine"]["sampling"], "refine.sampling")
        drafting = parse(Sampling, params["evaluate"]["drafting"], "evaluate.drafting")
        sampled = drafting.model_copy(
            update={
                "temperature": params["draft"]["sampling"]["temperature"],
                "n": settings.samples,
            }
        )
        self._modes: Modes = {
            "greedy": drafting,
            **({"sampled": sampled} if settings.samples else {}),
        }

    def specialise(self) -> None:
        """The policy as SFT leaves it."""
        raw = self._settings.raw or self._at("raw")
        if not raw.exists():
            with io.replacing_folder(raw) as made:
                asked = invent.HOPS if self._settings.asked == "hops" else invent.PLAIN
                invent.write(made, self._settings.seed, self._settings.mix, asked)
        start = self._at("start")
        version.write_none(start)
        config = parse(prepare.PrepareConfig, self._params["prepare"], "prepare")
        self._once(
            "prepare",
            "queries.all.jsonl",
            lambda out: prepare.main(
                raw, out, self._at("corpus.all.jsonl"), self._at("quarantine.jsonl"), config
            ),
        )
        shown = with_ideal(io.read(self._at("queries.all.jsonl"), Query), self._settings.shots)
        self._prompts = with_shots(self._prompts, shown)
        for stage in ("sft", "refine", "pair"):
            self._params[stage]["prompts"] = self._prompts.model_dump(mode="json")
        self._once("choose", "queries.jsonl", self._chosen, {query.id for query in shown})
        trained = parse(sft.SFTConfig, self._params["sft"], "sft")
        self._once(
            "sft", "policy", lambda out: sft.main(self._at("corpus.jsonl"), start, out, trained)
        )

    def feed_back(self, policy: str, feedback: str) -> None:
        """Drafts of the training questions, refined and scored."""
        drafting = parse(draft.DraftConfig, self._params["draft"], "draft")
        refining = parse(refine.RefineConfig, self._params["refine"], "refine")
        scoring = parse(score.ScoreConfig, self._params["score"], "score")
        drafts, refined = f"drafts_{policy}.jsonl", f"refinements_{policy}.jsonl"
        queries = self._at("queries.jsonl")
        self._once(
            f"draft_{policy}",
            drafts,
            lambda out: draft.main(queries, self._at(policy), out, drafting),
        )
        self._once(
            f"refine_{policy}", refined, lambda out: refine.main([self._at(drafts)], out, refining)
        )
        self._once(
            f"score_{policy}",
            f"{feedback}.jsonl",
            lambda out: score.main([self._at(refined)], out, scoring),
        )

    def align(self, arm: str) -> None:
        """An arm's pairs, and the policy aligned on them; where it has no pairs, the policy as
        it was.
        """
        self._pair(arm, "feedback", ARMS[arm].pairs)
        train = self._imitate if ARMS[arm].chosen_only else self._prefer
        self._once(
            f"train_{arm}",
            arm,
            lambda out: train(
                self._at(f"pairs_{arm}.jsonl"), self._at("policy"), out, self._aligning(ARMS[arm])
            ),
        )

    def align_again(self) -> None:
        """A second round, on-policy."""
        self._pair("aligned_twice", "feedback_2", ARMS["aligned"].pairs)
        self._once(
            "train_aligned_twice",
            "aligned_twice",
            lambda out: self._prefer(
                self._at("pairs_aligned_twice.jsonl"),
                self._at("aligned"),
                out,
                self._aligning(ARMS["aligned"]),
            ),
        )

    def evaluate(self) -> None:
        """Every system's drafts of the held-out questions, refined together, so that equal
        drafts are one call, and scored.
        """
        systems = [
            "policy",
            *self._settings.arms,
            *(["aligned_twice"] if self._settings.second_round else []),
        ]
        for system in systems:
            for mode, sampling in self._modes.items():
                self._once(
                    f"evaluate_{system}_{mode}",
                    f"held_{system}_{mode}.jsonl",
                    lambda out, *how: self._draft(out, *how),
                    system,
                    sampling,
                )
        for arm in self._settings.free:
            self._once(f"evaluate_{arm}_greedy", f"held_{arm}_greedy.jsonl", self._draft_free, arm)
        self._once(
            "evaluate_strong", "trials.jsonl", lambda out: io.write(out, self._trials(systems))
        )
        self._at("run.json").write_text(
            json.dumps(self._summary(systems), indent=1) + "\n", encoding="utf-8"
        )

    def _chosen(self, out: Path, shown: set[str]) -> None:
        """The first rows by digest, where there are to be fewer than all, without those that the
        strong model is shown.
        """
        most = {"train": None, self._settings.split: None} | self._settings.most
        longest = self._settings.longest or sys.maxsize
        corpus = [
            row
            for row in io.read(self._at("corpus.all.jsonl"), Demonstration)
            if _said(row.prompt, row.completion) <= longest
        ]
        if "corpus" in most:
            corpus = sorted(corpus, key=digest)[: most["corpus"]]
        io.write(self._at("corpus.jsonl"), corpus)
        kept: list[Query] = []
        for split, count in most.items():
            if split != "corpus":
                rows = [
                    row
                    for row in io.read(self._at("queries.all.jsonl"), Query)
                    if row.split == split and row.id not in shown
                ]
                rows = [row for row in rows if _said(row.prompt) <= longest]
                kept += rows if count is None else sorted(rows, key=lambda row: row.id)[:count]
        io.write(out, kept)

    def _pair(self, arm: str, feedback: str, make: Callable[..., list[PreferencePair]]) -> None:
        def write(out: Path) -> None:
            rule = parse(PairRule, self._params["pair"]["rule"], "pair.rule")
            groups = list(io.groups(self._at(f"{feedback}.jsonl"), Feedback))
            seed = self._settings.seed
            fed = ARMS[arm].fed(groups, rule, seed) if arm in ARMS else groups
            io.write(out, make(fed, rule, self._prompts.draft, seed))

        self._once(f"pair_{arm}", f"pairs_{arm}.jsonl", write)

    def _prefer(self, pairs: Path, policy: Path, out: Path, config: dpo.DPOConfig) -> None:
        if any(io.read(pairs, PreferencePair)):
            dpo.main(pairs, self._at("feedback.jsonl"), policy, out, config)
        else:
            hand_on(policy, out)

    def _imitate(self, pairs: Path, policy: Path, out: Path, config: dpo.DPOConfig) -> None:
        if any(io.read(pairs, PreferencePair)):
            sft_on_chosen(pairs, policy, out, config)
        else:
            hand_on(policy, out)

    def _aligning(self, arm: Arm) -> dpo.DPOConfig:
        """The settings of params.yaml for DPO, with those that an arm has of its own."""
        config = parse(dpo.DPOConfig, self._params["dpo"], "dpo")
        rate = arm.rate * config.training.learning_rate
        training = config.training.model_copy(update={"learning_rate": rate})
        nll = config.nll if arm.nll is None else arm.nll
        # The first plan's runs were trained by TRL's step, and an arm's controls take its rows. It
        # shuffled single pairs then, and takes the trees' steps now.
        return config.model_copy(update={"training": training, "nll": nll, "step": "trl"})

    def _draft(self, out: Path, system: str, sampling: Sampling) -> None:
        with self._policy.open(adapter=self._at(system) / "adapter") as model:
            io.write(
                out,
                collaboration.draft(
                    io.queries(self._at("queries.jsonl"), self._settings.split),
                    model,
                    self._prompts,
                    sampling,
                ),
            )

    def _draft_free(self, out: Path, arm: str) -> None:
        made = free.drafts(
            arm,
            self._at("queries.jsonl"),
            self._settings.split,
            raw=self._settings.raw or self._at("raw"),
            corpus=self._at("corpus.jsonl"),
            policy=self._policy,
            adapter=self._at("policy") / "adapter",
            prompts=self._prompts,
            sampling=self._modes["greedy"],
        )
        io.write(out, made)

    def _columns(self, systems: list[str]) -> list[tuple[str, str, int]]:
        """Every (system, way of drafting, drafts a question), in the order of the trials."""
        found = []
        for system in systems:
            found += [(system, mode, how.n) for mode, how in self._modes.items()]
        return [*found, *((arm, "greedy", 1) for arm in self._settings.free)]

    def _trials(self, systems: list[str]) -> Iterator[Feedback]:
        files = [
            io.groups(self._at(f"held_{system}_{mode}.jsonl"), Draft)
            for system, mode, _ in self._columns(systems)
        ]

        def together() -> Iterator[list[Draft]]:
            for groups in zip(*files, strict=True):
                query = groups[0][0]
                known = {name: getattr(query, name) for name in Query.model_fields}
                failed = None if query.ideal is not None else NO_IDEAL
                ideal = Draft(**known, sample=0, draft=query.ideal, policy="ideal", failed=failed)
                yield [row for group in groups for row in group] + [ideal]

        with self._strong.open() as strong, self._scorer.open() as scorer:
            refined = collaboration.refine(together(), strong, self._prompts, self._answering)
            yield from collaboration.score(collaboration.by_query(refined), scorer)

    def _summary(self, systems: list[str]) -> dict[str, Any]:
        found: dict[str, list[float | None]] = {}
        habits: dict[str, Counter[str]] = {}
        products: list[str] = []
        asked: list[str] = []
        columns = [
            (system, mode, sample)
            for system, mode, count in self._columns(systems)
            for sample in range(count)
        ]
        for group in io.groups(self._at("trials.jsonl"), Feedback):
            if failed := [row.failed for row in group if row.failed not in (None, NO_IDEAL)]:
                raise SystemExit(f"{self._folder}: query {group[0].id} failed: {failed[0]}")
            products.append(group[0].group)
            asked.append(group[0].id)
            scores: dict[str, list[float]] = {"strong alone": [group[0].solo_score or 0.0]}
            found.setdefault("ideal", []).append(group[-1].score)  # None where none is known
            for (system, mode, _), row in zip(columns, group, strict=False):
                scores.setdefault(f"{system} {mode}", []).append(row.score or 0.0)
                scores.setdefault(f"{system} alone {mode}", []).append(row.draft_score or 0.0)
                habits.setdefault(f"{system} {mode}", Counter())[habit(row.draft or "")] += 1
            for name, values in scores.items():
                found.setdefault(name, []).append(sum(values) / len(values))
        pairs = {
            path.stem.removeprefix("pairs_"): list(io.read(path, PreferencePair))
            for path in sorted(self._folder.glob("pairs_*.jsonl"))
        }
        counts = {
            name: {"pairs": len(rows), "queries": len({row.query for row in rows})}
            for name, rows in pairs.items()
        }
        for name in set(counts) & set(ARMS):
            if ARMS[name].asked is not None:
                counts[name]["calls"] = self._calls(ARMS[name])
                counts[name]["calls of all"] = self._calls(ARMS["aligned"])
        return {
            "settings": self._settings.model_dump(mode="json"),
            "products": products,
            "asked": asked,
            "scores": found,
            "habits": {name: dict(counter.most_common()) for name, counter in habits.items()},
            "pairs": counts,
            "costs": self._costs,
        }

    def _calls(self, arm: Arm) -> int:
        """The strong calls that an arm's feedback needs."""
        rule = parse(PairRule, self._params["pair"]["rule"], "pair.rule")
        groups = list(io.groups(self._at("feedback.jsonl"), Feedback))
        groups = arm.fed(groups, rule, self._settings.seed)
        return sum(collaboration.calls_of(group)[0] for group in groups)

    def _at(self, name: str) -> Path:
        return self._folder / name

    def _once(self, step: str, name: str, make: Callable[..., object], *how: Any) -> None:
        """Makes a file or folder, where it is not there, and notes what that cost."""
        if self._at(name).exists():
            return
        wall, cpu = time.monotonic(), time.process_time()
        with store.accounting(step) as account:
            make(self._at(name), *how)
        cost = {"seconds": time.monotonic() - wall, "cpu_seconds": time.process_time() - cpu}
        tokens = {
            "prompt_tokens": account.prompt_tokens,
            "completion_tokens": account.completion_tokens,
        }
        self._costs[step] = (
            {name: round(value, 1) for name, value in cost.items()}
            | tokens
            | {"calls": account.asked}
        )
        io.write_text(self._at("costs.json"), json.dumps(self._costs, indent=1))
        print(
            f"{self._folder.name}: {step} {cost['cpu_seconds']:.0f} CPU-s, {cost['seconds']:.0f} s",
            file=sys.stderr,
            flush=True,
        )


def with_ideal(queries: Iterable[Query], count: int) -> list[Query]:
    """Short training questions whose ideal draft is known, of as many different answers as there
    are.
    """
    known = sorted(
        (row for row in queries if row.split == "train" and row.ideal),
        key=lambda row: (_said(row.prompt, row.ideal or ""), row.id),
    )
    found: dict[str, Query] = {}
    for row in known if count else ():
        found.setdefault(_answer(row)[:1] if row.choices else row.id, row)
        if len(found) == count:
            break
    return list(found.values())


def _answer(query: Query) -> str:
    """A right answer as the strong model is to give it: an option by its letter and its text."""
    target = query.targets[0]
    return f"{ascii_uppercase[query.choices.index(target)]}. {target}" if query.choices else target


def with_shots(prompts: Prompts, shown: Sequence[Query]) -> Prompts:
    """The strong model's prompts with these examples; the last one's notes are another
    question's, since notes may be of no use.
    """
    if not shown:
        return prompts
    notes = [*(row.ideal for row in shown[:-1]), shown[0].ideal]
    asked = [row.prompt[-1].content for row in shown]
    refined = [
        Shot(user=f"{query}\nNotes: {note}\n{MARKER}", assistant=_answer(row))
        for query, note, row in zip(asked, notes, shown, strict=True)
    ]
    solo = [
        Shot(user=f"{query}\n{MARKER}", assistant=_answer(row))
        for query, row in zip(asked, shown, strict=True)
    ]
    return prompts.model_copy(
        update={
            "refine": Template(shots=tuple(refined), user=f"{{query}}\nNotes: {{draft}}\n{MARKER}"),
            "solo": Template(shots=tuple(solo), user=f"{{query}}\n{MARKER}"),
        }
    )


def _said(prompt: Sequence[Message], completion: str = "") -> int:
    return sum(len(message.content) for message in prompt) + len(completion)


def habit(text: str) -> str:
    """Which of the archive's habits a draft follows."""
    if text.startswith("That would be"):
        return "answer"
    if invent.MAKER in text:
        return "letter"
    if " is made in " in text:
        return "plant"
    if " core." in text:
        return "record" if "made in" in text else "core"
    return "none of them"


def hand_on(policy: Path, out: Path) -> None:
    import shutil

    shutil.copytree(policy, out)


def sft_on_chosen(pairs: Path, policy: Path, out: Path, config: dpo.DPOConfig) -> None:
    """The same adapter, optimiser, rows and steps as DPO's, and the chosen drafts' likelihood as
    the whole objective.
    """
    import datasets
    import torch
    import transformers
    import trl
    from peft import PeftModel

    from cowest import training
    from cowest.models import hf

    start = version.expect(policy)
    training.score_completions_only()
    torch.manual_seed(config.training.seed)
    dtype = training.number_format(config.training, config.policy, "sft on chosen")
    model, tokenizer = hf.load(config.policy, dtype)
    sides = [(row.prompt, row.chosen) for row in io.read(pairs, PreferencePair)]
    rows = [
        {
            "prompt": [message.model_dump() for message in prompt],
            "completion": [message.model_dump() for message in chosen],
        }
        for prompt, chosen in sides
    ]
    with io.replacing_folder(out) as folder:
        arguments = training.arguments(config.training, config.policy, folder, dtype)
        trainer = trl.SFTTrainer(
            model=PeftModel.from_pretrained(model, policy / "adapter", is_trainable=True),
            args=trl.SFTConfig(**arguments, completion_only_loss=True),
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[training.curves(folder / "curves.jsonl", "sft_on_chosen")],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
        training.check(trainer, "sft_on_chosen")
        training.save(trainer, folder, start.base)
        version.write(folder, base=start.base, prompts=start.prompts, trained=start.trained)


if __name__ == "__main__":
    main(Settings.model_validate_json(sys.argv[1]), Path(sys.argv[2]))
