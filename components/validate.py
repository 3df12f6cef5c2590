from kfp.dsl import HTML, Artifact, Dataset, Input, Output

from cowest_components import component


@component
def validate(
    rows: Input[Dataset],
    against: Input[Artifact],
    valid: Output[Dataset],
    page: Output[HTML],
    findings: Output[Artifact],
    stage: str,
    config: dict,
):
    """What does not meet the contract fails the turn or is set aside."""
    from cowest.stages import run

    run(
        stage,
        config,
        rows=rows.path,
        against=against.path,
        valid=valid.path,
        page=page.path,
        findings=findings.path,
    )
