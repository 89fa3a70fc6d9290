"""The OVH API's three routes over a real socket: what real clients rely on."""

import json
import threading

from agent.model.disk_state import DiskState
from tests.kit.agent_process import DEPLOYMENT, NAME
from tests.kit.checks import assert_complete, assert_nothing_boots
from tests.kit.deployments import job
from tests.kit.disks import make_disk

SECRETS = (
    "s3cret-header",
    "s3cret-user-data",
    "c2VjcmV0LXNzaC1rZXktb2YtdGhlLXVzZXI",
    "s3cret-query",
    "s3cret-meta",
)


def secret_job(url, image):
    header, user_data, key, query, meta = SECRETS
    drive = {
        "enable": True,
        "hostname": "h1",
        "userData": f"#!/bin/sh\necho {user_data}\n",
        "sshKey": f"ssh-ed25519 AAAA{key} me",
        "userMetadatas": [{"key": "k", "value": meta}],
    }
    return job(
        f"{url}?token={query}",
        image.sha256,
        configdrive=drive,
        httpHeader=[{"key": "X-Token", "value": header}],
    )


def test_a_job_is_deployed(make_agent, web, image, disk, tmp_path):
    agent = make_agent().start()
    assert agent.get().status == 404
    answer = agent.post(job(web.url, image.sha256))
    assert (answer.status, answer.body) == (200, b"null")
    done = agent.wait_for("done", "error")
    assert done["status"] == "done", done
    assert_complete(disk, image, tmp_path)
    seen = agent.get()
    assert seen.status == 200
    document = seen.json
    assert document["servername"] == NAME
    assert document["checksum"] == f"sha256:{image.sha256}"
    assert document["percent"] == 100.0
    assert [stage["name"] for stage in document["stages"]] == [
        "preflight", "claim", "write", "verify", "finish", "commit",
    ]  # fmt: skip
    unset = dict.fromkeys(("at", "reason", "waitingFor", "since"))
    assert document["reboot"] == unset | {"state": "disabled"}


def test_a_job_for_two_disks_goes_to_both_of_the_group(make_agent, web, image, disk, tmp_path):
    other = make_disk(tmp_path / "other.img")
    agent = make_agent(groups=((disk, other),)).start()
    assert agent.post(job(web.url, image.sha256, disks=2)).status == 200
    done = agent.wait_for("done", "error")
    assert done["status"] == "done", done
    assert [each["path"] for each in agent.get().json["disks"]] == [str(disk), str(other)]
    for number, each in enumerate((disk, other)):
        scratch = tmp_path / f"scratch{number}"
        scratch.mkdir()
        assert_complete(each, image, scratch)


def test_a_job_for_more_disks_than_the_group_has_touches_none(make_agent, web, image, disk):
    before = disk.read_bytes()
    agent = make_agent().start()
    assert agent.post(job(web.url, image.sha256, disks=2)).status == 200
    error = agent.wait_for("done", "error")["error"]
    assert error["code"] == "raid.disks"
    assert "the job wants 2 disks, group 1 has 1" in error["message"]
    assert disk.read_bytes() == before


def test_the_same_routes_answer_under_1_0(make_agent, web, image):
    agent = make_agent().start()
    assert agent.request("POST", f"/1.0{DEPLOYMENT}", job(web.url, image.sha256)).status == 200
    agent.wait_for("done")
    assert agent.request("GET", f"/1.0{DEPLOYMENT}").json["status"] == "done"
    assert isinstance(agent.request("GET", "/1.0/auth/time").json, int)
    assert agent.request("DELETE", f"/1.0{DEPLOYMENT}").body == b"null"
    assert agent.request("GET", f"/1.0{DEPLOYMENT}").status == 404


def test_all_faults_of_a_job_are_told_at_once_and_nothing_is_accepted(make_agent, disk):
    agent = make_agent().start()
    before = disk.read_bytes()
    answer = agent.post({"URL": "ftp://a/b", "type": "qed", "checkSum": "12", "surprise": 1})
    assert answer.status == 400
    body = answer.json
    assert set(body) == {"class", "message", "errorCode", "details"}
    assert {fault["path"] for fault in body["details"]["faults"]} == {
        "URL",
        "type",
        "checkSumType",
        "surprise",
    }
    assert agent.get().status == 404
    assert disk.read_bytes() == before


def test_a_job_that_the_policy_forbids_is_refused(make_agent, web):
    agent = make_agent(config="[policy]\nrequire_checksum = true\nallow_http = false\n").start()
    faults = agent.post(job(web.url, None)).json["details"]["faults"]
    assert {fault["path"] for fault in faults} == {"URL", "checkSum"}


def test_another_server_is_not_found(make_agent):
    agent = make_agent().start()
    for method in ("GET", "POST", "DELETE"):
        answer = agent.request(
            method, DEPLOYMENT.replace(NAME, "ns2.example.net"), {} if method == "POST" else None
        )
        assert answer.status == 404
        assert answer.json["class"] == "Client::NotFound::Server"


def test_of_two_posts_at_once_one_is_taken(make_agent, slow_web, image):
    agent = make_agent().start()
    statuses = []
    threads = [
        threading.Thread(target=lambda: statuses.append(agent.post(job(slow_web.url, image.sha256)).status))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200] + 7 * [409]


def test_a_second_job_is_refused_while_the_first_one_runs(make_agent, slow_web, image):
    agent = make_agent().start()
    agent.post(job(slow_web.url, image.sha256))
    agent.wait_for("write")
    answer = agent.post(job(slow_web.url, image.sha256))
    assert answer.status == 409
    assert answer.json["class"] == "Client::BadRequest::TaskAlreadyExists"


def test_a_finished_state_is_replaced(make_agent, web, image):
    agent = make_agent().start()
    agent.post(job(f"{web.url}", "0" * 64))
    failed = agent.wait_for("error")
    assert failed["error"]["code"] == "checksum.mismatch"
    assert failed["error"]["diskState"] == "empty"
    assert failed["error"]["hint"].startswith("Check that checkSum")
    assert failed["error"]["hint"].endswith(DiskState.EMPTY.sentence)
    assert failed["message"].startswith("Bad sha256 for downloaded file, got: ")
    agent.post(job(web.url, image.sha256))
    assert agent.wait_for("done")["error"] is None
    assert agent.post(job(web.url, image.sha256)).status == 200


def test_a_deletion_in_the_middle_stops_the_deployment_and_leaves_nothing_that_boots(
    make_agent, slow_web, web, image, disk, tmp_path
):
    agent = make_agent().start()
    agent.post(job(slow_web.url, image.sha256))
    agent.wait_for("write")
    answer = agent.delete()
    assert (answer.status, answer.body) == (200, b"null")
    assert agent.get().status == 404
    assert agent.status()["notes"] == [f"The last deployment was erased. {DiskState.EMPTY.sentence}"]
    assert_nothing_boots(disk)
    assert agent.post(job(web.url, image.sha256)).status == 200
    agent.wait_for("done")
    assert_complete(disk, image, tmp_path)


def test_deleting_nothing_is_no_error(make_agent):
    agent = make_agent().start()
    assert (agent.delete().status, agent.delete().status) == (200, 200)


def test_nothing_that_the_daemon_emits_holds_a_secret(make_agent, slow_web, image):
    agent = make_agent(config='[log]\nlevel = "debug"\n').start()
    emitted = [agent.post(secret_job(slow_web.url, image)).body]
    agent.wait_for("write")
    running = agent.journal.read_bytes()
    assert any(secret.encode() in running for secret in SECRETS), (
        "the next agent could not begin the job again"
    )
    emitted += [agent.post(secret_job(slow_web.url, image)).body, agent.get().body]
    bad = secret_job(slow_web.url, image) | {"configdrive": {"enable": SECRETS[1], "sshKey": SECRETS[2]}}
    emitted += [agent.post(bad).body, agent.post(json.dumps(bad).encode()[:-9]).body]
    emitted += [agent.get(path).body for path in ("/v1/status", "/v1/disks", "/metrics", "/healthz")]
    slow_web.answer = lambda request: request.head(404)
    agent.delete()
    agent.post(secret_job(slow_web.url, image))
    agent.wait_for("error")
    emitted += [agent.get().body, agent.log.encode()]
    agent.end()
    emitted.append(agent.log.encode())
    emitted += [path.read_bytes() for path in agent.journal.parent.iterdir() if path.is_file()]
    for text in emitted:
        for secret in SECRETS:
            assert secret.encode() not in text, text
    assert agent.journal.stat().st_mode & 0o777 == 0o600
    assert agent.journal.parent.stat().st_mode & 0o777 == 0o700
