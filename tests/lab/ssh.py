"""Commands in a machine, by ssh."""

import asyncio
import subprocess
from dataclasses import dataclass
from pathlib import Path

ATTEMPT_SECONDS = 10


class SshFailed(Exception):
    """A command in a machine failed, or the machine does not let us in."""


def make_key(directory: Path) -> Path:
    """A fresh key pair; gives the private one's path, the public one is beside it."""
    path = directory / "id_ed25519"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", str(path)],
        check=True,
        capture_output=True,
    )
    return path


@dataclass(frozen=True)
class Ssh:
    """A way into a machine: a port on loopback, an account, its key, and how long a try may take."""

    port: int
    key: Path
    user: str = "debian"
    attempt_seconds: int = ATTEMPT_SECONDS

    def command(self, command: str) -> list[str]:
        """The words that run a command in the machine."""
        options = [
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "LogLevel=ERROR",
            "BatchMode=yes",
        ]
        options += ["IdentitiesOnly=yes", f"ConnectTimeout={self.attempt_seconds}"]
        words = [word for option in options for word in ("-o", option)]
        way = ["-F", "none", "-i", str(self.key), "-p", str(self.port)]
        return ["ssh", *way, *words, f"{self.user}@127.0.0.1", command]

    async def run(self, command: str, *, stdin: bytes = b"", seconds: float = 120) -> str:
        """Run a command; gives its output, without the last line end.

        Raises:
            SshFailed: it failed, or could not be started.
            TimeoutError: it took longer.
        """
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *self.command(command), stdin=pipe, stdout=pipe, stderr=pipe
        )
        try:
            async with asyncio.timeout(seconds):
                out, err = await process.communicate(stdin)
        except BaseException:
            if process.returncode is None:
                process.kill()
            await process.wait()
            raise
        if process.returncode != 0:
            raise SshFailed(f"{command}: {out.decode()}{err.decode()}")
        return out.decode().rstrip("\n")

    async def wait(self, seconds: float) -> str:
        """Wait until the machine lets us in; gives the id of its boot, which differs from boot to boot.

        Raises:
            TimeoutError: it does not.
        """
        last = "nothing"
        try:
            async with asyncio.timeout(seconds):
                while True:
                    try:
                        return await self.run(
                            "cat /proc/sys/kernel/random/boot_id", seconds=self.attempt_seconds
                        )
                    except (
                        SshFailed,
                        TimeoutError,
                    ) as failure:  # the port is forwarded, be there a listener or not
                        last = str(failure)
                    await asyncio.sleep(1)
        except TimeoutError:
            raise TimeoutError(f"no way in by ssh after {seconds} s: {last}") from None
