"""A transformers.Trainer that learns answers: all texts of a batch lie in one row, unpadded.

Texts that begin alike share their beginning, as the drafts of a query do. No text sees another.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from cowest.trees import check, scores, trainer
from cowest.trees.plan import Tree


def text(prompt: Sequence[int], whole: Sequence[int]) -> Tree:
    """Returns a text as a tree of one answer: what comes after the prompt is learned."""
    return Tree(tuple(prompt), (tuple(whole[len(prompt) :]),), ())


def reason_against(made: Any, texts: Sequence[Tree]) -> str | None:
    """Says why a trainer's model can't compute several texts in one row; None if it can."""
    longest = max(texts, key=Tree.longest)
    (answer,) = longest.drafts
    # Another answer after the same prompt shows whether the two see each other. It is no longer,
    # since the model may have no positions for more.
    other = answer[:0:-1] or 2 * answer
    tried = longest._replace(drafts=(answer, other))
    reason = check.reason_against(made, [tried])
    if reason is None and not made.together:
        reason = "its attention takes no several texts in one row"
    return reason


def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the tensors of a batch, its texts in one row."""
    import torch

    trees = [text(row["input_ids"][: row["start"]], row["input_ids"]) for row in rows]
    inputs = trainer.tensors(trees, together=True)
    learned: list[int] = []
    for tree in trees:
        learned += tree.drafts[0]
    # The Trainer counts them over all parts of a step.
    inputs["labels"] = inputs["shift_labels"] = torch.tensor(learned)
    return inputs


def make(model: Any, texts: Sequence[Tree], arguments: Any, **more: Any) -> Any:
    """Returns the trainer; its batches are drawn as TRL's SFTTrainer draws them."""
    import transformers

    head = model.get_output_embeddings()

    class PackedTrainer(transformers.Trainer):  # type: ignore[misc]
        together = False
        """The model takes several texts in one row; `reason_against` finds out."""

        def compute_loss(
            self,
            model: Any,
            inputs: Any,
            return_outputs: bool = False,
            num_items_in_batch: Any = None,
        ) -> Any:
            with self.accelerator.autocast():
                found = scores.drafts(model, head, inputs)
            # Gradients of several processes are averaged, and here they are to be added up.
            return -found.sum() / num_items_in_batch * self.accelerator.num_processes

    rows = []
    for tree in texts:
        rows.append({"input_ids": [*tree.prompt, *tree.drafts[0]], "start": len(tree.prompt)})
    made: Any = PackedTrainer(
        model=model, args=arguments, train_dataset=rows, data_collator=collate, **more
    )
    made.model_accepts_loss_kwargs = True
    return made
