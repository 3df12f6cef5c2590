"""The errors that CoWest raises for anything that a user can mend.

    CoWestError
    ├── ConfigError      params.yaml or a flag: an unknown key, a wrong type, a rule broken
    ├── InputError       a file or folder given to a stage: missing, empty, not what it should be
    │   └── RecordError  one line of a record file, named `file:line`
    ├── ModelError       a model folder or adapter: missing, corrupt, or hostile
    ├── CallError        a provider that refuses all our calls: no key, no such model, out of reach
    │   └── UpstreamError  one served call: the model is down, late or busy
    │       └── ThoughtShownError  a person was shown what turned out to be a thought
    ├── BudgetError      the turn's budget for calls is spent, or that of a purse for today
    ├── StoreError       the call store can't be opened, read or written: full disk, damaged file
    ├── ContractError    data that is well formed and still unfit: no pairs, too many failed rows
    ├── ClusterError     Kubeflow can't be reached, or refuses what it is asked
    └── RegistryError    the registry can't be reached, or holds something impossible

A message says what is wrong, where, and what to do. A failed *row* is not an error: it stays in
the data with its reason.
"""

from pathlib import Path


def in_words(error: OSError) -> str:
    """Says in a line what a file or folder did not let us do, and what to do about it."""
    where = str(error.filename or "a file or the output")
    if isinstance(error, FileExistsError | NotADirectoryError):
        for part in (Path(where), *Path(where).parents):
            if part.is_file():
                return f"{part} is a file, and a folder is needed there: move it away"
    said = error.strerror or error
    return f"{where}: {said}: is it ours to read and write, and is there room?"


class CoWestError(Exception):
    """Base class. The command line prints the message without a stack trace and exits with 1."""


class ConfigError(CoWestError):
    """A setting is wrong."""


class InputError(CoWestError):
    """A file or folder given to a stage is missing or unfit."""


class RecordError(InputError):
    """One line of a record file is not a record of its kind."""


class ModelError(CoWestError):
    """A model folder is missing, corrupt, or holds what no model folder should."""


class CallError(CoWestError):
    """A provider refuses every call."""


class UpstreamError(CallError):
    """A model that is down, late or busy left a served call without an answer."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        """Takes the reason, and the seconds after which the model asked to be asked again."""
        super().__init__(reason)
        self.retry_after = retry_after


class ThoughtShownError(UpstreamError):
    """Texts of a streamed answer were a thought, as a mark that came after them says."""


class BudgetError(CoWestError):
    """The next call might cost more than is left of a budget: a turn's, or a purse's of today."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        """Takes the reason, and the seconds until a purse's next day begins."""
        super().__init__(reason)
        self.retry_after = retry_after


class StoreError(CoWestError):
    """The call store can't be opened, read or written."""


class ContractError(CoWestError):
    """The data is well formed and still unfit for what comes next."""


class ClusterError(CoWestError):
    """Kubeflow can't be reached, or refuses what it is asked."""

    def __init__(self, reason: str, status: int | None = None) -> None:
        """Takes the reason, and the HTTP status of the answer, if one came."""
        super().__init__(reason)
        self.status = status


class RegistryError(CoWestError):
    """The registry can't be reached, or holds something impossible."""
