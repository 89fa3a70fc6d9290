"""Exceptions that keep nothing alive but themselves: the one explanation, and the helpers for it.

An exception holds its traceback, the traceback the frames of all functions that it passed through, and each frame its
variables. Where one of these variables holds the exception in turn (a failure that was kept to be raised later, or the
future that it came out of), that is a cycle. Reference counting does not free a cycle: until the garbage collector
comes by, pooled buffers, a decoder with its window and an open disk would live on beside those of the next attempt, and
the sum of docs/architecture.md, "Memory", would not hold. Therefore:

- a failure that was kept is raised by `raise_first`;
- a function that takes a result out of a future deletes the future in a `finally` (`agent.aio.run_blocking`);
- an error that is kept for longer than its `except` goes through `without_traceback`;
- what owns much memory lets go of it in its `close`, whoever may still hold the object: a traceback that somebody keeps
  (a log, a debugger, a caller of ours) is not in our hands.
"""

from typing import TypeVar

E = TypeVar("E", bound=BaseException)


def raise_first(failures: list[BaseException]) -> None:
    """Raise the first of these exceptions, if there is one. The list is emptied."""
    failure = failures[0] if failures else None
    failures.clear()
    try:
        if failure is not None:
            raise failure
    finally:
        del failure


def without_traceback(error: E) -> E:
    """The same exception, fit to be kept: with neither its traceback nor what it came from."""
    error.__traceback__ = error.__cause__ = error.__context__ = None
    return error
