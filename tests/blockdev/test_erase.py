"""Erasing disks: what must be gone, what must not be touched, and how a disk that fails is told.

Nothing here can be formatted or has an ATA password, so nvme and hdparm are stood in for: by their real output
(`tests/unit/model/samples`), and by noise where a disk would have thrown its key away.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from agent.errors import DeployError, DiskBusy, DiskIneligible, DiskIo, JobCancelled, ToolMissing
from agent.host.disk import ZERO_STEP
from agent.host.erase import erase, erase_express, erase_metadata
from agent.host.inventory import describe_path
from agent.host.process import ProcessFailed
from agent.host.self_erase import other_namespaces
from agent.model.disks import Disk
from agent.units import MiB
from tests.blockdev.conftest import DIRT, ENDS
from tests.blockdev.test_claim import DATA, LVM, OLD_SIZE, RAID, install_old_system
from tests.kit.commands import attempt, run

SIZE = 16 * MiB
SAMPLES = Path(__file__).parents[1] / "unit/model/samples"
CONTROLLER, NAMESPACE, READY, LOCKED, FROZEN = (
    (SAMPLES / name).read_bytes()
    for name in (
        "nvme-id-ctrl-qemu.json",
        "nvme-id-ns-qemu.json",
        "hdparm-ready.txt",
        "hdparm-locked.txt",
        "hdparm-frozen.txt",
    )
)


def described(disk, **members) -> Disk:
    return replace(describe_path(str(disk.device)), **members)


def never() -> bool:
    return False


def silent(done: int, total: int) -> None:
    """Nobody watches."""


class Tool:
    """Stands in for nvme and hdparm: gives what was prepared for each call, and keeps the calls."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.calls: list[tuple[str, ...]] = []

    def __call__(self, argv, *, timeout=60.0) -> bytes:
        self.calls.append(tuple(argv))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer() if callable(answer) else answer

    @property
    def verbs(self) -> list[str]:
        return [next(word for word in call[1:] if word not in ("--user-master", "u")) for call in self.calls]


def failed(*argv: str) -> ProcessFailed:
    return ProcessFailed(errno.EIO, argv, "exit status 5", b"SG_IO: bad/missing sense data")


# -- the metadata --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_nothing_is_found_on_a_disk_without_its_metadata(images, make_disk, sector_size):
    disk = make_disk(OLD_SIZE, sector_size)
    install_old_system(disk, images)
    erased = erase_metadata(described(disk, serial="S1"), explicit=True)
    assert (erased.path, erased.serial, erased.method) == (str(disk.device), "S1", "metadata")
    assert disk.cannot_boot()
    assert run("wipefs", "--noheadings", disk.device) == ""
    for piece in (LVM, RAID, DATA):
        start, end = piece.start * MiB, (piece.start + piece.size) * MiB
        assert attempt("blkid", "-p", "-O", start, "-S", end - start, disk.device).stdout == ""
        assert not disk.is_filled(start + MiB, end - MiB, 0), "the rest of the data is not its business"


def test_an_inventory_that_is_out_of_date_erases_nothing(make_disk):
    disk = make_disk(SIZE)
    for stale in ({"identity": (7, 99)}, {"size": SIZE + 512}):
        with pytest.raises(DiskIo, match=r"another disk now|its size changed"):
            erase_metadata(described(disk, **stale), explicit=True)
    assert disk.is_untouched()


def test_disks_that_must_not_be_written_are_refused(make_disk, tmp_path, loop_device):
    disk = make_disk(SIZE)
    with pytest.raises(DiskIneligible, match="not an ordinary disk"):
        erase_metadata(described(disk))
    with pytest.raises(DiskIneligible, match="the rescue system itself"):
        erase(described(disk, boot_medium=True), silent, never, explicit=True)
    assert disk.is_untouched()
    file = tmp_path / "read-only.img"
    file.write_bytes(bytes([DIRT]) * SIZE)
    device = loop_device(file, read_only=True)
    with pytest.raises(DiskIneligible, match="read-only"):
        erase_express(describe_path(str(device)), explicit=True)
    assert file.read_bytes() == bytes([DIRT]) * SIZE


def test_data_in_use_is_refused_even_where_the_inventory_did_not_know(make_disk, tmp_path):
    disk = make_disk(SIZE)
    run("mkfs.ext4", "-q", disk.device)
    before = described(disk)
    where = tmp_path / "mounted"
    where.mkdir()
    run("mount", disk.device, where)
    try:
        for erasure in (erase_metadata, erase_express, lambda d, **o: erase(d, silent, never, **o)):
            with pytest.raises(DiskBusy, match=f"mounted at {where}"):
                erasure(before, explicit=True)
    finally:
        run("umount", where)
    assert "TYPE=ext4" in run("blkid", "-p", "-o", "export", disk.device)


# -- in moments ----------------------------------------------------------------------------------------------


def test_a_disk_that_can_discard_does_and_its_ends_are_zero(images, make_disk):
    disk = make_disk(OLD_SIZE)
    install_old_system(disk, images)
    erased = erase_express(described(disk), explicit=True)
    assert (erased.method, erased.command) == ("discard", "BLKDISCARD")
    assert disk.cannot_boot()
    assert disk.is_filled(0, OLD_SIZE, 0), "a loop device punches holes"


def test_a_disk_that_cannot_discard_loses_its_metadata(tmp_path):
    file = tmp_path / "disk.img"
    file.write_bytes(bytes([DIRT]) * SIZE)
    erased = erase_express(describe_path(str(file)), explicit=True)
    assert erased.method == "metadata"
    assert erased.notes == ("only the metadata, because the disk cannot discard",)
    content = file.read_bytes()
    assert content == bytes(ENDS) + bytes([DIRT]) * (SIZE - 2 * ENDS) + bytes(ENDS)


def test_an_nvme_disk_is_formatted_and_whatever_it_shows_then_does_not_boot(images, make_disk):
    disk = make_disk(OLD_SIZE)
    install_old_system(disk, images)

    def format_() -> bytes:
        assert disk.cannot_boot(), "before anything that the power can be cut in"
        install_old_system(disk, images)
        return b""

    tool = Tool(CONTROLLER, NAMESPACE, format_)
    erased = erase_express(described(disk, transport="nvme"), explicit=True, tool=tool)
    assert erased.method == "nvme_user_data"
    assert erased.command.startswith(f"nvme format {disk.device} --ses=1 --lbaf=4 --force")
    assert tool.verbs == ["id-ctrl", "id-ns", "format"]
    assert disk.cannot_boot()


def test_an_nvme_disk_that_cannot_be_formatted_is_discarded(make_disk):
    disk = make_disk(SIZE)
    tool = Tool(ToolMissing(tool="nvme"))
    erased = erase_express(described(disk, transport="nvme"), explicit=True, tool=tool)
    assert erased.method == "discard"
    assert erased.notes == ("not formatted, because nvme-cli is not installed",)


# -- all of it -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_an_overwritten_disk_is_zero_to_the_last_byte(make_disk, sector_size):
    size = ZERO_STEP + 8 * MiB
    disk = make_disk(size, sector_size)
    told: list[tuple[int, int]] = []
    erased = erase(described(disk), lambda *done: told.append(done), never, explicit=True)
    assert erased.method == "overwrite"
    assert erased.command in ("fallocate ZERO_RANGE", "BLKZEROOUT", "written zeros")
    assert erased.notes == ("overwritten, because it is neither an NVMe nor a SATA disk",)
    assert disk.is_filled(0, size, 0)
    assert told == [(ZERO_STEP, size), (size, size)]


def test_a_cancellation_stops_between_two_pieces_and_nothing_boots(make_disk):
    size = 2 * ZERO_STEP
    disk = make_disk(size)
    told: list[int] = []
    with pytest.raises(JobCancelled) as caught:
        erase(described(disk), lambda done, _: told.append(done), lambda: bool(told), explicit=True)
    assert caught.value.detail == f"{ZERO_STEP} of {size} bytes of {disk.device} were overwritten"
    assert disk.cannot_boot()
    assert disk.is_filled(ZERO_STEP, size - ENDS, DIRT)


def test_a_sata_disk_erases_itself(make_disk):
    disk = make_disk(SIZE)
    told: list[tuple[int, int]] = []
    tool = Tool(READY, READY, b"", b"", READY)
    erased = erase(
        described(disk, transport="sata"), lambda *done: told.append(done), never, explicit=True, tool=tool
    )
    assert erased.method == "ata_enhanced"
    assert erased.command == f"hdparm --user-master u --security-erase-enhanced NULL {disk.device}"
    assert tool.verbs == ["-I", "-I", "--security-set-pass", "--security-erase-enhanced", "-I"]
    assert told == [(SIZE, SIZE)]
    assert disk.cannot_boot()
    assert disk.is_filled(ENDS, SIZE - ENDS, DIRT), "what the disk does by itself is not done twice"


def test_a_disk_that_fails_to_erase_itself_forgets_the_password_and_is_overwritten(make_disk):
    disk = make_disk(SIZE)
    enabled = READY.replace(b"\tnot\tenabled", b"\t\tenabled")
    tool = Tool(READY, READY, b"", failed("hdparm", "--security-erase-enhanced"), enabled, b"")
    erased = erase(described(disk, transport="sata"), silent, never, explicit=True, tool=tool)
    assert tool.verbs[-1] == "--security-disable"
    assert erased.method == "overwrite"
    assert erased.notes[-1].startswith("overwritten, because it failed to erase itself: hdparm")
    assert disk.is_filled(0, SIZE, 0)


def test_where_that_is_not_wanted_the_failure_is_told(make_disk):
    disk = make_disk(SIZE)
    tool = Tool(CONTROLLER, NAMESPACE, failed("nvme", "format"))
    with pytest.raises(DiskIo, match="nvme format: exit status 5") as caught:
        erase(
            described(disk, transport="nvme"),
            silent,
            never,
            explicit=True,
            overwrite_after_failure=False,
            tool=tool,
        )
    assert "cannot erase itself" in caught.value.hint
    assert disk.cannot_boot()
    assert disk.is_filled(ENDS, SIZE - ENDS, DIRT)


def test_a_password_of_an_interrupted_erasure_is_taken_away_first(make_disk):
    disk = make_disk(SIZE)
    tool = Tool(LOCKED, b"", b"", READY, READY, b"", b"", READY)
    assert (
        erase(described(disk, transport="sata"), silent, never, explicit=True, tool=tool).method
        == "ata_enhanced"
    )
    assert tool.verbs[:3] == ["-I", "--security-unlock", "--security-disable"]


def test_a_disk_that_stays_locked_is_left_alone(make_disk):
    disk = make_disk(SIZE)
    tool = Tool(LOCKED, failed("hdparm"), failed("hdparm"), LOCKED)
    with pytest.raises(DiskIo, match="locked by an ATA password"):
        erase(described(disk, transport="sata"), silent, never, explicit=True, tool=tool)
    assert disk.is_untouched()


def test_a_frozen_disk_is_overwritten_and_the_reason_told(make_disk):
    disk = make_disk(SIZE)
    tool = Tool(FROZEN, FROZEN)
    erased = erase(described(disk, transport="sata"), silent, never, explicit=True, tool=tool)
    assert (erased.method, erased.to_json()["serial"]) == ("overwrite", None)
    assert "frozen" in erased.notes[0]
    assert disk.is_filled(0, SIZE, 0)


def test_who_does_not_want_it_is_not_erased_by_itself(make_disk):
    disk, tool = make_disk(SIZE), Tool()
    erased = erase(
        described(disk, transport="sata"), silent, never, explicit=True, by_itself=False, tool=tool
    )
    assert (erased.method, erased.notes, tool.calls) == ("overwrite", (), [])


def test_the_namespaces_of_one_controller_know_each_other(tmp_path):
    for name in ("nvme0n1", "nvme0n2", "nvme0n12", "nvme0c0n1", "nvme1n1", "nvme10n1", "sda"):
        (tmp_path / name).mkdir()
    assert other_namespaces("/dev/nvme0n1", tmp_path) == ("/dev/nvme0n12", "/dev/nvme0n2")
    assert other_namespaces("/dev/nvme1n1", tmp_path) == ()
    assert other_namespaces("/dev/sda", tmp_path) == ()


# -- disks that fail -----------------------------------------------------------------------------------------


@contextmanager
def mounted_tmpfs(where: Path, size: int) -> Iterator[None]:
    where.mkdir()
    run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", where)
    try:
        yield
    finally:
        run("umount", where)


def test_a_disk_that_fails_half_way_says_how_far_it_was(tmp_path, loop_device):
    # A file that is larger than its filesystem: the kernel has no room for the zeros of the second piece.
    size = 2 * ZERO_STEP
    with mounted_tmpfs(tmp_path / "small", ZERO_STEP + 16 * MiB):
        file = tmp_path / "small/disk.img"
        file.touch()
        os.truncate(file, size)
        device = loop_device(file)
        try:
            with pytest.raises(DeployError) as caught:
                erase(describe_path(str(device)), silent, never, explicit=True)
        finally:
            run("losetup", "--detach", device)
    error = caught.value
    assert (error.code, error.retryable) == ("disk.io", False)
    assert str(device) in error.message
    assert error.detail == f"{ZERO_STEP} of {size} bytes of {device} were overwritten"
    assert error.hint


def test_a_disk_that_cannot_be_written_at_all_is_told(tmp_path, make_disk):
    disk = make_disk(SIZE)
    described_writable = described(disk)
    run("blockdev", "--setro", disk.device)
    try:
        with pytest.raises(DiskIo, match=str(disk.device)):
            erase(described_writable, silent, never, explicit=True)
    finally:
        run("blockdev", "--setrw", disk.device)
    assert disk.is_untouched()
