"""A reference control plane: the two routes that an agent calls, over HTTPS or plain HTTP, in memory.

It shows all that a control plane has to do (docs/control-plane.md), and it is what the tests pull from. By hand:

    python -m tests.kit.control_plane --listen 127.0.0.1:8443 --cert tls.crt --key tls.key --token-file token \\
        --server ns1.example.net --job job.json

gives that job to that server once and prints each status as it comes, until the deployment is over.
"""

import argparse
import hmac
import json
import ssl
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

MAX_BODY = 1024 * 1024
MAX_WAIT = 60.0
CONTINUE, CANCEL, DELETED = "continue", "cancel", "deleted"
# How often a job is given to agents that lose it; as often as an agent begins one.
MAX_GIVEN = 5


@dataclass
class Record:
    """One job: the document, what was told of it, and what the agent is to be told."""

    id: str
    job: dict[str, Any]
    given: int = 0
    action: str = CONTINUE
    statuses: list[dict[str, Any]] = field(default_factory=list)
    arrivals: list[float] = field(default_factory=list)

    @property
    def last(self) -> dict[str, Any]:
        return self.statuses[-1] if self.statuses else {}

    @property
    def over(self) -> bool:
        return self.last.get("status") in ("done", "error")


class ControlPlane(ThreadingHTTPServer):
    """Serves from a thread of its own. `jobs` are by server and by id.

    A job is given until a status of it came, and again where an agent asks before its outcome came.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self,
        address: tuple[str, int] = ("127.0.0.1", 0),
        *,
        token: str | None = None,
        tls: ssl.SSLContext | None = None,
        prefix: str = "/byoi",
    ) -> None:
        super().__init__(address, _Request)
        self.token = token
        self.prefix = prefix
        self.scheme = "http" if tls is None else "https"
        if tls is not None:
            # The handshake belongs to the connection's thread, not to the one that accepts.
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.changed = threading.Condition()
        self.jobs: dict[str, dict[str, Record]] = {}
        self.refused = 0
        """Requests without the right token."""
        self.failing: int | None = None
        """A status to answer everything with, as a control plane that is down does."""
        self.retry_after: str | None = None
        self.taking: int = 200
        """The status of the answer to a job's status that is taken; one without a body where it is 204 or 205."""
        self.refusing: int | None = None
        """A status to answer outcomes with, which are not taken then."""
        self.refusals = 0
        self.asked = 0
        self.ending = False

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}{self.prefix}"

    def give(self, server: str, job: dict[str, Any], job_id: str | None = None) -> Record:
        """Have a job ready for a server."""
        record = Record(job_id or str(uuid.uuid4()), job)
        with self.changed:
            self.jobs.setdefault(server, {})[record.id] = record
            self.changed.notify_all()
        return record

    def wait_for(self, record: Record, *wanted: str, seconds: float = 60) -> dict[str, Any]:
        """Wait until the status or the stage that was told last is one of these."""
        deadline = time.monotonic() + seconds
        with self.changed:
            while not {record.last.get("status"), record.last.get("stage")} & set(wanted):
                left = deadline - time.monotonic()
                assert left > 0, f"waited in vain for {wanted}: {record.last}"
                self.changed.wait(left)
            return record.last

    # -- what the routes do ------------------------------------------------------------------------------

    def next_job(self, server: str, wait: float) -> Record | None:
        """A job that this server has lost, or else the oldest that no status has come of; waits for one."""
        deadline = time.monotonic() + min(wait, MAX_WAIT)
        with self.changed:
            self.asked += 1
            # Now and not later: the question may be answered long after it was asked.
            record = self._lost(server)
            while record is None and not self.ending:
                record = next((new for new in self._jobs_of(server) if not new.statuses), None)
                left = deadline - time.monotonic()
                if record is not None or left <= 0:
                    break
                self.changed.wait(left)
            if record is not None:
                record.given += 1
            return record

    def _jobs_of(self, server: str) -> list[Record]:
        return list(self.jobs.get(server, {}).values())

    def _lost(self, server: str) -> Record | None:
        """A job that has begun and is not over. An agent asks while it has none: it has lost this one.

        One that was to be cancelled, or was lost too often, is over then: nobody has it any more.
        """
        for record in self._jobs_of(server):
            if not record.statuses or record.over or record.action == DELETED:
                continue
            if record.action == CONTINUE and record.given < MAX_GIVEN:
                return record
            message = "cancelled" if record.action == CANCEL else f"lost by the server {record.given} times"
            self._add(record, {"id": record.id, "status": "error", "message": message})
        return None

    def take_status(self, server: str, job_id: str, document: dict[str, Any]) -> str | None:
        """Keep a status; the action, or None where there is no such job (any more)."""
        with self.changed:
            record = self.jobs.get(server, {}).get(job_id)
            if record is None or record.action == DELETED:
                return None
            self._add(record, document)
            return record.action

    def _add(self, record: Record, document: dict[str, Any]) -> None:
        record.statuses.append(document)
        record.arrivals.append(time.monotonic())
        self.changed.notify_all()

    def handle_error(self, *_: object) -> None:
        """Clients that go away are no news."""

    def end(self) -> None:
        """Let those who wait go."""
        with self.changed:
            self.ending = True
            self.changed.notify_all()


class _Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 90
    server: ControlPlane

    def log_message(self, *_: object) -> None:
        """Quiet: statuses are printed, requests are not."""

    def do_GET(self) -> None:
        path, server, rest = self._route()
        if not self._may_enter():
            return
        if rest != ["job"]:
            self._answer(404, {"message": f"no route {path.path}"})
            return
        wait = float(parse_qs(path.query).get("wait", ["0"])[0])
        record = self.server.next_job(server, wait)
        if record is None:
            self._answer(204, None)
        else:
            self._answer(200, {"id": record.id, "job": record.job})

    def do_PUT(self) -> None:
        length = int(self.headers.get("Content-Length", "0"))
        body = self.rfile.read(min(length, MAX_BODY))
        path, server, rest = self._route()
        if not self._may_enter():
            return
        if len(rest) != 3 or (rest[0], rest[2]) != ("jobs", "status"):
            self._answer(404, {"message": f"no route {path.path}"})
            return
        document = json.loads(body)
        if self.server.refusing is not None and document["status"] != "doing":
            self.server.refusals += 1
            self._answer(self.server.refusing, {"message": "not taken"})
            return
        action = self.server.take_status(server, rest[1], document)
        if action is None:
            self._answer(404, {"message": "there is no such job"})
        else:
            self._answer(self.server.taking, None if self.server.taking in (204, 205) else {"action": action})

    def _route(self) -> tuple[Any, str, list[str]]:
        path = urlsplit(self.path)
        parts = [unquote(part) for part in path.path.removeprefix(self.server.prefix).strip("/").split("/")]
        if len(parts) < 2 or parts[0] != "agents":
            return path, "", []
        return path, parts[1], parts[2:]

    def _may_enter(self) -> bool:
        if self.server.failing is not None:
            self._answer(self.server.failing, {"message": "down"})
            return False
        expected = f"Bearer {self.server.token}"
        given = self.headers.get("Authorization", "")
        if self.server.token is None or hmac.compare_digest(given.encode(), expected.encode()):
            return True
        self.server.refused += 1
        self._answer(401, {"message": "a bearer token is required"})
        return False

    def _answer(self, status: int, document: dict[str, Any] | None) -> None:
        body = b"" if document is None else json.dumps(document).encode()
        self.send_response(status)
        if self.server.retry_after is not None:
            self.send_header("Retry-After", self.server.retry_after)
        if document is not None:
            self.send_header("Content-Type", "application/json")
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def control_plane(**options: Any) -> Iterator[ControlPlane]:
    """A control plane that runs while the block does."""
    server = ControlPlane(**options)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.end()
        server.shutdown()
        server.server_close()
        thread.join()


def main() -> int:
    """Give one job to one server and follow it."""
    parser = argparse.ArgumentParser(description="A reference control plane: gives one job and follows it.")
    parser.add_argument("--listen", default="127.0.0.1:8080", metavar="HOST:PORT")
    parser.add_argument("--cert", type=Path)
    parser.add_argument("--key", type=Path)
    parser.add_argument("--token-file", type=Path)
    parser.add_argument("--server", required=True, metavar="NAME")
    parser.add_argument("--job", required=True, type=Path, metavar="JOB.json")
    options = parser.parse_args()
    host, _, port = options.listen.rpartition(":")
    tls = None
    if options.cert is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(options.cert, options.key)
    token = options.token_file.read_text().strip() if options.token_file else None
    with control_plane(address=(host, int(port)), tls=tls, token=token) as server:
        record = server.give(options.server, json.loads(options.job.read_text()))
        print(f"serving {server.url}, job {record.id} for {options.server}", file=sys.stderr)
        shown = 0
        while not record.over or shown < len(record.statuses):
            with server.changed:
                while shown == len(record.statuses):
                    server.changed.wait(1)
            print(json.dumps(record.statuses[shown]), flush=True)
            shown += 1
    return 0 if record.last["status"] == "done" else 1


if __name__ == "__main__":
    sys.exit(main())
