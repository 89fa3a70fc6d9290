"""A client that follows the status of a daemon all the time, and what it must never see."""

import http.client
import threading
from typing import Any

from tests.kit.agent_process import AgentProcess


class Watcher(threading.Thread):
    """A client that follows the status all the time, and what it must never see."""

    def __init__(self, agent: AgentProcess) -> None:
        super().__init__()
        self._agent = agent
        self._ending = threading.Event()
        self.looks = 0
        self.faults: list[str] = []

    def run(self) -> None:
        last: dict[str, Any] = {"revision": 0, "id": None, "status": None}
        while not self._ending.is_set():
            try:
                path = f"/v1/status?since={last['revision']}&wait=2"
                document = self._agent.request("GET", path, timeout=600).json
            except (OSError, http.client.HTTPException, ValueError):
                self._ending.wait(0.05)  # it is being restarted
                continue
            self.looks += 1
            self._compare(last, document)
            last = document

    def _compare(self, before: dict[str, Any], after: dict[str, Any]) -> None:
        if after["revision"] < before["revision"]:
            self.faults.append(f"the revision went back: {before} then {after}")
        if after["id"] is None or after["id"] != before["id"]:
            return
        if before["status"] in ("done", "error") and after["status"] != before["status"]:
            self.faults.append(f"a job that was over is not any more: {before} then {after}")
        same_life = before["startedAt"] == after["startedAt"]
        if same_life and before["attempt"] <= after["attempt"] and after["percent"] < before["percent"]:
            self.faults.append(f"the percentage went back: {before} then {after}")

    def end(self) -> None:
        self._ending.set()
        self.join()
