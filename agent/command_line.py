"""What `byoi` and `byoi-agent` have in common: how their options are read, and a stdout that may take nothing."""

import argparse
import contextlib
import difflib
import errno
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any, NoReturn, TextIO

EXIT_USAGE, EXIT_OUTPUT = 2, 3
"""Exit statuses: wrong usage; it went well, but stdout has not got all of the output."""


class OutputLost(Exception):
    """Stdout is closed or full: it did not take all of what was printed. The text is the system's reason."""

    def __str__(self) -> str:
        return f"the output could not be written to stdout: {super().__str__()}"


def write_out(text: str) -> None:
    """Write a text to stdout, and flush it.

    Raises:
        OutputLost: stdout does not take it.
    """
    try:
        if sys.stdout is None:  # the parent process has closed it
            raise OSError(errno.EBADF, "it is closed")
        sys.stdout.write(text)
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise OutputLost(reason or str(error)) from None


def write_err(text: str) -> None:
    """Write a text to stderr. One that is closed or full changes no exit status."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(text)
        sys.stderr.flush()


@contextlib.contextmanager
def standard_streams() -> Iterator[None]:
    """While the block runs, descriptors 0 to 2 are open; behind it, what stdout and stderr still hold is gone."""
    _fill_standard_descriptors()
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            _flush_or_discard(stream)


def _fill_standard_descriptors() -> None:
    """Open /dev/null for each of stdin, stdout and stderr that is closed.

    Else the next file that is opened gets that number: a disk would take what is printed.
    """
    while (number := os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) <= 2:
        pass
    os.close(number)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - it stays open to the end


def _flush_or_discard(stream: TextIO | None) -> None:
    """Flush a stream, or have what it holds go to /dev/null where that fails.

    Python flushes both streams when the process ends, and a flush that failed there would replace the exit status.
    """
    if stream is None:
        return
    try:
        stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            os.dup2(null, stream.fileno())
            os.close(null)


class CommandParser(argparse.ArgumentParser):
    """argparse without abbreviations, that says which option or word was probably meant."""

    def __init__(self, **options: Any) -> None:
        # An abbreviation that is clear today means something else once another option has been added.
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Print the usage and what is wrong, and end with EXIT_USAGE."""
        self.print_usage(sys.stderr)
        self.exit(EXIT_USAGE, f"{self.prog}: {message}\nTry `{self.prog} --help`.\n")

    def parse_known_args(  # type: ignore[override]  # argparse has overloads for other namespaces
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse does it, but what nobody knows is an error here, where the options of the command are known."""
        found, rest = super().parse_known_args(args, namespace)
        if rest:
            option = rest[0].partition("=")[0]
            known = self._option_string_actions if option.startswith("-") else ()
            self.error(f"unrecognized arguments: {' '.join(rest)}{suggestion(option, known)}")
        return found, rest

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            names = list(map(str, action.choices))
            text = f"invalid choice: {value!r} (choose from {', '.join(names)})"
            raise argparse.ArgumentError(action, text + suggestion(str(value), names))

    def _print_message(self, message: str, file: IO[str] | None = None) -> None:  # type: ignore[override]
        # What is asked for, the help and the version, goes to stdout. argparse takes stderr where that is closed.
        if file is sys.stderr:
            write_err(message)
        else:
            write_out(message)


def suggestion(word: str, known: Iterable[str]) -> str:
    """`; did you mean X?` where one of the known words is much like this one, else nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""
