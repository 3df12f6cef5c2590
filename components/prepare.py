from kfp.dsl import Artifact, Dataset, Input, Output

from cowest_components import component


@component
def prepare(
    raw: Input[Dataset],
    turn: Input[Artifact],
    queries: Output[Dataset],
    corpus: Output[Dataset],
    quarantine: Output[Dataset],
    config: str,
):
    """Makes queries and the corpus of raw rows.

    Args:
        raw: The folder with the raw data.
        turn: turn.json: the turn for which the calls of this step count.
        config: Settings of the stage as JSON, from its section of params.yaml.

    Returns:
        queries: Queries, not validated yet.
        corpus: Demonstrations for SFT, not validated yet.
        quarantine: Raw rows that could not be used, each with its reason.
    """
    from cowest.steps import run

    run(
        "prepare",
        config,
        turn=turn.path,
        raw=raw.path,
        queries=queries.path,
        corpus=corpus.path,
        quarantine=quarantine.path,
    )
