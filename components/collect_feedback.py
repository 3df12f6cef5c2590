from kfp.dsl import Artifact, Dataset, Input, Output

from cowest_components import component


@component
def collect_feedback(
    parts: Input[list[Dataset]],
    params: Input[Artifact],
    feedback: Output[Dataset],
    number: int,
):
    """Joins the feedback of all shards, and judges how many rows failed.

    Args:
        parts: The feedback of each shard.
        params: params.yaml, which holds max_failed.
        number: The round of alignment that the drafts are for, from 1.

    Returns:
        feedback: The feedback of all queries, in their order.
    """
    from cowest import steps

    found = [(part.metadata["shard"], part.path) for part in parts]
    steps.collect_feedback(found, params.path, feedback.path, number)
