"""The HTTP server of a benchmark, in a process of its own: nginx with sendfile, or that of the tests."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# The worker must be able to read a directory that only its maker can.
_NGINX = """\
{user}
worker_processes 1;
daemon off;
pid {work}/pid;
error_log {work}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    client_body_temp_path {work}/t1; proxy_temp_path {work}/t2; fastcgi_temp_path {work}/t3;
    uwsgi_temp_path {work}/t4; scgi_temp_path {work}/t5;
    server {{ listen 127.0.0.1:{port}; root {root}; {pace} }}
}}
"""
START_SECONDS = 10.0
ROOT = Path(__file__).parents[2]


@contextmanager
def serve(root: Path, rate: int | None = None) -> Iterator[tuple[str, str]]:
    """Serve a directory on loopback, at `rate` MB/s a connection at most: gives the base URL and what the server is."""
    nginx = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if nginx is None:
        if rate is not None:
            sys.exit("A pace needs nginx, and there is none: install nginx-light.")
        with _serve_small(root) as url:
            yield url, "tests/kit/server.py"
        return
    version = subprocess.run([nginx, "-v"], capture_output=True, text=True, check=True).stderr
    with _serve_nginx(nginx, root, rate) as url:
        yield url, version.strip().rpartition(": ")[2]


@contextmanager
def _serve_nginx(nginx: str, root: Path, rate: int | None) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as work:
        port = _free_port()
        user = "user root;" if os.geteuid() == 0 else ""
        pace = "" if rate is None else f"limit_rate {rate * 1_000_000};"
        config = Path(work, "nginx.conf")
        config.write_text(_NGINX.format(user=user, work=work, port=port, root=root, pace=pace))
        with _ending(subprocess.Popen([nginx, "-p", work, "-c", config], stderr=subprocess.DEVNULL)):
            _wait_for(port)
            yield f"http://127.0.0.1:{port}"


@contextmanager
def _serve_small(root: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "tests.kit.server", root]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    with _ending(child):
        yield f"http://127.0.0.1:{int(child.stdout.readline())}"


@contextmanager
def _ending(child: subprocess.Popen) -> Iterator[None]:
    with child:
        try:
            yield
        finally:
            child.terminate()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
