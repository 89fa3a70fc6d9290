"""`byoi` at a terminal, as a person sees it."""

import fcntl
import os
import pty
import struct
import subprocess
import termios
import threading

import pytest

from tests.kit.commands import ROOT
from tests.kit.starts import start_python


class OnTerminal:
    """`byoi` with stderr on a terminal of `columns` columns; `text` is all that it drew so far.

    With `keyboard` stdin is that terminal too, from which Ctrl-C comes as a signal; with `output` stdout is. `fresh` is
    executed, not forked.
    """

    def __init__(
        self,
        *arguments: object,
        columns: int = 80,
        keyboard: bool = False,
        output: bool = False,
        fresh: bool = False,
        **environment: str,
    ) -> None:
        self.text = ""
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 25, columns, 0, 0))
        env = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "PYTHONPATH": str(ROOT)} | environment
        self.process = start_python(
            ["-m", "agent.cli", *arguments],
            env,
            stdin=slave if keyboard else subprocess.DEVNULL,
            stdout=slave if output else subprocess.DEVNULL,
            stderr=slave,
            terminal=keyboard,
            fresh=fresh,
        )
        os.close(slave)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        data = b""
        while True:
            try:
                piece = os.read(self.master, 65536)
            except OSError:  # the other side is closed
                piece = b""
            if not piece:
                break
            data += piece
            self.text = data.decode(errors="replace")
        os.close(self.master)

    def type(self, keys: bytes) -> None:
        """Press keys: a line ends with `\\r`, Ctrl-C is `\\x03`, Ctrl-D `\\x04`."""
        os.write(self.master, keys)

    def hang_up(self) -> None:
        """Nobody is behind the terminal from here on: writing to it fails."""
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, self.master)
        os.close(null)

    def finish(self) -> int:
        status = self.process.wait(100)
        self._reader.join(60)
        return status

    def wait_for(self, text: str) -> None:
        for _ in range(1200):
            if text in self.text:
                return
            threading.Event().wait(0.05)
        pytest.fail(f"{text!r} is not in {self.text!r}")
