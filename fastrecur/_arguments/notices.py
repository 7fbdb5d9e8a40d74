"""What is said of a pause: to the log, and, where nobody has set up logging, once to a person at a terminal."""

import contextlib
import logging
import os
import sys

from . import messages as say

LOG = logging.getLogger("fastrecur")
_left = [True]  # popped by the first line that is shown


def hush() -> None:
    """Show no line in this process."""
    _left.clear()


def compiled(what: str, seconds: float, place: object) -> None:
    """Say that a kernel was compiled."""
    LOG.info("compiled %s in %.1f s, kept in %s", what, seconds, place)
    if _is_person_there():
        # IndexError: it was shown, maybe by another thread; others: a terminal that went away, a closed file.
        with contextlib.suppress(IndexError, OSError, ValueError):
            _left.pop()
            print(say.compiled(what, f"{seconds:.1f}", place), file=sys.stderr, flush=True)


def _is_person_there() -> bool:
    """Return whether stderr is a terminal, and neither the environment nor logging says anything about such lines."""
    if os.environ.get("FASTRECUR_NOTICES") == "0" or LOG.disabled or LOG.manager.disable >= logging.INFO:
        return False
    # Handlers show what they are to show, to whom they are to show it.
    if LOG.hasHandlers() or LOG.level > logging.INFO:
        return False
    with contextlib.suppress(AttributeError, ValueError):  # of no stderr, and of a closed one
        return sys.stderr.isatty()
    return False
