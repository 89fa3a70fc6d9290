"""Who is to blame where an operation on a disk is refused."""

import errno
import os

import pytest

from agent.errors import Blame
from agent.host.faults import disk_fault, full_hint


def failed(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOMEM, "agent.memory"),
        (errno.EMFILE, "agent.descriptors"),
        (errno.ENFILE, "agent.descriptors"),
    ],
)
def test_what_the_system_runs_out_of_is_no_fault_of_the_disk(tmp_path, number, code):
    error = disk_fault(str(tmp_path / "disk"), failed(number))
    assert (error.code, error.blame) == (code, Blame.AGENT)
    assert "SMART" not in error.hint


@pytest.mark.parametrize(("number", "what"), [(errno.ENOSPC, "filesystem"), (errno.EDQUOT, "quota")])
def test_a_file_without_room_names_its_filesystem(tmp_path, number, what):
    path = tmp_path / "disk"
    error = disk_fault(str(path), failed(number))
    assert error.code == "disk.io"
    assert error.hint.startswith(f"The {what} that {path} is on (mounted at /")
    assert "SMART" not in error.hint


def test_everything_else_is_the_disk(tmp_path):
    assert "SMART" in disk_fault(str(tmp_path), failed(errno.EIO)).hint
    assert full_hint(str(tmp_path), failed(errno.EIO)) == ""
