"""A transformers.Trainer whose steps are shares of trees."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from cowest.models import architecture
from cowest.trees import attention, losses, packing, plan, scores
from cowest.trees.losses import Objective
from cowest.trees.plan import Share, Tree

Reference = Sequence[Sequence[float]]
"""The reference's log-probability of each draft of each tree."""
AT_ONCE = 4096
"""Tokens of which the reference's log-probabilities are computed together, or one tree."""


class Lessons(NamedTuple):
    """All that is learned: the trees, and the shares of all steps in their order."""

    trees: Sequence[Tree]
    shares: Sequence[Share]
    epochs: float


def collate(
    trees: Sequence[Tree],
    reference: Reference,
    share: Share,
    together: bool,
    branches: bool = True,
) -> dict[str, Any]:
    """Returns the tensors of a share, its trees in one row or each in its own."""
    import torch

    taken = [trees[number] for number in share.trees]
    # A process with nothing to do computes something of no weight, since all must take part.
    inputs = tensors(taken or [min(trees, key=Tree.size)], together, branches)
    pairs: list[tuple[int, int]] = []
    alone: list[tuple[int, bool]] = []
    others: list[int] = []
    lengths: list[int] = []
    known: list[float] = []
    for number in share.trees:
        first, tree = len(lengths), trees[number]
        pairs += [(first + chosen, first + rejected) for chosen, rejected in tree.pairs]
        alone += [(first + place, helped) for place, helped in tree.alone]
        others += [first + place for place in tree.others]
        lengths += map(len, tree.drafts)
        known += reference[number]
    # Shape (2, pairs): the numbers of the chosen drafts, and of the rejected ones.
    inputs["pairs"] = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T
    # Shape (2, drafts alone): their numbers, and 1 where they helped.
    inputs["alone"] = torch.tensor(alone, dtype=torch.long).reshape(-1, 2).T
    inputs["others"] = torch.tensor(others, dtype=torch.long)
    inputs["lengths"] = torch.tensor(lengths, dtype=torch.float32)
    inputs["reference"] = torch.tensor(known, dtype=torch.float32)
    inputs["of_step"] = (share.rows, share.chosen)
    return inputs


def tensors(trees: Sequence[Tree], together: bool, branches: bool = True) -> dict[str, Any]:
    """Returns trees as the tensors that `scores.drafts` takes.

    Without `branches` each draft is a row with a prompt of its own, which any model computes.
    """
    import torch

    packed = packing.pack(trees if branches else plan.apart(trees), together and branches)
    inputs: dict[str, Any] = {
        "input_ids": torch.from_numpy(packed.tokens),
        "before": torch.from_numpy(packed.before),
        "scored": torch.from_numpy(packed.scored),
        "places": torch.from_numpy(packed.places),
    }
    if branches:
        inputs["position_ids"] = torch.from_numpy(packed.positions)
        inputs["ends"] = torch.from_numpy(packed.ends)
    if together and branches:
        groups, places = packing.groups(packed)
        found = []
        for group in groups:
            queries, keys = torch.from_numpy(group.queries), torch.from_numpy(group.keys)
            found.append([queries, keys, torch.from_numpy(group.seen)[:, None]])
        inputs["branches"] = {"groups": found, "places": torch.from_numpy(places)}
    return inputs


def loss_of(
    objective: Objective,
    found: Any,
    inputs: Mapping[str, Any],
    added_up: Callable[[Any], Any] | None = None,
) -> tuple[Any, Any]:
    """Returns a share's part of the mean loss of its step, and sums over its rows for the log.

    `found` are the log-probabilities of its drafts; shape (drafts,). The parts of all shares of a
    step add up to the step's loss: the mean over its pairs or drafts alone, and with the weight
    `nll` the mean NLL of all tokens of its chosen drafts. `added_up` adds a tensor up over the
    processes that train together.
    """
    import torch

    if objective.loss == "kto":
        return _loss_of_drafts(objective, found, inputs, added_up)
    pairs, chosen_tokens = inputs["of_step"]
    both = inputs["pairs"]
    ratios = (found[: len(inputs["reference"])] - inputs["reference"])[both]
    each = losses.of_pairs(objective, ratios[0], ratios[1], inputs["lengths"][both])
    loss = each.sum() / pairs
    logps = found[both]
    if objective.nll:
        loss = loss - objective.nll * logps[0].sum() / chosen_tokens
    rewards = objective.beta * ratios.detach()
    sums = [rewards.sum(1), (rewards[0] > rewards[1]).sum()[None], logps.detach().sum(1)]
    return loss, torch.cat([*sums, torch.tensor([both.shape[1]], device=both.device)])


def _loss_of_drafts(
    objective: Objective,
    found: Any,
    inputs: Mapping[str, Any],
    added_up: Callable[[Any], Any] | None,
) -> tuple[Any, Any]:
    """The same of drafts alone: KTO."""
    import torch

    rows, helped_tokens = inputs["of_step"]
    ratios = found[: len(inputs["reference"])] - inputs["reference"]
    elsewhere = ratios.detach()[inputs["others"]]
    apart = torch.stack([elsewhere.sum(), elsewhere.new_tensor(float(len(elsewhere)))])
    if added_up is not None:
        apart = added_up(apart)
    point = (apart[0] / apart[1].clamp(min=1)).clamp(min=0)
    places, helped = inputs["alone"][0], inputs["alone"][1].bool()
    each = losses.of_drafts(objective, ratios[places], helped, point)
    loss = each.sum() / rows
    logps = found[places]
    if objective.nll and helped_tokens:
        loss = loss - objective.nll * logps[helped].sum() / helped_tokens
    rewards, logps = objective.beta * ratios.detach()[places], logps.detach()
    sums = []
    for kind in (helped, ~helped):
        sums += [kind.sum(), rewards[kind].sum(), logps[kind].sum()]
    return loss, torch.stack([*sums, point, torch.ones_like(point)])


def reference_of(trainer: Any, trees: Sequence[Tree]) -> list[list[float]]:
    """Returns the log-probabilities of all drafts under the trainer's model as it is now.

    Each process computes a part, and has all.
    """
    from accelerate.utils import gather_object

    accelerator = trainer.accelerator
    own = trees[accelerator.process_index :: accelerator.num_processes]
    numbered = enumerate(_scored(trainer, own))
    parts = [(number, accelerator.process_index, found) for number, found in numbered]
    return [found for _, _, found in sorted(gather_object(parts))]


def _scored(trainer: Any, trees: Sequence[Tree]) -> Iterator[list[float]]:
    """Yields the log-probabilities of the drafts of each tree, several trees at once."""
    import torch
    from accelerate.utils import send_to_device

    model, accelerator = trainer.model, trainer.accelerator
    model.to(accelerator.device).eval()
    for batch in _batches(trees):
        inputs = tensors(batch, trainer.together, trainer.branches)
        inputs = send_to_device(inputs, accelerator.device)
        with torch.no_grad(), accelerator.autocast():
            found = scores.drafts(model, model.get_output_embeddings(), inputs).tolist()
        for tree in batch:
            yield found[: len(tree.drafts)]
            del found[: len(tree.drafts)]


def _batches(trees: Sequence[Tree]) -> Iterator[list[Tree]]:
    """Yields trees in their order, at most AT_ONCE tokens together, or one."""
    batch: list[Tree] = []
    size = 0
    for tree in trees:
        if batch and size + tree.size() > AT_ONCE:
            yield batch
            batch, size = [], 0
        batch.append(tree)
        size += tree.size()
    if batch:
        yield batch


def attends_to_branches(model: Any, wanted: bool) -> None:
    """Has a model's layers attend segment by segment, or by the mask of a whole row."""
    if wanted:
        attention.register()
        model.get_base_model().set_attn_implementation(attention.NAME)
    else:
        kind = type(model.get_base_model())
        model.get_base_model().set_attn_implementation(architecture.attention(kind) or "eager")


def still(model: Any) -> None:
    """Turns all dropout off: the reference has none, and a share must not depend on its rows."""
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0


def make(model: Any, lessons: Lessons, objective: Objective, arguments: Any, **more: Any) -> Any:
    """Returns the trainer. `reference`, `together` and `branches` are set before it trains."""
    import transformers

    still(model)
    head = model.get_output_embeddings()

    class TreeTrainer(transformers.Trainer):  # type: ignore[misc]
        # Shares already are parts of the mean over their step.
        loss_is_scaled_for_ga = True
        reference: Reference = ()
        together = False
        """Trees are computed in one row."""
        branches = True
        """Drafts are branches of their prompt; else each is computed with a prompt of its own."""
        sums: Any = 0
        """Over the pairs since the last row of the log."""

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any
        ) -> Any:
            with self.accelerator.autocast():
                found = scores.drafts(model, head, inputs)
            loss, sums = loss_of(objective, found, inputs, self.accelerator.reduce)
            self.sums = self.sums + sums
            # Gradients of several processes are averaged, and here they are to be added up.
            return loss * self.accelerator.num_processes

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            if "loss" in logs:
                sums = self.accelerator.reduce(self.sums).tolist()
                logs |= measured_alone(sums) if objective.loss == "kto" else measured(sums)
                self.sums = 0
            # To the Trainer all epochs are one.
            self.state.epoch = lessons.epochs * self.state.global_step / self.state.max_steps
            super().log(logs, start_time)

    def collated(given: Sequence[Share]) -> dict[str, Any]:
        ways = trainer.together, trainer.branches
        return collate(lessons.trees, trainer.reference, given[0], *ways)

    trainer: Any = TreeTrainer(
        model=model,
        args=arguments,
        train_dataset=list(lessons.shares),
        data_collator=collated,
        **more,
    )
    return trainer


def measured(sums: Sequence[float]) -> dict[str, float]:
    """Returns the rows of the log, by TRL's names, from sums over pairs."""
    chosen, rejected, right, chosen_logp, rejected_logp, pairs = sums
    return {
        "rewards/chosen": chosen / pairs,
        "rewards/rejected": rejected / pairs,
        "rewards/accuracies": right / pairs,
        "rewards/margins": (chosen - rejected) / pairs,
        "logps/chosen": chosen_logp / pairs,
        "logps/rejected": rejected_logp / pairs,
    }


def measured_alone(sums: Sequence[float]) -> dict[str, float]:
    """Returns the rows of the log of KTO; a kind of drafts that did not come has none."""
    found = {"kl": sums[6] / sums[7]}
    for name, (count, reward, logp) in {"chosen": sums[:3], "rejected": sums[3:6]}.items():
        if count:
            found[f"rewards/{name}"] = reward / count
            found[f"logps/{name}"] = logp / count
    if sums[0] and sums[3]:
        found["rewards/margins"] = found["rewards/chosen"] - found["rewards/rejected"]
    return found
