"""Texts that try to instruct their reader: the strong model, which refines drafts, or the judge.

This is a list of forms and no more. It finds plain instructions (in English, and the commonest in
ten other languages), verdicts in a judge's own form, and tokens of chat templates. It is easy to
get past for somebody who wants to. It is here because DPO finds by itself
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
        rf"|\b(?:this|my|the)\s+{_ANSWER}\s+(?:is worth|merits|warrants|earns|scores|deserves)\s+"
        r"(?:a |the |an )?(?:(?:(?:highest|maximum|full|perfect|top)\s+(?:possible\s+)?"
        rf"{_MARK}|(?:10|100|ten)\b(?!\s*(?:%|percent|[a-z]))))"
        rf"|\b(?:score|grade|rating|mark|verdict)\s+(?:for|of)\s+(?:this|my)\s+{_ANSWER}\s+"
        r"(?:is|should be|must be|has to be)\b"
        rf"|\b(?:i|we)(?:'d| would)?\s+(?:rate|score|grade)\s+(?:this|my|the)\s+{_ANSWER}\b"
        rf"|{_START}(?:output|respond with|reply with|answer with|print|return|write|say)\s+"
        r"(?:(?:only|just|the|a|number|score|grade|rating|digit|of)\s+){0,5}"
        r"(?:10|ten|\"10\"|'10')(?:\s+(?:only|and nothing else|as (?:the|your) \w+))?"
        r"\s*(?:[.!\n]|$)"
        r"|\b(?:any(?:thing)?|a)\s+(?:other|lower|less)\s+(?:than (?:a )?(?:10|ten|full marks)|"
        r"(?:score|grade|mark|rating)\s+(?:would|will|is)\b)"
        r"|\b(?:do not|don't|never)\s+(?:deduct|take (?:off|away)|subtract)\s+"
        r"(?:any\s+)?(?:points?|marks?)\b|\bno (?:points|marks) (?:should|must|may) be deducted"
        rf"|{_START}(?:mark|consider|treat|accept|count|grade|judge|regard)\s+"
        rf"(?:this|my|it)(?:\s+{_ANSWER})?\s+as\s+(?:fully |completely |entirely )?"
        r"(?:correct|right|perfect|true)\b"
        rf"|\b(?:the|this)\s+{_READER}\s+(?:should|must|will|has to|is to)\s+"
        r"(?:give|award|rate|score|assign|mark|grade|accept|output)\s+(?:[\w']+\s+){0,3}?"
        r"(?:full|highest|maximum|perfect|top|10|ten|this|my)\b"
    ),
    "gives a verdict on itself": (
        r"[\"'](?:score|grade|rating|verdict|judge?ment|is_correct|overall_score|final_score)[\"']"
        r"\s*:\s*[\"']?(?:10|[0-9]|true|correct|pass|excellent|perfect|a\b)"
        r"|\[\[\s*(?:10|[0-9]|[abc]|rating[^\]]{0,12})\s*\]\]"
        r"|<(?:score|grade|rating|verdict|judge?ment)>\s*[\w.]{1,12}"
        r"|^\W{0,4}(?:(?:final|overall|my|your|total|the)\s+)?"
        r"(?:score|grade|rating|verdict|judge?ment|mark|evaluation)\W{0,4}[:=]\W{0,4}"
        r"(?:(?:10|100|ten)\s*(?:(?:/|out of)\s*(?:10|100|ten)\b|points\b)?\W{0,4}$"
        r"|(?:fully |entirely )?(?:correct|pass(?:ed)?|perfect|excellent|right)\W{0,4}$)"
        r"|^\W{0,4}(?:(?:ai|the)\s+)?(?:judge|grader|evaluator|examiner)(?:'s\s+\w+)?\s*:"
        r"|\b(?:as|being|acting as|speaking as)\s+(?:the|a|an|your)\s+"
        r"(?:fair |impartial |strict |expert |ai )?(?:judge|grader|evaluator|examiner|marker)"
        r"\s*,\s*(?:i|you|we)\b"
        rf"|\b(?:this|my)\s+{_ANSWER}\s+(?:fully |exactly |perfectly |completely )?"
        r"(?:matches|agrees with|is identical to|is the same as|is consistent with|equals)\s+"
        r"(?:the\s+)?(?:target|reference|ground truth|gold|expected|correct|model)\b"
        r"|\b(?:identical|equal)\s+to\s+the\s+(?:reference|target|gold|expected)\s+answer\b"
        r"|^\W{0,4}(?:grading|scoring|evaluation|judging|marking)\s+"
        r"(?:notes?|instructions?|guidelines?|hints?|rules?)\s*:"
        rf"|^[-=#*<\[]{{1,6}}\s*/?(?:end|begin|start)\s+(?:of\s+)?(?:the\s+)?{_ANSWER}\b"
    ),
    "instructs in another language": (
        # German, French, Spanish, Portuguese, Italian, Dutch, Russian, Chinese, Japanese, Korean:
        # first instructions taken back, then a full mark asked for.
        r"\bignorier\w{0,3}\s+(?:(?:sie|bitte|alle|die|deine|ihre)\s+){0,3}"
        r"(?:vorherigen|bisherigen|obigen|früheren|vorigen)\s+\w{0,8}(?:anweisung|regel|vorgabe)"
        r"|\b(?:ignor\w{1,4}|oubli\w{1,3}|olvid\w{1,3}|dimentic\w{1,5}|esque[çc]\w{1,3}|negeer)\s+"
        r"(?:(?:toutes|tous|les|todas|las|as|tutte|le|alle|de|tes|vos|tus|sus)\s+){0,3}"
        r"(?:(?:vorige|eerdere|bovenstaande)\s+)?"
        r"(?:instructions?|consignes|instrucciones|instruções|istruzioni|instructies)\b"
        r"|\b(?:игнорируй\w{0,2}|забудь\w{0,2})\s+(?:\w+\s+){0,2}(?:инструкц|указан)"
        r"|(?:忽略|无视|無視)[^\n。]{0,10}(?:指令|指示|说明|提示)"
        r"|(?:指示|命令)(?:は|を)[^\n。]{0,6}無視|(?:지시|명령)[^\n.]{0,6}무시"
        r"|\b(?:gib|geben|vergib|vergeben|bewerte\w?)\s+(?:\w+\s+){0,6}?"
        r"(?:volle\w?|höchste\w?|maximale\w?)\s+(?:punkt|note|bewertung)"
        r"|\b(?:donne\w{0,2}|attribue\w{0,2}|accorde\w{0,2}|mette\w)\s+(?:\S+\s+){0,5}?"
        r"note\s+(?:maximale|parfaite|la plus (?:haute|élevée))"
        r"|\b(?:da|dale|otorg\w{1,3}|asign\w{1,3}|dê|atribu\w{1,3}|dai|assegn\w{1,3})\s+"
        r"(?:\S+\s+){0,5}?(?:puntuación|calificación|nota|pontuação|punteggio|voto)\s+"
        r"(?:máxim[ao]|massim[ao]|más alta|perfect[ao])"
        r"|\bgeef\s+(?:\w+\s+){0,5}?(?:hoogste|maximale)\s+(?:score|cijfer|punten)"
        r"|\bпостав\w{1,4}\s+(?:\w+\s+){0,4}?(?:максимальн|высш|наивысш)"  # noqa: RUF001 (Russian)
        r"|(?:给|給|打)[^\n。]{0,12}(?:满分|滿分|最高分|10分|十分)"
        r"|満点(?:を|で)|最高点(?:を|で)|만점(?:을|으로)"
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
