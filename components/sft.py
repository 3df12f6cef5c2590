from kfp.dsl import Artifact, Dataset, Input, Model, Output

from cowest_components import component


@component
def sft(
    corpus: Input[Dataset],
    start: Input[Model],
    turn: Input[Artifact],
    run_id: str,
    policy: Output[Model],
    config: str,
):
    """Trains the policy on the corpus (SFT), or hands it on if nothing changed.

    Args:
        corpus: Demonstrations.
        start: The version from which training starts.
        turn: turn.json: the turn for which the calls of this step count.
        run_id: The id of the run, by which what it starts on the cluster is known.
        config: Settings of the stage as JSON, from its section of params.yaml.

    Returns:
        policy: The policy that drafts this turn: adapter and prompts.
    """
    from cowest.steps import run

    run(
        "sft",
        config,
        turn=turn.path,
        run_id=run_id,
        corpus=corpus.path,
        start=start.path,
        policy=policy.path,
    )
