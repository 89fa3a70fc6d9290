"""Whether a disk can erase itself, and by which command.

`samples/hdparm-*.txt` are what hdparm 9.65 prints for identify data (`hdparm --Istdin`): of a disk that is ready, one
that the firmware froze, one that is locked, one without the enhanced erasure, one without any. `samples/nvme-*.json`
are in the form of nvme-cli 2, with what QEMU's NVMe disk says of itself.
"""

import json
from pathlib import Path

import pytest

from agent.model.self_erasure import (
    AtaSecurity,
    CannotEraseItself,
    parse_hdparm,
    plan_ata,
    plan_nvme,
    unlock_ata,
)

SAMPLES = Path(__file__).parent / "samples"
CONTROLLER = (SAMPLES / "nvme-id-ctrl-qemu.json").read_text()
NAMESPACE = (SAMPLES / "nvme-id-ns-qemu.json").read_text()
DISK = "/dev/nvme0n1"


def changed(document: str, **members: object) -> str:
    return json.dumps(json.loads(document) | members)


def security(name: str) -> AtaSecurity:
    return parse_hdparm((SAMPLES / f"hdparm-{name}.txt").read_text())


# -- NVMe ----------------------------------------------------------------------------------------------------


def test_a_namespace_keeps_the_size_of_its_sectors():
    plan = plan_nvme(DISK, CONTROLLER, NAMESPACE)
    assert plan.method == "nvme_user_data"
    (command,) = plan.commands
    assert command[:5] == ("nvme", "format", DISK, "--ses=1", "--lbaf=4")
    assert "--force" in command, "else it waits for somebody to think it over"


def test_the_key_is_thrown_away_where_there_is_one():
    plan = plan_nvme(DISK, changed(CONTROLLER, fna=4), NAMESPACE)
    assert plan.method == "nvme_crypto"
    assert "--ses=2" in plan.commands[0]


def test_metadata_and_protection_information_stay_as_they_are():
    namespace = changed(NAMESPACE, flbas=0x15 | 1 << 5, dps=0x0B)
    options = plan_nvme(DISK, CONTROLLER, namespace).commands[0]
    assert {"--lbaf=21", "--ms=1", "--pi=3", "--pil=1"} <= set(options)


@pytest.mark.parametrize("fna", [1, 2])
def test_other_namespaces_are_not_erased_by_the_way(fna):
    controller = changed(CONTROLLER, fna=fna)
    with pytest.raises(CannotEraseItself, match="would erase /dev/nvme0n2, /dev/nvme0n3 too"):
        plan_nvme(DISK, controller, NAMESPACE, ("/dev/nvme0n2", "/dev/nvme0n3"))
    assert plan_nvme(DISK, controller, NAMESPACE).method == "nvme_user_data"
    assert plan_nvme(DISK, CONTROLLER, NAMESPACE, ("/dev/nvme0n2",)).method == "nvme_user_data"


def test_a_disk_without_the_command_is_left_to_others():
    with pytest.raises(CannotEraseItself, match="no NVMe format command"):
        plan_nvme(DISK, changed(CONTROLLER, oacs=0x108), NAMESPACE)


@pytest.mark.parametrize("output", ["", "no json", "[]", "7", "{}", '{"oacs": "2"}', "[" * 100_000])
def test_an_answer_that_is_not_understood_erases_nothing(output):
    with pytest.raises(CannotEraseItself, match="what nvme-cli says"):
        plan_nvme(DISK, output, NAMESPACE)
    with pytest.raises(CannotEraseItself, match="what nvme-cli says"):
        plan_nvme(DISK, CONTROLLER, output)


# -- ATA -----------------------------------------------------------------------------------------------------


def test_the_enhanced_erasure_is_taken_where_there_is_one():
    assert security("ready") == AtaSecurity(supported=True, enhanced=True, minutes=8, enhanced_minutes=8)
    plan = plan_ata("/dev/sda", security("ready"))
    assert plan.method == "ata_enhanced"
    assert [command[3] for command in plan.commands] == ["--security-set-pass", "--security-erase-enhanced"]
    assert all(command[-1] == "/dev/sda" for command in plan.commands)
    assert plan.timeout > 8 * 60


def test_the_plain_erasure_has_time_where_the_disk_tells_no_end():
    assert security("plain") == AtaSecurity(supported=True)
    plan = plan_ata("/dev/sda", security("plain"))
    assert plan.method == "ata"
    assert plan.commands[-1][3] == "--security-erase"
    assert plan.timeout > 508 * 60


def test_a_time_that_only_the_plain_erasure_has_is_not_taken_for_the_other():
    frozen = security("frozen")
    assert (frozen.minutes, frozen.enhanced_minutes) == (4, None)


@pytest.mark.parametrize(
    ("name", "why"), [("frozen", "frozen"), ("locked", "password"), ("none", "no ATA secure erase")]
)
def test_a_disk_that_would_refuse_is_not_asked(name, why):
    with pytest.raises(CannotEraseItself, match=why):
        plan_ata("/dev/sda", security(name))


def test_a_disk_without_a_security_section_has_none():
    assert parse_hdparm("") == parse_hdparm("/dev/sda:\n SG_IO: bad/missing sense data\n") == AtaSecurity()


def test_what_an_interrupted_erasure_left_is_taken_away():
    locked = security("locked")
    assert (locked.enabled, locked.locked) == (True, True)
    assert [command[3] for command in unlock_ata("/dev/sda", locked)] == [
        "--security-unlock",
        "--security-disable",
    ]
    assert [c[3] for c in unlock_ata("/dev/sda", AtaSecurity(supported=True, enabled=True))] == [
        "--security-disable"
    ]
    assert unlock_ata("/dev/sda", security("ready")) == ()
    assert unlock_ata("/dev/sda", AtaSecurity(supported=True, enabled=True, locked=True, frozen=True)) == ()
