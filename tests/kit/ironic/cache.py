"""An nginx that fetches each piece of an image once, for a whole fleet (docs/fleet.md has its configuration)."""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.kit.commands import ROOT, run

_READY_SECONDS = 20


def _recipe() -> str:
    """The block of docs/fleet.md: what is tried is what is told."""
    document = (ROOT / "docs/fleet.md").read_text()
    return document.partition("```nginx\n")[2].partition("```")[0]


@contextmanager
def cache(directory: Path, address: str, origin: str) -> Iterator[str]:
    """A cache that runs while the block does: gives its URL, without a path.

    Args:
        directory: for its files; it is made.
        address: where it listens, on a port of its own.
        origin: URL of the server behind it.
    """
    directory.mkdir()
    with socket.create_server((address, 0)) as listener:
        port = listener.getsockname()[1]
    http = (
        _recipe()
        .replace("/var/cache/nginx/images", str(directory / "images"))
        .replace("listen 80;", f"listen {address}:{port};")
        .replace("http://origin.example.net", origin)
    )
    config = directory / "nginx.conf"
    config.write_text(
        f"daemon off;\nuser root;\npid {directory}/pid;\nerror_log {directory}/error.log;\nevents {{}}\n"
        f"http {{\naccess_log {directory}/access.log;\n{http}\n}}\n"
    )
    run("nginx", "-t", "-q", "-c", config, "-e", directory / "error.log")
    with subprocess.Popen(["nginx", "-c", config, "-e", directory / "error.log"]) as process:
        try:
            deadline = time.monotonic() + _READY_SECONDS
            while not (directory / "pid").exists():
                assert process.poll() is None, (directory / "error.log").read_text()
                assert time.monotonic() < deadline, "nginx does not start"
                time.sleep(0.05)
            yield f"http://{address}:{port}"
        finally:
            process.terminate()
