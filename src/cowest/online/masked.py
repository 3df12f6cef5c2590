"""Replaces personal data and secrets in answers and verdicts by placeholders."""

import time

from cowest.detectors import Detection, Finding, find, find_together, mask_all
from cowest.online.interactions import Interaction, ServedCall
from cowest.online.verdicts import KeptVerdict
from cowest.records import with_contents


def texts_of(answer: Interaction) -> list[str]:
    """Returns all texts of an answer: of the conversation, the draft, the answer, and reasons."""
    texts = [message.content for message in answer.prompt]
    texts += [answer.draft or "", answer.answer or "", answer.failed or ""]
    for call in (answer.drafting, answer.answering):
        # What an endpoint says of a request that it refuses may quote it.
        texts.append((call.failed if call is not None else None) or "")
    return texts


def answer(row: Interaction, detection: Detection) -> Interaction:
    """The row with placeholders; a value has the same one in all its texts."""
    texts = masked(texts_of(row), detection)
    if texts is None:
        return row
    *contents, draft, said, failed, drafting, answering = texts
    return row.model_copy(
        update={
            "prompt": with_contents(row.prompt, contents),
            "draft": None if row.draft is None else draft,
            "answer": None if row.answer is None else said,
            "failed": None if row.failed is None else failed,
            "drafting": _call(row.drafting, drafting),
            "answering": _call(row.answering, answering),
        }
    )


def verdict(row: KeptVerdict, detection: Detection) -> KeptVerdict:
    """The verdict with placeholders in its better answer and its comment."""
    texts = masked([row.better or "", row.comment or ""], detection)
    if texts is None:
        return row
    better, comment = texts
    return row.model_copy(
        update={
            "better": None if row.better is None else better,
            "comment": None if row.comment is None else comment,
        }
    )


def masked(texts: list[str], detection: Detection) -> list[str] | None:
    """Returns texts that belong together with placeholders; None if nothing was found in them."""
    if not detection.detect:
        return None

    def search(text: str) -> list[Finding]:
        found = find(text, detection) if text else []
        # A search may take milliseconds, in which other threads should not wait for their turn.
        time.sleep(0)
        return found

    findings = find_together(texts, search)
    return mask_all(texts, findings)[0] if any(findings) else None


def _call(call: ServedCall | None, failed: str) -> ServedCall | None:
    if call is None or call.failed is None:
        return call
    return call.model_copy(update={"failed": failed})
