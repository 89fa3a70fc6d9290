"""What is in a server beside the disk that is deployed to, or was on it before: other disks, an array, volumes."""

import os
from pathlib import Path

from agent.units import MiB
from tests.lab.api import Status
from tests.lab.disks import DIRT, Disk
from tests.lab.matrix import Case
from tests.lab.ssh import Ssh

OTHER_DISK = 512 * MiB
_ARRAY_AND_VOLUMES = """
    set -e
    mdadm --create /dev/md/old --run --metadata=1.2 --level=1 --raid-devices=2 /dev/vda missing
    pvcreate --yes /dev/md/old
    vgcreate oldvg /dev/md/old
    lvcreate --yes --zero n --activate y --setautoactivation n --size 64M --name oldlv oldvg
    # Taken down, and brought to life again, by hand: nothing in the rescue does that by itself.
    vgchange --activate n oldvg
    mdadm --stop /dev/md/old
    udevadm settle
    test -z "$(ls /sys/block | grep -e md -e dm- || true)"
    mdadm --assemble --scan --config=partitions --run
    vgchange --activate y oldvg
    udevadm settle
    lsblk --noheadings --raw --output TYPE /dev/vda | sort --unique | tr '\\n' ' '
"""


def make_others(case: Case, path: Path) -> None:
    """Make the files of a case's other disks, which nothing may write to."""
    for disk in others(case, path):
        with disk.path.open("wb") as file:
            file.write(DIRT)
            os.truncate(file.fileno(), OTHER_DISK)


def others(case: Case, path: Path) -> tuple[Disk, ...]:
    """The disks of a case beside its target: in group 1 where the job names group 2, as they are smaller."""
    if case.group != 2:
        return ()
    return (
        Disk(path=path.with_name("other.raw"), name="other0", bus=case.bus, sector_size=case.sector_size),
    )


async def revive(case: Case, ssh: Ssh) -> None:
    """Put an array with a volume group onto the target and bring both to life, as somebody may have done who looked
    for files before he ordered the deployment."""
    if case.former:
        kinds = await ssh.run(_ARRAY_AND_VOLUMES, seconds=300)
        assert kinds.splitlines()[-1].split() == ["disk", "lvm", "raid1"], kinds


def assert_stopped(case: Case, status: Status) -> None:
    """The status tells of what had to be taken down."""
    if case.former:
        notes = " ".join(status["notes"])
        assert "oldvg-oldlv" in notes, notes
        assert "md" in notes, notes
