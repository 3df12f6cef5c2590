"""Drafts that the policy makes while it is trained, and their gains."""

import json
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from heapq import nsmallest
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from cowest import collaboration, io
from cowest.aligning.rounds import queries_of
from cowest.aligning.settings import DPOConfig
from cowest.collaboration import by_query
from cowest.config import Sampling
from cowest.errors import ContractError
from cowest.models import hf
from cowest.models.decoding import HFModel
from cowest.models.estimate import longest
from cowest.prompts import Prompts
from cowest.protocols import ChatModel, Scorer
from cowest.records import Draft, Feedback, Query, grown
from cowest.thoughts import without_thoughts
from cowest.trees import losses
from cowest.trees.plan import Tokens, Tree


class Plan(NamedTuple):
    """The queries of each step, and those held back to judge checkpoints."""

    steps: list[list[Query]]
    dev: list[Query]

    def most(self, step: int, config: DPOConfig) -> int:
        """Returns the most calls that the next step may take, with a judgement after it."""
        asked = self.steps[step] if step < len(self.steps) else []
        return len(asked) * (1 + config.asking().drafting.n) + 2 * len(self.dev)


class Rollout(NamedTuple):
    """The drafts of a step with their advantages."""

    trees: list[Tree]
    """One tree per query that has a draft to learn from."""
    advantages: list[float]
    """Advantage of each draft, in the order of the trees."""
    counts: list[int]
    """Number of times that each draft was sampled."""
    logged: dict[str, float]

    def tokens(self) -> int:
        """Returns the number of tokens of all drafts, each counted as often as it was sampled."""
        lengths: list[int] = []
        for tree in self.trees:
            lengths += map(len, tree.drafts)
        return sum(size * count for size, count in zip(lengths, self.counts, strict=True))

    def add(self, prompt: Tokens, drafts: Sequence[Tokens], gains: Sequence[float]) -> None:
        """Adds the drafts of a query. Equal drafts become one branch."""
        found: dict[Tokens, list[float]] = {}
        for draft, advantage in zip(drafts, losses.advantages(gains), strict=True):
            found.setdefault(draft, []).append(advantage)
        if found:
            self.trees.append(Tree(prompt, tuple(found)))
            self.advantages.extend(mean(each) for each in found.values())
            self.counts.extend(map(len, found.values()))


class Asker:
    """Samples drafts from the policy in training, and gets the feedback on them.

    The calls of each step, and the CPU time up to it, are written beside the checkpoints, so that
    the count goes on after a kill.
    """

    def __init__(
        self,
        made: Any,
        models: tuple[Any, ChatModel, Scorer],
        prompts: Prompts,
        kept: Path,
        config: DPOConfig,
    ) -> None:
        """`made` is the trainer; `models` are the tokenizer, the strong model and the scorer."""
        self._made = made
        self._tokenizer, self._strong, self._scorer = models
        self._prompts, self._config, self._ask = prompts, config, config.asking()
        base = config.policy.base_name(config.policy.folder())
        self._name = f"{base}+grpo-{kept.name[:12]}"
        self._base = hf.open_base(config.policy)
        self.since = time.process_time()
        """The process's CPU time when the step that is trained began."""
        self._place = kept / "asked.json"
        self._asked: dict[str, dict[str, float]] = {
            "drafts": {},
            "calls": {},
            "judging": {},
            "cpu": {},
        }
        if self._place.is_file():
            self._asked = json.loads(self._place.read_text(encoding="utf-8"))

    def calls(self, step: int) -> int:
        """Returns the calls to the strong model up to the end of a step, with its judgement."""
        return self._sum("calls", step) + self._sum("judging", step + 1)

    def calls_unjudged(self, step: int) -> int:
        """Returns the calls up to the end of a step, without its judgement.

        A training that goes on after a kill may find that judgement made, and has to choose as if
        it were not.
        """
        return self._sum("calls", step) + self._sum("judging", step)

    def drafts(self, step: int) -> int:
        """Returns the number of drafts that were learned from up to the end of a step."""
        return self._sum("drafts", step)

    def timed(self, step: int) -> None:
        """Notes the CPU time up to the end of a step, at which the process's clock now stands."""
        now = time.process_time()
        before = self._asked["cpu"].get(str(step - 1), 0.0)
        self._asked["cpu"][str(step)] = before + now - self.since
        self.since = now
        self._keep()

    def cpu_seconds(self, step: int) -> float:
        """Returns the CPU seconds up to the end of a timed step; 0 if no step was timed."""
        return self._asked["cpu"].get(str(step), 0.0)

    def judge(self, step: int, queries: Sequence[Query]) -> float:
        """Returns the mean score of the collaboration, one greedy draft per query.

        A query whose draft, refinement or score failed counts as 0: left out, it would make a
        policy better that often fails.
        """
        once = {"temperature": 0.0, "n": 1, "seed": None}
        greedy = self._ask.drafting.model_copy(update=once)
        rows = self._fed_back(step, queries, greedy, "judging")
        self._keep()
        return mean([0.0 if row.failed is not None else row.score or 0.0 for row in rows])

    def rollout(self, step: int, queries: Sequence[Query]) -> Rollout:
        """Returns new drafts of the policy after `step` steps, with their advantages."""
        rows = self._fed_back(step, queries, self._ask.drafting, "calls")
        found = Rollout([], [], [], {})
        gains: list[float] = []
        lengths: list[int] = []
        chat = self._base.chat
        for group in by_query(rows):
            prompt = tuple(chat.asked(self._prompts.draft.render(group[0].prompt)))
            drafts = []
            own = []
            for row in filter(self._is_learned, group):
                whole = chat.learned(self._prompts.draft.render(row.prompt), row.draft or "")
                # One that filled the context has its end beyond it, where the model reads nothing.
                if len(whole) <= self._base.context:
                    drafts.append(tuple(whole[len(prompt) :]))
                    own.append(row.gain or 0.0)
            gains += own
            lengths += map(len, drafts)
            found.add(prompt, drafts, own)
        self._asked["drafts"][str(step)] = len(gains)
        self._keep()
        logged = {"reward": mean(gains), "length": mean(lengths)}
        return found._replace(logged=logged)

    def _fed_back(
        self, step: int, queries: Sequence[Query], drafting: Sampling, kind: str
    ) -> list[Feedback]:
        ask = self._ask
        with _answering(self._made) as model:
            policy = HFModel(
                f"{self._name}-{step}", model, self._tokenizer, self._config.policy.rows
            )
            others = (self._strong, self._scorer, self._prompts)
            rows = list(collaboration.feedback(queries, policy, *others, drafting, ask.refining))
        failed = [row.failed for row in rows if row.failed is not None]
        if ask.max_failed is not None and len(failed) > ask.max_failed:
            raise ContractError(
                f"dpo: {len(failed)} of {len(rows)} drafts of step {step} failed, and "
                f"dpo.ask.max_failed allows {ask.max_failed} ({failed[0]})"
            )
        calls = 0
        for group in by_query(rows):
            shown = {without_thoughts(row.draft or "") for row in group if row.draft is not None}
            calls += 1 + len(shown)
        self._asked[kind][str(step)] = calls
        return rows

    def _is_learned(self, row: Feedback) -> bool:
        said = without_thoughts(row.draft or "").strip()
        return row.gain is not None and bool(said) and (self._ask.rule.allow_cut or not row.cut)

    def _keep(self) -> None:
        io.write_text(self._place, json.dumps(self._asked))

    def _sum(self, kind: str, before: int) -> int:
        return int(sum(count for at, count in self._asked[kind].items() if int(at) < before))


def planned(feedback: Path, config: DPOConfig) -> Plan:
    """Deals the queries of a feedback file out to steps. Raises ContractError if none is left."""
    return dealt(list(queries_of(feedback)), config)


def dealt(queries: Sequence[Query], config: DPOConfig) -> Plan:
    """Deals queries out to steps. Raises ContractError if none is left to train on."""
    ask, optimiser = config.asking(), config.training
    dev = nsmallest(config.grpo.dev, queries, key=attrgetter("id"))
    judging = {query.id for query in dev}
    learned = [query for query in queries if query.id not in judging]
    if not learned:
        raise ContractError(
            f"dpo: all {len(queries)} training queries are held back to judge checkpoints: lower "
            "dpo.grpo.dev"
        )
    at_once = max(optimiser.batch_size // ask.drafting.n, 1)
    per_epoch = -(-len(learned) // at_once)
    dice = random.Random(optimiser.seed)  # noqa: S311 - the order of queries is no secret
    steps: list[list[Query]] = []
    while len(steps) < optimiser.epochs * per_epoch:
        dice.shuffle(learned)
        for first in range(0, len(learned), at_once):
            steps.append(learned[first : first + at_once])
    return Plan(steps[: max(round(optimiser.epochs * per_epoch), 1)], dev)


def asked_at_most(plan: Plan, config: DPOConfig) -> Iterator[list[Draft]]:
    """Yields the most drafts, of the greatest length, that may be refined, grouped by query."""
    ask, left = config.asking(), config.grpo.calls
    judged = 2 + len(plan.steps) // config.grpo.judge_steps
    groups: list[tuple[Query, int]] = []
    for step in plan.steps:
        groups += [(query, ask.drafting.n) for query in step]
    groups += [(query, judged) for query in plan.dev]
    number = 0
    for query, count in groups:
        if left is not None and left <= 0:
            return
        drafts = []
        for sample in range(count):
            text = longest(ask.drafting, number)
            drafts.append(grown(Draft, query, sample=sample, draft=text, policy="estimate"))
            number += 1
        if left is not None:
            left -= count + 1
        yield drafts


@contextmanager
def _answering(made: Any) -> Iterator[Any]:
    """Puts a trainer's model into the state for answering, and back for training at the end."""
    from cowest.trees import trainer

    trainer.attends_to_branches(made.model, wanted=False)
    was_training = made.model.training
    made.model.eval()
    try:
        yield made.model.get_base_model()
    finally:
        made.model.train(was_training)
        trainer.attends_to_branches(made.model, made.together)


def mean(values: Sequence[float]) -> float:
    """Returns the mean; 0 for no values."""
    return sum(values) / len(values) if values else 0.0
