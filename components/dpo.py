from kfp.dsl import Dataset, Input, Model, Output

from cowest_components import component


@component
def dpo(
    pairs: Input[Dataset],
    feedback: Input[Dataset],
    policy: Input[Model],
    challenger: Output[Model],
    config: dict,
):
    """The policy is aligned with what helps the strong model."""
    from cowest.stages import run

    run(
        "dpo",
        config,
        pairs=pairs.path,
        feedback=feedback.path,
        policy=policy.path,
        challenger=challenger.path,
    )
