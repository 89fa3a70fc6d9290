"""After `done`: who has to have seen it before the server reboots, and what calls the reboot off."""

import http.client
import json
import time

from tests.kit.agent_process import DEPLOYMENT
from tests.kit.deployments import job
from tests.kit.disks import make_disk

LONG = 3600


def deployed(agent, web, image):
    agent.start()
    agent.post(job(web.url, image.sha256))
    return agent.wait_for("done", "error")


def test_a_server_whose_outcome_nobody_asks_for_reboots_after_the_grace_time(make_agent, web, image):
    agent = make_agent(reboot=True, grace_seconds=2)
    done = deployed(agent, web, image)
    assert done["reboot"]["state"] == "waiting"
    assert done["reboot"]["at"].endswith("Z")
    agent.wait(agent.rebooted.exists, "it reboots")
    agent.wait(lambda: "handover_unseen" in agent.log, "it says why")
    assert agent.status()["reboot"]["state"] == "due"


def test_a_server_reboots_after_the_grace_time_where_the_transfer_had_to_begin_again(make_agent, web, image):
    def answer(request):
        request.file(image.data, ranges=False, upto=len(image.data) - 1 if request.number == 0 else None)

    web.answer = answer
    agent = make_agent(reboot=True, grace_seconds=2)
    assert deployed(agent, web, image)["attempt"] == 2
    agent.wait(agent.rebooted.exists, "it reboots")


def test_a_server_reboots_once_its_outcome_was_polled(make_agent, web, image):
    agent = make_agent(reboot=True, grace_seconds=LONG)
    deployed(agent, web, image)
    time.sleep(1.5)
    assert not agent.rebooted.exists(), "/v1/status on the socket is what people look at; it does not count"
    assert agent.get().json["status"] == "done"
    agent.wait(agent.rebooted.exists, "it reboots")


def test_a_post_is_refused_while_a_reboot_is_pending_and_the_answer_says_how_to_call_it_off(
    make_agent, web, image
):
    agent = make_agent(reboot=True, grace_seconds=LONG)
    deployed(agent, web, image)
    answer = agent.post(job(web.url, image.sha256))
    assert answer.status == 409
    assert "DELETE" in answer.json["message"]


def test_a_deletion_calls_the_reboot_off_and_a_new_job_works(make_agent, web, image):
    agent = make_agent(reboot=True, grace_seconds=2)
    deployed(agent, web, image)
    assert agent.delete().status == 200
    assert agent.get().status == 404
    time.sleep(3)
    assert not agent.rebooted.exists()
    assert agent.post(job(web.url, image.sha256)).status == 200
    agent.wait_for("done")


def test_a_server_never_reboots_where_that_is_disabled(make_agent, web, image):
    agent = make_agent(reboot=False, grace_seconds=0)
    deployed(agent, web, image)
    agent.get()
    time.sleep(2)
    assert not agent.rebooted.exists()
    assert agent.status()["reboot"]["state"] == "disabled"


def test_a_reboot_that_fails_is_said_and_leaves_the_slot_free(make_agent, web, image):
    agent = make_agent(reboot=True, grace_seconds=0)
    agent.rebooted.parent.joinpath("rebooted").mkdir(parents=True)
    agent.rebooted.chmod(0o755)
    agent.config = ""
    path = agent.write_config()
    path.write_text(path.read_text().replace('"touch"', '"/bin/false"'))
    agent.write_config = lambda: path  # type: ignore[method-assign]
    deployed(agent, web, image)
    agent.wait(lambda: agent.status()["reboot"]["state"] == "failed", "the failure is shown")
    document = agent.status()
    assert document["status"] == "done"
    assert "/bin/false" in document["reboot"]["reason"]
    assert agent.post(job(web.url, image.sha256)).status == 200


def test_an_agent_that_comes_back_goes_on_with_the_hand_over(make_agent, web, image):
    agent = make_agent(reboot=True, grace_seconds=LONG)
    deployed(agent, web, image)
    agent.kill()
    agent.start()
    assert agent.status()["reboot"]["state"] == "waiting"
    agent.get()
    agent.wait(agent.rebooted.exists, "it reboots")
    assert len(web.requests) == 1


def test_an_agent_that_comes_back_after_the_reboot_does_not_reboot_again(make_agent, web, image):
    """The journal lies on a disk that outlives the boot."""
    agent = make_agent(reboot=True, grace_seconds=0)
    deployed(agent, web, image)
    agent.wait(agent.rebooted.exists, "it reboots")
    agent.rebooted.unlink()
    agent.reboot_now()
    assert agent.get().json["status"] == "done"
    time.sleep(2)
    assert not agent.rebooted.exists()


# -- following -------------------------------------------------------------------------------------------------


def test_a_long_poll_answers_at_the_next_change_and_not_before(make_agent, web, image):
    agent = make_agent().start()
    idle = agent.status()
    began = time.monotonic()
    same = agent.get(f"/v1/status?since={idle['revision']}&wait=1").json
    assert same["revision"] == idle["revision"]
    assert time.monotonic() - began >= 0.9
    agent.post(job(web.url, image.sha256))
    revisions, percents, document = [idle["revision"]], [], {}
    while document.get("status") not in ("done", "error"):
        document = agent.get(f"/v1/status?since={revisions[-1]}&wait=30").json
        revisions.append(document["revision"])
        percents.append(document["percent"])
    assert revisions == sorted(set(revisions))
    assert percents == sorted(percents)
    assert percents[-1] == 100.0


def test_a_query_that_makes_no_sense_is_refused(make_agent):
    agent = make_agent().start()
    for query in ("since=x", "since=1&wait=-1", "since=1&wait=nan", "wait=1e999", "since="):
        answer = agent.get(f"/v1/status?{query}")
        assert (answer.status, answer.json["errorCode"]) == (400, "INVALID_QUERY"), query


def test_the_first_message_is_starting(make_agent, web, image):
    agent = make_agent().start()
    agent.post(job(web.url, image.sha256))
    document = agent.get().json
    assert document["status"] == "doing"
    assert document["message"] in ("starting", "Checking the image and the disk before anything is written.")


def test_events_tell_stages_progress_and_the_result(make_agent, slow_web, image):
    agent = make_agent().start()
    connection = http.client.HTTPConnection("localhost", timeout=30)
    connection.sock = _connect(agent)
    connection.request("GET", "/v1/events")
    response = connection.getresponse()
    assert response.headers["Content-Type"].startswith("text/event-stream")
    agent.post(job(slow_web.url, image.sha256))
    events, name = [], ""
    for line in response:
        key, _, value = line.decode().rstrip("\n").partition(": ")
        if key == "event":
            name = value
        elif key == "data":
            events.append((name, json.loads(value)))
            if name == "result":
                break
    response.close()
    connection.close()
    assert events[0][0] == "status"
    assert events[0][1]["status"] is None
    stages = [(data["stage"], data["state"]) for name, data in events if name == "stage"]
    names = ["preflight", "claim", "write", "verify", "finish", "commit"]
    assert stages == [(stage, state) for stage in names for state in ("begin", "end")]
    assert all(
        data["seconds"] is not None for name, data in events if name == "stage" and data["state"] == "end"
    )
    assert any(0 < data["percent"] < 100 for name, data in events if name == "progress")
    assert events[-1][1]["status"] == "done"


def _connect(agent):
    import socket

    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(30)
    sock.connect(str(agent.socket))
    return sock


def test_the_disks_are_shown_with_their_groups(make_agent, disk):
    agent = make_agent().start()
    document = agent.get("/v1/disks").json
    (group,) = document["groups"]
    assert (group["id"], group["target"], group["configured"]) == (1, str(disk), True)
    (found,) = [item for item in document["disks"] if item["path"] == str(disk)]
    assert (found["diskGroupId"], found["eligible"], found["reasons"]) == (1, True, [])


def test_a_job_goes_to_the_group_that_it_names(make_agent, web, image, disk, tmp_path):

    second = make_disk(tmp_path / "second.img")
    before = disk.read_bytes()
    agent = make_agent(disks=(disk, second)).start()
    agent.post(job(web.url, image.sha256, diskGroupId=2))
    assert agent.wait_for("done", "error")["disk"]["path"] == str(second)
    assert disk.read_bytes() == before
    agent.post(job(web.url, image.sha256, diskGroupId=3))
    assert agent.wait_for("error")["error"]["code"] == "disk.group"


def test_a_job_goes_to_the_disk_that_its_selector_fits(make_agent, web, image, disk, tmp_path):
    second = make_disk(tmp_path / "second.img")
    before = disk.read_bytes()
    agent = make_agent(disks=(disk, second)).start()
    (shown,) = (item for item in agent.get("/v1/disks").json["disks"] if item["path"] == str(second))
    assert shown["hints"]["name"] == [str(second)]
    agent.post(job(web.url, image.sha256, disk={"name": f"s== {second}", "tran": "file", "rotational": "no"}))
    status = agent.wait_for("done", "error")
    assert (status["status"], status["disk"]["path"]) == ("done", str(second))
    assert status["job"]["disk"] == {"name": f"s== {second}", "tran": "file", "rotational": "no"}
    assert disk.read_bytes() == before
    agent.post(job(web.url, image.sha256, disk={"name": f"<in> {tmp_path}", "tran": "file"}))
    error = agent.wait_for("error")["error"]
    assert (error["code"], error["diskState"]) == ("disk.selector", "untouched")
    assert f"{second}: fits" in error["detail"]
    assert disk.read_bytes() == before
    answer = agent.post(job(web.url, image.sha256, disk={"size": "big", "sn": "1"}))
    assert answer.status == 400
    assert [fault["path"] for fault in answer.json["details"]["faults"]] == ["disk.size", "disk.sn"]


def test_the_health_is_told_and_the_route_of_a_deployment_takes_no_other_method(make_agent):
    agent = make_agent().start()
    assert agent.get("/healthz").json["status"] == "ok"
    answer = agent.request("PUT", DEPLOYMENT, {})
    assert answer.status == 405
    assert answer.json["errorCode"] == "METHOD_NOT_ALLOWED"
    assert agent.get("/nowhere").json["errorCode"] == "NOT_FOUND"
