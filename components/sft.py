from kfp.dsl import Dataset, Input, Model, Output

from cowest_components import component


@component
def sft(corpus: Input[Dataset], start: Input[Model], policy: Output[Model], config: dict):
    """The policy is specialised on the corpus, or handed on."""
    from cowest.stages import run

    run("sft", config, corpus=corpus.path, start=start.path, policy=policy.path)
