from kfp.dsl import Artifact, Dataset, Input, Metrics, Model, Output

from cowest_components import component


@component
def register(
    turn: Input[Artifact],
    params: Input[Artifact],
    report: Input[Metrics],
    policy: Input[Model],
    challenger: Input[Model],
    queries: Input[Dataset],
    corpus: Input[Dataset],
    pairs: Input[Dataset],
    trials: Input[Dataset],
    decision: Output[Artifact],
    looks: Input[Artifact],
    config: dict,
):
    """The challenger is promoted or refused, and the decision written down."""
    from cowest.stages import run

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
