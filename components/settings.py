from kfp.dsl import Artifact, Output

from cowest_components import component


@component
def settings(text: str, params: Output[Artifact]):
    """params.yaml as it was when the pipeline was compiled, as a file."""
    from pathlib import Path

    Path(params.path).write_text(text, encoding="utf-8")
