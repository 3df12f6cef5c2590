from kfp.dsl import HTML, Dataset, Input, Output

from components import component


@component
def validate(rows: Input[Dataset], valid: Output[Dataset], page: Output[HTML], stage: str, config: dict):
    """What does not meet the contract fails the turn or is set aside."""
    from cowest.stages import run

    run(stage, config, rows=rows.path, valid=valid.path, page=page.path)
