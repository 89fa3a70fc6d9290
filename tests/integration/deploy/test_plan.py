"""What is decided from which facts. Nothing is touched, so the facts are made up or read from small images."""

import dataclasses
import os
import subprocess

import pytest

from agent.deploy.plan import MIN_DISK_BYTES, Facts, plan
from agent.errors import JobInvalid
from agent.formats.image import ImageFacts, examine
from agent.model.contents import Contents
from agent.model.disks import Disk, Holder
from agent.model.job import parse_job
from agent.model.policy import Policy, SeveralPolicy, require_allowed
from agent.model.stage import EVERY_STAGE, STAGES, State
from agent.units import GiB, KiB, MiB

SIZE = 16 * MiB
DRIVE_SIZE = 400 * KiB
ESP = "start=2048,size=2048,type=uefi"
ROOT = "start=4096,size=4096,type=linux"


def job(**members):
    return parse_job({"URL": "https://a.example/x?t=secret", "type": "raw"} | members)


def disk(**members) -> Disk:
    return Disk("/dev/sda", members.pop("size", GiB), **members)


@pytest.fixture
def image(tmp_path):
    """The facts of an image: image("gpt", ESP, ROOT)."""

    def make(
        label: str = "gpt", *partitions: str, size: int | None = SIZE, boot_code: bool = True
    ) -> ImageFacts:
        path = tmp_path / "image.raw"
        path.unlink(missing_ok=True)
        path.touch()
        os.truncate(path, SIZE)
        script = "\n".join([f"label: {label}", *(partitions or (ESP, ROOT))]) + "\n"
        subprocess.run(["sfdisk", "-q", path], input=script, text=True, check=True, capture_output=True)
        data = path.read_bytes()
        return examine((b"\xeb" if boot_code else b"\0") + data[1:], size)

    return make


def facts(target: Disk | None = None, image: ImageFacts | None = None, **members) -> Facts:
    drive = {"drive_size": DRIVE_SIZE}
    given = {"explicit": True, "firmware": None} | drive | members
    return Facts(targets=(target or disk(),), image=image, **given)


def codes(*arguments) -> list[str]:
    return [refusal.code for refusal in plan(*arguments).refusals]


def test_an_image_on_its_own_target_is_refused_and_nothing_else_is_asked():
    (refusal,) = plan(job(), facts(shared="image.raw is the target itself")).refusals
    assert (refusal.code, refusal.blame) == ("disk.same", "request")
    assert "image.raw is the target itself" in refusal.message


def test_the_selector_by_which_the_disk_was_chosen_is_noted():
    by = "chosen by the disk selector: serial s== z1"
    assert by in plan(job(), facts(chosen_by="serial s== z1")).notes
    assert not any("selector" in note for note in plan(job(disk={"serial": "Z1"}), facts()).notes)


def test_what_is_on_the_disk_is_in_the_document_where_it_was_looked_at():
    assert plan(job(), facts()).document()["contents"] is None
    document = plan(job(), facts(contents=(Contents(blank=True),))).document()["contents"]
    assert document == {"blank": True, "table": None, "pieces": [], "leftOut": 0, "unread": None}


def test_logical_partitions_that_cannot_be_followed_are_the_images_fault(image):
    broken = dataclasses.replace(image("dos"), chain_fault="the chain loops")
    (refusal,) = plan(job(), facts(image=broken)).refusals
    assert (refusal.code, refusal.blame) == ("image.damaged", "image")
    assert "the chain loops" in refusal.message


def test_what_only_libparted_dislikes_is_a_note(image):
    disliked = dataclasses.replace(image(), libparted="type mac")
    decided = plan(job(), facts(image=disliked))
    assert decided.refusals == ()
    assert any("type mac" in note for note in decided.notes)
    assert not any("libparted" in note for note in plan(job(), facts(image=image())).notes)


def test_that_there_is_no_libparted_to_ask_is_a_note(image):
    decided = plan(job(), facts(image=dataclasses.replace(image(), libparted_missing=True)))
    assert decided.refusals == ()
    assert any("pyparted is not installed" in note for note in decided.notes)


def test_nothing_stands_against_a_sound_job(image):
    decided = plan(job(), facts(image=image()))
    assert decided.refusals == ()
    assert [step.stage for step in decided.steps] == list(STAGES)
    assert sum(step.weight for step in decided.steps) == 100
    assert (decided.slot.kind, decided.slot.number) == ("new", 3)
    assert decided.slot.size >= DRIVE_SIZE
    assert decided.slot.start + decided.slot.size <= GiB - 33 * 512


@pytest.mark.parametrize(
    ("asked", "policy"),
    [("readback", "commit"), (None, "readback"), ("commit", "readback")],
)
def test_everything_is_read_back_where_the_job_or_the_operator_wants_it(asked, policy):
    steps = plan(job(verify=asked), facts(policy=Policy(verify=policy))).steps
    assert [step.stage for step in steps] == list(EVERY_STAGE)
    assert sum(step.weight for step in steps) == 100
    assert not next(step for step in steps if step.stage is State.READBACK).destructive


def test_only_reading_comes_before_the_claim():
    steps = plan(job(), facts()).steps
    assert [step.stage.value for step in steps if not step.destructive] == ["preflight", "verify"]
    assert not steps[0].destructive


def test_a_plan_without_the_image_decides_what_it_can():
    assert codes(job(), facts(disk(read_only=True))) == ["disk.ineligible"]
    assert plan(job(), facts()).slot is None
    assert codes(job(), facts()) == []


def test_the_document_of_a_plan_has_no_secrets(image):
    decided = plan(job(), facts(image=image()))
    document = decided.document()
    assert "secret" not in str(document)
    assert document["configDrive"]["start"] == decided.slot.start
    assert document["disk"]["path"] == "/dev/sda"


def test_without_a_config_drive_there_is_no_slot(image):
    decided = plan(job(), facts(image=image(), drive_size=None))
    assert (decided.slot, decided.refusals) == (None, ())
    assert decided.document()["configDrive"] is None


# -- the policy and the disk ---------------------------------------------------------------------------------


def test_the_policy_of_the_server():
    strict = Policy(require_checksum=True, allow_http=False)
    assert codes(job(), facts(policy=strict)) == ["job.invalid"]
    plain = job(URL="HTTP://a.example/x")
    (refusal,) = plan(plain, facts(policy=strict)).refusals
    assert [fault.path for fault in refusal.faults] == ["checkSum", "URL"]
    checked = job(checkSum="0" * 64, checkSumType="sha256")
    assert codes(checked, facts(policy=strict)) == []
    assert codes(plain, facts()) == []


def test_a_checksum_by_plain_http_vouches_for_nothing():
    digest, plain, safe = (
        {"checkSum": value, "checkSumType": "sha256"}
        for value in ("0" * 64, "http://h/SUMS", "https://h/SUMS")
    )
    strict, careful = Policy(require_checksum=True), Policy(require_checksum="http")
    for members in (digest, plain, safe):
        assert codes(job(**members), facts(policy=strict)) == []
        assert codes(job(**members), facts(policy=careful)) == []
    assert codes(job(), facts(policy=careful)) == []
    for members, count in (({}, 1), (plain, 1), (digest, 0), (safe, 0)):
        refusals = plan(job(URL="http://h/i", **members), facts(policy=careful)).refusals
        assert [fault.path for refusal in refusals for fault in refusal.faults] == ["checkSum"] * count
    mirrored = job(mirrors=["https://m/i", "http://m/i"])
    (refusal,) = plan(mirrored, facts(policy=careful)).refusals
    assert [fault.path for fault in refusal.faults] == ["checkSum"]
    (refusal,) = plan(mirrored, facts(policy=Policy(allow_http=False))).refusals
    assert [fault.path for fault in refusal.faults] == ["mirrors[1]"]
    (refusal,) = plan(job(**plain), facts(policy=Policy(allow_http=False))).refusals
    assert [(fault.path, fault.message) for fault in refusal.faults] == [
        ("checkSum", "must be https by this server's policy")
    ]


def test_files_of_the_server_are_for_those_who_are_on_it():
    for url in ("file:///srv/image.raw", "FILE:/srv/image.raw"):
        local = job(URL=url)
        require_allowed(local, Policy(), remote=False)
        with pytest.raises(JobInvalid, match="allow_file") as caught:
            require_allowed(local, Policy(), remote=True)
        assert [fault.path for fault in caught.value.faults] == ["URL"]
        require_allowed(local, Policy(allow_file=True), remote=True)
    require_allowed(job(), Policy(), remote=True)


@pytest.mark.parametrize("kind", ["qcow2", "ova"])
def test_content_has_to_be_of_the_declared_type(image, kind):
    assert codes(job(type=kind), facts(image=image())) == ["image.type"]
    found = dataclasses.replace(image(), container=kind)
    assert codes(job(type=kind), facts(image=found)) == []
    assert codes(job(), facts(image=found)) == ["image.no_table"]


def test_a_guest_whose_first_bytes_come_late_is_examined_later():
    late = ImageFacts("unknown data", SIZE, "qcow2", examined=False)
    assert codes(job(type="qcow2"), facts(image=late)) == []
    too_large = dataclasses.replace(late, size=2 * GiB)
    assert codes(job(type="qcow2"), facts(image=too_large)) == ["image.size"]


def test_a_disk_in_use_is_busy():
    holder = Holder("mount", "/dev/sda1", "/srv/data", "/dev/sda1", stoppable=False)
    (refusal,) = plan(job(), facts(disk(holders=(holder,)))).refusals
    assert refusal.code == "disk.busy"
    assert "/srv/data" in refusal.message


def test_what_guards_against_guessing_is_lifted_by_a_name():
    target = disk(removable=True)
    assert codes(job(), facts(target, explicit=False)) == ["disk.ineligible"]
    assert codes(job(), facts(target, explicit=True)) == []


def test_a_disk_needs_room_for_more_than_its_held_ends():
    assert codes(job(), facts(disk(size=MIN_DISK_BYTES - 512))) == ["disk.ineligible"]
    assert codes(job(), facts(disk(size=MIN_DISK_BYTES))) == []


# -- the image against the disk ------------------------------------------------------------------------------


@pytest.mark.parametrize("difference", [0, 512, -512])
def test_the_size_of_the_image(image, difference):
    decided = plan(job(), facts(disk(size=SIZE + difference), image(), drive_size=None))
    assert [refusal.code for refusal in decided.refusals] == (["image.size"] if difference < 0 else [])


def test_an_image_of_unknown_size_is_judged_by_its_table(image):
    """Its backup GPT may lie beyond the disk: a new one is made. Its partitions may not."""
    unknown = image(size=None)
    assert codes(job(), facts(disk(size=8 * MiB), unknown)) == []
    assert "gpt.relocate" in codes(job(), facts(disk(size=4 * MiB), unknown, drive_size=None))


def test_an_image_that_ends_before_its_table_does(image):
    decided = plan(job(), facts(image=image(size=4 * MiB - 1)))
    assert [refusal.code for refusal in decided.refusals] == ["image.truncated"]
    assert str(4 * MiB) in decided.refusals[0].message


@pytest.mark.parametrize("label", ["gpt", "dos"])
def test_the_sector_size(image, label):
    partitions = (ESP, ROOT) if label == "gpt" else ("start=2048,size=30720,type=83",)
    small = image(label, *partitions)
    assert small.sector_size == 512
    native = disk(logical_sector_size=4096, physical_sector_size=4096)
    emulated = disk(logical_sector_size=512, physical_sector_size=4096)
    decided = plan(job(), facts(native, small))
    assert decided.refusals[0].code == "disk.sector_size"
    assert decided.refusals[0].message == "image has sector size 512 but /dev/sda has 4096"
    assert codes(job(), facts(emulated, small)) == []


def test_an_mbr_that_does_not_tell_its_sector_size_is_taken_for_512(image):
    unknown = image("dos", "start=2048,size=2048,type=83", size=None)
    assert unknown.sector_size is None
    assert codes(job(), facts(disk(), unknown)) == []
    assert codes(job(), facts(disk(logical_sector_size=4096), unknown)) == ["disk.sector_size"]


def test_a_file_takes_the_sector_size_of_the_image(image):
    target = Disk("/srv/disk.img", GiB, kind="file", transport="file")
    assert codes(job(), facts(target, image())) == []


def test_the_firmware_has_to_find_something_to_start(image):
    assert codes(job(), facts(image=image("gpt", ROOT), firmware="uefi")) == ["boot.esp"]
    assert codes(job(), facts(image=image(boot_code=False), firmware="bios")) == ["boot.code"]
    assert codes(job(), facts(image=image(boot_code=False), firmware="uefi")) == []
    assert codes(job(), facts(image=image("gpt", ROOT), firmware="bios")) == []
    assert codes(job(), facts(image=image("gpt", ROOT, boot_code=False), firmware=None)) == []


def test_all_refusals_are_told_not_only_the_first(image):
    target = disk(logical_sector_size=4096)
    bare = image("gpt", ROOT, boot_code=False)
    assert codes(job(), facts(target, bare, firmware="uefi")) == ["disk.sector_size", "boot.esp"]


@pytest.mark.parametrize("content", ["html", "gzip", "ext4", "nothing"])
def test_what_is_no_image(content):
    (refusal,) = plan(job(), facts(image=ImageFacts(content, 100))).refusals
    assert refusal.code == "image.no_table"
    assert f"`{content}`" in refusal.message


def test_a_damaged_table_says_what_to_do():
    damaged = ImageFacts("raw", SIZE, table_fault="primary GPT: header CRC: 1 found, 2 expected")
    (refusal,) = plan(job(), facts(image=damaged)).refusals
    assert refusal.code == "gpt.relocate"
    assert "header CRC" in refusal.detail
    assert refusal.hint


# -- the config drive ----------------------------------------------------------------------------------------


def test_a_drive_that_does_not_fit(image):
    tight = image("gpt", ESP, "start=4096,size=28639,type=linux")
    assert codes(job(), facts(disk(size=SIZE), tight)) == ["configdrive.create"]
    assert codes(job(), facts(disk(size=SIZE), tight, drive_size=None)) == []
    assert codes(job(), facts(disk(size=SIZE + 2 * MiB), tight)) == []


def test_a_drive_without_a_slot(image):
    primaries = [f"start={2048 * n},size=2048,type=83" for n in range(1, 5)]
    assert codes(job(), facts(image=image("dos", *primaries))) == ["configdrive.create"]
    assert codes(job(), facts(image=image("dos", *primaries[:3]))) == []


def test_a_config_2_partition_is_used_again(image):
    own = 'start=12288,size=2048,type=linux,name="config-2"'
    slot = plan(job(), facts(image=image("gpt", ESP, ROOT, own))).slot
    assert (slot.kind, slot.number, slot.start) == ("reuse", 3, 6 * MiB)


def test_what_people_should_know_is_noted():
    forgotten = job(configdrive={"hostname": "a"})
    notes = plan(forgotten, facts(drive_size=None)).notes
    assert any("configdrive.enable is not true" in note for note in notes)
    assert any("no checksum" in note for note in notes)
    assert notes[0].startswith("target: /dev/sda: 1.0 GiB")


# -- several disks, and a mirror of them ---------------------------------------------------------------------

OTHER = Disk("/dev/sdb", 2 * GiB)
MIRROR = {"raid": {"level": "raid1"}}


def both(image: ImageFacts | None = None, *disks: Disk, **members) -> Facts:
    return dataclasses.replace(facts(image=image, **members), targets=disks or (disk(), OTHER))


def refusals(*arguments) -> list[tuple[str, str]]:
    return [(refusal.code, refusal.message) for refusal in plan(*arguments).refusals]


def test_each_disk_has_to_be_fit_for_it():
    busy = dataclasses.replace(
        OTHER, holders=(Holder("mount", "/dev/sdb1", "/srv", "/dev/sdb1", stoppable=False),)
    )
    assert codes(job(), both(None, disk(read_only=True), busy)) == ["disk.ineligible", "disk.busy"]


def test_disks_with_sectors_of_two_sizes_get_no_image_together():
    ((code, message),) = refusals(job(), both(None, disk(), disk(logical_sector_size=4096)))
    assert code == "raid.disks"
    assert "/dev/sda has 512, /dev/sda has 4096" in message


@pytest.mark.parametrize("same", [{"identity": (8, 0)}, {"wwn": "0x5000c500a0b1c2d3"}])
def test_two_ways_to_one_disk_are_not_two_disks(same):
    other = dataclasses.replace(OTHER, **same)
    ((code, message),) = refusals(job(), both(None, disk(**same), other))
    assert (code, "/dev/sda and /dev/sdb are the same disk" in message) == ("raid.disks", True)


def test_the_smallest_disk_decides_whether_the_image_fits(image):
    ((code, message),) = refusals(job(), both(image(), disk(), Disk("/dev/sdb", SIZE - 512)))
    assert code == "image.size"
    assert "/dev/sdb" in message


def test_nothing_stands_against_a_mirror(image):
    decided = plan(job(**MIRROR), both(image()))
    assert decided.refusals == ()
    assert any("mdadm in its initramfs" in note for note in decided.notes)
    assert "make the root a mirror" in decided.steps[4].title


def test_that_a_disk_may_fail_is_said_where_there_are_several(image):
    lenient = Policy(several=SeveralPolicy(allow_failed=True))
    for given in (facts(image=image()), both(image())):
        notes = plan(job(), dataclasses.replace(given, policy=lenient)).notes
        assert any("is kept out" in note for note in notes) == (len(given.targets) > 1)


def test_a_mirror_has_two_disks(image):
    ((code, message),) = refusals(job(**MIRROR), facts(image=image()))
    assert (code, "2 disks, and there are 1" in message) == ("raid.disks", True)


XBOOTLDR = "start=4096,size=2048,type=BC13C2FF-59E6-4262-A352-B275FD6F7172"


@pytest.mark.parametrize(
    ("partitions", "told"),
    [
        ((ESP, ROOT, "start=8192,size=2048,type=swap"), "swap"),
        ((ESP, XBOOTLDR, "start=8192,size=4096,type=linux"), "/boot"),
    ],
)
def test_an_image_with_more_than_a_root_is_no_mirror(image, partitions, told):
    ((code, message),) = refusals(job(**MIRROR), both(image("gpt", *partitions)))
    assert code == "raid.layout"
    assert told in message


def test_an_mbr_can_be_a_mirror_without_logical_partitions(image):
    assert codes(job(**MIRROR), both(image("dos", "start=2048,type=83"))) == []
    extended = "start=2048,type=5", "start=4096,type=83"
    assert codes(job(**MIRROR), both(image("dos", *extended))) == ["raid.layout"]


def test_what_the_root_holds_may_be_against_a_mirror(image):
    encrypted = dataclasses.replace(image(), root_fault="its root is encrypted (LUKS)")
    assert codes(job(**MIRROR), both(encrypted)) == ["raid.layout"]


def test_a_disk_needs_room_for_the_arrays_own_data_behind_the_root(image):
    reaching = image("gpt", ESP, f"start=4096,size={SIZE // 512 - 4096 - 40},type=linux")
    exact = both(reaching, OTHER, Disk("/dev/sdc", SIZE), drive_size=None)
    ((code, message),) = refusals(job(**MIRROR), exact)
    assert code == "raid.disks"
    assert message.startswith("The image cannot go to these disks together: /dev/sdc:")
    assert codes(job(), exact) == []
