"""The plan: what a deployment will do, and why it will not. Pure: `plan(job, facts)` decides and touches nothing.

The runner carries out the steps of the plan, or raises its first refusal before anything is written; a dry run prints
the steps and all refusals.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from agent.deploy.acts import ACTS, Act
from agent.errors import (
    BootCode,
    BootEsp,
    ConfigDriveCreate,
    DeployError,
    DiskBusy,
    DiskIneligible,
    DiskSame,
    GptRelocate,
    ImageNoTable,
    ImageSize,
    ImageTruncated,
    ImageType,
    JobInvalid,
    RaidDisks,
    RaidLayout,
    SectorSize,
)
from agent.formats.advice import hint_for
from agent.formats.image import ImageFacts
from agent.formats.tables.gpt import Gpt, relocate
from agent.formats.tables.layout import (
    DriveSlot,
    absent_note,
    absent_partitions,
    is_cut,
    logicals_damaged,
    place_drive,
)
from agent.formats.tables.mbr import Mbr
from agent.formats.tables.mirror import layout_fault, room_fault, root_end
from agent.formats.tables.read import TableError
from agent.model.contents import Contents
from agent.model.disks import Disk, describe, is_same_disk, require_eligible
from agent.model.job import Job
from agent.model.policy import Policy, require_allowed
from agent.model.signature import CHECKSUM
from agent.model.stage import EVERY_STAGE, State
from agent.model.url import redact_url
from agent.model.verification import reads_back
from agent.units import MiB, format_size

# Below this there is no room between the two held ends, nor for any system.
MIN_DISK_BYTES = 4 * MiB

WEIGHTS: Mapping[State, float] = {
    State.PREFLIGHT: 2,
    State.CLAIM: 1,
    State.WRITE: 92,
    State.VERIFY: 1,
    State.FINISH: 2,
    State.COMMIT: 2,
}
"""Shares of the stages in the percentage, 100 together."""
READ_BACK_WEIGHTS = {**WEIGHTS, State.WRITE: 62, State.READBACK: 30}
"""The same where everything is read back."""

_READING = (State.PREFLIGHT, State.VERIFY, State.READBACK)
"""Stages that write nothing to the disk."""


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a plan is made from. `image` is None as long as the image has not been opened."""

    targets: tuple[Disk, ...]
    """The disks that the image goes to, at least one."""
    explicit: bool
    firmware: str | None
    policy: Policy = Policy()
    drive_size: int | None = None
    """Size of the config drive's filesystem in bytes; None where the job wants no drive."""
    image: ImageFacts | None = None
    contents: tuple[Contents, ...] = ()
    """What is on each target and will be lost; empty where nobody wants to know."""
    chosen_by: str = ""
    """The disk selector by which the targets were chosen, in words; empty where they were not."""
    shared: str | None = None
    """Why the image and a target are on the same disk, in words; None where they are not."""

    @property
    def smallest(self) -> Disk:
        """What fits on this disk fits on all."""
        return min(self.targets, key=lambda disk: disk.size)


@dataclass(frozen=True, slots=True)
class Step:
    """One stage of the plan."""

    stage: State
    title: str
    """What it does, for people."""
    weight: float
    """Its share of the percentage that clients see."""
    destructive: bool
    """Whether it writes to the disk."""
    act: Act = field(repr=False)
    """What carries it out."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be done, in order, and every reason why it would be refused."""

    targets: tuple[Disk, ...]
    steps: tuple[Step, ...]
    refusals: tuple[DeployError, ...]
    notes: tuple[str, ...]
    slot: DriveSlot | None
    """The config drive's partition on the first disk."""
    contents: tuple[Contents, ...] = ()
    """What is on each disk and will be lost; empty where nobody wanted to know."""

    @property
    def weights(self) -> dict[State, float]:
        """The share of each stage in the percentage."""
        return {step.stage: step.weight for step in self.steps}

    def document(self) -> dict[str, Any]:
        """The plan as JSON."""
        contents: Sequence[dict[str, Any] | None] = [found.to_json() for found in self.contents]
        disks = [
            {"disk": disk.to_json(), "contents": found}
            for disk, found in zip(self.targets, contents or [None] * len(self.targets), strict=True)
        ]
        return {
            **disks[0],
            "disks": disks,
            "steps": [
                {"stage": step.stage.value, "title": step.title, "destructive": step.destructive}
                for step in self.steps
            ],
            "configDrive": None
            if self.slot is None
            else {
                "kind": self.slot.kind,
                "partition": self.slot.number,
                "start": self.slot.start,
                "size": self.slot.size,
            },
            "refusals": [refusal.document() for refusal in self.refusals],
            "notes": list(self.notes),
        }


def plan(job: Job, facts: Facts) -> Plan:
    """Decide everything that can be decided from these facts."""
    refusals = [*_job_refusals(job, facts.policy), *_disk_refusals(facts)]
    slot = None
    if facts.image is not None:
        refusals += _image_refusals(job, facts, facts.image)
        if facts.image.table is not None:
            refusals += _fit_refusals(facts, facts.image)
            slots, faults = zip(
                *(_slot(facts, facts.image, disk.size) for disk in facts.targets), strict=True
            )
            slot = slots[0]
            refusals += [fault for fault in faults if fault is not None][:1]
            refusals += _mirror_refusals(job, facts, facts.image)
    steps, notes = _steps(job, facts, slot), _notes(job, facts)
    return Plan(facts.targets, steps, tuple(refusals), notes, slot, facts.contents)


def _job_refusals(job: Job, policy: Policy) -> list[DeployError]:
    try:
        require_allowed(job, policy, remote=False)  # where it came from was judged when it was accepted
    except JobInvalid as error:
        return [error]
    return []


def _disk_refusals(facts: Facts) -> list[DeployError]:
    if facts.shared is not None:
        return [DiskSame(reason=facts.shared)]
    for first, second in combinations(facts.targets, 2):
        if is_same_disk(first, second):
            return [RaidDisks(reason=f"{first.path} and {second.path} are the same disk")]
    refusals = [refusal for disk in facts.targets for refusal in _eligibility_refusals(facts, disk)]
    sizes = {disk.logical_sector_size for disk in facts.targets}
    if len(sizes) > 1:
        sectors = ", ".join(f"{disk.path} has {disk.logical_sector_size}" for disk in facts.targets)
        refusals.append(RaidDisks(reason=f"their sectors are of different sizes ({sectors})"))
    return refusals


def _eligibility_refusals(facts: Facts, disk: Disk) -> list[DeployError]:
    try:
        require_eligible(disk, explicit=facts.explicit)
    except (DiskBusy, DiskIneligible) as error:
        return [error]
    if disk.size < MIN_DISK_BYTES:
        reason = f"it has {disk.size} bytes, fewer than {MIN_DISK_BYTES}"
        return [DiskIneligible(path=disk.path, reasons=reason)]
    return []


def _image_refusals(job: Job, facts: Facts, image: ImageFacts) -> list[DeployError]:
    expected, found = job.type_for(image.container), image.container
    if expected == "raw" != found:
        return [ImageNoTable(type=expected, found=found, hint=hint_for(found))]
    if expected != found:
        return [ImageType(found=found, expected=expected, hint=hint_for(found))]
    smallest = facts.smallest
    if image.size is not None and image.size > smallest.size:
        return [ImageSize(image_size=image.size, device=smallest.path, device_size=smallest.size)]
    if not image.examined:
        return []
    if image.table_fault is not None:
        return [
            GptRelocate(
                detail=f"the image's partition table is damaged: {image.table_fault}",
                hint="Repair the image (gdisk rebuilds a primary table from its backup) and upload it again.",
            )
        ]
    if image.chain_fault is not None:
        return [logicals_damaged(image.chain_fault)]
    if image.table is None:
        return [ImageNoTable(type=expected, found=image.content, hint=hint_for(image.content))]
    if image.size is not None and is_cut(image.table, image.size):
        return [ImageTruncated(size=image.size, expected=image.reach)]
    if isinstance(image.table, Mbr) and image.reach > smallest.size:
        return [ImageSize(image_size=image.reach, device=smallest.path, device_size=smallest.size)]
    return []


def _fit_refusals(facts: Facts, image: ImageFacts) -> list[DeployError]:
    # Their sectors are alike, and what fits on the smallest fits on all.
    disk, refusals = facts.smallest, list[DeployError]()
    wanted = disk.logical_sector_size if disk.kind != "file" else None
    if (
        wanted is not None
        and image.sector_size != wanted
        and not (image.sector_size is None and wanted == 512)
    ):
        found = image.sector_size or "unknown"
        refusals.append(SectorSize(image_sector_size=found, device=disk.path, sector_size=wanted))
    elif (fault := _relocation_fault(image, disk.size)) is not None:
        refusals.append(fault)
    if facts.firmware == "uefi" and not image.esp:
        refusals.append(BootEsp(detail="it has no EFI system partition"))
    if facts.firmware == "bios" and not image.boot_code:
        refusals.append(BootCode())
    return refusals


def _relocation_fault(image: ImageFacts, disk_size: int) -> DeployError | None:
    if not isinstance(image.table, Gpt):
        return None
    try:
        relocate(image.table, disk_size)
    except TableError as error:
        return GptRelocate(detail=str(error))
    return None


def _slot(facts: Facts, image: ImageFacts, disk_size: int) -> tuple[DriveSlot | None, DeployError | None]:
    if facts.drive_size is None or image.table is None:
        return None, None
    try:
        # One that is too small is emptied, and a new one added; so it is no place for the drive.
        own = image.own_drive if image.own_drive and image.own_drive.size >= facts.drive_size else None
        slot = place_drive(image.table, disk_size, image.table.sector_size, facts.drive_size, existing=own)
    except ConfigDriveCreate as error:
        return None, error
    except TableError:
        return None, None  # told by _relocation_fault
    return slot, None


def _mirror_refusals(job: Job, facts: Facts, image: ImageFacts) -> list[DeployError]:
    if job.raid is None:
        return []
    if len(facts.targets) != job.raid.disks:
        return [RaidDisks(reason=f"a mirror has {job.raid.disks} disks, and there are {len(facts.targets)}")]
    fault = layout_fault(image.table, image.own_drive) or image.root_fault
    if fault is not None or image.table is None:
        return [RaidLayout(reason=fault)]
    refusals: list[DeployError] = []
    for disk in facts.targets:
        slot, _ = _slot(facts, image, disk.size)
        if (fault := room_fault(image.table, root_end(image.table, disk.size, slot))) is not None:
            refusals.append(RaidDisks(reason=f"{disk.path}: {fault}"))
    return refusals


def _steps(job: Job, facts: Facts, slot: DriveSlot | None) -> tuple[Step, ...]:
    size = facts.image.size if facts.image is not None else None
    amount = format_size(size) if size is not None else "the image"
    checked = _checked(job)
    table = (
        "relocate the backup GPT"
        if facts.image and isinstance(facts.image.table, Gpt)
        else "fit the partition table"
    )
    drive = f", {slot.kind} config drive ({format_size(slot.size)} at byte {slot.start})" if slot else ""
    if slot is None and facts.drive_size is not None:
        drive = f", write the config drive ({format_size(facts.drive_size)})"
    paths = " and ".join(disk.path for disk in facts.targets)
    disk, both = (
        ("the disk", "both its ends") if len(facts.targets) == 1 else ("the disks", "both their ends")
    )
    read_back = "read both" if facts.drive_size is None else "read both and the config drive"
    titles = {
        State.PREFLIGHT: f"open {redact_url(job.url)}{_others(job)} and check everything that can be checked",
        State.CLAIM: f"take {paths} and zero {both}",
        State.WRITE: f"stream {amount} to {disk}, all but {both}",
        State.VERIFY: f"compare {checked}",
        State.READBACK: f"read back from {disk} everything that was written, and compare",
        State.FINISH: f"{table}{drive}{', make the root a mirror' if job.raid is not None else ''}",
        State.COMMIT: f"write the first and last MiB, {read_back} back and check",
    }
    weights = READ_BACK_WEIGHTS if reads_back(job.verify, facts.policy.verify) else WEIGHTS
    return tuple(
        Step(stage, titles[stage], weights[stage], stage not in _READING, ACTS[stage])
        for stage in EVERY_STAGE
        if stage in weights
    )


def _others(job: Job) -> str:
    """How many more places there are to take the image from."""
    match len(job.mirrors):
        case 0:
            return ""
        case 1:
            return f" (or {redact_url(job.mirrors[0])})"
        case count:
            return f" (or one of {count} mirrors)"


def _checked(job: Job) -> str:
    if job.signature is None:
        return _compared(job)
    if job.signature.over == CHECKSUM:
        return f"{_compared(job)}, which is signed ({job.signature.type})"
    return f"{_compared(job)}, and check the {job.signature.type} signature of the image"


def _compared(job: Job) -> str:
    if job.checksum is not None:
        return f"{job.checksum_type} {job.checksum}"
    if job.checksum_url is not None:
        return f"the {job.checksum_type} that {redact_url(job.checksum_url)} names"
    if job.is_in_registry:
        return "the digest in the registry's manifest"
    return "the length" if job.tells_content else "the length (the job names no checksum)"


def _notes(job: Job, facts: Facts) -> tuple[str, ...]:
    notes = [f"target: {describe(disk)}" for disk in facts.targets]
    if facts.chosen_by:
        notes.append(f"chosen by the disk selector: {facts.chosen_by}")
    if facts.policy.several.allow_failed and len(facts.targets) > 1:
        notes.append("a disk that fails while it is written is kept out, and the others go on (allow_failed)")
    drive = job.configdrive
    if not drive.enable and (drive.content or drive.hostname or drive.ssh_key or drive.user_data):
        notes.append("configdrive.enable is not true: no config drive is written")
    if job.raid is not None:
        notes.append(
            "raid1: that the image starts its root as an array (mdadm in its initramfs, the root by UUID or LABEL) "
            "cannot be seen from outside"
        )
    if not job.tells_content:
        notes.append("the job names no checksum: only the length of the download is verified")
    return (*notes, *(_image_notes(facts.image) if facts.image is not None else ()))


def _image_notes(image: ImageFacts) -> tuple[str, ...]:
    notes = [] if image.libparted_note is None else [image.libparted_note]
    if image.table is not None and image.size is not None:
        absent = absent_partitions(image.table, image.size)
        notes += [absent_note(absent, image.size)] if absent else []
    return tuple(notes)
