from kfp.dsl import Dataset, Input, Output

from cowest_components import component


@component
def refine(drafts: Input[Dataset], refinements: Output[Dataset], config: dict):
    """The strong model refines, and answers alone."""
    from cowest.stages import run

    run("refine", config, drafts=drafts.path, refinements=refinements.path)
