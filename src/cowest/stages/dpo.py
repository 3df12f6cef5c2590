"""The policy is aligned with what helps the strong model: its adapter is trained on.

`align` says by what: pairs of drafts (DPO), drafts alone (KTO), pairs by the drafts' own scores, or
drafts of its own that are made and scored in training (GRPO). The reference is the adapter as it
was before. (`aligning` has the objectives.)
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cowest import checkpoints, io, lineage, preferences, version
from cowest.aligning import grpo, offline, rounds
from cowest.aligning.settings import DPOConfig
from cowest.config import file_digest
from cowest.distributed.launch import elsewhere
from cowest.distributed.task import Task
from cowest.errors import ContractError, ModelError
from cowest.ports import In, Out
from cowest.records import NOBODY, Feedback, PreferencePair
from cowest.version import Aligned, Version


def main(pairs: In, feedback: In, policy: In, challenger: Out, config: DPOConfig) -> None:
    """Writes the challenger.

    The spread of the gains in `feedback` is stored with it, so that later turns can compare theirs.
    Where `config.round` names a round, that one is trained, and `policy` is the challenger of the
    round before; it is handed on if the rounds are over. Raises ContractError if there are no
    pairs, or if they are of another objective.
    """
    start = version.expect(policy)
    base = config.policy.base_name(config.policy.folder())
    if base != start.base:
        raise ModelError(
            f"dpo: the policy was trained on {start.base} and dpo.policy is {base}: "
            "name the same base in both (did its files change? then `cowest turn --force`)"
        )
    rows = list(io.read(pairs, PreferencePair))
    if config.round is not None and _rounds_are_over(config.round, rows, start, config):
        with checkpoints.made(challenger) as folder:
            shutil.copytree(policy, folder, dirs_exist_ok=True)
        return
    _fit(rows, config)
    inputs = {"pairs": pairs, "feedback": feedback, "policy": policy}
    if elsewhere(Task("dpo", config, inputs, {"challenger": challenger}), one_process(config)):
        return
    rests_on = _rests_on([policy / "adapter", pairs, feedback], start, base, config)
    # The checkpoints go last, when the challenger is in its place.
    with checkpoints.kept(rests_on) as kept, checkpoints.made(challenger) as folder:
        given = (kept, folder, base, config)
        aligned: Aligned | None
        if config.align == "grpo":
            aligned = grpo.train(feedback, policy, *given)
        elif config.round is not None:
            learned = rounds.train_one(config.round, rows, policy, *given)
            aligned = _aligned([learned], config, start.aligned)
        elif config.rounds > 1:
            aligned = _aligned(rounds.train(pairs, feedback, policy, *given), config)
        else:
            learned = offline.train(rows, policy / "adapter", *given)
            aligned = _aligned([learned], config)
        version.write(
            folder,
            base=base,
            prompts=start.prompts,
            trained=start.trained,
            continued=start.continued,
            gains=preferences.spread(io.groups(feedback, Feedback)),
            aligned=aligned,
        )


def _rounds_are_over(
    number: int, rows: Sequence[PreferencePair], before: Version, config: DPOConfig
) -> bool:
    """True if a round is not trained, so that the challenger is the version before it."""
    return rounds.trained(before) < number - 1 or rounds.too_few(number, rows, config)


def asks_models(config: DPOConfig) -> str | None:
    """Returns the setting by which models are asked in training; None if none are."""
    if config.align == "grpo":
        return "dpo: `align: grpo`"
    return "dpo: `rounds` over 1" if config.rounds > 1 and config.round is None else None


def one_process(config: DPOConfig) -> str | None:
    """Returns the setting for which training is one process, and why; None without one."""
    asking = asks_models(config)
    if asking is not None:
        return f"{asking} asks models during training"
    return "dpo: `step: trl` trains by TRL" if config.step == "trl" else None


def _aligned(
    learned: Sequence[Sequence[PreferencePair]],
    config: DPOConfig,
    before: Aligned | None = None,
) -> Aligned | None:
    """Returns how the version was aligned; None for one round of DPO, as versions always had it.

    `before` is how the version was aligned that training went on from, by earlier rounds.
    """
    if config.align == "dpo" and config.rounds == 1:
        return None
    strong = set() if before is None else set(before.strong)
    for rows in learned:
        strong |= {row.strong for row in rows} - {NOBODY}
    earlier = () if before is None else before.rows
    counts = (*earlier, *(len(rows) for rows in learned))
    return Aligned(align=config.align, rows=counts, strong=tuple(sorted(strong)))


def _fit(rows: list[PreferencePair], config: DPOConfig) -> None:
    """Raises ContractError for rows that the objective can't learn from."""
    if config.align == "grpo":
        return
    if not rows:
        raise ContractError("dpo: there are no pairs to learn from")
    if not all(row.chosen or row.rejected for row in rows):
        raise ContractError("dpo: a pair has neither a chosen nor a rejected draft")
    alone = sum(not row.chosen or not row.rejected for row in rows)
    expected = len(rows) if config.align == "kto" else 0
    if alone != expected:
        raise ContractError(
            f"dpo: {alone} of {len(rows)} rows are drafts alone, and `align: {config.align}` "
            f"learns from {'these' if expected else 'pairs'}: give `pair.align` the same value, "
            "and run `pair` again"
        )


def _rests_on(files: Sequence[Path], start: Version, base: str, config: DPOConfig) -> list[Any]:
    """Returns all that the challenger's weights follow from.

    Settings that change no row are left out, and so is `ask.max_failed`: a training that stopped
    because of one of them goes on when it is changed, and pays for nothing again.
    """
    import peft
    import torch
    import transformers

    libraries = [library.__version__ for library in (torch, transformers, peft)]
    left_out: dict[str, Any] = {"checkpoint_minutes": True, "ask": {"max_failed": True}}
    settings = lineage.of_rows(config.model_dump(mode="json", exclude=left_out))
    inputs = [base, *map(file_digest, files), settings]
    if asks_models(config) is not None:
        # What is asked in training has the prompts of the policy's version, and a model of our own
        # may be another under the same name.
        ask = config.asking().model_dump(mode="json")
        inputs += [start.prompts, lineage.local_models({"ask": ask})]
    return ["dpo", *inputs, lineage.code_digest(), libraries, checkpoints.processes()]
