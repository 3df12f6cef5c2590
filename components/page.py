from kfp.dsl import HTML, Artifact, Dataset, Input, Model, Output

from cowest_components import component


@component
def page(
    params: Input[Artifact],
    turn: Input[Artifact],
    start: Input[Model],
    champion: Input[Model],
    policy: Input[Model],
    challenger: Input[Model],
    quarantine: Input[Dataset],
    queries: Input[Dataset],
    corpus: Input[Dataset],
    feedback: Input[Dataset],
    raw_pairs: Input[Dataset],
    pairs: Input[Dataset],
    trials: Input[Dataset],
    queries_found: Input[Artifact],
    corpus_found: Input[Artifact],
    feedback_found: Input[Artifact],
    pairs_found: Input[Artifact],
    report: Input[Artifact],
    decision: Input[Artifact],
    page: Output[HTML],
):
    """Writes the turn's report for people, and adds it to the turn's run in the tracker.

    Args:
        params: params.yaml.
        turn: turn.json.
        start: The version from which training started.
        champion: The version that was to be beaten.
        policy: The policy before alignment.
        challenger: The policy after alignment.
        quarantine: Raw rows that could not be used.
        queries: All queries.
        corpus: Demonstrations.
        feedback: The feedback of all queries.
        raw_pairs: Preference pairs before validation.
        pairs: Preference pairs.
        trials: The trials of all held-out queries.
        queries_found: What validate found on the queries.
        corpus_found: What validate found on the corpus.
        feedback_found: What validate found on the feedback.
        pairs_found: What validate found on the pairs.
        report: The report with all gates.
        decision: The decision.

    Returns:
        page: The report.
    """
    # Before anything else is a local variable, they are the artifacts.
    places = {name: made.path for name, made in locals().items()}
    from cowest.steps.page import write

    write(**places)
