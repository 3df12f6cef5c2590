from kfp.dsl import Artifact, Dataset, Input, Model, Output

from cowest_components import component


@component
def dpo(
    pairs: Input[Dataset],
    feedback: Input[Dataset],
    policy: Input[Model],
    turn: Input[Artifact],
    run_id: str,
    challenger: Output[Model],
    config: str,
):
    """Aligns the policy with what helps the strong model.

    Args:
        pairs: Preference pairs.
        feedback: The feedback that they come from.
        policy: The policy as it drafted.
        turn: turn.json: the turn for which the calls of this step count.
        run_id: The id of the run, by which what it starts on the cluster is known.
        config: Settings of the stage as JSON, from its section of params.yaml.

    Returns:
        challenger: The aligned policy: adapter and prompts.
    """
    from cowest.steps import run

    run(
        "dpo",
        config,
        turn=turn.path,
        run_id=run_id,
        pairs=pairs.path,
        feedback=feedback.path,
        policy=policy.path,
        challenger=challenger.path,
    )
