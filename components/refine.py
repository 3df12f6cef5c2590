from kfp.dsl import Artifact, Dataset, Input, Output

from cowest_components import component


@component
def refine(
    drafts: Input[Dataset],
    turn: Input[Artifact],
    refinements: Output[Dataset],
    config: str,
):
    """Has the strong model refine each draft, and answer each query alone.

    Args:
        drafts: The drafts of a shard.
        turn: turn.json: the turn for which the calls of this step count.
        config: Settings of the stage as JSON, from its section of params.yaml.

    Returns:
        refinements: Each draft with its refinement.
    """
    from cowest.steps import run

    run(
        "refine",
        config,
        turn=turn.path,
        drafts=drafts.path,
        refinements=refinements.path,
    )
