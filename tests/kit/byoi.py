"""`byoi` as a person runs it: a process of its own, with its two outputs in files."""

import json
import os
import subprocess
import tempfile
import time
from typing import IO, Any, NamedTuple

from tests.kit.commands import ROOT
from tests.kit.processes import wait_while_at_work
from tests.kit.starts import start_python

END_SECONDS = 100.0
"""So long may it do nothing (see `wait_while_at_work`)."""
SHOWN_SECONDS = 60.0


class Outcome(NamedTuple):
    """How `byoi` ended."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """What `--json` prints; empty where nothing was printed."""
        document: dict[str, Any] = json.loads(self.out) if self.out else {}
        return document

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = self.document["error"]
        return error


class Running:
    """`byoi` at work. Whoever starts it has to `finish` or `kill` it."""

    def __init__(
        self,
        *arguments: object,
        stdin: bytes = b"",
        fresh: bool = False,
        inside: tuple[str, ...] = (),
        **env: str,
    ) -> None:
        """Start it with nothing in its environment but what it needs and `env`.

        `fresh` is executed, not forked; so is what is `inside` a command that puts it somewhere else and becomes it.
        """
        environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "PYTHONPATH": str(ROOT)} | env
        self._out = tempfile.TemporaryFile()  # noqa: SIM115 - it is closed by `kill`
        self._err = tempfile.TemporaryFile()  # noqa: SIM115
        with tempfile.TemporaryFile() as given:
            given.write(stdin)
            given.seek(0)
            self.process = start_python(
                ["-m", "agent.cli", *arguments],
                environment,
                stdin=given,
                stdout=self._out,
                stderr=self._err,
                fresh=fresh,
                inside=inside,
            )

    @property
    def err(self) -> str:
        """What it has printed to stderr so far."""
        return _text(self._err)

    def wait_for(self, text: str) -> None:
        """Wait until it has printed the text to stderr."""
        deadline = time.monotonic() + SHOWN_SECONDS
        while text not in self.err:
            assert time.monotonic() < deadline, f"{text!r} is not in {self.err!r}"
            assert self.process.poll() is None, self.err
            time.sleep(0.01)

    def finish(self) -> Outcome:
        """Wait for its end; no traceback and no warning may show."""
        try:
            status = wait_while_at_work(self.process, END_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end: {self.err}") from None
        outcome = Outcome(status, _text(self._out), self.err)
        assert "Traceback" not in outcome.err, outcome.err
        assert "Warning" not in outcome.err, outcome.err
        return outcome

    def kill(self) -> None:
        """Leave nothing behind, whatever became of it."""
        self.process.kill()
        self.process.wait()
        self._out.close()
        self._err.close()


def _text(file: IO[bytes]) -> str:
    """All that a child has written, wherever the file's position is."""
    size = os.fstat(file.fileno()).st_size
    return os.pread(file.fileno(), size, 0).decode()
