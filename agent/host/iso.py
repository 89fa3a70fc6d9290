"""Builds and reads ISO 9660 images of config drives; the only module that uses pycdlib.

Files have their real names in Rock Ridge (Linux, the BSDs) and Joliet (Windows), and upper-case identifiers for readers
of plain ISO 9660. Used by `agent.host.drive`. Works in memory; errors are OSError.
"""

import errno
import io
import re
import struct
from collections.abc import Mapping
from pathlib import PurePosixPath

import pycdlib
from pycdlib.pycdlibexception import PyCdlibException

from agent.formats.configdrive import LABEL, directories
from agent.units import MiB

MAX_IMAGE = 32 * MiB
MAX_FILES = 64  # files and directories
MAX_DEPTH = 8

# Level 1 limits identifiers to 8.3 characters (ECMA-119, section 10); `META_DATA.JSON;1` needs a higher one.
_INTERCHANGE_LEVEL = 3
_NOT_IN_IDENTIFIER = re.compile(r"[^A-Z0-9_]")
# What pycdlib raises for damaged images besides its own exceptions.
_PARSER_FAULTS = (
    PyCdlibException,
    struct.error,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
)


def build_iso(tree: Mapping[str, bytes], label: str = LABEL) -> bytes:
    """Build an image.

    Args:
        tree: file contents by relative path, with `/` between the names.
        label: volume identifier (primary and Joliet), 1 to 16 characters; written unchanged, also in lower case.

    Returns:
        The image, a multiple of 2048 bytes. Images of equal trees differ only in their time stamps.

    Raises:
        OSError: EINVAL if the tree cannot be stored, for example because two names have the same ISO identifier.
    """
    _check_identifiers(tree)
    iso = pycdlib.PyCdlib()
    try:
        iso.new(interchange_level=_INTERCHANGE_LEVEL, vol_ident=label, joliet=3, rock_ridge="1.09")
        for directory in directories(tree):
            identifier = _directory_identifier(directory)
            iso.add_directory(identifier, rr_name=directory.name, joliet_path=f"/{directory}")
        for path, data in tree.items():
            file = PurePosixPath(path)
            identifier = _file_identifier(file)
            iso.add_fp(io.BytesIO(data), len(data), identifier, rr_name=file.name, joliet_path=f"/{file}")
        image = io.BytesIO()
        iso.write_fp(image)
    except PyCdlibException as error:
        raise OSError(errno.EINVAL, f"the config drive cannot be stored as ISO 9660: {error}") from error
    else:
        return image.getvalue()
    finally:
        _close(iso)


def read_iso(data: bytes) -> dict[str, bytes]:
    """Read all files of an image.

    Returns:
        File contents by relative path, with Rock Ridge names.

    Raises:
        OSError: EINVAL if it is not a valid ISO 9660 image with Rock Ridge; EFBIG if it exceeds a bound: 32 MiB of
        image
            or of contents, 64 files and directories, 8 levels.
    """
    if len(data) > MAX_IMAGE:
        raise OSError(errno.EFBIG, f"the ISO 9660 image has {len(data)} bytes, at most {MAX_IMAGE} are read")
    iso = pycdlib.PyCdlib()
    try:
        iso.open_fp(io.BytesIO(data))
        return _read_files(iso)
    except _PARSER_FAULTS as error:
        raise OSError(errno.EINVAL, f"the ISO 9660 image is damaged: {error}") from error
    finally:
        _close(iso)


def _read_files(iso: pycdlib.PyCdlib) -> dict[str, bytes]:
    tree: dict[str, bytes] = {}
    seen, total = 0, 0
    for directory, subdirectories, files in iso.walk(rr_path="/"):
        seen += len(subdirectories) + len(files)
        if seen > MAX_FILES or PurePosixPath(directory).parts[MAX_DEPTH:]:
            raise OSError(
                errno.EFBIG, f"the ISO 9660 image has more than {MAX_FILES} files or {MAX_DEPTH} levels"
            )
        for name in files:
            path = str(PurePosixPath(directory) / name)
            total += int(iso.get_record(rr_path=path).get_data_length())
            if total > MAX_IMAGE:
                raise OSError(
                    errno.EFBIG, f"the files of the ISO 9660 image hold more than {MAX_IMAGE} bytes"
                )
            content = io.BytesIO()
            iso.get_file_from_iso_fp(content, rr_path=path)
            tree[path.lstrip("/")] = content.getvalue()
    return tree


def _close(iso: pycdlib.PyCdlib) -> None:
    # close() raises if new() or open_fp() failed; then there is nothing to free.
    try:
        iso.close()
    except PyCdlibException:
        return


def _check_identifiers(tree: Mapping[str, bytes]) -> None:
    # With Rock Ridge pycdlib accepts two files with one identifier, of which a plain reader finds only one.
    taken: dict[str, str] = {}
    for path in tree:
        other = taken.setdefault(_file_identifier(PurePosixPath(path)), path)
        if other != path:
            raise OSError(errno.EINVAL, f"{other} and {path} have the same ISO 9660 identifier")


def _directory_identifier(directory: PurePosixPath) -> str:
    return "".join(f"/{_identifier(part)}" for part in directory.parts)


def _file_identifier(file: PurePosixPath) -> str:
    """The ISO identifier: upper case, exactly one dot (even if the name has none), version 1."""
    name, suffix = _identifier(file.stem), _identifier(file.suffix.removeprefix("."))
    return f"{_directory_identifier(file.parent)}/{name}.{suffix};1"


def _identifier(name: str) -> str:
    return _NOT_IN_IDENTIFIER.sub("_", name.upper())
