"""Who did what, as the log of a running daemon tells it."""

import hashlib
import http.client
import json
import os
import ssl
import time
from urllib.parse import urlsplit

import pytest
import trustme

from tests.integration.daemon.conftest import APPLICATION_KEY, APPLICATION_SECRET, CONSUMER_KEY, TOKEN
from tests.kit.agent_process import DEPLOYMENT
from tests.kit.deployments import job


def signed(method, url):
    """The headers of OVH's signature for a request without a body."""
    now = str(int(time.time()))
    text = f"{APPLICATION_SECRET}+{CONSUMER_KEY}+{method}+{url}++{now}"
    return {
        "X-Ovh-Application": APPLICATION_KEY,
        "X-Ovh-Consumer": CONSUMER_KEY,
        "X-Ovh-Timestamp": now,
        "X-Ovh-Signature": "$1$" + hashlib.sha1(text.encode()).hexdigest(),
    }


def told(agent, event):
    """The lines of the log with this event."""
    return [line for line in agent.lines if line["event"] == event]


@pytest.fixture
def call(tmp_path):
    """A function `call(agent, method, path, ...)`: one request over TLS; gives its status."""

    def call(agent, method, path=DEPLOYMENT, *, cert=None, token=None, body=None, headers=None):
        context = ssl.create_default_context(cafile=tmp_path / "ca.pem")
        if cert is not None:
            cert.configure_cert(context)
        where = urlsplit(agent.url)
        connection = http.client.HTTPSConnection(where.hostname, where.port, timeout=30, context=context)
        headers = {"Content-Type": "application/json"} | (headers or {})
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            return connection.getresponse().status
        finally:
            connection.close()

    return call


def test_who_gave_a_job_and_who_erased_it_is_in_the_log_whichever_way_they_came(
    make_tls_agent,
    call,
    authority,
    slow_web,
    image,
):
    agent = make_tls_agent()
    wanted = job(slow_web.url, image.sha256)
    cert = authority.issue_cert("ops@example.net", common_name="ops")
    assert agent.post(wanted).status == 200
    assert call(agent, "DELETE", cert=cert) == 200
    assert call(agent, "POST", token=TOKEN, body=wanted) == 200
    assert call(agent, "DELETE", headers=signed("DELETE", agent.url + DEPLOYMENT)) == 200
    assert agent.delete().status == 200  # of nothing: nobody changed anything
    agent.end()  # and with it the log
    lines = told(agent, "audit")
    assert [(line["act"], line["way"]) for line in lines] == [
        ("accepted", "socket"),
        ("erased", "certificate"),
        ("accepted", "token"),
        ("erased", "signature"),
    ]
    assert [line["id"] for line in lines[::2]] == [line["id"] for line in lines[1::2]]
    assert lines[0]["peer"] == f"uid {os.geteuid()}, pid {os.getpid()}"
    assert all(line["peer"].startswith("127.0.0.1:") for line in lines[1:])
    assert "commonName=ops" in lines[1]["credential"]
    assert "serial " in lines[1]["credential"]
    assert [line["credential"] for line in lines[2:]] == ["api.token", APPLICATION_KEY]
    for secret in (TOKEN, APPLICATION_SECRET, CONSUMER_KEY):
        assert secret not in agent.log


def test_failed_authentications_are_in_the_log_once_for_each_kind_and_then_by_number(
    make_tls_agent, call, authority
):
    agent = make_tls_agent()
    for _ in range(20):
        assert call(agent, "GET", "/v1/status?secret=hunter2", token="wrong-wrong-wrong-1") == 401
    assert call(agent, "GET") == 401
    stranger = trustme.CA().issue_cert("stranger@example.net")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        call(agent, "GET", cert=stranger)
    assert call(agent, "GET", cert=authority.issue_cert("ops@example.net")) == 404
    agent.wait(lambda: len(told(agent, "authentication_failed")) == 3, "each kind is told")
    agent.end()
    lines = told(agent, "authentication_failed")
    assert [(line["way"], line.get("again")) for line in lines] == [
        ("token", None),
        ("none", None),
        ("certificate", None),
        ("token", 19),
    ]
    assert "unable to get local issuer certificate" in lines[2]["reason"]
    for word in ("wrong-wrong", "hunter2"):
        assert word not in agent.log
