"""The real clients, unchanged, against the real daemon: python-ovh over TLS, and curl with a token or a certificate."""

import hashlib
import json
import subprocess
import time

import ovh
import pytest

from tests.integration.daemon.conftest import (
    APPLICATION_KEY,
    APPLICATION_SECRET,
    CONSUMER_KEY,
    TOKEN,
)
from tests.kit.agent_process import DEPLOYMENT, NAME
from tests.kit.checks import assert_complete, assert_nothing_boots
from tests.kit.deployments import job


@pytest.fixture
def make_client(monkeypatch, tmp_path):
    """A function `make(agent, **keys)`: python-ovh pointed at a daemon, as its documentation says."""

    def make(agent, **keys):
        monkeypatch.setitem(ovh.client.ENDPOINTS, "local", f"{agent.url}/1.0")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
        right = {
            "application_key": APPLICATION_KEY,
            "application_secret": APPLICATION_SECRET,
            "consumer_key": CONSUMER_KEY,
        }
        return ovh.Client(endpoint="local", **(right | keys))

    return make


def _deployed(client, wanted="done"):
    deadline = time.monotonic() + 60
    while (found := client.get(DEPLOYMENT))["status"] == "doing":
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    assert found["status"] == wanted, found
    return found


@pytest.mark.parametrize("allowed", [False, True])
def test_a_file_of_the_server_is_taken_over_tls_only_where_that_is_allowed(
    make_tls_agent, make_client, image, disk, tmp_path, allowed
):
    source = tmp_path / "image.raw"
    source.write_bytes(image.data)
    before = disk.read_bytes()
    agent = make_tls_agent(config=f"[policy]\nallow_file = {str(allowed).lower()}\n")
    if allowed:
        make_client(agent).post(DEPLOYMENT, URL=source.as_uri(), type="raw")
    else:
        with pytest.raises(ovh.exceptions.BadParametersError, match="allow_file"):
            make_client(agent).post(DEPLOYMENT, URL=source.as_uri(), type="raw")
        assert agent.status()["status"] is None
        assert disk.read_bytes() == before
        assert agent.post(job(source.as_uri(), None)).status == 200  # on the socket
    assert agent.wait_for("done", "error")["status"] == "done"


def test_python_ovh_posts_and_polls_to_the_end(make_tls_agent, make_client, web, image, disk, tmp_path):
    client = make_client(make_tls_agent(reboot=True, grace_seconds=3600))
    with pytest.raises(ovh.ResourceNotFoundError):
        client.get(DEPLOYMENT)
    assert client.post(DEPLOYMENT, **job(web.url, image.sha256)) is None
    document = _deployed(client)
    assert document["checksum"] == f"sha256:{image.sha256}"
    assert_complete(disk, image, tmp_path)


def test_python_ovh_sees_a_conflict_deletes_in_the_middle_and_finds_nothing(
    make_tls_agent, make_client, slow_web, image, disk
):
    agent = make_tls_agent()
    client = make_client(agent)
    client.post(DEPLOYMENT, **job(slow_web.url, image.sha256))
    agent.wait_for("write")
    with pytest.raises(ovh.ResourceConflictError, match="under way"):
        client.post(DEPLOYMENT, **job(slow_web.url, image.sha256))
    assert client.delete(DEPLOYMENT) is None
    with pytest.raises(ovh.ResourceNotFoundError, match="no deployment"):
        client.get(DEPLOYMENT)
    assert_nothing_boots(disk)
    slow_web.answer = lambda request: request.file(image.data)
    client.post(DEPLOYMENT, **job(slow_web.url, image.sha256))
    _deployed(client)


def test_python_ovh_is_told_the_faults_of_a_job(make_tls_agent, make_client, web):
    client = make_client(make_tls_agent())
    with pytest.raises(ovh.BadParametersError, match="Bad checkSumType, expected: md5, sha1, sha256, sha512"):
        client.post(DEPLOYMENT, URL=web.url, type="raw", checkSum="12", checkSumType="crc")


@pytest.mark.parametrize(
    ("keys", "raised"),
    [
        ({"application_key": "another"}, ovh.InvalidKey),
        ({"consumer_key": "another"}, ovh.NotCredential),
        ({"application_secret": "another"}, ovh.InvalidCredential),
    ],
)
def test_python_ovh_with_a_wrong_key_is_refused(make_tls_agent, make_client, keys, raised):
    agent = make_tls_agent()
    with pytest.raises(raised):
        make_client(agent, **keys).get(DEPLOYMENT)
    agent.end()  # and with it the log
    assert "another" not in agent.log


def test_a_stale_timestamp_is_refused(make_tls_agent, make_client):
    client = make_client(make_tls_agent())
    client._time_delta = -3600  # an hour behind, as a recorded request is
    with pytest.raises(ovh.APIError, match="timestamp") as refusal:
        client.get(DEPLOYMENT)
    assert refusal.value.response.status_code == 403


def _curl(agent, tmp_path, *arguments):
    command = [
        "curl",
        "--silent",
        "--show-error",
        "--cacert",
        str(tmp_path / "ca.pem"),
        "--write-out",
        "\n%{http_code}",
    ]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=60, check=True)
    body, _, status = done.stdout.rpartition("\n")
    return int(status), body


def test_curl_with_a_bearer_token(make_tls_agent, web, image, tmp_path):
    agent = make_tls_agent()
    url = agent.url + DEPLOYMENT
    assert _curl(agent, tmp_path, url)[0] == 401
    assert _curl(agent, tmp_path, "-H", "Authorization: Bearer wrong-wrong-wrong-1", url)[0] == 401
    token = ("-H", f"Authorization: Bearer {TOKEN}")
    (tmp_path / "job.json").write_text(json.dumps(job(web.url, image.sha256)))
    post = (*token, "-d", f"@{tmp_path / 'job.json'}", url)
    assert _curl(agent, tmp_path, *post)[0] == 415
    assert _curl(agent, tmp_path, "-H", "Content-Type: application/json", *post) == (200, "null")
    agent.wait_for("done")
    status, body = _curl(agent, tmp_path, *token, url)
    assert status == 200
    assert '"status": "done"' in body
    assert _curl(agent, tmp_path, *token, "-X", "DELETE", url) == (200, "null")
    assert _curl(agent, tmp_path, *token, url)[0] == 404


def test_curl_with_a_client_certificate(make_tls_agent, authority, tmp_path):
    agent = make_tls_agent()
    cert = authority.issue_cert("operator@example.net")
    cert.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "client.pem"))
    assert _curl(agent, tmp_path, "--cert", str(tmp_path / "client.pem"), f"{agent.url}/v1/disks")[0] == 200
    assert _curl(agent, tmp_path, f"{agent.url}/v1/disks")[0] == 401


def test_curl_on_the_socket_need_not_say_that_it_sends_json(make_agent, web, image, tmp_path):
    agent = make_agent().start()
    (tmp_path / "job.json").write_text(json.dumps(job(web.url, image.sha256)))
    socket, url = ("--unix-socket", str(agent.socket)), f"http://localhost{DEPLOYMENT}"
    (tmp_path / "ca.pem").touch()
    assert _curl(agent, tmp_path, *socket, "-d", f"@{tmp_path / 'job.json'}", url) == (200, "null")


def test_what_a_page_of_another_site_has_a_browser_send_is_refused_on_every_route_and_listener(
    make_tls_agent, authority, tmp_path
):
    """With the certificate of an operator, which a browser presents whoever wrote the page."""
    agent = make_tls_agent()
    cert = authority.issue_cert("operator@example.net")
    cert.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "client.pem"))
    tls = ("--cert", str(tmp_path / "client.pem"), agent.url)
    unix = ("--unix-socket", str(agent.socket), "http://localhost")
    paths = json.loads(agent.get("/openapi.json").body)["paths"]
    routes = [(method, path) for path, item in paths.items() for method in item if method != "parameters"]
    assert len(routes) > 15
    for method, path in routes:
        url_path = path.replace("{serviceName}", NAME)
        for *options, url in (tls, unix):
            for header in ("Origin: https://elsewhere.example", "Origin: null", "Sec-Fetch-Site: cross-site"):
                asked = ("-H", header, "-X", method.upper(), *(("-I",) if method == "head" else ()))
                assert _curl(agent, tmp_path, *options, *asked, url + url_path)[0] == 403, (
                    method,
                    path,
                    header,
                )
    typed = ("-H", "Sec-Fetch-Site: none", f"{agent.url}/v1/status")
    assert _curl(agent, tmp_path, "--cert", str(tmp_path / "client.pem"), *typed)[0] == 200


def test_head_answers_as_get_does_without_the_body(make_tls_agent):
    agent = make_tls_agent()
    paths = json.loads(agent.get("/openapi.json").body)["paths"]
    asked = [path.replace("{serviceName}", NAME) for path, item in paths.items() if "get" in item]
    assert len(asked) == 9
    for path in asked:
        head = agent.request("HEAD", path)
        assert head.body == b""
        if path == "/v1/events":  # by GET it would not end
            assert (head.status, head.headers["Content-Type"]) == (200, "text/event-stream; charset=utf-8")
            continue
        get = agent.get(path)
        assert head.status == get.status, path
        for name in ("Content-Type", "Content-Length", "Cache-Control"):
            if name != "Content-Length" or path != "/metrics":  # counters grow
                assert head.headers.get(name) == get.headers.get(name), (path, name)
        assert int(head.headers["Content-Length"]) > 0


def test_only_the_health_and_the_time_are_served_to_strangers(make_tls_agent, tmp_path):
    agent = make_tls_agent()
    paths = (
        "/v1/status",
        "/v1/events",
        "/v1/disks",
        "/v1/receipt",
        "/metrics",
        "/openapi.json",
        DEPLOYMENT,
        "/nowhere",
    )
    for path in paths:
        assert _curl(agent, tmp_path, agent.url + path)[0] == 401, path
    assert _curl(agent, tmp_path, f"{agent.url}/healthz")[0] == 200
    assert _curl(agent, tmp_path, f"{agent.url}/1.0/auth/time")[0] == 200


def test_a_signed_request_on_the_socket_is_checked_as_one_over_the_network_is(make_tls_agent):
    agent = make_tls_agent()
    now = str(int(time.time()))
    url = f"http://localhost{DEPLOYMENT}"

    def headers(secret):
        text = f"{secret}+{CONSUMER_KEY}+DELETE+{url}++{now}"
        return {
            "Host": "localhost",
            "X-Ovh-Application": APPLICATION_KEY,
            "X-Ovh-Consumer": CONSUMER_KEY,
            "X-Ovh-Timestamp": now,
            "X-Ovh-Signature": "$1$" + hashlib.sha1(text.encode()).hexdigest(),
        }

    assert agent.request("DELETE", DEPLOYMENT, headers=headers(APPLICATION_SECRET)).status == 200
    assert agent.request("DELETE", DEPLOYMENT, headers=headers("wrong")).status == 403
