from kfp.dsl import Dataset, Input, Output

from cowest_components import component


@component
def prepare(
    raw: Input[Dataset],
    queries: Output[Dataset],
    corpus: Output[Dataset],
    quarantine: Output[Dataset],
    config: dict,
):
    """Raw rows become queries and the corpus."""
    from cowest.stages import run

    run(
        "prepare",
        config,
        raw=raw.path,
        queries=queries.path,
        corpus=corpus.path,
        quarantine=quarantine.path,
    )
