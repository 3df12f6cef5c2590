from kfp.dsl import Artifact, Dataset, Input, Model, Output

from cowest_components import component


@component
def pin(
    raw: Input[Dataset],
    params: Input[Artifact],
    turn: Output[Artifact],
    start: Output[Model],
    champion: Output[Model],
    looks: Output[Artifact],
    config: dict,
):
    """Pins what the turn rests on, and lays out the champion."""
    from cowest.stages import run

    run(
        "pin",
        config,
        raw=raw.path,
        params=params.path,
        turn=turn.path,
        start=start.path,
        champion=champion.path,
        looks=looks.path,
    )
