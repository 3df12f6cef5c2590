from kfp.dsl import Artifact, Dataset, Input, Model, Output

from cowest_components import component


@component
def draft(
    queries: Input[Dataset],
    policy: Input[Model],
    turn: Input[Artifact],
    shard: str,
    drafts: Output[Dataset],
    config: str,
):
    """The policy drafts.

    Args:
        queries: All queries.
        policy: The policy: adapter and prompts.
        turn: turn.json: the turn for which the calls of this step count.
        shard: The part of the queries, as 0/3 for the first of three.
        config: Settings of the stage as JSON, from its section of params.yaml.

    Returns:
        drafts: The drafts of this shard.
    """
    from cowest.steps import run

    run(
        "draft",
        config,
        turn=turn.path,
        shard=shard,
        queries=queries.path,
        policy=policy.path,
        drafts=drafts.path,
    )
