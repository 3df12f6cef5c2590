from kfp.dsl import Artifact, Dataset, Input, Output

from cowest_components import component


@component
def pair(
    feedback: Input[Dataset],
    turn: Input[Artifact],
    pairs: Output[Dataset],
    config: str,
):
    """Makes pairs of drafts that helped and drafts that helped less.

    Args:
        feedback: The feedback of all queries.
        turn: turn.json: the turn for which the calls of this step count.
        config: Settings of the stage as JSON, from its section of params.yaml.

    Returns:
        pairs: Preference pairs.
    """
    from cowest.steps import run

    run(
        "pair",
        config,
        turn=turn.path,
        feedback=feedback.path,
        pairs=pairs.path,
    )
