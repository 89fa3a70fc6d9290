"""Builds and reads FAT filesystems of config drives, and looks for a file in a FAT filesystem on a disk.

Owns the geometry of the filesystem and the calls of mkfs.vfat and mtools. Used by `agent.host.drive` and by the finish
stage, which checks for the boot loader. An image is built in a memfd, which leaves nothing behind however the process
ends. Errors are OSError, or ToolMissing for a missing tool. A filesystem may be built to exhaust its reader, so the
tools run under limits.
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
from agent.units import MiB, divide_up

MAX_IMAGE = 64 * MiB
MAX_FILES = 64  # files and directories
MAX_DEPTH = 16

_ENTRY_SIZE = 32  # bytes of a directory entry
_NAME_CHARACTERS_PER_ENTRY = 13
_ROOT_ENTRIES = 512
# A filesystem of 4085 clusters or more is FAT16 by definition (Microsoft, FAT: General Overview of On-Disk Format);
# some readers miscount by a few, so numbers near that are avoided.
_FAT12_CLUSTERS = 4000
_FAT16_CLUSTERS = (4200, 65500)
_SPARE_CLUSTERS = 16
_TIMEOUT = 60.0

# mtools needs a few MiB for any valid filesystem, and waits for nothing but the disk.
_LIMITS = process.ChildLimits()

# Names of characters that mtools takes literally (it expands `*`, `?` and `[`).
_NAME = re.compile(r"(?!\.+\Z)[A-Za-z0-9._+~@() -]{1,255}")


class FatUnsound(OSError):
    """A filesystem that cannot be read although its disk can: the image is at fault, not the disk."""


@dataclass(frozen=True)
class Geometry:
    """The shape of a FAT12 or FAT16 filesystem with clusters of one sector."""

    sector_size: int
    clusters: int

    @property
    def bits(self) -> int:
        """Width of an entry of the FAT, in bits."""
        return 12 if self.clusters <= _FAT12_CLUSTERS else 16

    @property
    def sectors(self) -> int:
        """Number of sectors: the boot sector, two FATs, the root directory, and the clusters."""
        fat = divide_up((self.clusters + 2) * self.bits, 8 * self.sector_size)
        return 1 + 2 * fat + _ROOT_ENTRIES * _ENTRY_SIZE // self.sector_size + self.clusters

    @property
    def size(self) -> int:
        """Size of the filesystem in bytes."""
        return self.sectors * self.sector_size


def geometry_for(tree: Mapping[str, bytes], sector_size: int) -> Geometry:
    """The smallest geometry that holds the tree, with 16 clusters to spare.

    Raises:
        OSError: EFBIG if the tree is too large for FAT16 with clusters of one sector.
    """
    clusters = _SPARE_CLUSTERS + sum(divide_up(len(data), sector_size) for data in tree.values())
    for directory in directories(tree):
        children = {PurePosixPath(p).relative_to(directory).parts[0] for p in tree if _is_below(p, directory)}
        entries = 2 + sum(1 + divide_up(len(name), _NAME_CHARACTERS_PER_ENTRY) for name in children)
        clusters += divide_up(entries * _ENTRY_SIZE, sector_size)
    if clusters > _FAT12_CLUSTERS:
        clusters = max(clusters, _FAT16_CLUSTERS[0])
    if clusters > _FAT16_CLUSTERS[1]:
        raise OSError(errno.EFBIG, f"FAT of {clusters} clusters, at most {_FAT16_CLUSTERS[1]} are possible")
    return Geometry(sector_size, clusters)


def build_fat(tree: Mapping[str, bytes], sector_size: int = 4096, label: str = LABEL) -> bytes:
    """Build a filesystem.

    Args:
        tree: file contents by relative path, with `/` between the names.
        sector_size: logical sector size of the disk in bytes; clusters have the same size.
        label: at most 11 characters; written unchanged (also in lower case) to boot sector and root directory.

    Returns:
        The image, a multiple of `sector_size`.

    Raises:
        ToolMissing: mkfs.vfat or mtools is not installed.
        OSError: a tool failed, a name cannot be stored (EINVAL), or the tree is too large (EFBIG).
    """
    for path in tree:
        _split(path)
    geometry = geometry_for(tree, sector_size)
    with _memory_file() as (fd, image):
        os.truncate(fd, geometry.size)
        shape = ["-S", str(sector_size), "-s", "1", "-F", str(geometry.bits), "-r", str(_ROOT_ENTRIES), "-a"]
        process.run(["mkfs.vfat", *shape, "-n", label, image], timeout=_TIMEOUT)
        for directory in directories(tree):
            _mtools("mmd", image, f"::/{directory}")
        for path, data in tree.items():
            # Through stdin: the contents are secret, and so need no file of their own.
            _mtools("mcopy", image, "-", f"::/{path}", content=data)
        return _content(fd)


def read_fat(data: bytes) -> dict[str, bytes]:
    """Read all files of an image.

    Returns:
        File contents by relative path.

    Raises:
        ToolMissing: mtools is not installed.
        OSError: EINVAL or EIO if it is not a valid FAT filesystem; EFBIG if it exceeds a bound: 64 MiB of image or of
            contents, 64 files and directories, 16 levels.
    """
    if len(data) > MAX_IMAGE:
        raise OSError(errno.EFBIG, f"the FAT image has {len(data)} bytes, at most {MAX_IMAGE} are read")
    with _memory_file() as (fd, image):
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
    r"""Whether the FAT filesystem at `offset` of a disk has a file at this path. Only reads.

    The kernel's FAT driver is not needed; hidden files count. Names are compared without regard to case, as UEFI
    firmware does.

    Args:
        device_path: the whole disk, or a regular file.
        offset: start of the filesystem in bytes.
        file_path: for example `\EFI\BOOT\BOOTX64.EFI` or `/EFI/BOOT/BOOTX64.EFI`.

    Raises:
        ToolMissing: mtools is not installed.
        FatUnsound: there is no FAT filesystem, or one on which mtools fails.
        OSError: EINVAL if the path is not possible on FAT; EIO and others if the disk cannot be read.
    """
    with _filesystem(device_path, offset) as image:
        return _has_file(image, _split(file_path.replace("\\", "/").removeprefix("/")))


def fat_directories(device_path: str | os.PathLike[str], offset: int, directory: str) -> tuple[str, ...]:
    r"""The names of the directories in a directory (`\EFI`) of the FAT filesystem at `offset` of a disk. Only reads.

    Names with characters that have a meaning for mtools are left out. Arguments and errors are those of `fat_has_file`;
    there are none where the directory does not exist.
    """
    with _filesystem(device_path, offset) as image:
        here = ""
        for name in _split(directory.replace("\\", "/").removeprefix("/")):
            found = _find(_list(image, here), name)
            if found is None or not found.is_directory:
                return ()
            here = f"{here}/{name}"
        return tuple(e.name for e in _list(image, here) if e.is_directory and _NAME.fullmatch(e.name))


def fat_file(device_path: str | os.PathLike[str], offset: int, file_path: str) -> bytes:
    """The content of a file of at most 1 MiB, of the FAT filesystem at `offset` of a disk. Only reads.

    Arguments and errors are those of `fat_has_file`; it is FatUnsound too if there is no such file, or a larger one.
    """
    with _filesystem(device_path, offset) as image:
        names = _split(file_path.replace("\\", "/").removeprefix("/"))
        return _mtools("mcopy", image, "-n", f"::/{'/'.join(names)}", "-")


def fat_grub_configs(device_path: str | os.PathLike[str], offset: int) -> dict[str, bytes]:
    r"""Every grub.cfg of the FAT filesystem at `offset` of a disk, by its path. Only reads.

    Looked for in the directories of \EFI, and where it is if the filesystem is mounted at /boot. Arguments and errors
    are those of `fat_file`.
    """
    vendors = fat_directories(device_path, offset, r"\EFI")[:MAX_FILES]
    places = [*(f"/EFI/{name}" for name in vendors), "/grub", "/grub2"]
    paths = [f"{place}/grub.cfg" for place in places]
    return {
        path: fat_file(device_path, offset, path) for path in paths if fat_has_file(device_path, offset, path)
    }


@contextmanager
def _filesystem(device_path: str | os.PathLike[str], offset: int) -> Iterator[str]:
    """A filesystem on a disk, as mtools is told of it; its failures are `FatUnsound` where the disk can be read."""
    # Absolute, because the tool runs in another directory; symbolic links are not resolved.
    device = os.path.abspath(device_path)  # noqa: PTH100
    os.stat(device)  # noqa: PTH116 - for its FileNotFoundError
    if "@@" in device:
        # mtools reads what follows as an offset, and has no way to quote it.
        raise OSError(errno.EINVAL, "a path with @@ in it cannot be examined by mtools", device)
    try:
        yield f"{device}@@{offset}"
    except process.ProcessFailed as error:
        if _is_disk_error(error):
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


def _is_disk_error(error: process.ProcessFailed) -> bool:
    """Whether the disk failed (a failed read, or the time limit), and not mtools because of what it read.

    mtools has the same exit status in both cases, but prints the kernel's error message.
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
        # mdir prints one path a line, and a slash after that of a directory.
        path = line.removesuffix("/")
        entries.append(_Entry(path.rpartition("/")[2], is_directory=path != line))
    return entries


def _find(entries: list[_Entry], name: str) -> _Entry | None:
    return next((entry for entry in entries if entry.name.casefold() == name.casefold()), None)


def _walk(image: str) -> Iterator[str]:
    """The paths of all files, breadth first. Bounded, because in a damaged tree a directory may contain itself."""
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
    # Through a file: the bound on a program's output (1 MiB) is lower than the size of user data.
    with _memory_file() as (fd, target):
        _mtools("mcopy", image, "-n", f"::/{path}", target)
        return _content(fd)


def _content(fd: int) -> bytes:
    with open(fd, "rb", closefd=False) as file:
        file.seek(0)
        return file.read()


def _mtools(tool: str, image: str, *arguments: str, content: bytes | None = None) -> bytes:
    # By default mtools refuses filesystems with an inconsistent number of heads and tracks, which others ignore.
    environment = {"MTOOLS_SKIP_CHECK": "1"}
    argv = [tool, "-i", image, *arguments]
    return process.run(argv, input=content, timeout=_TIMEOUT, env_extra=environment, limits=_LIMITS).stdout


@contextmanager
def _memory_file() -> Iterator[tuple[int, str]]:
    """An empty file in memory (memfd): its descriptor, and the path by which child processes can open it."""
    fd = os.memfd_create("byoi-drive", os.MFD_CLOEXEC)
    try:
        yield fd, f"/proc/{os.getpid()}/fd/{fd}"
    finally:
        os.close(fd)


def is_name(text: str) -> bool:
    """Whether a file with this name is looked up: no character has a meaning for mtools, and it is not only dots."""
    return _NAME.fullmatch(text) is not None


def _split(path: str) -> list[str]:
    """The names of a path.

    Raises:
        OSError: EINVAL if a name has characters with a meaning for mtools, is empty or only dots, or there are too
        many.
    """
    names = path.split("/")
    if len(names) > MAX_DEPTH or not all(_NAME.fullmatch(name) for name in names):
        raise OSError(errno.EINVAL, "not a path that is looked up on FAT", path)
    return names


def _is_below(path: str, directory: PurePosixPath) -> bool:
    return directory in PurePosixPath(path).parents
