from kfp.dsl import Dataset, Input, Output

from cowest_components import component


@component
def pair(feedback: Input[Dataset], pairs: Output[Dataset], config: dict):
    """Drafts that helped against drafts that helped less."""
    from cowest.stages import run

    run("pair", config, feedback=feedback.path, pairs=pairs.path)
