"""The catalogue of errors: every way in which a deployment can fail.

Each class has a stable `code`, the party at fault (`blame`), whether a retry may help (`retryable`), a template for the
message, and a hint. Who raises an error gives the template's fields, may override blame and retryable, and adds a
`detail` that names the object and the numbers. HTTP statuses and exit statuses are not here but in the API and the
commands. docs/errors.md is the catalogue for users, and a test compares the two.

Messages that the OVH API has too are the same to the letter, because clients compare them.
"""

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar


class Blame(StrEnum):
    """The party at fault, which has to correct it."""

    REQUEST = "request"
    IMAGE = "image"
    NETWORK = "network"
    DISK = "disk"
    AGENT = "agent"


@dataclass(frozen=True)
class Fault:
    """One fault of a posted job or of the configuration: the path of the member, and what is wrong with it."""

    path: str
    message: str
    code: str = "job.invalid"

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message

    def document(self) -> dict[str, str]:
        """The fault in the document of an error."""
        return {"path": self.path, "message": self.message, "code": self.code}


class WriteFault(OSError):
    """A write at `offset` that failed among others: the OSError of the disk, with the path in it."""

    def __init__(self, offset: int, error: OSError) -> None:
        super().__init__(error.errno, error.strerror, error.filename)
        self.offset = offset


class DeployError(Exception):
    """The base class; only subclasses are raised."""

    code: str
    blame: Blame
    retryable: bool = False
    template: ClassVar[str]
    default_hint: ClassVar[str] = ""

    def __init__(
        self,
        *,
        detail: str = "",
        hint: str = "",
        blame: Blame | None = None,
        retryable: bool | None = None,
        **fields: object,
    ) -> None:
        self.message = self.template.format(**fields)
        self.blame = self.blame if blame is None else blame
        self.retryable = self.retryable if retryable is None else retryable
        self.detail = detail
        self.hint = hint or self.default_hint
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message} ({self.detail})" if self.detail else self.message

    def document(self) -> dict[str, Any]:
        """The error in a status document."""
        return {
            "code": self.code,
            "blame": self.blame.value,
            "retryable": self.retryable,
            "message": self.message,
            "detail": self.detail or None,
            "hint": self.hint or None,
        }


# -- the request ---------------------------------------------------------------------------------------------


class JobInvalid(DeployError):
    """The posted job has faults; `faults` lists all of them."""

    code = "job.invalid"
    blame = Blame.REQUEST
    template = "{summary}"
    default_hint = "Mend what the message names and post the job again; docs/api.md has every field."

    def __init__(self, faults: Sequence[Fault], hint: str = "") -> None:
        self.faults = tuple(faults)
        if len(self.faults) == 1 and self.faults[0].code != self.code:
            # A single fault with a code of its own is one for which the OVH API has a message: it stays as it is.
            self.code = self.faults[0].code
            hints = {
                cls.code: cls.default_hint for cls in (ImageFormat, ConfigDriveContent, SignatureMissing)
            }
            own_hint = hints.get(self.code, "")
            super().__init__(summary=self.faults[0].message, hint=hint or own_hint)
        else:
            super().__init__(summary="; ".join(str(fault) for fault in self.faults), hint=hint)

    def document(self) -> dict[str, Any]:
        """The error with the list of its faults."""
        return super().document() | {"faults": [fault.document() for fault in self.faults]}


class JobCancelled(DeployError):
    """The deployment was cancelled by its user."""

    code = "job.cancelled"
    blame = Blame.REQUEST
    template = "The deployment was cancelled."


class JobTaken(DeployError):
    """The control plane gave a job whose id was accepted before."""

    code = "job.taken"
    blame = Blame.REQUEST
    template = "The job {id} was taken before and is not run twice."
    default_hint = "Give a new deployment a new id."


class DiskGroupUnknown(DeployError):
    """The job names a disk group that this server does not have."""

    code = "disk.group"
    blame = Blame.REQUEST
    template = "Disk group {group} does not exist on this server."
    default_hint = "`byoi disks` lists the disk groups and why a disk is not eligible."


class DiskUnknown(DeployError):
    """The path is not a disk."""

    code = "disk.unknown"
    blame = Blame.REQUEST
    template = "{path} is neither a whole disk nor a regular file."
    default_hint = "Name a whole disk such as /dev/sda, or a file; with --size a new sparse file is made."


class DiskNotSelected(DeployError):
    """The job's disk selector does not leave exactly one disk. The detail says for every disk what it failed on."""

    code = "disk.selector"
    blame = Blame.REQUEST
    template = "The disk selector ({selector}) fits {found}."
    default_hint = "Mend the selector: `byoi disks --json` has in `hints` what it is compared with."


class DiskSame(DeployError):
    """The image is stored on the disk that it is to be written to."""

    code = "disk.same"
    blame = Blame.REQUEST
    template = "The image and its target are on the same disk: {reason}."
    default_hint = "Copy the image to another disk or to a web server, and deploy it from there."


class DiskIneligible(DeployError):
    """The disk must not be written, for other reasons than being in use."""

    code = "disk.ineligible"
    blame = Blame.DISK
    template = "{path} cannot be written: {reasons}."
    default_hint = "`byoi disks` shows every disk with the reasons why it is not eligible."


class RaidDisks(DeployError):
    """There are not as many disks as the job wants, or they cannot get one image, or be the members of one mirror."""

    code = "raid.disks"
    blame = Blame.REQUEST
    template = "The image cannot go to these disks together: {reason}."
    default_hint = (
        "Name as many disks as the job wants, all with sectors of one size and, for a mirror, room for the array's own "
        "data behind the image; `byoi disks` lists those that may be written."
    )


# -- the image -----------------------------------------------------------------------------------------------


class ImageFormat(DeployError):
    """The job names an unknown image type. The message is the OVH API's, and names its three types only."""

    code = "image.format"
    blame = Blame.REQUEST
    template = "Bad format image, expected: qcow2, raw, ova."
    default_hint = (
        "Set type to one of them, or to vmdk, vhd, vhdx or vdi, or leave it out: then the content decides. Other "
        "formats can be converted (qemu-img convert -O qcow2)."
    )


class ImageType(DeployError):
    """The image is not of the type that the job names."""

    code = "image.type"
    blame = Blame.IMAGE
    template = "image provided format is `{found}` which does not match expected {expected} format"
    default_hint = "Set type to what the file is, or check that the URL names the image that is meant."


class ImageNoTable(DeployError):
    """A raw image without a partition table: it is not an image of a whole disk."""

    code = "image.no_table"
    blame = Blame.IMAGE
    template = (
        "image provided format is not of type {type} because no partition table was found. "
        "It seems to contain: `{found}`"
    )
    default_hint = "Check that the URL names a disk image (not a filesystem, an archive or a web page)."


class ImageSize(DeployError):
    """The guest disk does not fit on the target."""

    code = "image.size"
    blame = Blame.IMAGE
    template = (
        "image provided has a size of `{image_size}` bytes "
        "which is larger than `{device}` of `{device_size}` bytes"
    )
    default_hint = "Choose a larger disk, or shrink the image."


class ImageTruncated(DeployError):
    """The file is shorter than its own partition table says."""

    code = "image.truncated"
    blame = Blame.IMAGE
    template = "The image ends at byte {size}, but its partition table reaches to byte {expected}."
    default_hint = (
        "The file behind the URL is incomplete: upload it again. If the rest of that partition is meant to be empty, "
        "extend the file to its end (truncate --size)."
    )


class ImageChanged(DeployError):
    """Two requests returned parts of different files."""

    code = "image.changed"
    blame = Blame.IMAGE
    template = "The image changed while downloading: {url}"
    default_hint = "Deploy again once the file behind the URL no longer changes."


class ImageUnsafe(DeployError):
    """The image was refused by a named check because it could do harm, or is not supported."""

    code = "image.unsafe"
    blame = Blame.IMAGE
    template = "The image was refused by the check {check}."
    default_hint = (
        "Make the image anew as one plain file (qemu-img convert -O qcow2 IMAGE image.qcow2); docs/formats.md tells "
        "what is accepted."
    )

    def __init__(self, *, check: str, detail: str = "", hint: str = "") -> None:
        self.check = check
        super().__init__(detail=detail, hint=hint, check=check)


class ImageDamaged(DeployError):
    """The image contradicts itself or ends too early."""

    code = "image.damaged"
    blame = Blame.IMAGE
    template = "The {format} image is damaged: {reason}."
    default_hint = "Check the image (qemu-img check, gzip -t, ...) and upload it again."


class ImageMemory(DeployError):
    """The image needs more memory than the bounds allow, such as a qcow2 whose tables come too late in the file."""

    code = "image.memory"
    blame = Blame.IMAGE
    template = "Could not download, qcow2 image is too big to download in memory."
    default_hint = "Lay the image out in order (qemu-img convert -O qcow2), or use a server with byte ranges."


class ImageDownload(DeployError):
    """The download failed, after all retries."""

    code = "image.download"
    blame = Blame.NETWORK
    retryable = True
    template = "Could not download image located: {url}"
    default_hint = "Check that the URL can be fetched from the server's network (curl -I), then deploy again."


class ChecksumFile(DeployError):
    """The checksum file that the job names cannot be had, or does not say what the image's digest is."""

    code = "checksum.file"
    blame = Blame.REQUEST
    template = "The checksum file {url} {reason}."
    default_hint = (
        "Check that checkSum is the URL of the list that belongs to the image: entries are found by the last part of "
        "the image's URL."
    )


class ChecksumMismatch(DeployError):
    """The digest of the downloaded bytes differs from the expected one."""

    code = "checksum.mismatch"
    blame = Blame.IMAGE
    template = "Bad {algorithm} for downloaded file, got: {got} while expecting {expected}."
    default_hint = "Check that checkSum belongs to the file behind the URL."


class RegistryDenied(DeployError):
    """A registry, or the token service that it sends to, does not let the image be read."""

    code = "registry.denied"
    blame = Blame.REQUEST
    template = "The registry denies access to {url}: {reason}."
    default_hint = (
        "Give a user and a password or token that may pull it (registryAuth); check the repository's name."
    )


class RegistryManifest(DeployError):
    """What a registry says of an image cannot be used, or names no disk image that is meant."""

    code = "registry.manifest"
    blame = Blame.IMAGE
    template = "What the registry has as {url} cannot be used: {reason}."
    default_hint = (
        "Look at it (skopeo inspect --raw), and push the disk image again; docs/provenance.md tells how."
    )


class SignatureMissing(DeployError):
    """There is no signature to check, or it cannot be had."""

    code = "signature.missing"
    blame = Blame.REQUEST
    template = "There is no signature of {what}: {reason}."
    default_hint = (
        "Name the signature's file in signature.url, or give it in signature.data; docs/provenance.md has what "
        "distributors publish."
    )


class SignatureInvalid(DeployError):
    """A signature that is damaged, of other bytes, weak, expired, or could not be checked."""

    code = "signature.invalid"
    blame = Blame.IMAGE
    template = "The signature of {what} is not accepted: {reason}."
    default_hint = (
        "Check that the signature belongs to this very file, and fetch both again from their publisher."
    )


class SignatureKey(DeployError):
    """No trusted key vouches: it is unknown, another one, expired, revoked, too short, or no key at all."""

    code = "signature.key"
    blame = Blame.REQUEST
    template = "No trusted key vouches for {what}: {reason}."
    default_hint = (
        "Give the publisher's key as it is now: in signature.publicKey, or among the operator's keys."
    )


class GptRelocate(DeployError):
    """The partition table is damaged, or does not fit the disk."""

    code = "gpt.relocate"
    blame = Blame.IMAGE
    template = "Can not move backup GPT data structures to the end of disk."
    default_hint = "Repair the image's partition table (gdisk), or use a larger disk."


class ConfigDriveCreate(DeployError):
    """There is no space or no partition entry for the config drive, or its content is too large or invalid."""

    code = "configdrive.create"
    blame = Blame.IMAGE
    template = "Could not create configdrive on disk."
    default_hint = (
        "Leave a partition slot and 2 MiB behind the last partition free, and keep the user data small."
    )


class ConfigDriveContent(DeployError):
    """The ready-made config drive that the job brings is none, or cannot be had."""

    code = "configdrive.content"
    blame = Blame.REQUEST
    template = "The ready-made config drive cannot be used: {reason}."
    default_hint = (
        "Give an ISO 9660 or FAT image with the label config-2, as base64 (gzip allowed) or by its URL."
    )


class RaidLayout(DeployError):
    """The image cannot become a mirror as it is laid out."""

    code = "raid.layout"
    blame = Blame.IMAGE
    template = "The image cannot become a mirror: {reason}."
    default_hint = (
        "Use an image with a GPT whose last partition is the root (ext4 or XFS), with an ESP and a BIOS boot "
        "partition before it at most; or deploy this one without raid, to one disk."
    )


class BootEsp(DeployError):
    """The image has no EFI system partition with a boot loader, but the server boots by UEFI."""

    code = "boot.esp"
    blame = Blame.IMAGE
    template = "The server boots by UEFI, but the image cannot."
    default_hint = "Deploy an image with an EFI system partition, or set the server to legacy boot."


class BootCode(DeployError):
    """The image has no boot code, but the server boots by BIOS."""

    code = "boot.code"
    blame = Blame.IMAGE
    template = "The server boots in legacy mode, but the image has no boot code in its first sector."
    default_hint = "Install a boot loader for BIOS into the image (grub-install --target=i386-pc)."


class BootEntryFailed(DeployError):
    """The firmware did not take a boot entry for the disk."""

    code = "boot.entry"
    blame = Blame.DISK
    template = "The firmware has no boot entry for {device}: {reason}."
    default_hint = (
        "Make the entry by hand (efibootmgr), or set the boot device in the firmware or by the BMC; many servers find "
        "the loader without an entry."
    )


# -- the disk ----------------------------------------------------------------------------------------------


class SectorSize(DeployError):
    """The image was made for another sector size than the disk's."""

    code = "disk.sector_size"
    blame = Blame.IMAGE
    template = "image has sector size {image_sector_size} but {device} has {sector_size}"
    default_hint = "Use an image that was made for the sector size of the disk."


class DiskBusy(DeployError):
    """The disk is used by something that must not be stopped."""

    code = "disk.busy"
    blame = Blame.DISK
    template = "{device} is in use: {holder}."
    default_hint = "Unmount or stop what uses the disk, then deploy again."


class ImageWrite(DeployError):
    """The disk failed while the image was written (EIO, ENOSPC, a removed device)."""

    code = "image.write"
    blame = Blame.DISK
    template = "Can't write {type} on disk."
    default_hint = "The disk may be failing: look at the kernel's log and at SMART."


class DiskIo(DeployError):
    """The disk failed at any other time."""

    code = "disk.io"
    blame = Blame.DISK
    template = "Input/output fault on {device}: {reason}."
    default_hint = "The disk may be failing: look at the kernel's log and at SMART."


# -- the agent itself --------------------------------------------------------------------------------------


class ConfigInvalid(DeployError):
    """The agent's configuration has faults; `faults` lists all of them, with the keys of the options."""

    code = "config.invalid"
    blame = Blame.AGENT
    template = "{summary}"
    default_hint = "Mend the configuration; `byoi-agent --check` shows what is in force, or every fault."

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__(summary="; ".join(str(fault) for fault in self.faults))

    def document(self) -> dict[str, Any]:
        """The error with the list of its faults."""
        return super().document() | {"faults": [fault.document() for fault in self.faults]}


class JobInterrupted(DeployError):
    """The agent ended during a deployment."""

    code = "job.interrupted"
    blame = Blame.AGENT
    retryable = True
    template = "The deployment was interrupted: {reason}."
    default_hint = "Look at the agent's log for the reason, then post the job again."


class StateUnusable(DeployError):
    """The directory for the agent's own state cannot be used."""

    code = "agent.state"
    blame = Blame.AGENT
    template = "The state in {path} cannot be used: {reason}."
    default_hint = "Make sure that the directory can be written, and that only one byoi-agent uses it."


class VerifyFailed(DeployError):
    """An end of the disk or the config drive reads back different from what was written.

    The disk was made unbootable again.
    """

    code = "disk.verify"
    blame = Blame.DISK
    template = "{device} does not read back as it was written: {reason}."
    default_hint = "The disk may be failing: look at the kernel's log and at SMART."


class DiskReadback(DeployError):
    """A part of the disk does not give back what was written there. Nothing bootable is on it."""

    code = "disk.readback"
    blame = Blame.DISK
    template = "{device} does not give back what was written to it, in bytes {start} to {end}."
    default_hint = (
        "The disk, its cable or its controller loses or changes data: look at the kernel's log and at SMART, and "
        "replace it before it is used."
    )


class ToolMissing(DeployError):
    """A program that is needed is not installed."""

    code = "agent.tool"
    blame = Blame.AGENT
    template = "The rescue system lacks {tool}."
    default_hint = "Install the package that has it into the rescue system."


class OutOfMemory(DeployError):
    """The system has not enough memory for the agent."""

    code = "agent.memory"
    blame = Blame.AGENT
    retryable = True
    template = "The server has not enough free memory for the deployment."
    default_hint = (
        "Free memory in the rescue system, or raise the limit that the agent runs under: a deployment takes up to "
        "128 MiB."
    )


class OutOfDescriptors(DeployError):
    """The agent, or the system, may open no further file."""

    code = "agent.descriptors"
    blame = Blame.AGENT
    retryable = True
    template = "The agent may open no further file or connection: too many are open."
    default_hint = (
        "Raise the limit that the agent runs under (ulimit -n, LimitNOFILE= in its unit), or end what has so many "
        "files open in the rescue system."
    )


class InternalFault(DeployError):
    """An error in the agent itself; its place is in the log, its text nowhere, since it may contain secrets."""

    code = "agent.internal"
    blame = Blame.AGENT
    template = "The agent failed: {reason}."
    default_hint = "This is a fault of byoi-agent: please report it with the agent's log."


# What an exception says that has neither a class nor a number for it: Python's where pthread_create(3) fails, mostly
# for want of memory, and those of the loader of libraries.
_WORDS = (
    (RuntimeError, "can't start new thread", errno.ENOMEM),
    (ImportError, "failed to map segment from shared object", errno.ENOMEM),
    (ImportError, os.strerror(errno.EMFILE), errno.EMFILE),
    (ImportError, os.strerror(errno.ENFILE), errno.ENFILE),
)


def shortage(error: BaseException, detail: str = "") -> DeployError | None:
    """The error where the system had too little of something for the agent; None for every other exception."""
    if isinstance(error, OSError):
        number = error.errno
    else:
        told = (
            found for kind, words, found in _WORDS if isinstance(error, kind) and str(error).endswith(words)
        )
        number = next(told, None)
    if isinstance(error, MemoryError) or number == errno.ENOMEM:
        return OutOfMemory(detail=detail)
    return OutOfDescriptors(detail=detail) if number in (errno.EMFILE, errno.ENFILE) else None


def unforeseen(error: BaseException) -> DeployError:
    """The error for an exception that no stage handles: `shortage`, or else `InternalFault`.

    The exception's text is left out, since it may contain data of the job.
    """
    return shortage(error) or InternalFault(reason=type(error).__name__)
