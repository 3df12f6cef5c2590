from kfp.dsl import Dataset, Input, Output

from cowest_components import component


@component
def score(refinements: Input[Dataset], feedback: Output[Dataset], config: dict):
    """The collaborative feedback."""
    from cowest.stages import run

    run("score", config, refinements=refinements.path, feedback=feedback.path)
