"""The lines that name callers: what is told of failures, and how often."""

from structlog.testing import capture_logs

from agent.service.jobs.audit import Failures, acted
from agent.service.jobs.caller import AuthMethod, Caller
from agent.service.jobs.peer import Peer

FAR, ROOT = Peer(address="192.0.2.7", port=5), Peer(uid=0, pid=9)


def test_an_act_names_way_peer_and_credential():
    with capture_logs() as logs:
        acted("accepted", Caller(AuthMethod.SIGNATURE, FAR, "app-key", b"secret"), "job-1")
        acted("erased", Caller(AuthMethod.SOCKET, ROOT), "job-1")
    assert logs == [
        {
            "event": "audit", "log_level": "info", "act": "accepted", "id": "job-1",
            "way": "signature", "peer": "192.0.2.7:5", "credential": "app-key",
        },
        {
            "event": "audit", "log_level": "info", "act": "erased", "id": "job-1",
            "way": "socket", "peer": "uid 0, pid 9", "credential": None,
        },
    ]  # fmt: skip


def test_the_first_failure_is_told_at_once_and_the_others_by_their_number():
    failures = Failures()
    with capture_logs() as logs:
        for port in range(1000):
            failures.failed(Peer(address="192.0.2.7", port=port), "token", "NOT_CREDENTIAL")
        failures.failed(ROOT, "signature", "INVALID_KEY")
    common = {"event": "authentication_failed", "log_level": "warning"}
    token = common | {"way": "token", "reason": "NOT_CREDENTIAL"}
    signature = common | {"way": "signature", "reason": "INVALID_KEY"}
    assert logs == [token | {"peer": "192.0.2.7:0"}, signature | {"peer": "uid 0, pid 9"}]
    with capture_logs() as logs:
        failures.end_window()
        failures.end_window()
    assert logs == [token | {"peer": "192.0.2.7", "again": 999}]
    with capture_logs() as logs:
        failures.failed(FAR, "token", "NOT_CREDENTIAL")
    assert logs == [token | {"peer": "192.0.2.7:5"}]


def test_failures_from_everywhere_are_bounded_lines_and_no_number_is_lost():
    failures = Failures(most=3)
    with capture_logs() as logs:
        for _ in range(2):
            for number in range(100):
                failures.failed(Peer(address=f"192.0.2.{number}", port=1), "none", "NOT_CREDENTIAL")
        failures.end_window()
    assert len(logs) == 2 * (3 + 1)
    assert logs[3]["peer"] == "others"
    assert sum(line.get("again", 1) for line in logs) == 200
