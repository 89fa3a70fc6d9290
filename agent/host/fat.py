"""FAT images of a config drive, and the look into a FAT filesystem on a disk, both by mtools.

A disk with sectors of 4096 bytes cannot carry ISO 9660 for Linux, so its config drive is FAT with sectors as
large. Owns the geometry of that filesystem and the dealings with mkfs.vfat and mtools. Used by
`agent.host.drive` and by the check for the boot loader. The image is built in memory, in a file without a name
(memfd): it is gone with the process, in whatever way that ends. Every failure is an OSError, but for a missing tool
(ToolMissing). What a filesystem brings may be built to hurt its reader: the tools run under limits.
"""

import errno
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath

from agent.formats.configdrive import LABEL, directories
from agent.host import process
from agent.units import MiB, align_up

MAX_IMAGE = 64 * MiB
MAX_FILES = 64
MAX_DEPTH = 16

_ENTRY_SIZE = 32
_NAME_CHARACTERS_PER_ENTRY = 13
_ROOT_ENTRIES = 512
# The driver takes a filesystem of 4085 clusters or more for FAT16; stay clear of the border on both sides.
_FAT12_CLUSTERS = 4000
_FAT16_CLUSTERS = (4200, 65500)
_SPARE_CLUSTERS = 16
_TIMEOUT = 60.0

# mtools takes a few MiB for any sound filesystem, and nothing but the disk makes it wait.
_LIMITS = process.Limits()

# Characters for which mtools has no meaning of its own (it expands `*`, `?` and `[`).
_NAME = re.compile(r"(?!\.+\Z)[A-Za-z0-9._+~@() -]{1,255}")


class FatUnsound(OSError):
    """A filesystem that cannot be read although the disk under it can: whoever made it is to blame, not the disk."""


@dataclass(frozen=True)
class Geometry:
    """The shape of a FAT12 or FAT16 filesystem with clusters of one sector."""

    sector_size: int
    clusters: int

    @property
    def bits(self) -> int:
        """Width of a FAT entry."""
        return 12 if self.clusters <= _FAT12_CLUSTERS else 16

    @property
    def sectors(self) -> int:
        """The boot sector, two FATs, the root directory, and the clusters."""
        fat = _divide_up((self.clusters + 2) * self.bits, 8 * self.sector_size)
        return 1 + 2 * fat + _ROOT_ENTRIES * _ENTRY_SIZE // self.sector_size + self.clusters

    @property
    def size(self) -> int:
        """Bytes."""
        return self.sectors * self.sector_size


def geometry_for(tree: Mapping[str, bytes], sector_size: int) -> Geometry:
    """The smallest geometry that holds the tree with a little to spare.

    Raises:
        OSError: the tree is too large for FAT16 with clusters of one sector (EFBIG).
    """
    clusters = _SPARE_CLUSTERS + sum(_divide_up(len(data), sector_size) for data in tree.values())
    for directory in directories(tree):
        children = {PurePosixPath(p).relative_to(directory).parts[0] for p in tree if _is_below(p, directory)}
        entries = 2 + sum(1 + _divide_up(len(name), _NAME_CHARACTERS_PER_ENTRY) for name in children)
        clusters += _divide_up(entries * _ENTRY_SIZE, sector_size)
    if clusters > _FAT12_CLUSTERS:
        clusters = max(clusters, _FAT16_CLUSTERS[0])
    if clusters > _FAT16_CLUSTERS[1]:
        raise OSError(errno.EFBIG, f"FAT of {clusters} clusters, at most {_FAT16_CLUSTERS[1]} are possible")
    return Geometry(sector_size, clusters)


def build_fat(tree: Mapping[str, bytes], sector_size: int = 4096, label: str = LABEL) -> bytes:
    """Make a filesystem whose label (boot sector and root directory) is `label`, in its own letter case.

    Args:
        tree: file contents by relative path with `/` between the names.
        sector_size: logical sector size of the disk in bytes; clusters have the same size.
        label: at most 11 characters.

    Returns:
        The image, a multiple of `sector_size`.

    Raises:
        ToolMissing: mkfs.vfat or mtools is not installed.
        OSError: a tool failed, a name cannot be stored (EINVAL), or the tree is too large (EFBIG).
    """
    for path in tree:
        _split(path)
    geometry = geometry_for(tree, sector_size)
    with _nameless_file() as (fd, image):
        os.truncate(fd, geometry.size)
        shape = ["-S", str(sector_size), "-s", "1", "-F", str(geometry.bits), "-r", str(_ROOT_ENTRIES), "-a"]
        process.run(["mkfs.vfat", *shape, "-n", label, image], timeout=_TIMEOUT)
        for directory in directories(tree):
            _mtools("mmd", image, f"::/{directory}")
        for path, data in tree.items():
            # By stdin: the contents are secret and need no file beside the image.
            _mtools("mcopy", image, "-", f"::/{path}", content=data)
        return _content(fd)


def read_fat(data: bytes) -> dict[str, bytes]:
    """Read all files of an image.

    Returns:
        File contents by relative path.

    Raises:
        ToolMissing: mtools is not installed.
        OSError: this is no sound FAT filesystem (EINVAL, EIO), or one beyond the bounds (EFBIG): 64 MiB of
            image or of contents, 64 files and directories, a depth of 16.
    """
    if len(data) > MAX_IMAGE:
        raise OSError(errno.EFBIG, f"the FAT image has {len(data)} bytes, at most {MAX_IMAGE} are read")
    with _nameless_file() as (fd, image):
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        tree: dict[str, bytes] = {}
        total = 0
        for path in _walk(image):
            tree[path] = _extract(image, path)
            total += len(tree[path])
            if total > MAX_IMAGE:
                raise OSError(errno.EFBIG, f"the files of the FAT image hold more than {MAX_IMAGE} bytes")
        return tree


def fat_has_file(device_path: str | os.PathLike[str], offset: int, file_path: str) -> bool:
    r"""Whether the filesystem at `offset` bytes of a disk (or file) has a file of this path. Only reads.

    The filesystem need not be mountable here; hidden files count. Names are compared without regard to case,
    as the firmware does.

    Args:
        device_path: the whole disk, or a regular file.
        offset: where the filesystem begins, in bytes.
        file_path: such as `\EFI\BOOT\BOOTX64.EFI` or `/EFI/BOOT/BOOTX64.EFI`.

    Raises:
        ToolMissing: mtools is not installed.
        FatUnsound: there is no FAT filesystem there, or one that mtools fails on.
        OSError: the path cannot be one on FAT (EINVAL), or the disk is not there or cannot be read (EIO).
    """
    # Absolute, because the tool runs in another directory; links stay as they are.
    device = os.path.abspath(device_path)  # noqa: PTH100
    os.stat(device)  # noqa: PTH116 - for its FileNotFoundError
    if "@@" in device:
        # mtools takes what follows for an offset, without any means to quote it.
        raise OSError(errno.EINVAL, "a path with @@ in it cannot be examined by mtools", device)
    names = _split(file_path.replace("\\", "/").removeprefix("/"))
    try:
        return _has_file(f"{device}@@{offset}", names)
    except process.ProcessFailed as error:
        if _is_the_disks(error):
            raise
        raise FatUnsound(error.errno, error.strerror) from error


def _has_file(image: str, names: list[str]) -> bool:
    *directories, name = names
    here = ""
    for directory in directories:
        found = _find(_list(image, here), directory)
        if found is None or not found.is_directory:
            return False
        here = f"{here}/{directory}"
    found = _find(_list(image, here), name)
    return found is not None and not found.is_directory


def _is_the_disks(error: process.ProcessFailed) -> bool:
    """Whether the disk failed and not mtools on what it read: a read that failed, or a wait that used no processor.

    mtools ends with the same status either way, and says what the kernel answered.
    """
    return error.errno == errno.ETIMEDOUT or os.strerror(errno.EIO) in error.stderr_tail


@dataclass(frozen=True)
class _Entry:
    name: str
    is_directory: bool


def _list(image: str, directory: str) -> list[_Entry]:
    """The entries of a directory (empty for the root), hidden ones too, without `.` and `..`."""
    listing = _mtools("mdir", image, "-a", "-b", f"::{directory}/")
    entries = []
    for line in listing.decode("ascii", "replace").splitlines():
        # mdir gives one path a line, directories with a slash behind.
        path = line.removesuffix("/")
        entries.append(_Entry(path.rpartition("/")[2], is_directory=path != line))
    return entries


def _find(entries: list[_Entry], name: str) -> _Entry | None:
    return next((entry for entry in entries if entry.name.casefold() == name.casefold()), None)


def _walk(image: str) -> Iterator[str]:
    """The paths of all files, breadth first; bounded, because a damaged tree may contain itself."""
    pending, seen = [""], 0
    while pending:
        directory = pending.pop(0)
        for entry in _list(image, directory):
            seen += 1
            path = f"{directory}/{entry.name}"
            if seen > MAX_FILES or path.count("/") > MAX_DEPTH:
                raise OSError(
                    errno.EFBIG, f"the FAT image has more than {MAX_FILES} files or {MAX_DEPTH} levels"
                )
            _split(path[1:])
            if entry.is_directory:
                pending.append(path)
            else:
                yield path[1:]


def _extract(image: str, path: str) -> bytes:
    # Into a file: a program's stdout is bounded more tightly than the size of user data.
    with _nameless_file() as (fd, target):
        _mtools("mcopy", image, "-n", f"::/{path}", target)
        return _content(fd)


def _content(fd: int) -> bytes:
    with open(fd, "rb", closefd=False) as file:
        file.seek(0)
        return file.read()


def _mtools(tool: str, image: str, *arguments: str, content: bytes | None = None) -> bytes:
    # mtools by itself refuses filesystems whose heads and tracks do not add up, which no one else minds.
    environment = {"MTOOLS_SKIP_CHECK": "1"}
    argv = [tool, "-i", image, *arguments]
    return process.run(argv, input=content, timeout=_TIMEOUT, env_extra=environment, limits=_LIMITS).stdout


@contextmanager
def _nameless_file() -> Iterator[tuple[int, str]]:
    """An empty file in memory: its descriptor, and the path by which children of this process can open it."""
    fd = os.memfd_create("byoi-drive", os.MFD_CLOEXEC)
    try:
        yield fd, f"/proc/{os.getpid()}/fd/{fd}"
    finally:
        os.close(fd)


def _split(path: str) -> list[str]:
    """The names of a path; only those which mtools takes literally.

    Raises:
        OSError: a name has other characters, is empty or all dots, or there are too many (EINVAL).
    """
    names = path.split("/")
    if len(names) > MAX_DEPTH or not all(_NAME.fullmatch(name) for name in names):
        raise OSError(errno.EINVAL, "not a path that is looked up on FAT", path)
    return names


def _is_below(path: str, directory: PurePosixPath) -> bool:
    return directory in PurePosixPath(path).parents


def _divide_up(value: int, divisor: int) -> int:
    return align_up(value, divisor) // divisor
