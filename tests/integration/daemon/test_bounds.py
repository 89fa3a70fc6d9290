"""What a body may cost the daemon: memory, time of the interpreter, and nothing at all where no job can be taken."""

import json
import socket
import threading
from typing import Any

from agent.model.job_text import MAX_JOB_BYTES
from agent.units import MiB
from tests.kit.agent_process import DEPLOYMENT
from tests.kit.deployments import job

BEGINNING = b'{"URL":"https://images.example.net/a.raw","type":"raw","configdrive":{"networkData":{"a":['
BOMB = BEGINNING + b"[]," * (23 * MiB // 3) + b"[]]}}}"


def test_bodies_of_millions_of_values_cost_nothing_and_others_are_answered_meanwhile(make_agent):
    agent = make_agent(fresh=True).start()
    answers = []
    posts = [
        threading.Thread(target=lambda: answers.append(agent.request("POST", DEPLOYMENT, BOMB)))
        for _ in range(4)
    ]
    for post in posts:
        post.start()
    asked = 0
    while any(post.is_alive() for post in posts):
        assert agent.get("/healthz").status == 200
        asked += 1
    assert asked
    assert [answer.status for answer in answers] == [400] * 4
    assert "holds more than 50000 values" in answers[0].json["message"]
    assert agent.most_memory < 300 * MiB  # one such body alone was 700 MiB


def test_the_largest_body_of_any_kind_stays_within_the_bound(make_agent):
    """One character beyond the BMP makes four bytes of each character of its string, in Python."""
    agent = make_agent(fresh=True).start()
    text = '"\U0001f600'.encode() + b"a" * (MAX_JOB_BYTES - 200) + b'"'
    answer = agent.request("POST", DEPLOYMENT, b'{"description":' + text + b"}")
    assert answer.status == 400
    assert agent.most_memory < 400 * MiB


def test_no_body_is_waited_for_while_a_job_runs(make_agent, slow_web, image):
    agent = make_agent().start()
    agent.post(job(slow_web.url, image.sha256))
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(agent.socket))
        client.sendall(
            f"POST {DEPLOYMENT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {MAX_JOB_BYTES}\r\n\r\n".encode()
        )
        assert client.recv(1024).startswith(b"HTTP/1.1 409 ")


def test_a_job_with_as_many_headers_and_metadata_as_are_taken_is_one_short_line_of_the_log(
    make_agent, slow_web, image
):
    agent = make_agent().start()
    pairs = [{"key": f"X-{number:0>1000}", "value": "v"} for number in range(256)]
    big = job(
        slow_web.url, image.sha256, httpHeader=pairs, configdrive={"enable": True, "userMetadatas": pairs}
    )
    assert agent.post(big).status == 200

    def accepted() -> list[dict[str, Any]]:
        return [line for line in agent.lines if line["event"] == "accepted"]

    agent.wait(lambda: accepted() != [], "the line of the log")
    [line] = accepted()
    assert len(json.dumps(line)) < 4096
