"""Runs in the daemon's place, under its unit in a rescue: tries what the sandbox is there to stop.

Standard library only. Writes JSON into the file that it is given: what was tried, and `done` or the name of the error.
"""

import ctypes
import errno
import json
import mmap
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

CLONE_NEWNS = 0x00020000
SYSTEM_CALLS = {"ptrace": 101, "init_module": 175, "io_uring_setup": 425, "bpf": 321, "keyctl": 250}
"""Their numbers on x86-64 (arch/x86/entry/syscalls/syscall_64.tbl); called with what no kernel acts upon."""
METADATA_SERVICE = ("169.254.169.254", 80)

libc = ctypes.CDLL(None, use_errno=True)


def checked(result: int) -> None:
    """What the C library reports by -1, as an exception."""
    if result == -1:
        raise OSError(ctypes.get_errno(), "")


def write(path: str) -> None:
    """Make a file, and remove it again."""
    file = Path(path)
    file.touch(exist_ok=False)
    file.unlink()


def change(path: str) -> None:
    """Open what is there for writing."""
    os.close(os.open(path, os.O_WRONLY))


def send(address: tuple[str, int]) -> None:
    """Send a datagram: what the filter drops is told at once, where a connection would wait for its time to end."""
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.sendto(b"", address)


def open_socket(family: int, kind: int, protocol: int = 0) -> None:
    """Open a socket of a family."""
    socket.socket(family, kind, protocol).close()


def write_and_execute() -> None:
    """Memory that can be written to and executed."""
    mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()


def system_call(name: str) -> None:
    """A call whose arguments are all -1: it fails in any case, but otherwise where the filter lets it through."""
    checked(libc.syscall(SYSTEM_CALLS[name], -1, -1, -1, -1, -1))


ATTEMPTS: dict[str, Callable[[], None]] = {
    "write /run/byoi-agent": lambda: write("/run/byoi-agent/probe"),
    "write /tmp": lambda: write("/tmp/probe"),
    "write /etc": lambda: write("/etc/probe"),
    "write /usr": lambda: write("/usr/probe"),
    "write /var": lambda: write("/var/probe"),
    "write /root": lambda: write("/root/probe"),
    "write /run": lambda: write("/run/probe"),
    "write /boot": lambda: write("/boot/probe"),
    "change /proc/sys": lambda: change("/proc/sys/kernel/hostname"),
    "change /proc/sysrq-trigger": lambda: change("/proc/sysrq-trigger"),
    "change the control groups": lambda: change("/sys/fs/cgroup/cgroup.procs"),
    "open /dev/mem": lambda: change("/dev/mem"),
    "open /dev/kmsg": lambda: change("/dev/kmsg"),
    "open a console": lambda: change("/dev/ttyS0"),
    "socket AF_INET": lambda: open_socket(socket.AF_INET, socket.SOCK_STREAM),
    "socket AF_PACKET": lambda: open_socket(socket.AF_PACKET, socket.SOCK_RAW),
    "socket AF_VSOCK": lambda: open_socket(socket.AF_VSOCK, socket.SOCK_STREAM),
    "socket AF_ALG": lambda: open_socket(socket.AF_ALG, socket.SOCK_SEQPACKET),
    "reach a metadata service": lambda: send(METADATA_SERVICE),
    "mount": lambda: checked(libc.mount(b"none", b"/tmp", b"tmpfs", 0, None)),
    "unshare": lambda: checked(libc.unshare(CLONE_NEWNS)),
    "give a file away": lambda: os.chown("/run/byoi-agent", 1, 1),
    "become another user": lambda: os.setuid(1),
    "set the clock": lambda: checked(libc.settimeofday(ctypes.c_buffer(16), None)),
    "reboot by itself": lambda: checked(libc.reboot(0)),
    "write and execute memory": write_and_execute,
    **{name: (lambda name=name: system_call(name)) for name in SYSTEM_CALLS},  # type: ignore[misc]
}


def outcome(attempt: Callable[[], None]) -> str:
    """`done`, or the name of the error."""
    try:
        attempt()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return "done"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps({name: outcome(attempt) for name, attempt in ATTEMPTS.items()}))
