"""The marker of an answer, such as `Answer:`. Only what follows its last occurrence is scored.

A scorer with a marker has it in its name, `exact_match after Answer:`, since it scores otherwise.
"""

AFTER = " after "
"""Stands between a scorer's name and its marker."""


def named(scorer: str, marker: str | None) -> str:
    """The name of a scorer with its marker; None: it scores answers whole."""
    if marker is None:
        return scorer
    return f"{scorer}{AFTER}{marker}"


def parted(name: str) -> tuple[str, str | None]:
    """The scorer and the marker in a name; None if it has no marker."""
    scorer, _, marker = name.partition(AFTER)
    return scorer, marker or None


def after(answer: str, marker: str | None) -> str:
    """The text from the last marker to the end of its line; the whole answer if there is none.

    Spaces, asterisks and underscores around that text are left out: they are Markdown's.
    """
    if marker is None or marker not in answer:
        return answer
    rest = answer.rpartition(marker)[2].strip(" *_")
    if not rest:
        return ""
    return rest.splitlines()[0].strip(" *_")
