"""The front by the side of a conductor: what each of them says, and what the other makes of it."""

import asyncio
import base64
import json

import pytest

from agent.aio import run_blocking
from agent.errors import ChecksumMismatch
from agent.host.interfaces import mac_addresses
from tests.integration.service.ironic.conftest import TOKEN, URL

STEP = {"interface": "deploy", "step": "write_image"}
IMAGE = {"urls": [URL], "disk_format": "raw", "os_hash_algo": "sha256", "os_hash_value": "0" * 64}
WRITE = {"step": {**STEP, "args": {"image_info": IMAGE, "configdrive": None}}, "node": {"uuid": "U"}}
VOID = (400, {"error_message": {"faultstring": "Invalid or missing agent token received."}})


async def write(ironic):
    await ironic.until(lambda: ironic.heartbeats)
    return await ironic.order("deploy.execute_deploy_step", **WRITE)


async def test_a_deployment_from_the_lookup_to_its_end(ironic, run_front):
    async with run_front() as agent:
        command = await write(ironic)
        assert command["command_status"] == "RUNNING"
        deployment = await agent.deploying()
        assert agent.slot.entry.id == command["id"]
        deployment.succeed()
        await ironic.until(lambda: ironic.heartbeats[-1].get("agent_status") == "end")
        [ended] = await ironic.commands()
        assert ended["command_status"] == "SUCCEEDED"
        assert ended["command_result"]["deploy_step"] == STEP
        assert ended["command_result"]["receipt"] == agent.slot.receipt
        assert ended["command_result"]["receipt"]["payloadType"] == "application/vnd.in-toto+json"
        assert TOKEN not in str(agent.document)


async def test_a_deployment_that_fails_has_its_receipt_too(ironic, run_front):
    async with run_front() as agent:
        await write(ironic)
        (await agent.deploying()).fail(ChecksumMismatch(algorithm="sha256", got="1" * 64, expected="0" * 64))
        await ironic.until(lambda: ironic.heartbeats[-1].get("agent_status") == "error")
        [ended] = await ironic.commands()
        assert ended["command_status"] == "FAILED"
        assert "Bad sha256" in ended["command_error"]["details"]
        assert ended["command_result"] == {"receipt": agent.slot.receipt}
        told = json.loads(base64.b64decode(agent.slot.receipt["payload"]))["predicate"]
        assert told["outcome"]["error"]["code"] == "checksum.mismatch"
        assert TOKEN not in str(told)
    ironic.heartbeats.clear()
    async with run_front():
        await ironic.until(lambda: ironic.heartbeats)
        [known] = await ironic.commands()
        assert known["command_result"] == ended["command_result"]


async def test_an_agent_that_comes_back_tells_progress_and_goes_on(ironic, run_front):
    async with run_front() as agent:
        command = await write(ironic)
        await agent.deploying()
    before = ironic.heartbeats[-1]
    ironic.heartbeats.clear()
    async with run_front() as agent:
        await ironic.until(lambda: ironic.heartbeats)
        again = ironic.heartbeats[-1]
        assert again["agent_status"] == "start"
        members = ("callback_url", "agent_verify_ca", "agent_token")
        assert [again[key] for key in members] == [before[key] for key in members]
        assert [known["command_status"] for known in await ironic.commands()] == ["RUNNING"]
        (await agent.deploying()).succeed()
        await ironic.until(lambda: ironic.heartbeats[-1]["agent_status"] == "end")
        assert [(known["id"], known["command_status"]) for known in await ironic.commands()] == [
            (command["id"], "SUCCEEDED")
        ]


async def test_a_void_token_ends_the_deployment_and_the_node_is_looked_up_anew(ironic, run_front):
    async with run_front() as agent:
        await write(ironic)
        await agent.deploying()
        ironic.heartbeat, ironic.lookup, node = VOID, (404, None), ironic.lookup
        await agent.until(lambda document: document["status"] == "error", "it is over")
        assert agent.document["error"]["code"] == "job.cancelled"
        ironic.asked.clear()
        await ironic.until(lambda: "/v1/lookup" in ironic.asked)
        assert agent.document["ironic"]["node"] is None
        assert (await ironic.call("GET"))[0] == 401
        ironic.heartbeats.clear()
        ironic.heartbeat, ironic.lookup = (202, None), node
        await ironic.until(lambda: ironic.heartbeats)
        assert await ironic.commands() == []


async def test_a_404_without_words_is_not_ironics_and_stops_nothing(ironic, run_front):
    async with run_front() as agent:
        await write(ironic)
        await agent.deploying()
        ironic.heartbeat = (404, "no such page")
        await agent.until(lambda document: document["ironic"]["state"] == "failing", "it is told")
        assert agent.slot.current.deploying
        assert agent.document["ironic"]["node"] is not None


async def test_why_a_node_is_not_known_yet_is_told_until_it_is(ironic, run_front):
    node, ironic.lookup = ironic.lookup, (404, {"error_message": {"faultstring": "Resource missing."}})
    async with run_front() as agent:
        document = await agent.until(lambda document: document["ironic"]["state"] == "waiting", "it is told")
        told = document["ironic"]
        assert (told["node"], told["trouble"]) == (None, None)
        assert "the lookup was answered HTTP 404: Resource missing" in told["reason"]
        for address in await run_blocking(mac_addresses):
            assert address in told["reason"]
        assert told["since"] is not None
        assert told["nextTry"] is not None
        ironic.lookup = (409, None)
        await agent.until(lambda document: "locked" in document["ironic"]["reason"], "the new answer is told")
        assert agent.document["ironic"]["since"] == told["since"]
        ironic.lookup = node
        document = await agent.until(lambda document: document["ironic"]["node"] is not None, "it is known")
        assert (document["ironic"]["state"], document["ironic"]["reason"]) == ("answering", None)


async def test_an_inventory_and_a_lookup_that_find_no_node_are_both_told(ironic, run_front):
    ironic.inspection, ironic.lookup = (404, None), (404, None)
    async with run_front(inspection_url=f"{ironic.url}/v1/continue_inspection") as agent:
        document = await agent.until(lambda document: document["ironic"]["state"] == "waiting", "it is told")
    assert "no node of this machine is being inspected; the inventory was" in document["ironic"]["reason"]
    assert "no node that waits for its ramdisk has a MAC address" in document["ironic"]["reason"]


async def test_a_token_that_the_journal_cannot_take_is_not_lost(ironic, run_front, tmp_path):
    masked = (
        200,
        {"node": ironic.lookup[1]["node"], "config": {"agent_token": "***", "heartbeat_timeout": 3}},
    )
    ironic.lookup, node = (404, None), ironic.lookup
    async with run_front() as agent:
        await ironic.until(lambda: "/v1/lookup" in ironic.asked)
        (tmp_path / "state").rename(tmp_path / "moved")
        ironic.lookup = node
        ironic.asked.clear()
        await agent.until(lambda document: document["ironic"]["state"] == "failing", "it is told")
        ironic.lookup = masked  # Ironic gives a token away once
        assert ironic.heartbeats == []
        (tmp_path / "moved").rename(tmp_path / "state")
        await ironic.until(lambda: ironic.heartbeats)
        assert ironic.heartbeats[-1]["agent_token"] == TOKEN


async def test_the_token_that_came_by_virtual_media(ironic, run_front, tmp_path):
    ironic.lookup = (200, ironic.lookup[1] | {"config": {"agent_token": "***", "heartbeat_timeout": 3}})
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(0o600)
    async with run_front(agent_token_file=path) as agent:
        await ironic.until(lambda: ironic.heartbeats)
        assert ironic.heartbeats[-1]["agent_token"] == TOKEN
        assert TOKEN not in str(agent.document)


@pytest.mark.parametrize("refusal", [(404, None), (400, {"error_message": {"faultstring": "No inventory"}})])
async def test_a_node_that_nobody_inspects_is_looked_up_all_the_same(ironic, run_front, refusal):
    ironic.inspection = refusal
    async with run_front(inspection_url=f"{ironic.url}/v1/continue_inspection"):
        await ironic.until(lambda: ironic.heartbeats)
    assert "/v1/continue_inspection" in ironic.asked


async def test_why_an_inventory_was_refused_is_told_where_there_is_no_node_either(ironic, run_front):
    ironic.inspection, ironic.lookup = (400, {"error_message": {"faultstring": "No inventory"}}), (404, None)
    async with run_front(inspection_url=f"{ironic.url}/v1/continue_inspection") as agent:
        await agent.until(lambda document: document["ironic"]["state"] == "failing", "it is told")
        assert "No inventory" in str(agent.document["ironic"])


async def test_an_inventory_is_posted_once(ironic, run_front):
    async with run_front(inspection_url=f"{ironic.url}/v1/continue_inspection"):
        await ironic.until(lambda: len(ironic.heartbeats) > 1)
    assert ironic.asked.count("/v1/continue_inspection") == 1


async def test_the_first_of_several_urls_that_can_be_reached(ironic, run_front):
    async with run_front(url=f"http://nowhere.invalid:1,{ironic.url}", advertise=None):
        await ironic.until(lambda: ironic.heartbeats)
    assert ironic.heartbeats[-1]["callback_url"].startswith("https://127.0.0.1:")


async def test_a_conductor_that_calls_back_by_ipv6(ironic, run_front):
    async with run_front(listen="0.0.0.0:0", advertise="::1"):
        await ironic.until(lambda: ironic.heartbeats)
        assert await ironic.commands() == []


async def test_another_address_is_told_once_there_is_no_node(ironic, run_front):
    async with run_front(listen="0.0.0.0:0"):
        await ironic.until(lambda: ironic.heartbeats)
    ironic.heartbeats.clear()
    async with run_front(listen="0.0.0.0:0", advertise="::1"):
        await ironic.until(lambda: ironic.heartbeats)
        assert "127.0.0.1" in ironic.heartbeats[-1]["callback_url"]  # the one that Ironic knows
        ironic.heartbeat = VOID
        ironic.heartbeats.clear()
        await ironic.until(lambda: ironic.heartbeats)
        ironic.heartbeat = (202, None)
        await ironic.until(lambda: "[::1]" in ironic.heartbeats[-1]["callback_url"])


async def test_a_ca_that_cannot_be_used_is_told(ironic, run_front, tmp_path):
    async with run_front(ca_file=tmp_path / "missing.crt") as agent:
        await agent.until(lambda document: document["ironic"]["state"] == "failing", "it is told")
        assert "missing.crt" in str(agent.document["ironic"])


async def test_the_boot_entry_of_a_disk_that_was_written_anew_by_somebody_else(ironic, run_front):
    async with run_front() as agent:
        await write(ironic)
        (await agent.deploying()).succeed()
        await ironic.until(lambda: ironic.heartbeats[-1].get("agent_status") == "end")
        await agent.post()
        await agent.deploying()
        await ironic.order("image.install_bootloader", target_boot_mode="uefi")
        await ironic.until(lambda: ironic.heartbeats[-1].get("agent_status") == "error")
        last = (await ironic.commands())[-1]
        assert last["command_status"] == "FAILED"
        assert "replaced" in last["command_error"]["details"]


async def test_a_slot_that_somebody_else_has(ironic, run_front):
    async with run_front() as agent:
        await agent.post()
        await write(ironic)
        await ironic.until(lambda: ironic.heartbeats[-1].get("agent_status") == "error")
        assert "A deployment is under way" in (await ironic.commands())[-1]["command_error"]["details"]


async def test_a_deployment_that_is_deleted_on_the_server_has_failed(ironic, run_front):
    async with run_front() as agent:
        await write(ironic)
        await agent.deploying()
        await agent.slot.erase()
        await ironic.until(lambda: ironic.heartbeats[-1].get("agent_status") == "error")
        assert "deleted" in (await ironic.commands())[-1]["command_error"]["details"]


async def test_a_daemon_at_its_end_is_not_held_up_by_a_deployment(ironic, run_front):
    async with run_front() as agent:
        await write(ironic)
        await agent.deploying()
        agent.publisher.close()
        await asyncio.sleep(0.1)  # the loop still turns
        assert [known["command_status"] for known in await ironic.commands()] == ["RUNNING"]


@pytest.mark.parametrize(
    ("method", "path", "document", "status"),
    [
        ("POST", "?wait=false", {"name": "deploy.nothing"}, 400),
        ("POST", "?wait=false", [], 400),
        ("POST", "?wait=false", {"name": "deploy.execute_deploy_step", "params": {"step": "\ud800"}}, 400),
        ("GET", "unknown?", None, 404),
        ("PUT", "?", None, 405),
    ],
)
async def test_every_refusal_says_why(ironic, run_front, method, path, document, status):
    async with run_front():
        await ironic.until(lambda: ironic.heartbeats)
        answered, refusal = await ironic.call(method, path, document)
        assert answered == status
        assert refusal["faultstring"]
        for token in ("", "wrong", "%FF"):
            answered, refusal = await ironic.call(method, path, document, token=token)
            assert answered == 401
            assert "token" in refusal["faultstring"]


async def test_a_step_that_nobody_knows_has_failed(ironic, run_front):
    async with run_front():
        await ironic.until(lambda: ironic.heartbeats)
        step = {"interface": "raid", "step": "\ud800" * 200, "args": {}}
        await ironic.order("deploy.execute_deploy_step", step=step)
        await ironic.until(lambda: ironic.heartbeats[-1].get("agent_status") == "error")
        assert "has no deploy step" in (await ironic.commands())[-1]["command_error"]["details"]
