from kfp.dsl import Artifact, Markdown, Output, PipelineTaskFinalStatus

from cowest_components import component


@component
def summary(
    run: str,
    text: str,
    status: PipelineTaskFinalStatus,
    page: Output[Markdown],
    outcome: Output[Artifact],
):
    """Tells what became of the run, whatever became of it.

    Args:
        run: The id of the run.
        text: params.yaml, as it was when the pipeline was compiled.
        status: The end of the other steps.

    Returns:
        page: The outcome, for people.
        outcome: The outcome, as JSON.
    """
    from cowest.steps.summary import summarise

    error = status.error_message or ""
    summarise(run, status.state, error, text, page.path, outcome.path)
