from kfp.dsl import Dataset, Input, Model, Output

from cowest_components import component


@component
def draft(queries: Input[Dataset], policy: Input[Model], drafts: Output[Dataset], config: dict):
    """The policy drafts."""
    from cowest.stages import run

    run("draft", config, queries=queries.path, policy=policy.path, drafts=drafts.path)
