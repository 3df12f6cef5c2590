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
    """Rows that break the contract fail the turn or are set aside."""
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
