"""What a person is shown and asked before a disk is wiped, at a real terminal; and that no script ever is."""

import os
import re
from pathlib import Path

import pytest

from agent.units import MiB
from tests.kit.agent_process import AgentProcess, agent_process
from tests.kit.commands import run

TABLE = """\
label: gpt
start=1MiB,size=4MiB,type=uefi,name="EFI System"
start=8MiB,size=16MiB,type=linux,name=root
"""


@pytest.fixture
def target(tmp_path) -> Path:
    """A file in a disk's place, with a FAT and an ext4 in partitions."""
    path = tmp_path / "disk.img"
    path.touch()
    os.truncate(path, 64 * MiB)
    run("sfdisk", "--quiet", path, stdin=TABLE)
    run("mkfs.vfat", "-n", "ESP", "--offset", 2048, path, 4096)
    run("mkfs.ext4", "-q", "-F", "-L", "my root", "-E", f"offset={8 * MiB}", path, "16M")
    return path


@pytest.fixture
def begin(on_terminal, make_job, gpt_image, target):
    """Begin `byoi write` to the target at a terminal with a keyboard."""

    def start(*options, disk=target, **more):
        job = make_job(gpt_image)
        more = {"TERM": "xterm", "keyboard": True} | more
        return on_terminal("write", job, "--disk", disk, *options, **more)

    return start


def shown(running) -> str:
    """What stands on the terminal, without its sequences."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", running.text).replace("\r\n", "\n")


def test_what_will_be_lost_is_shown_and_yes_deploys(begin, target, web):
    running = begin(columns=250)  # the path of the disk is as long as pytest makes it
    running.wait_for("[y/N] ")
    assert web.requests == []  # nothing is downloaded for somebody who says no
    heading, *lines, question = shown(running).splitlines()
    assert heading.startswith(f"This destroys what is on {target}: 64.0 MiB")
    assert lines[-3:] == [
        "lost            size  holds           name",
        'disk.img#1   4.0 MiB  vfat "ESP"      EFI System',
        'disk.img#2  16.0 MiB  ext4 "my root"  root',
    ]
    assert question == f"Wipe {target} and go on? [y/N] "
    running.type(b"yes\r")
    assert running.finish() == 0
    assert "done: 48.0 MiB deployed to" in shown(running)


@pytest.mark.parametrize(
    "keys", [b"\r", b"no\r", b"\x04", b"\x03"], ids=["nothing", "no", "end", "interrupt"]
)
def test_any_other_answer_leaves_the_disk_as_it_is(begin, target, web, keys):
    before = target.read_bytes()
    running = begin()
    running.wait_for("[y/N] ")
    running.type(keys)
    assert running.finish() == 130
    assert shown(running).endswith("\nerror: The deployment was cancelled.\nhint: Nothing was written.\n")
    assert target.read_bytes() == before
    assert web.requests == []


def test_another_disk_under_the_name_of_the_one_that_was_shown_is_left_alone(begin, target, tmp_path):
    running = begin()
    running.wait_for("[y/N] ")
    other = tmp_path / "other.img"
    other.write_bytes(b"\x5a" * 64 * MiB)
    other.replace(target)
    running.type(b"y\r")
    assert running.finish() == 1
    assert "it is another disk now than the one that you agreed to lose" in shown(running)
    assert target.read_bytes() == b"\x5a" * 64 * MiB


def test_what_was_typed_before_the_question_is_no_answer(begin, target):
    running = begin()
    running.type(b"y\r")
    running.wait_for("[y/N] ")
    running.type(b"\r")
    assert running.finish() == 130


@pytest.mark.parametrize("options", [("--yes",), ("--json",), ("--dry-run",)])
def test_nobody_is_asked_who_does_not_want_to_be(begin, options):
    running = begin(*options)
    assert running.finish() == 0
    assert "[y/N]" not in running.text


def test_nobody_is_asked_without_a_keyboard_or_without_a_terminal(begin, byoi, make_job, gpt_image, target):
    running = begin(keyboard=False)
    assert running.finish() == 0
    assert "[y/N]" not in running.text
    assert byoi("write", make_job(gpt_image), "--disk", target, stdin=b"n\n").status == 0


@pytest.mark.parametrize("options", [(), ("--size", "64M")])
def test_nobody_is_asked_where_nothing_is_lost(begin, tmp_path, options):
    path = tmp_path / "empty.img"
    if not options:
        path.touch()
        os.truncate(path, 64 * MiB)
    running = begin(*options, disk=path)
    assert running.finish() == 0
    assert "[y/N]" not in running.text


def test_a_disk_that_would_be_refused_is_not_asked_about(begin, target):
    target.write_bytes(b"\xa5" * MiB)
    running = begin()
    assert running.finish() == 1
    assert "[y/N]" not in running.text
    assert "fewer than" in shown(running)


def test_the_plan_shows_the_same(byoi, make_job, gpt_image, target):
    job = make_job(gpt_image)
    outcome = byoi("write", job, "--disk", target, "--dry-run")
    assert outcome.status == 0
    assert "on the disk, and lost:\n" in outcome.out
    assert re.search(r'disk\.img#2 +16\.0 MiB +ext4 "my root" +root\n', outcome.out)
    contents = byoi("write", job, "--disk", target, "--dry-run", "--json").document["contents"]
    assert (contents["table"], contents["blank"], contents["leftOut"]) == ("gpt", False, 0)
    assert [(piece["type"], piece["label"]) for piece in contents["pieces"]] == [
        ("vfat", "ESP"),
        ("ext4", "my root"),
    ]


# -- byoi deploy -----------------------------------------------------------------------------------------------


@pytest.fixture
def agent(target, tmp_path_factory):
    # The path of a Unix socket has at most 107 bytes.
    with agent_process(tmp_path_factory.mktemp("agent"), disks=(target,), grace_seconds=600) as agent:
        yield agent.start()


@pytest.fixture
def hand(agent: AgentProcess, on_terminal):
    """Begin `byoi deploy` at a terminal with a keyboard."""

    def start(*arguments):
        options = {"TERM": "xterm", "keyboard": True, "BYOI_SOCKET": str(agent.socket)}
        return on_terminal("deploy", *arguments, **options)

    return start


def test_the_daemon_tells_what_is_lost(agent, hand, make_job, gpt_image, target):
    before = target.read_bytes()
    job = make_job(gpt_image)
    running = hand(job)
    running.wait_for("[y/N] ")
    assert re.search(r'disk\.img#2 +16\.0 MiB +ext4 "my root" +root\n', shown(running))
    running.type(b"\r")
    assert running.finish() == 130
    assert "Nothing was given to byoi-agent." in shown(running)
    assert agent.get("/v1/status").json["status"] is None
    assert target.read_bytes() == before
    running = hand(job, "--watch")
    running.wait_for("[y/N] ")
    running.type(b"y\r")
    assert running.finish() == 0


def test_a_script_hands_a_job_over_without_a_question(hand, make_job, gpt_image):
    running = hand(make_job(gpt_image), "--yes")
    assert running.finish() == 0
    assert "[y/N]" not in running.text


def test_the_daemon_reads_the_disks_only_where_it_is_asked_to(agent, target):
    (disk,) = (disk for disk in agent.get("/v1/disks").json["disks"] if disk["path"] == str(target))
    assert "contents" not in disk
    document = agent.get("/v1/disks?contents=true").json
    (disk,) = (disk for disk in document["disks"] if disk["path"] == str(target))
    assert [piece["name"] for piece in disk["contents"]["pieces"]] == ["EFI System", "root"]
    assert agent.get("/v1/disks?contents=1").status == 400


def test_a_group_that_is_not_there_is_refused_before_the_question(hand, make_job, gpt_image):
    running = hand(make_job(gpt_image, diskGroupId=7))
    assert running.finish() == 2
    assert "Disk group 7 does not exist" in shown(running)


def test_the_disk_of_a_selector_is_shown_before_the_question(hand, make_job, gpt_image, target):
    running = hand(make_job(gpt_image, disk={"name": f"<in> {target}"}))
    running.wait_for("[y/N] ")
    assert 'ext4 "my root"' in shown(running)
    running.type(b"no\r")
    assert running.finish() == 130
    running = hand(make_job(gpt_image), "--disk-hint", f"name={target}x")
    assert running.finish() == 2
    assert "fits no disk that may be written" in shown(running)


def test_nobody_is_asked_while_a_deployment_is_under_way(agent, hand, web, gpt_image):
    url = web.publish(gpt_image.path, "slow.raw", pause_at=20 * MiB)
    words = ("--url", url, "--type", "raw")
    assert hand(*words, "--yes").finish() == 0
    running = hand(*words)
    assert running.finish() == 1
    assert "[y/N]" not in running.text
    assert "A deployment is under way on this server." in shown(running)
