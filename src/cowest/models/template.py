"""The text of a chat template: its words before it is run, and a date that stays the same.

A prompt is known by its messages and its model's name, so equal messages must become equal tokens
on any day. transformers tells templates the time, and Jinja lets them draw.
"""

from collections.abc import Iterator

from cowest.errors import ModelError

CLOCK = "strftime_now"
"""The function by which transformers tells a template the time."""
DRAWS = ("random", "lipsum")
"""Names by which Jinja draws."""
DAY = {
    "%d": "26", "%-d": "26", "%e": "26", "%b": "Jul", "%h": "Jul", "%B": "July", "%m": "07",
    "%-m": "7", "%Y": "2024", "%y": "24", "%a": "Fri", "%A": "Friday", "%j": "208",
    "%F": "2024-07-26", "%D": "07/26/24", "%H": "00", "%I": "12", "%p": "AM", "%M": "00",
    "%S": "00", "%R": "00:00", "%T": "00:00:00",
}  # fmt: skip
"""The time that every template is told, by strftime's codes: the date that Llama's own templates
take where they are told none."""


def steady(template: str, model: str) -> str:
    """Returns a template that writes the same for equal messages at any time.

    Raises ModelError, which names the model, for one that draws.
    """
    drawing = next((word for kind, word in _words(template) if kind == "name" and word in DRAWS), 0)
    if drawing:
        raise ModelError(
            f"{model}: its chat template draws by chance (`{drawing}`), so equal prompts would "
            "become other tokens each time: give another as `chat_template`"
        )
    if CLOCK not in template:
        return template
    told = "".join(f" | replace('{code}', '{said}')" for code, said in DAY.items())
    # Jinja takes away the line break behind the macro, and none of the template's own.
    return (
        f"{{%- macro {CLOCK}(format) -%}}{{%- set told = format{told} -%}}"
        "{%- if '%' in told -%}"
        f"{{{{- raise_exception('{CLOCK} is told no time in the form ' ~ format) -}}}}"
        "{%- endif -%}{{- told -}}{%- endmacro %}\n" + template
    )


def written(template: str) -> str:
    """Returns all that a template may write of itself: its plain text and its quoted texts.

    A zero character stands between two of them, so that nothing is found across them.
    """
    return "\0".join(word for kind, word in _words(template) if kind != "name")


def _words(template: str) -> Iterator[tuple[str, str]]:
    """Yields the names, plain texts and quoted texts of a template, each with its kind.

    One that can't be read ends early: to run it is refused, with the reason.
    """
    import jinja2

    settings = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)  # noqa: S701
    try:
        for _, kind, word in settings.lex(template):
            if kind == "string":
                # As Jinja's own parser reads it.
                quoted = word[1:-1].encode("ascii", "backslashreplace")
                yield kind, quoted.decode("unicode-escape")
            elif kind in ("name", "data"):
                yield kind, word
    except (jinja2.TemplateSyntaxError, ValueError):
        return
