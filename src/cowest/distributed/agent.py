"""Runs torchrun on this machine, and writes down which of its processes failed, and how.

`python -m cowest.distributed.agent FOLDER COUNT`: FOLDER holds the task, and gets `failures.json`.
"""

import json
import sys
from pathlib import Path

from cowest import environment


def main() -> int:
    """Returns 0 if the stage ran, and 1 if it failed."""
    environment.settle()
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    folder, count = Path(sys.argv[1]), sys.argv[2]
    # As --standalone, but by an address that needs no name server.
    here = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"]
    task = [str(folder), "--processes", count, "--launched"]
    arguments = [*here, "--nproc-per-node", count, "-m", "cowest.rank", *task]
    try:
        run.run(run.parse_args(arguments))
    except ChildFailedError as error:
        # Those that failed on their own come before those that failed because of them.
        failed = sorted(error.failures.items(), key=lambda item: item[1].timestamp)
        statuses = {rank: failure.exitcode for rank, failure in failed}
        (folder / "failures.json").write_text(json.dumps(statuses))
        return 1
    except SignalException:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
