from kfp.dsl import HTML, Artifact, Dataset, Input, Output

from cowest_components import component


@component
def validate(
    rows: Input[Dataset],
    against: Input[Artifact],
    turn: Input[Artifact],
    stage: str,
    valid: Output[Dataset],
    page: Output[HTML],
    findings: Output[Artifact],
    config: str,
):
    """Checks rows against their contract: broken rows fail the turn or are set aside.

    Args:
        rows: The rows to judge.
        against: The rows, data or version that they are compared with.
        turn: turn.json: the turn for which the calls of this step count.
        stage: validate@queries, @corpus, @feedback or @pairs.
        config: Settings of the stage as JSON, from its section of params.yaml.

    Returns:
        valid: The rows that meet the contract.
        page: What was found, for people.
        findings: What was found, as JSON.
    """
    from cowest.steps import run

    run(
        stage,
        config,
        turn=turn.path,
        rows=rows.path,
        against=against.path,
        valid=valid.path,
        page=page.path,
        findings=findings.path,
    )
