from kfp.dsl import Artifact, Dataset, Input, Model, Output

from cowest_components import component


@component
def evaluate(
    queries: Input[Dataset],
    policy: Input[Model],
    challenger: Input[Model],
    champion: Input[Model],
    raw: Input[Dataset],
    turn: Input[Artifact],
    shard: str,
    trials: Output[Dataset],
    agreement: Output[Dataset],
    probe: Output[Dataset],
    config: str,
):
    """Has every system answer the held-out queries of a shard.

    Args:
        queries: All queries.
        policy: The policy before alignment.
        challenger: The policy after alignment.
        champion: The version that is to be beaten.
        raw: The folder with the raw data, which holds the general questions.
        turn: turn.json: the turn for which the calls of this step count.
        shard: The part of the queries, as 0/3 for the first of three.
        config: Settings of the stage as JSON, from its section of params.yaml.

    Returns:
        trials: The answers of every system, with their scores.
        agreement: The judged policy compared with its other forms; of the first shard.
        probe: Answers to general questions; of the first shard.
    """
    from cowest.steps import run

    for made in (trials, agreement, probe):
        made.metadata["shard"] = shard
    run(
        "evaluate",
        config,
        turn=turn.path,
        shard=shard,
        queries=queries.path,
        policy=policy.path,
        challenger=challenger.path,
        champion=champion.path,
        trials=trials.path,
        agreement=agreement.path,
        raw=raw.path,
        probe=probe.path,
    )
