"""Facts about this machine for a plan: which disk a job goes to, the firmware, and the config drive to be
written.
"""

import contextlib
import errno
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from agent.errors import ConfigDriveContent, ConfigDriveCreate, DiskBusy, DiskIo, DiskUnknown
from agent.formats.configdrive import DriveContent, build_tree
from agent.formats.ready_drive import filesystem_of, unpack
from agent.host import firmware, holders, inventory
from agent.host.drive import Drive, build_drive, fit_drive
from agent.host.faults import disk_fault
from agent.host.same import shared_storage
from agent.host.trusted_keys import DEFAULT_DIRECTORY
from agent.model.disks import Disk, DiskGroup, GroupSpec, configured_groups, disk_groups, select_disks
from agent.model.job import Job
from agent.model.policy import Policy
from agent.model.url import file_path, origin_of
from agent.transfer.http.limits import DEFAULT_LIMITS, HttpLimits
from agent.transfer.http.ramp import MOST_CONNECTIONS


@dataclass(frozen=True, slots=True)
class Options:
    """How a deployment runs, apart from its job.

    `disks` name the targets and override the job's disk group and selector. `agreed` are the disks that somebody has
    agreed to lose (`Disk.identity`): no other ones are taken then. `firmware` is `uefi`, `bios`, or None for what this
    machine booted with; a regular file is checked for neither unless it is named. `ca_file` replaces
    the system's certificates. `groups` replace those of the inventory where there are any. `trusted_keys` is the
    directory of the operator's keys. `connections` is the most that a download may have.
    """

    disks: tuple[str, ...] = ()
    agreed: tuple[tuple[int, ...], ...] | None = None
    firmware: str | None = None
    ca_file: str | None = None
    server_name: str | None = None
    policy: Policy = Policy()
    limits: HttpLimits = DEFAULT_LIMITS
    connections: int = MOST_CONNECTIONS
    groups: tuple[GroupSpec, ...] = ()
    trusted_keys: str = DEFAULT_DIRECTORY


def find_targets(job: Job, options: Options) -> tuple[Disk, ...]:
    """The disks that a job goes to, at least one. Blocking.

    Raises:
        DiskUnknown, DiskGroupUnknown, DiskIneligible: there is no such disk.
        DiskNotSelected: the job's selector does not leave as many as the job wants.
        RaidDisks: fewer disks than the job wants.
        DiskIo: one is not the disk any more that was agreed to.
        OSError: the inventory cannot be read.
    """
    if options.disks:
        targets = tuple(inventory.describe_path(path) for path in options.disks)
    elif job.disk_selector is not None:
        targets = job.disk_selector.select(*read_inventory(options.groups), count=job.disk_count)
    else:
        targets = select_disks(list_groups(options.groups), job.disk_group_id, job.disk_count)
    for target, agreed in zip(targets, options.agreed or (), strict=False):
        if agreed != target.identity:
            raise DiskIo(
                device=target.path,
                reason="it is another disk now than the one that you agreed to lose",
                hint="Nothing was written. `byoi disks` shows what is there now; give the command again.",
            )
    for target in targets:
        _refuse_hidden_users(target)
    return targets


def read_inventory(specs: Sequence[GroupSpec]) -> tuple[tuple[Disk, ...], tuple[DiskGroup, ...]]:
    """All disks that a job can go to, and the groups in force, as `list_groups` has them. Blocking.

    Raises:
        OSError: the inventory cannot be read.
        ToolMissing: there is no libudev.
    """
    disks = inventory.list_disks()
    groups = list_groups(specs, disks)
    listed = {disk.path for disk in disks}
    # Groups may name what no inventory lists: regular files, for trials.
    named = {disk.path: disk for group in groups for disk in group.disks if disk.path not in listed}
    return (*disks, *named.values()), groups


def list_groups(specs: Sequence[GroupSpec], disks: Sequence[Disk] | None = None) -> tuple[DiskGroup, ...]:
    """The disk groups in force: those of the configuration, else those that like disks make. Blocking.

    Args:
        specs: as configured; none means the inventory's.
        disks: the inventory, where the caller has just read it.

    Raises:
        OSError: the inventory cannot be read.
    """
    if not specs:
        return disk_groups(inventory.list_disks() if disks is None else disks)
    found = {}
    for path in {path for spec in specs for path in spec.disks}:
        with contextlib.suppress(DiskUnknown):  # the group tells that it is missing
            found[path] = inventory.describe_path(path)
    return configured_groups(specs, found)


def _refuse_hidden_users(target: Disk) -> None:
    """Refuse what only an exclusive open finds: ZFS, or a mount in another namespace."""
    if target.kind == "file" or target.holders or target.read_only:
        return
    try:
        holders.assert_free(target.path)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise disk_fault(target.path, error) from error
        raise DiskBusy(device=target.path, holder=error.strerror or "something holds it") from error


def is_chosen_by_name(job: Job, options: Options) -> bool:
    """Whether somebody named the disk, on the command line, in the configuration or in the job: nothing is guessed."""
    exact = job.disk_selector is not None and job.disk_selector.is_exact
    return bool(options.disks or options.groups) or exact


def chosen_by(job: Job, options: Options) -> str:
    """The disk selector by which the targets were chosen, in words; empty where they were not."""
    return "" if options.disks or job.disk_selector is None else str(job.disk_selector)


def find_shared(job: Job, targets: Sequence[Disk]) -> str | None:
    """Why the image and a target are on the same disk, in words; None where they are not. Blocking.

    Raises:
        OSError: sysfs or /proc cannot be read.
    """
    if origin_of(job.url).scheme != "file":
        return None
    with contextlib.suppress(
        FileNotFoundError, NotADirectoryError, PermissionError
    ):  # told when it is opened
        for target in targets:
            if (shared := shared_storage(file_path(job.url), target.path)) is not None:
                return shared
    return None


def find_firmware(target: Disk, options: Options) -> str | None:
    """`uefi` or `bios`; None where the target is a file, which no firmware here will boot."""
    if options.firmware is not None:
        return options.firmware
    return None if target.kind == "file" else firmware.detect()


def make_drive(
    job: Job, sector_size: int, fetched: bytes | None = None
) -> tuple[Drive | None, dict[str, bytes]]:
    """The config drive of a job, with an instance id and a seed of its own each time, and the tree in it;
    None where it wants none, or its ready-made one has not been fetched.

    Args:
        job: the job.
        sector_size: of the disk that it is for, in bytes.
        fetched: the file behind the URL of a ready-made drive.

    Raises:
        ConfigDriveCreate: its content is too large.
        ConfigDriveContent: the job brings a ready-made drive that is none.
        ToolMissing: the rescue system lacks a tool for it.
    """
    spec = job.configdrive
    if not spec.enable:
        return None, {}
    if spec.content is not None:
        data = fetched if fetched is not None else spec.inline_content()
        return (None, {}) if data is None else _ready_drive(data, sector_size)
    content = DriveContent(
        hostname=spec.hostname,
        ssh_keys=spec.ssh_key,
        user_data=None if spec.user_data is None else spec.user_data.encode(),
        vendor_data=spec.vendor_data,
        network_data=spec.network_data,
        metadata={item.key: item.value for item in spec.user_metadatas},
        instance_uuid=str(uuid.uuid4()),
        random_seed=os.urandom(512),
    )
    tree = build_tree(content)
    try:
        return build_drive(tree, sector_size), tree
    except OSError as error:
        raise ConfigDriveCreate(detail=f"its filesystem could not be made: {error.strerror}") from error


def _ready_drive(data: bytes, sector_size: int) -> tuple[Drive, dict[str, bytes]]:
    image = unpack(data)
    filesystem = filesystem_of(image)
    try:
        return fit_drive(image, filesystem, sector_size)
    except OSError as error:
        sectors = f"the disk has sectors of {sector_size} bytes, from which Linux reads no such filesystem"
        raise ConfigDriveContent(
            reason=f"{sectors}, and its files cannot be stored anew",
            detail=f"{filesystem}: {error.strerror or error}",
            hint="Give a FAT image with sectors of that size: mkfs.vfat -S 4096 -n config-2.",
        ) from error
