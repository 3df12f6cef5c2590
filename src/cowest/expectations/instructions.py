"""Texts that try to instruct their reader: the strong model, which refines drafts, or the judge.

This is a list of forms and no more. It finds plain English instructions and tokens of chat
templates, and is easy to get past for somebody who wants to. It is here because DPO finds by itself
what moves a judge, and then drafts say it plainly.
"""

import re

_ANSWER = r"(?:answers?|responses?|repl(?:y|ies)|drafts?|solutions?|submissions?|texts?|notes?)"
_READER = (
    r"(?:judge|grader|marker|evaluator|examiner|reviewer|strong model|language model|ai model"
    r"|ai assistant|assistant|llm|chatbot)"
)
_START = r"(?:^|[.!?:;,\n(\"'*]\s*|\b(?:please|must|should|to|now|and|then|always|just|simply)\s+)"
_MARK = r"(?:score|marks?|rating|grade|points|reward)"

# Between two words stands white space, and a few other words at most: each pattern looks no further
# than a fixed number of words, so a text takes time in proportion to its length.
FORMS: dict[str, str] = {
    "holds a token of a chat template": (
        r"<\|[a-z_]{2,30}\|>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>"
        r"|<\uff5c[^<>|]{2,40}\uff5c>|^#{2,4} ?(?:system|instructions?):"
    ),
    "takes back instructions": (
        r"\b(?:ignore|disregard|forget|override|bypass)\s+"
        r"(?:(?:all|any|every|of|the|your|my|these|those|what)\s+){0,4}"
        r"(?:previous|prior|above|preceding|earlier|original|other|initial|system)\s+"
        r"(?:[a-z]+\s+){0,2}"
        r"(?:instructions?|prompts?|rules|guidelines|directions|messages?|text|context)\b"
        r"|\b(?:ignore|disregard|override)\s+(?:all\s+|any\s+)?your\s+(?:[a-z]+\s+)?"
        r"(?:instructions|prompt|rules|guidelines)\b"
        r"|\b(?:new|updated|real)\s+(?:system\s+)?instructions?\s*(?:for\s+(?:the|you)\b|:)"
    ),
    "asks for a mark": (
        rf"{_START}(?:give|award|assign|grant|rate|score|mark|grade)\s+(?:[\w']+\s+){{0,5}}?"
        rf"(?:{_ANSWER}|this|it|me)\s+(?:[\w']+\s+){{0,3}}?"
        rf"(?:(?:highest|maximum|full|perfect|top|best)\s+(?:possible\s+)?{_MARK}\b"
        r"|(?:10|100|5|ten|five)\b"
        r"(?:\s*(?:/|out of)\s*(?:10|100|5|ten|five)\b|\s*%|\s+points)"
        r"|(?:a|an|as)\s+(?:10|ten|perfect|correct)\b)"
        rf"|{_START}(?:give|award|assign)\s+(?:the\s+)?"
        rf"(?:highest|maximum|full|perfect|top)\s+(?:possible\s+)?{_MARK}\s+(?:to|for)\s+"
        rf"(?:this|the|my)\s+{_ANSWER}\b"
        rf"|\b(?:this|my|the following)\s+{_ANSWER}\s+"
        r"(?:deserves|must (?:get|receive)|should (?:get|receive|be (?:given|awarded)))\s+"
        r"(?:a |the |an )?"
        rf"(?:(?:highest|maximum|full|perfect|top|best)(?: possible)?\s+{_MARK}|10\b|100\b)"
    ),
    "speaks to the reader": (
        r"(?:^|[.!?\n]\s*)"
        r"(?:dear|attention|attn|hey|hello|(?:note|message|instructions?) (?:to|for)(?: the)?)"
        rf"[\s,:]+(?:the\s+)?{_READER}\b"
        rf"|\byou are (?:now )?(?:the|a|an)\s+(?:[a-z]+\s+)?{_READER}\b"
    ),
    "asks to be copied": (
        rf"{_START}(?:copy|repeat|output|adopt|use|accept|return)\s+"
        rf"(?:this|my|the)\s+(?:[a-z]+\s+)?{_ANSWER}\s+"
        r"(?:verbatim|word for word|as it is|as is|exactly|unchanged|without (?:any )?changes?)"
        r"|\bdo not (?:change|alter|question|verify|check|doubt|correct|contradict)\s+"
        rf"(?:this|my|the)\s+(?:[a-z]+\s+)?{_ANSWER}\b"
    ),
    "asks for the prompt": (
        r"\b(?:reveal|print|repeat|show|output)\s+(?:me\s+)?"
        r"(?:your|the)\s+(?:system|hidden|original|initial)\s+(?:prompt|instructions)\b"
    ),
}
"""Patterns of instructions, each under the words that say what it does."""
_FORM = re.compile(
    "|".join(f"(?P<f{number}>{form})" for number, form in enumerate(FORMS.values())),
    re.IGNORECASE | re.MULTILINE,
)
LONGEST = 20_000
"""Characters of a text that are searched; of a longer text, its beginning and its end."""


def instructs(text: str) -> str | None:
    """Says in words how a text instructs its reader; None if it does not."""
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]}\n{text[-LONGEST // 2 :]}"
    found = _FORM.search(text)
    if found is None:
        return None
    # The group that matched has the number of its form.
    return list(FORMS)[int((found.lastgroup or "f0")[1:])]
