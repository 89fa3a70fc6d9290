"""What an operator does with Ironic, by its REST API: enroll a server, make it available, deploy it, take it back."""

import http.client
import json
import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

VERSION = "1.110"
"""Of the API: the first by which a deployment can be aborted while the agent writes."""
DOCUMENT = dict[str, Any]
FAILED = ("deploy failed", "clean failed", "inspect failed", "error")
POLL_SECONDS = 0.1
CALL_SECONDS = 120
LOCKED_SECONDS = 20


class Refused(Exception):
    """Ironic has refused a call."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status


class Ironic:
    """The API at an address."""

    def __init__(self, url: str) -> None:
        self._host = urllib.parse.urlsplit(url).netloc

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Call, and give the JSON document of the answer; None where it has none.

        A node that is locked for the moment is asked again, as Ironic's own client does.

        Raises:
            Refused: the answer is no 2xx.
        """
        deadline = time.monotonic() + LOCKED_SECONDS
        while True:
            try:
                return self._call(method, path, body)
            except Refused as refusal:
                if refusal.status != 409 or time.monotonic() > deadline:
                    raise
            time.sleep(POLL_SECONDS)

    def _call(self, method: str, path: str, body: object) -> Any:
        connection = http.client.HTTPConnection(self._host, timeout=CALL_SECONDS)
        try:
            headers = {"X-OpenStack-Ironic-API-Version": VERSION, "Content-Type": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if answer.status // 100 != 2:
            raise Refused(answer.status, content.decode(errors="replace"))
        return json.loads(content) if content else None

    def enroll(self, mac: str, properties: Mapping[str, object], **more: object) -> "Node":
        """A node with one port."""
        given = {"driver": "fake-hardware", "properties": properties, **more}
        node = Node(self, self.call("POST", "/v1/nodes", given)["uuid"])
        self.call("POST", "/v1/ports", {"address": mac, "node_uuid": node.uuid})
        return node


@dataclass(frozen=True)
class Node:
    """A server as Ironic knows it."""

    ironic: Ironic
    uuid: str

    def show(self) -> DOCUMENT:
        document: DOCUMENT = self.ironic.call("GET", f"/v1/nodes/{self.uuid}")
        return document

    @property
    def state(self) -> str:
        state: str = self.ironic.call("GET", f"/v1/nodes/{self.uuid}/states")["provision_state"]
        return state

    def set(self, **values: object) -> None:
        """Set members of the node; one of a member that is an object is named `instance_info__image_source`."""
        patch = [
            {"op": "add", "path": "/" + name.replace("__", "/"), "value": value}
            for name, value in values.items()
        ]
        self.ironic.call("PATCH", f"/v1/nodes/{self.uuid}", patch)

    def provision(self, target: str, **more: object) -> None:
        """Ask for a change of the state; it is on its way when this returns."""
        self.ironic.call("PUT", f"/v1/nodes/{self.uuid}/states/provision", {"target": target, **more})

    def wait(self, *wanted: str, seconds: float = 60) -> DOCUMENT:
        """Wait for one of these states. Another one in which nothing more happens fails at once, with its reason."""
        deadline = time.monotonic() + seconds
        while True:
            asked = time.monotonic()
            state = self.state
            if state in wanted:
                return self.show()
            assert state not in FAILED, f"{state} instead of {wanted}: {self.failure()}"
            assert asked < deadline, f"waited in vain for {wanted}: {state}; {self.show()}"
            # Where a node holds a large config drive, each look at it costs the conductor more than the deployment.
            time.sleep(max(POLL_SECONDS, 3 * (time.monotonic() - asked)))

    def failure(self) -> str:
        """What Ironic tells the operator. It may be told a moment after the state."""
        for _ in range(20):
            if error := self.show()["last_error"]:
                return str(error)
            time.sleep(POLL_SECONDS)
        return ""

    def make_available(self) -> None:
        """From enrolled to what can be deployed to."""
        self.provision("manage")
        self.wait("manageable")
        self.provision("provide")
        self.wait("available")

    def undeploy(self) -> None:
        """Take the server back."""
        self.provision("deleted")
        self.wait("available")
