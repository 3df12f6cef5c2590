from kfp.dsl import Dataset, Input, Model, Output

from cowest_components import component


@component
def next_round(
    feedback: Input[Dataset],
    challenger: Input[Model],
    number: int,
    shards: int,
    queries: Output[Dataset],
) -> list[str]:
    """Begins a later round of alignment: the challenger so far drafts the queries anew.

    Args:
        feedback: The feedback of the first round.
        challenger: The policy after the round before.
        number: The round, from 2.
        shards: Number of shards, 1 or more.

    Returns:
        queries: The queries that are drafted; none where the rounds are over.
        Output: The shards, as 0/3, 1/3 and 2/3; one where the rounds are over.
    """
    from cowest.steps.rounds import begin

    return begin(number, feedback.path, challenger.path, shards, queries.path)
