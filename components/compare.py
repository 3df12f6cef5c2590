from kfp.dsl import Artifact, Dataset, Input, Metrics, Model, Output

from cowest_components import component


@component
def compare(
    trials: Input[Dataset],
    policy: Input[Model],
    challenger: Input[Model],
    agreement: Input[Dataset],
    looks: Input[Artifact],
    probe: Input[Dataset],
    turn: Input[Artifact],
    report: Output[Artifact],
    metrics: Output[Metrics],
    systems: Output[Artifact],
    sft: Output[Artifact],
    dpo: Output[Artifact],
    config: str,
) -> bool:
    """Computes intervals and gates from the trials of all systems.

    Args:
        trials: The trials of all held-out queries.
        policy: The policy before alignment.
        challenger: The policy after alignment.
        agreement: The judged policy compared with its other forms.
        looks: Earlier decisions that looked at the held-out queries.
        probe: Answers to general questions.
        turn: turn.json: the turn for which the calls of this step count.
        config: Settings of the stage as JSON, from its section of params.yaml.

    Returns:
        report: The report with all gates, as JSON.
        metrics: A few numbers of the report.
        systems: The score of each system, as CSV.
        sft: The loss of SFT, as CSV.
        dpo: The loss of DPO, as CSV.
        Output: True if no gate failed.
    """
    from cowest.steps import numbers_in, passed, run

    run(
        "compare",
        config,
        turn=turn.path,
        trials=trials.path,
        report=report.path,
        policy=policy.path,
        challenger=challenger.path,
        metrics=metrics.path,
        systems=systems.path,
        sft=sft.path,
        dpo=dpo.path,
        agreement=agreement.path,
        looks=looks.path,
        probe=probe.path,
    )
    for name, value in numbers_in(metrics.path).items():
        metrics.log_metric(name, value)
    return passed(report.path)
