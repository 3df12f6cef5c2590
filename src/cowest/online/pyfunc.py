"""A version as MLflow loads it: a question goes in, the draft and the refined answer come out.

    model = mlflow.pyfunc.load_model("models:/handbook@champion")
    model.predict(pandas.DataFrame({"question": ["Which country makes the Phoenix fan?"]}))

`MLmodel` names this module as `loader_module`, and the version's folder as its `data`
(`registry.mlmodel` writes it). So the artifact holds no code of its own, and no pickle.
"""

import threading
import weakref
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cowest import collaboration, environment, version
from cowest.config import complaints, parse
from cowest.errors import InputError
from cowest.models.answer_config import AnswerConfig
from cowest.online.ask_api import Ask
from cowest.protocols import ChatModel, Completion
from cowest.records import Message
from cowest.version import Version


class DraftAndRefine:
    """The policy's version and the strong model, loaded, with the method that MLflow calls.

    Safe for threads: calls of `predict` are answered one at a time.
    """

    def __init__(
        self, trained: Version, policy: ChatModel, strong: ChatModel, config: AnswerConfig
    ) -> None:
        self._trained = trained
        self._policy = policy
        self._strong = strong
        self._config = config
        self._lock = threading.Lock()

    def predict(self, asked: Any, params: dict[str, Any] | None = None) -> Any:
        """Returns a frame with `answer`, `draft` and `failed`, one row per question.

        asked: a frame (or the records of one) with `question`, or with `messages` that end with
        the user's. A row whose call failed has no answer, and its reason in `failed`. Raises
        InputError for a row that asks nothing.
        """
        import pandas

        frame = pandas.DataFrame(asked)
        questions = list(_questions(frame))
        with self._lock:
            found = collaboration.answers(
                questions,
                self._policy,
                self._strong,
                self._trained.prompts,
                self._config.drafting,
                self._config.refining,
            )
        rows = [_row(drafted, refined) for drafted, refined in found]
        # Object columns: a missing answer stays None, and no text becomes a number.
        return pandas.DataFrame(
            rows, columns=["answer", "draft", "failed"], index=frame.index, dtype=object
        )


def _questions(frame: Any) -> Iterator[tuple[Message, ...]]:
    """Yields the conversation of each row. Raises InputError."""
    for number, row in enumerate(frame.to_dict("records")):
        given: dict[str, Any] = {}
        for name in Ask.model_fields:
            value = row.get(name)
            # A frame has NaN where a row lacks one of its columns.
            if isinstance(value, str):
                given[name] = value
            elif value is not None and not isinstance(value, float):
                given[name] = list(value)
        try:
            yield Ask.model_validate(given).prompt
        except ValidationError as error:
            raise InputError(f"row {number} asks nothing: {complaints(error)}") from None


def _row(drafted: Completion, refined: Completion | None) -> dict[str, str | None]:
    """One row of the result."""
    failed = None
    if refined is None:
        failed = f"draft: {drafted.failed}"
    elif refined.text is None:
        failed = f"refine: {refined.failed}"
    answer = None if refined is None else refined.text
    return {"answer": answer, "draft": drafted.text, "failed": failed}


def _load_pyfunc(path: str, model_config: dict[str, Any] | None = None) -> DraftAndRefine:
    """Opens the version in a folder with the settings of `serve`; MLflow calls it by this name.

    model_config: the settings as MLmodel has them, or as `load_model(..., model_config=...)`
    replaced some of them. Raises CoWestError for settings or models that can't be used.
    """
    environment.settle()
    settings = parse(AnswerConfig, model_config or {}, "the model's config (MLmodel)")
    folder = Path(path)
    trained = version.expect(folder)
    with ExitStack() as stack:
        policy = stack.enter_context(settings.policy.open(adapter=folder / "adapter"))
        strong = stack.enter_context(settings.strong.open())
        model = DraftAndRefine(trained, policy, strong, settings)
        # MLflow never closes a model, so its connections close when it is let go.
        weakref.finalize(model, stack.pop_all().close)
    return model
