from kfp.dsl import Artifact, Dataset, Input, Model, Output

from cowest_components import component


@component
def pin(
    raw: Input[Dataset],
    params: Input[Artifact],
    version: Input[Artifact],
    turn: Output[Artifact],
    start: Output[Model],
    champion: Output[Model],
    looks: Output[Artifact],
):
    """Pins what the turn rests on, opens its budget, and lays out the champion.

    Args:
        raw: The folder with the raw data.
        params: params.yaml.
        version: Path, revision and digests of the raw data.

    Returns:
        turn: turn.json: the turn's key, and what it rests on.
        start: The version from which training starts.
        champion: The version that is to be beaten.
        looks: Earlier decisions that looked at the held-out queries.
    """
    from cowest.steps import run

    run(
        "pin",
        None,
        raw=raw.path,
        params=params.path,
        version=version.path,
        turn=turn.path,
        start=start.path,
        champion=champion.path,
        looks=looks.path,
    )
