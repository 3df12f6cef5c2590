"""Thoughts of a model, which are no answer: found by their marks, and left out where one is read.

These marks, and no others:

    <think> </think>, <thinking>, <thought>, <reasoning>      in upper or lower case
    [THINK] [/THINK]                                          Mistral's
    <|channel|>analysis<|message|> ...                        gpt-oss, where the channel `final` is
                                                              the answer; also with its marks gone,
                                                              analysis ... assistantfinal

A thought that is not closed reaches to the end. A mark that closes what no mark opened was opened
by the prompt, so all before it is a thought. There may be several thoughts. A mark in backticks is
spoken of, and is none.
"""

import re

TAG = re.compile(
    r"(?<!`)(?:<(?P<closes>/?)(?i:think|thinking|thought|reasoning)>|\[(?P<shuts>/?)THINK\])"
)
MARKS = frozenset(
    ["<think>", "</think>", "<thinking>", "</thinking>", "<thought>", "</thought>", "<reasoning>",
     "</reasoning>", "[THINK]", "[/THINK]", "<|channel|>", "<|message|>"]
)  # fmt: skip
"""Marks that may be control tokens of a tokenizer: a text that lacks them can't be told from an
answer."""
CHANNEL = re.compile(r"<\|channel\|>\s*(?P<name>\w+)[^<]*<\|message\|>")
CHANNEL_END = re.compile(r"<\|(?:end|return|call|start)\|>")
BARE_ANALYSIS = re.compile(r"\s*analysis(?=[A-Z])")
BARE_FINAL = "assistantfinal"


def without_thoughts(text: str) -> str:
    """The text without its thoughts; empty if it holds nothing else, unchanged if it has none."""
    if "<|channel|>" in text:
        return _final_channel(text)
    if BARE_ANALYSIS.match(text):
        # A text without the second mark was cut within its thought.
        return text.rpartition(BARE_FINAL)[2].strip() if BARE_FINAL in text else ""
    if TAG.search(text) is None:
        return text
    kept: list[str] = []
    begin = 0
    inside = False
    for tag in TAG.finditer(text):
        if not (tag["closes"] or tag["shuts"]):
            if not inside:
                kept.append(text[begin : tag.start()])
            inside = True
            continue
        if not inside:
            kept.clear()
        inside = False
        begin = tag.end()
    if not inside:
        kept.append(text[begin:])
    return "".join(kept).strip()


def _final_channel(text: str) -> str:
    """The last text in the channel `final`; empty if there is none."""
    answer = ""
    for channel in CHANNEL.finditer(text):
        if channel["name"] == "final":
            answer = CHANNEL_END.split(text[channel.end() :], maxsplit=1)[0]
    return answer.strip()
