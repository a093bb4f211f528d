"""What a script owes to the processes that start from it."""

from __future__ import annotations

import multiprocessing

from unreel.core.errors import UsageError

GUARD = 'put what the script does below `if __name__ == "__main__":`'


def refuse_unguarded() -> None:
    """Raise UsageError in a process that only runs the main script once more to find its functions.

    Where processes are not forked each new one imports the script it came from; whatever stands there unguarded would
    be done again, in the same places.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise UsageError(f"a new process runs your script from its top and would do this once more: {GUARD}")
