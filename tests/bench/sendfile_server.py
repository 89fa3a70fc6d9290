"""A small file server: `sendfile_server.py DIRECTORY` prints its port on loopback, and serves until it is ended.

Where nginx is missing, and where a test wants a server in a process of its own. Bytes go from the page cache to the
socket by sendfile, so that the server takes as little of the processor as it can.
"""

import os
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SEND = 8 << 20


class Handler(BaseHTTPRequestHandler):
    """Whole files only."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = self.server.directory / Path(self.path).name
        try:
            file = path.open("rb")
        except OSError:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        with file:
            size = os.fstat(file.fileno()).st_size
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Length", str(size))
            self.end_headers()
            self.wfile.flush()
            offset = 0
            while offset < size:
                offset += os.sendfile(
                    self.connection.fileno(), file.fileno(), offset, min(SEND, size - offset)
                )

    def log_message(self, *arguments):
        """Say nothing."""


def main() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.directory = Path(sys.argv[1])
        print(server.server_address[1], flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
