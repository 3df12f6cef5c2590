"""GRPO: the policy drafts while it is trained, and each draft's gain is its reward.

A step takes some training queries, has the policy draft each several times, has the strong model
refine and the scorer score them (`collaboration.feedback`), and moves the policy towards the drafts
whose gain is above that of the query's other drafts (`trees.losses`). A gain is a score less the
score of the strong model alone. That is the same for all drafts of a query, so gains and scores
teach the same.

Drafts and answers are in the call store: a training that was killed goes on from its checkpoint and
finds them there. In the store the policy is named after its training and its step.
"""

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cowest import checkpoints, collaboration, io, training, version
from cowest.aligning import offline
from cowest.aligning.rollouts import Asker, Plan, Rollout, asked_at_most, planned
from cowest.aligning.settings import DPOConfig
from cowest.errors import BudgetError, ConfigError, ContractError
from cowest.ledger import account
from cowest.models import audit, hf
from cowest.models.chat import Chat
from cowest.models.estimate import Counting, announce
from cowest.models.writing import Writing
from cowest.prompts import Prompts
from cowest.protocols import ChatModel
from cowest.records import Feedback, Refinement
from cowest.scorers.judge import JudgeConfig
from cowest.trees import losses, plan, scores
from cowest.trees.plan import Share, Tree

BEST = "best"
"""Folder of the best checkpoint so far. It lies beside the checkpoints."""


def train(
    feedback: Path, policy: Path, kept: Path, folder: Path, base: str, config: DPOConfig
) -> version.Aligned:
    """Goes on training the adapter in the folder `policy`, and writes the result into `folder`.

    Writes the checkpoint with the best score on the queries held back. Training ends early when the
    budget is spent; raises BudgetError if no checkpoint was judged before.
    """
    if checkpoints.processes() > 1:
        raise ConfigError(
            "dpo: `align: grpo` trains in one process, and torchrun started several: run the stage "
            "without torchrun"
        )
    import torch
    import transformers

    io.put_back(kept / BEST)
    adapter, prompts = policy / "adapter", version.expect(policy).prompts
    audit.audit_adapter(adapter)
    _say_unused(config)
    ask, found = config.asking(), planned(feedback, config)
    writing = hf.open_base(config.policy)
    chat = writing.chat
    _check_calls(found, config)
    _check_lengths(found, writing, prompts, config)
    _announce(found, prompts, config)
    torch.manual_seed(config.training.seed)
    dtype = training.number_format(config.training, config.policy, "dpo")
    arguments = training.arguments(config.training, config.policy, kept, dtype)
    model, tokenizer = offline.load(config, adapter, dtype)
    with ask.strong.open() as strong, ask.scorer.open() as scorer:
        made = _trainer(model, found, config, arguments, folder)
        made.asker = Asker(made, (tokenizer, strong, scorer), prompts, kept, config)
        made.add_callback(_judging(made, found, kept, base, config))
        made.remove_callback(transformers.PrinterCallback)
        _check_branches(made, found, chat, prompts, config)
        try:
            checkpoints.train(made, kept, config.checkpoint_minutes, "dpo")
        except BudgetError as error:
            if not (kept / BEST).is_dir():
                raise
            account.stopped()
            print(f"dpo: training ends early: {error}", file=sys.stderr)
        training.check(made, "dpo")
    best = json.loads((kept / BEST / "best.json").read_text(encoding="utf-8"))
    shutil.copytree(kept / BEST / "adapter", folder / "adapter")
    print(
        f"dpo: the checkpoint after step {best['step']} is the best: {best['score']:.3f} on the "
        f"{len(found.dev)} queries held back, {best['first']:.3f} before training",
        file=sys.stderr,
    )
    made.accelerator.end_training()
    drafts = made.asker.drafts(best["step"])
    return version.Aligned(align="grpo", rows=(drafts,), strong=(strong.name,))


@contextmanager
def _as_before(model: Any, before: Sequence[Any]) -> Iterator[None]:
    """Puts the reference's weights into the adapter while the block lasts.

    Autocast keeps a bfloat16 copy of each weight until its outermost block ends, and does not see
    that the weight is another. So the copies are dropped wherever the weights change.
    """
    import torch

    own = [weight for weight in model.parameters() if weight.requires_grad]
    now = [weight.data for weight in own]
    for weight, reference in zip(own, before, strict=True):
        weight.data = reference
    torch.clear_autocast_cache()
    try:
        yield
    finally:
        for weight, data in zip(own, now, strict=True):
            weight.data = data
        torch.clear_autocast_cache()


def _say_unused(config: DPOConfig) -> None:
    """Says which weights of DPO's loss are set, and do nothing here.

    They are no error, so that the objective of a project is one setting.
    """
    kl = f"{config.grpo.kl:g}"
    instead = {
        "beta": f"dpo.grpo.kl, which is {kl}, keeps the policy close to its reference",
        "nll": "its drafts have an advantage in place of a chosen one",
    }
    for name, words in instead.items():
        if getattr(config, name) != DPOConfig.model_fields[name].default:
            print(f"dpo: `align: grpo` does not use dpo.{name}: {words}", file=sys.stderr)


def _announce(found: Plan, prompts: Prompts, config: DPOConfig) -> None:
    """Says what the strong model and a judge will cost at most."""
    ask = config.asking()

    def refined(strong: ChatModel) -> Iterator[Refinement]:
        return collaboration.refine(asked_at_most(found, config), strong, prompts, ask.refining)

    announce("dpo", ask.strong, refined)
    judge = ask.scorer
    if not isinstance(judge, JudgeConfig):
        return

    def scored(model: ChatModel) -> Iterator[Feedback]:
        # The answers to judge are taken to be as long as they may be.
        answers = refined(Counting(ask.strong))
        return collaboration.score(collaboration.by_query(answers), judge.over(model))

    announce("dpo", judge.model, scored)


def _check_calls(found: Plan, config: DPOConfig) -> None:
    """Raises ConfigError for a limit that one step with its judgements may exceed."""
    most = config.grpo.calls
    needed = 2 * len(found.dev) + found.most(0, config)
    if most is not None and needed > most:
        raise ConfigError(
            f"dpo.grpo.calls allows {most} calls, and a first step with the judgements around it "
            f"may take {needed}: raise it, or lower dpo.grpo.dev or dpo.training.batch_size"
        )


def _check_lengths(found: Plan, base: Writing, prompts: Prompts, config: DPOConfig) -> None:
    """Raises ContractError for a prompt that with its longest draft exceeds the trained length.

    So does one that exceeds what the model reads.
    """
    limit, limiting = config.training.max_length, "dpo.training.max_length"
    raised = "raise max_length or "
    if base.context < limit:
        limit, limiting, raised = base.context, "the model's context", ""
    most = limit - config.asking().drafting.max_tokens
    for step in found.steps:
        for query in step:
            size = len(base.chat.asked(prompts.draft.render(query.prompt)))
            if size > most:
                raise ContractError(
                    f"dpo: query {query.id} has a prompt of {size} tokens, and {limiting} leaves "
                    f"{most} beside dpo.ask.drafting.max_tokens: {raised}lower max_tokens"
                )


def _check_branches(
    made: Any, found: Plan, chat: Chat, prompts: Prompts, config: DPOConfig
) -> None:
    """Tries drafts as branches on the longest prompt, and turns branches off where they fail."""
    from cowest.trees import check

    asked = []
    for step in found.steps:
        asked += [tuple(chat.asked(prompts.draft.render(query.prompt))) for query in step]
    prompt = max(asked, key=len)
    size = config.asking().drafting.max_tokens
    drafts = {(prompt * size)[:size], (prompt[::-1] * size)[:size], prompt[:1]}
    reason = check.reason_against(made, [Tree(prompt, tuple(sorted(drafts)))])
    if reason is not None:
        print(f"dpo: drafts are computed one by one, which takes longer: {reason}", file=sys.stderr)
        made.branches = made.together = False


class Learner:
    """Holds the drafts of the step that is trained, and sums for the log."""

    def __init__(self, model: Any, found: Plan, config: DPOConfig) -> None:
        self._before = [weight.detach().clone() for weight in _trained(model)]
        self._found, self._config = found, config
        self._parts = config.training.gradient_accumulation
        self.rollout = Rollout([], [], [], {})
        self.shares: list[Share] = []
        self.dev: float | None = None
        """The last score on the queries held back; None once it is logged."""
        self._sums: dict[str, float] = {}

    def begin(self, step: int, asker: Asker) -> None:
        """Makes the drafts of a step, with the feedback on them."""
        self.rollout = asker.rollout(step, self._found.steps[step])
        numbers = range(len(self.rollout.trees))
        self.shares = plan.shares(self.rollout.trees, numbers, self._parts)
        self._add({"steps": 1.0, **self.rollout.logged})

    def loss(self, made: Any, model: Any, part: int) -> Any:
        """Returns this part's share of the step's loss, a mean over the tokens of all drafts."""
        import torch

        share = self.shares[part]
        if not share.trees:
            # A part of which nothing is learned still has a gradient, of zero.
            return sum(weight.sum() * 0.0 for weight in _trained(model))
        inputs = self._tensors(made, share)
        places = self._places(share)
        head = made.model.get_output_embeddings()
        temperature = self._config.asking().drafting.temperature
        with torch.no_grad(), _as_before(model, self._before):
            reference = scores.tokens(model, head, inputs, temperature)
        now = scores.tokens(model, head, inputs, temperature)
        advantages = now.new_tensor([self.rollout.advantages[place] for place in places])
        counts = now.new_tensor([self.rollout.counts[place] for place in places])
        each, apart = losses.of_tokens(now, reference, advantages, self._config.grpo.kl)
        weights = (inputs["places"] >= 0) * counts[:, None] / self.rollout.tokens()
        self._add({"kl": float((apart * weights).sum())})
        return (each * weights).sum()

    def logged(self) -> dict[str, float]:
        """Returns means over the steps since the last row of the log, and a new score if any."""
        steps = self._sums.pop("steps", 0.0)
        found = {name: value / steps for name, value in self._sums.items() if steps}
        if self.dev is not None:
            found["dev"] = self.dev
        self._sums, self.dev = {}, None
        return found

    def _add(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def _tensors(self, made: Any, share: Share) -> dict[str, Any]:
        from accelerate.utils import send_to_device

        from cowest.trees import trainer

        own = [self.rollout.trees[number] for number in share.trees]
        inputs = trainer.tensors(own, made.together, made.branches)
        found: dict[str, Any] = send_to_device(inputs, made.accelerator.device)
        return found

    def _places(self, share: Share) -> list[int]:
        """Returns the places of a share's drafts in the rollout."""
        firsts = [0]
        for tree in self.rollout.trees:
            firsts.append(firsts[-1] + len(tree.drafts))
        places: list[int] = []
        for number in share.trees:
            places += range(firsts[number], firsts[number + 1])
        return places


def _trainer(
    model: Any, found: Plan, config: DPOConfig, arguments: dict[str, Any], folder: Path
) -> Any:
    """Returns the trainer. The caller sets its `asker` before it trains."""
    import transformers

    from cowest.trees import trainer

    trainer.still(model)
    rows = []
    for step in range(len(found.steps)):
        parts = range(config.training.gradient_accumulation)
        rows += [{"step": step, "part": part} for part in parts]
    del arguments["max_length"]

    class GRPOTrainer(transformers.Trainer):  # type: ignore[misc]
        # Parts already are parts of the mean over their step.
        loss_is_scaled_for_ga = True
        asker: Asker
        learner = Learner(model, found, config)
        together = False
        branches = True

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any
        ) -> Any:
            if int(inputs["part"]) == 0:
                self.learner.begin(int(inputs["step"]), self.asker)
            with self.accelerator.autocast():
                loss = self.learner.loss(self, model, int(inputs["part"]))
            # Looked at each time, since the next step pays for its drafts.
            if not loss.isfinite():
                raise ContractError(training.diverged("dpo"))
            return loss

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            if "loss" in logs:
                logs |= self.learner.logged()
            self.state.epoch = config.training.epochs * self.state.global_step / len(found.steps)
            super().log(logs, start_time)

    return GRPOTrainer(
        model=model,
        args=transformers.TrainingArguments(**(arguments | offline.OF_SHARES)),
        train_dataset=rows,
        data_collator=_first,
        callbacks=[training.curves(folder / "curves.jsonl", "dpo")],
    )


def _first(rows: Sequence[dict[str, int]]) -> dict[str, Any]:
    import torch

    return {name: torch.tensor(value) for name, value in rows[0].items()}


def _trained(model: Any) -> list[Any]:
    return [weight for weight in model.parameters() if weight.requires_grad]


def _judging(made: Any, found: Plan, kept: Path, base: str, config: DPOConfig) -> Any:
    """Returns a callback that judges the policy by the queries held back, and keeps the best.

    It also ends training before a step that might exceed `dpo.grpo.calls` or `cpu_seconds`.
    """
    from transformers import TrainerCallback

    class Judging(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 0:
                self.judge(0)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            step, most = state.global_step, config.grpo.calls
            made.asker.timed(step)
            last = step == state.max_steps
            late = not last and self.is_late(step)
            judged = last or late or step % config.grpo.judge_steps == 0
            # What is due now comes before the next step.
            used = made.asker.calls_unjudged(step) + judged * 2 * len(found.dev)
            next_step = found.most(step, config)
            over = not last and most is not None and used + next_step > most
            if judged or over:
                self.judge(step)
                # The curves have the score at its own step.
                control.should_log = True
            if over or late:
                said = f"{made.asker.calls(step)} calls: dpo.grpo.calls allows {most}"
                if late:
                    allowed = config.grpo.cpu_seconds
                    said = f"{made.asker.cpu_seconds(step):.0f} CPU seconds: "
                    said += f"dpo.grpo.cpu_seconds allows {allowed:g}"
                print(f"dpo: training ends after {said}", file=sys.stderr)
                control.should_training_stop = True

        def is_late(self, step: int) -> bool:
            """Returns True if less CPU time is left than the last step took."""
            most = config.grpo.cpu_seconds
            used = made.asker.cpu_seconds(step)
            return most is not None and 2 * used - made.asker.cpu_seconds(step - 1) > most

        def judge(self, step: int) -> None:
            score = made.asker.judge(step, found.dev)
            made.learner.dev = score
            best = {"step": step, "score": score, "first": score}
            place = kept / BEST / "best.json"
            if place.is_file():
                before = json.loads(place.read_text(encoding="utf-8"))
                best["first"] = before["first"]
                if score <= before["score"]:
                    return
            with io.replacing_folder(kept / BEST) as folder:
                training.save(made, folder, base)
                io.write_text(folder / "best.json", json.dumps(best))

    return Judging()
