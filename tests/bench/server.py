"""The HTTP server of a benchmark, in a process of its own: nginx with sendfile, over http or https."""

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
    server {{ listen 127.0.0.1:{port} {tls}; root {root}; {pace} }}
}}
"""
START_SECONDS = 10.0


def make_certificate(path: Path) -> None:
    """A key and the certificate of 127.0.0.1 for it, in one file."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", f"{path}.key", "-out", path],
        check=True, capture_output=True,
    )  # fmt: skip


@contextmanager
def serve(root: Path, rate: int | None = None, certificate: Path | None = None) -> Iterator[tuple[str, str]]:
    """Serve a directory on loopback, at `rate` MB/s a connection at most: gives the base URL and what the server is."""
    nginx = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if nginx is None:
        sys.exit("There is no nginx: install nginx-light.")
    version = subprocess.run([nginx, "-v"], capture_output=True, text=True, check=True).stderr
    with tempfile.TemporaryDirectory() as work:
        port = _free_port()
        config = Path(work, "nginx.conf")
        config.write_text(
            _NGINX.format(
                user="user root;" if os.geteuid() == 0 else "",
                work=work,
                port=port,
                root=root,
                pace=f"limit_rate {rate * 1_000_000};" if rate else "",
                tls=f"ssl; ssl_certificate {certificate}; ssl_certificate_key {certificate}.key"
                if certificate
                else "",
            )
        )
        with subprocess.Popen([nginx, "-p", work, "-c", config], stderr=subprocess.DEVNULL) as child:
            try:
                _wait_for(port)
                scheme = "https" if certificate else "http"
                yield f"{scheme}://127.0.0.1:{port}", version.strip().rpartition(": ")[2]
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
