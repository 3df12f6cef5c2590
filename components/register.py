from kfp.dsl import Artifact, Dataset, Input, Model, Output

from cowest_components import component


@component
def register(
    turn: Input[Artifact],
    params: Input[Artifact],
    report: Input[Artifact],
    policy: Input[Model],
    challenger: Input[Model],
    queries: Input[Dataset],
    corpus: Input[Dataset],
    pairs: Input[Dataset],
    trials: Input[Dataset],
    looks: Input[Artifact],
    decision: Output[Artifact],
    config: str,
):
    """Promotes or refuses the challenger, and writes the decision into the registry.

    Args:
        turn: turn.json.
        params: params.yaml.
        report: The report with all gates.
        policy: The policy before alignment.
        challenger: The policy after alignment.
        queries: All queries.
        corpus: Demonstrations.
        pairs: Preference pairs.
        trials: The trials of all held-out queries.
        looks: Earlier decisions that looked at the held-out queries.
        config: Settings of the stage as JSON, from its section of params.yaml.

    Returns:
        decision: The decision, as JSON.
    """
    from cowest.steps import run

    run(
        "register",
        config,
        turn=turn.path,
        params=params.path,
        report=report.path,
        policy=policy.path,
        challenger=challenger.path,
        queries=queries.path,
        corpus=corpus.path,
        pairs=pairs.path,
        trials=trials.path,
        decision=decision.path,
        looks=looks.path,
    )
