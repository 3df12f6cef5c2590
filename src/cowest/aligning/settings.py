"""The settings of alignment: its objective, the loss, and how it is trained."""

from typing import Any, Literal

from pydantic import Field

from cowest.config import Config, Refining, Sampling
from cowest.expectations.pairs import PairSuite
from cowest.models import AnyProvider
from cowest.models.hf import HFConfig
from cowest.preferences import Align, PairRule, expect_gains
from cowest.scorers import AnyScorer
from cowest.scorers.judge import answers_in_batches
from cowest.training import Optimiser
from cowest.trees.losses import Loss, Objective


class Asking(Config):
    """Models and rules for feedback during training: later rounds and GRPO use them."""

    strong: AnyProvider
    """The strong model, as in `refine`."""
    scorer: AnyScorer
    """The scorer, as in `score`."""
    drafting: Sampling = Sampling(temperature=0.9, n=8, max_tokens=128)
    """Sampling of drafts, as in `draft`."""
    candidates: Sampling | None = Field(default=None, exclude_if=lambda asked: asked is None)
    """Decoding of drafts by the other prompts of the policy, as in `draft`, which later rounds ask
    as the first did. Null where `draft.candidates` is null; `align: grpo` takes none."""
    refining: Refining = Sampling()
    """Decoding of the strong model, as in `refine`. `n` must be 1."""
    rule: PairRule = PairRule()
    """The choice of pairs, as in `pair`."""
    pairs: PairSuite = PairSuite(kind="pairs")
    """The contract of pairs, as in `validate.pairs`. A round with fewer pairs than its `min_pairs`
    is not trained; the round before it is the last."""
    max_failed: int | None = Field(default=0, ge=0)
    """Number of rows of a round, or of drafts of a GRPO step, that may fail before the stage ends
    with an error; null for any number. Raise it if an endpoint refuses single rows."""


class GRPO(Config):
    """Settings of `align: grpo`. A step makes `training.batch_size` drafts: `ask.drafting.n` for
    each of its queries."""

    kl: float = Field(default=0.04, ge=0)
    """Weight of the KL penalty per token: higher keeps the policy closer to its reference."""
    calls: int | None = Field(default=None, ge=1)
    """Most calls to the strong model in a training, with answers from the call store counted;
    training ends before a step that might exceed it. null: only the turn's budget limits it."""
    cpu_seconds: float | None = Field(
        default=None, gt=0, exclude_if=lambda seconds: seconds is None
    )
    """Most CPU seconds of a training, with its drafts, answers of local models and judgements;
    training ends before a step that might exceed it. null: no limit. For comparisons at equal
    compute on a CPU: two trainings that end so are not the same, byte for byte."""
    dev: int = Field(default=32, ge=1)
    """Number of training queries held back to judge checkpoints by their mean score: the best
    checkpoint becomes the challenger. More choose better, and cost more calls per judgement."""
    judge_steps: int = Field(default=10, ge=1)
    """Steps from one judgement of the policy on the queries held back to the next."""


class DPOConfig(Config):
    """Settings of the stage `dpo`: alignment, by the objective that `align` names."""

    policy: HFConfig
    """The base model: the one that SFT trained on."""
    align: Align = "dpo"
    """The objective, as in `refine` and `pair`. `dpo` prefers drafts that helped more to others of
    the same query. `kto` learns from single drafts: take it where few queries have both drafts that
    helped and others. `self` is `dpo` by the drafts' own scores, with no call to the strong model.
    `grpo` makes new drafts at every step, with their gains as reward. docs/objectives.md has what
    each costs."""
    beta: float = Field(default=0.1, gt=0)
    """Strength of the KL penalty (β): higher keeps the policy closer to its reference. Raise it
    if drafts get worse in training, lower it if they hardly change. `align: grpo` has `grpo.kl`
    instead."""
    nll: float = Field(default=1.0, ge=0)
    """Weight of an added NLL loss on the chosen draft (of `kto`: on drafts that helped), averaged
    per token. It keeps that draft likely: DPO alone may make both drafts less likely. 0 turns it
    off. `align: grpo` has no such loss."""
    loss: Loss = "sigmoid"
    """Loss of a pair: `sigmoid` is DPO; `ipo` stops at a margin, for pairs that training would
    learn by heart; `hinge` learns no more from pairs that are far enough apart; `robust` allows for
    pairs that are the wrong way round (`label_smoothing`); `sigmoid_norm` is DPO per token, for
    drafts that would grow longer and longer. `kto` and `grpo` have losses of their own."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Share of the pairs that `loss: robust` takes to be the wrong way round, such as 0.1; with
    other losses 0."""
    step: Literal["tree", "trl"] = "tree"
    """Implementation of a training step. `tree` computes the prompt that the drafts of a query
    share once; `trl`, TRL's DPOTrainer, gives the same loss in the same steps (but for rounding,
    and for parts of unequal size with `gradient_accumulation`), and takes longer. All pairs of a
    query are in one step: set `pair.rule.per_query` where they are too many for memory. Where
    `tree` can't compute a policy (a recurrent one, or one whose attention window is shorter than
    prompt and draft), the stage takes `trl`, and says so. `kto` and `grpo` have `tree` alone."""
    checkpoint_minutes: float = Field(default=5.0, ge=0)
    """Minutes between two checkpoints. A stage that was killed goes on from the last one."""
    rounds: int = Field(default=1, ge=1, le=10)
    """Rounds of drafting and training. After the first, the challenger so far makes new drafts of
    the training queries, gets feedback on them as `ask` says, and is trained on that. Only the last
    round's challenger is evaluated."""
    round: int | None = Field(default=None, ge=1, exclude_if=lambda number: number is None)
    """The one round that the stage trains, from the challenger of the round before. Set by the
    pipeline, in which other steps draft and ask; leave it null, which trains all rounds."""
    ask: Asking | None = None
    """Models and rules for feedback in training; needed with `rounds` above 1 and with `grpo`."""
    grpo: GRPO = GRPO()
    """Settings of `align: grpo`; other objectives ignore them."""
    training: Optimiser
    """Epochs, batch, learning rate and seed of the training."""

    def asking(self) -> Asking:
        """Returns `ask`. It is there: settings that need it are refused without it."""
        assert self.ask is not None, "rounds and grpo are refused without it"
        return self.ask

    def model_post_init(self, _: Any) -> None:
        if (self.loss == "robust") != (self.label_smoothing > 0):
            raise ValueError(
                "label_smoothing: set it with `loss: robust`, and only there, to the share of "
                "pairs that are the wrong way round, such as 0.1"
            )
        if self.ask is None and (self.rounds > 1 or self.align == "grpo"):
            raise ValueError(
                "ask: with more than one round, or `align: grpo`, training asks the strong model: "
                "add `ask: {strong: *strong, scorer: *scorer, drafting: {...}}`"
            )
        if self.rounds > 1:
            expect_gains(self.align, self.asking().rule, "ask.rule")
        if self.align == "grpo" and self.rounds > 1:
            raise ValueError(
                "rounds: `align: grpo` makes new drafts at every step: leave rounds out"
            )
        if self.align == "grpo":
            self._expect_on_policy(self.asking())
        if self.align in ("kto", "grpo") and (self.loss != "sigmoid" or self.step == "trl"):
            raise ValueError(
                f"`align: {self.align}` has a loss of its own, and is computed by `step: tree`: "
                "leave `loss`, `label_smoothing` and `step` out"
            )

    def _expect_on_policy(self, ask: Asking) -> None:
        """Raises ValueError for feedback that GRPO, which asks at every step, can't use."""
        if ask.candidates is not None:
            raise ValueError(
                "ask.candidates: `align: grpo` drafts by the policy's own prompt alone: leave it "
                "out"
            )
        if ask.drafting.n < 2:
            raise ValueError(
                "ask.drafting: `align: grpo` compares the drafts of a query: set n to 2 or more"
            )
        if answers_in_batches(ask.strong, ask.scorer):
            raise ValueError(
                "ask: `align: grpo` waits for the answers of each step, and a batch takes hours: "
                "write `{<<: *strong, batch: null}` there"
            )

    def objective(self, weights: tuple[float, float] = (1.0, 1.0)) -> Objective:
        """Returns the loss and its weights; `weights` are KTO's: drafts that helped, and others."""
        loss = "kto" if self.align == "kto" else self.loss
        return Objective(loss, self.beta, self.nll, self.label_smoothing, weights)
