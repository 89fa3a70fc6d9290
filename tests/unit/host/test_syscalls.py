"""Calls of the C library: what is repeated, and what is told."""

import ctypes
import errno

import pytest

from agent.host import syscalls


class Failing:
    """In the place of a function of the C library: fails with these errnos, then succeeds."""

    def __init__(self, *errnos: int) -> None:
        self._errnos = list(errnos)
        self.calls: list[tuple[int, ...]] = []

    def __call__(self, *arguments: int) -> int:
        self.calls.append(arguments)
        if not self._errnos:
            return 0
        ctypes.set_errno(self._errnos.pop(0))
        return -1


def test_a_call_that_a_signal_interrupts_is_made_again():
    function = Failing(errno.EINTR, errno.EINTR)
    syscalls.call(function, 3, 0, 4096)
    assert function.calls == 3 * [(3, 0, 4096)]


def test_every_other_failure_is_told_at_once():
    function = Failing(errno.EINTR, errno.ENOSPC)
    with pytest.raises(OSError, match="No space left") as caught:
        syscalls.call(function, 1)
    assert caught.value.errno == errno.ENOSPC
    assert len(function.calls) == 2
