from kfp.dsl import Dataset, Input, Model, Output

from cowest_components import component


@component
def evaluate(
    queries: Input[Dataset],
    policy: Input[Model],
    challenger: Input[Model],
    champion: Input[Model],
    trials: Output[Dataset],
    agreement: Output[Dataset],
    config: dict,
):
    """Every system answers the held-out queries."""
    from cowest.stages import run

    run(
        "evaluate",
        config,
        queries=queries.path,
        policy=policy.path,
        challenger=challenger.path,
        champion=champion.path,
        trials=trials.path,
        agreement=agreement.path,
    )
