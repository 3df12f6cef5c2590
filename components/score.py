from kfp.dsl import Artifact, Dataset, Input, Output

from cowest_components import component


@component
def score(
    refinements: Input[Dataset],
    turn: Input[Artifact],
    shard: str,
    feedback: Output[Dataset],
    config: str,
):
    """Scores refinements, and computes each draft's gain: the collaborative feedback.

    Args:
        refinements: The refinements of a shard.
        turn: turn.json: the turn for which the calls of this step count.
        shard: The part of the queries, as 0/3 for the first of three.
        config: Settings of the stage as JSON, from its section of params.yaml.

    Returns:
        feedback: Each refinement with its scores.
    """
    from cowest.steps import run

    feedback.metadata["shard"] = shard
    run(
        "score",
        config,
        turn=turn.path,
        refinements=refinements.path,
        feedback=feedback.path,
    )
