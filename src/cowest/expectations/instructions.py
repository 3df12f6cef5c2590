"""Texts that try to instruct whoever reads them: the strong model, which refines drafts, or the judge, which marks answers.

A list of forms, no more: it finds what is said plainly and in English, and tokens of chat templates. Whoever wants to get past it
will; it is there because DPO finds by itself what moves a judge, and says it plainly.
"""

import re

_ANSWER = r"(?:answers?|responses?|repl(?:y|ies)|drafts?|solutions?|submissions?|texts?|notes?)"
_READER = r"(?:judge|grader|marker|evaluator|examiner|reviewer|strong model|language model|ai model|ai assistant|assistant|llm|chatbot)"
_START = r"(?:^|[.!?:;,\n(\"'*]\s*|\b(?:please|must|should|to|now|and|then|always|just|simply)\s+)"
_MARK = r"(?:score|marks?|rating|grade|points|reward)"

FORMS: dict[str, str] = {
    "holds a token of a chat template": (
        r"<\|[a-z_]{2,30}\|>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|<\uff5c[^<>|]{2,40}\uff5c>|^#{2,4} ?(?:system|instructions?):"
    ),
    "takes back instructions": (
        r"\b(?:ignore|disregard|forget|override|bypass)\s+(?:(?:all|any|every|of|the|your|my|these|those|what)\s+){0,4}"
        r"(?:previous|prior|above|preceding|earlier|original|other|initial|system)\s+(?:[a-z]+\s+){0,2}"
        r"(?:instructions?|prompts?|rules|guidelines|directions|messages?|text|context)\b"
        r"|\b(?:ignore|disregard|override)\s+(?:all\s+|any\s+)?your\s+(?:[a-z]+\s+)?(?:instructions|prompt|rules|guidelines)\b"
        r"|\b(?:new|updated|real)\s+(?:system\s+)?instructions?\s*(?:for\s+(?:the|you)\b|:)"
    ),
    "asks for a mark": (
        rf"{_START}(?:give|award|assign|grant|rate|score|mark|grade)\s+(?:[\w']+\s+){{0,5}}?"
        rf"(?:{_ANSWER}|this|it|me)\s+(?:[\w']+\s+){{0,3}}?(?:(?:highest|maximum|full|perfect|top|best)\s+(?:possible\s+)?{_MARK}\b"
        r"|(?:10|100|5|ten|five)\b(?:\s*(?:/|out of)\s*(?:10|100|5|ten|five)\b|\s*%|\s+points)|(?:a|an|as)\s+(?:10|ten|perfect|correct)\b)"
        rf"|{_START}(?:give|award|assign)\s+(?:the\s+)?(?:highest|maximum|full|perfect|top)\s+(?:possible\s+)?{_MARK}\s+(?:to|for)\s+"
        rf"(?:this|the|my)\s+{_ANSWER}\b"
        rf"|\b(?:this|my|the following)\s+{_ANSWER}\s+(?:deserves|must (?:get|receive)|should (?:get|receive|be (?:given|awarded)))\s+"
        rf"(?:a |the |an )?(?:(?:highest|maximum|full|perfect|top|best)(?: possible)?\s+{_MARK}|10\b|100\b)"
    ),
    "speaks to the reader": (
        rf"(?:^|[.!?\n]\s*)(?:dear|attention|attn|hey|hello|(?:note|message|instructions?) (?:to|for)(?: the)?)"
        rf"[\s,:]+(?:the\s+)?{_READER}\b"
        rf"|\byou are (?:now )?(?:the|a|an)\s+(?:[a-z]+\s+)?{_READER}\b"
    ),
    "asks to be copied": (
        rf"{_START}(?:copy|repeat|output|adopt|use|accept|return)\s+(?:this|my|the)\s+(?:[a-z]+\s+)?{_ANSWER}\s+"
        r"(?:verbatim|word for word|as it is|as is|exactly|unchanged|without (?:any )?changes?)"
        rf"|\bdo not (?:change|alter|question|verify|check|doubt|correct|contradict)\s+(?:this|my|the)\s+(?:[a-z]+\s+)?{_ANSWER}\b"
    ),
    "asks for the prompt": (
        r"\b(?:reveal|print|repeat|show|output)\s+(?:me\s+)?(?:your|the)\s+(?:system|hidden|original|initial)\s+(?:prompt|instructions)\b"
    ),
}  # fmt: skip
"""What each form does, and how it is said."""
_FORM = re.compile(
    "|".join(f"(?P<f{number}>{form})" for number, form in enumerate(FORMS.values())),
    re.IGNORECASE | re.MULTILINE,
)
LONGEST = 20_000
"""Characters of a text that are looked at: of a longer one its beginning and its end."""


def instructs(text: str) -> str | None:
    """What a text does to instruct its reader, in words; None where it does nothing of the kind."""
    looked = text if len(text) <= LONGEST else f"{text[: LONGEST // 2]}\n{text[-LONGEST // 2 :]}"
    found = _FORM.search(looked)
    return list(FORMS)[int((found.lastgroup or "f0")[1:])] if found else None
