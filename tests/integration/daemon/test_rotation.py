"""SIGHUP and revocation: who is in, who is out, and that nothing else notices."""

import http.client
import json
import signal
import ssl
import subprocess
import sys
import time
from contextlib import suppress
from urllib.parse import urlsplit

import pytest
import trustme

from tests.integration.daemon.conftest import TOKEN
from tests.kit.agent_process import DEPLOYMENT, NAME
from tests.kit.commands import ROOT
from tests.kit.deployments import job
from tests.kit.revocation import DAY, make_crl

NEW_TOKEN = "another-horse-another-battery"
OPS = "ops@example.net"


@pytest.fixture
def connect(tmp_path):
    """A function `connect(agent, cert)`: an open connection to the TLS listener, that sends nothing by itself."""
    opened = []

    def connect(agent, cert=None):
        context = ssl.create_default_context(cafile=tmp_path / "ca.pem")
        if cert is not None:
            cert.configure_cert(context)
        where = urlsplit(agent.url)
        connection = http.client.HTTPSConnection(where.hostname, where.port, timeout=30, context=context)
        connection.connect()
        opened.append(connection)
        return connection

    yield connect
    for connection in opened:
        connection.close()


def ask(connection, *, token=None, path="/v1/status"):
    """One request, of a connection that can take another one; gives its answer."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    connection.request("GET", path, headers=headers)
    return connection.getresponse()


def status_of(connection, **options):
    answer = ask(connection, **options)
    answer.read()
    return answer.status


def hang_up(agent, outcome="reloaded"):
    """SIGHUP, and the line that tells what came of it."""

    def told():
        return [line for line in agent.lines if line["event"] in ("reloaded", "reload_refused")]

    before = len(told())
    agent.process.send_signal(signal.SIGHUP)
    agent.wait(lambda: len(told()) > before, "it has read its files again")
    assert told()[-1]["event"] == outcome, told()[-1]
    return told()[-1]


def is_closed(connection):
    """Whether the other side has closed, once what it still sent is read."""
    try:
        while connection.sock.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


def test_a_new_token_is_taken_up_and_who_came_by_the_old_one_is_out(make_tls_agent, connect, tmp_path):
    agent = make_tls_agent()
    idle, stream = connect(agent), connect(agent)
    assert status_of(idle, token=TOKEN) == 200
    events = ask(stream, token=TOKEN, path="/v1/events")
    assert events.readline().startswith(b"id: ")
    (tmp_path / "token").write_text(NEW_TOKEN)
    assert status_of(idle, token=TOKEN) == 200
    assert hang_up(agent)["connections_dropped"] == 2
    with suppress(http.client.HTTPException, ConnectionError):
        while events.readline():
            pass
    assert is_closed(idle)
    assert status_of(connect(agent), token=TOKEN) == 401
    assert status_of(connect(agent), token=NEW_TOKEN) == 200
    agent.end()  # and with it the log
    assert TOKEN not in agent.log
    assert NEW_TOKEN not in agent.log


def test_a_file_with_a_fault_leaves_all_in_force_and_is_told(make_tls_agent, connect, tmp_path):
    agent = make_tls_agent()
    kept = connect(agent)
    assert status_of(kept, token=TOKEN) == 200
    (tmp_path / "token").write_text(NEW_TOKEN)
    (tmp_path / "consumer").write_text("short")
    [fault] = hang_up(agent, "reload_refused")["faults"]
    assert fault.startswith("api.ovh.consumer_key_file: the file holds 5 characters")
    assert status_of(kept, token=TOKEN) == 200
    assert status_of(connect(agent), token=NEW_TOKEN) == 401
    [shown] = agent.status()["configuration"]["faults"]
    assert f"{shown['path']}: {shown['message']}" == fault
    assert b"byoi_configuration_faults 1.0" in agent.get("/metrics").body
    (tmp_path / "consumer").write_text("k" * 20)
    hang_up(agent)
    assert agent.status()["configuration"]["faults"] == []


def test_what_needs_a_restart_is_named_and_a_deployment_goes_on(make_tls_agent, slow_web, image, tmp_path):
    agent = make_tls_agent()
    agent.post(job(slow_web.url, image.sha256))
    agent.wait_for("write")
    path = agent.directory / "agent.toml"
    path.write_text(path.read_text().replace("grace_seconds = 1", "grace_seconds = 2"))
    (tmp_path / "token").write_text(NEW_TOKEN)
    assert hang_up(agent)["needs_restart"] == ["reboot.grace_seconds"]
    assert agent.wait_for("done", "error")["attempt"] == 1


def test_a_revoked_certificate_is_out_and_the_others_stay_in(make_tls_agent, connect, authority, tmp_path):
    agent = make_tls_agent()
    lost, kept = (authority.issue_cert(f"{name}@example.net", common_name=name) for name in ("lost", "kept"))
    by_lost, by_token = connect(agent, lost), connect(agent)
    silent = connect(agent, lost)  # in by its handshake, and has asked nothing yet
    assert [status_of(by_lost), status_of(by_token, token=TOKEN)] == [200, 200]
    # The list is new to the configuration: revocation is for today, not for the next restart.
    crl, config = tmp_path / "clients.crl", agent.directory / "agent.toml"
    crl.write_bytes(make_crl(authority, lost))
    config.write_text(config.read_text().replace("\ntoken_file", f'\nclient_crl = "{crl}"\ntoken_file', 1))
    assert hang_up(agent)["connections_dropped"] == 2
    assert is_closed(by_lost)
    assert is_closed(silent)
    with pytest.raises(OSError, match=r"revoked|reset|closed|EOF"):
        status_of(connect(agent, lost))
    assert status_of(connect(agent, kept)) == 200
    assert status_of(by_token, token=TOKEN) == 200
    agent.wait(lambda: "certificate revoked" in agent.log, "it is told")


def test_a_list_that_expires_shuts_certificates_out_and_nobody_else(
    make_tls_agent, connect, authority, tmp_path
):
    crl, cert = tmp_path / "clients.crl", authority.issue_cert(OPS)
    crl.write_bytes(make_crl(authority, until=DAY))
    agent = make_tls_agent(crl=crl)
    assert status_of(connect(agent, cert)) == 200
    crl.write_bytes(make_crl(authority, since=-2 * DAY, until=-DAY))
    [fault] = hang_up(agent, "reload_refused")["faults"]
    assert "every client certificate would be refused" in fault
    assert status_of(connect(agent, cert)) == 200  # by the list that was in force
    agent.end()
    done = subprocess.run(
        [sys.executable, *agent.command, "--config", str(agent.directory / "agent.toml")],
        capture_output=True, text=True, timeout=30, check=False, cwd=ROOT,
    )  # fmt: skip
    assert (done.returncode, "api.client_crl" in done.stderr) == (2, True)
    # One that expires while the agent runs.
    crl.write_bytes(make_crl(authority, until=DAY / 86400 * 4))
    agent.start()
    agent.wait(lambda: refused(connect, agent, cert), "the list has expired")
    agent.wait(lambda: "CRL has expired" in agent.log, "the log says so")
    assert status_of(connect(agent), token=TOKEN) == 200


def refused(connect, agent, cert):
    try:
        status_of(connect(agent, cert))
    except OSError:
        return True
    time.sleep(0.3)
    return False


def test_a_session_is_not_taken_up_again_without_a_look_at_its_certificate(
    make_tls_agent, connect, authority, tmp_path
):
    agent = make_tls_agent()
    first = connect(agent, authority.issue_cert(OPS))
    assert status_of(first) == 200
    assert not first.sock.session.has_ticket


def test_another_ca_shuts_out_the_certificates_of_the_first(make_tls_agent, connect, authority, tmp_path):
    agent = make_tls_agent()
    cert, other = authority.issue_cert(OPS), trustme.CA()
    connection = connect(agent, cert)
    assert status_of(connection) == 200
    (tmp_path / "clients.crt").write_bytes(other.cert_pem.bytes())
    config = agent.directory / "agent.toml"
    config.write_text(config.read_text().replace(f"{tmp_path}/ca.pem", f"{tmp_path}/clients.crt"))
    hang_up(agent)
    assert is_closed(connection)
    assert refused(connect, agent, cert)
    assert status_of(connect(agent, other.issue_cert(OPS))) == 200


def test_an_ovh_secret_is_taken_up(make_tls_agent, tmp_path, monkeypatch):
    import ovh

    agent = make_tls_agent()
    secret = "another-secret-of-the-application"
    (tmp_path / "application").write_text(secret)
    hang_up(agent)
    monkeypatch.setitem(ovh.client.ENDPOINTS, "local", f"{agent.url}/1.0")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    keys = {"application_key": "app-key", "consumer_key": "key-of-the-consumer"}
    with pytest.raises(ovh.ResourceNotFoundError):
        ovh.Client(endpoint="local", application_secret=secret, **keys).get(DEPLOYMENT)
    with pytest.raises(ovh.InvalidCredential):
        ovh.Client(endpoint="local", application_secret="secret-of-the-application", **keys).get(DEPLOYMENT)


def test_the_token_for_the_control_plane_is_taken_up(make_agent, authority, tmp_path, web, image):
    from tests.kit.control_plane import control_plane

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    token = tmp_path / "plane.token"
    token.write_text("the-token-of-yesterday")
    token.chmod(0o600)
    with control_plane(tls=context, token=NEW_TOKEN) as plane:
        config = (
            f'[control_plane]\nurl = "{plane.url}"\ntoken_file = "{token}"\nca_file = "{tmp_path / "ca.pem"}"\n'
            "poll_seconds = 0.2\npush_seconds = 0.2\n"
        )
        agent = make_agent(config=config).start()
        record = plane.give(NAME, job(web.url, image.sha256))
        agent.wait(lambda: plane.refused > 0, "the old token is refused")
        assert record.given == 0
        token.write_text(NEW_TOKEN)
        hang_up(agent)
        assert plane.wait_for(record, "done", "error")["status"] == "done"
        assert json.dumps(NEW_TOKEN) not in agent.log
        agent.end()
