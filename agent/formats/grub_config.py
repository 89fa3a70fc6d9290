"""Reads from a grub.cfg how it names the root filesystem. Pure; nothing is run or expanded.

A filesystem's UUID or label is the same on both halves of a mirror, and is found in the array. A partition's is not:
there are two of them, and neither is the array. The names are those of Linux's `root=` and of GRUB's `search`.
"""

import re
from dataclasses import dataclass

# Of the kernel's command line, wherever it stands. `set root=` is GRUB's own root, which it reads from one disk alone.
_ROOT = re.compile(r"(?<![\w=.-])root=([^\s'\"]+)")
_GRUB_ROOT = re.compile(r"\s*set\s+root=")
_SEARCH = re.compile(r"\s*search(\.fs_uuid|\.fs_label)?\b(.*)")
_BY_FILESYSTEM = re.compile(r"\s(--fs-uuid|-u|--label|-l|--fs-label)\b")
_OF_FILESYSTEM = re.compile(r"(UUID|LABEL)=.|/dev/disk/by-(uuid|label)/.|/dev/md", re.IGNORECASE)
_OF_PARTITION = re.compile(
    r"(PARTUUID|PARTLABEL)=.|/dev/disk/by-(partuuid|partlabel|id|path|diskseq)/.|"
    r"/dev/(sd|hd|vd|xvd)[a-z]+\d|/dev/(nvme\d+n|mmcblk)\d+p\d",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class RootNames:
    """The names of the root in a grub.cfg, as they stand there."""

    of_filesystem: tuple[str, ...] = ()
    """By UUID or label: good for a mirror."""
    of_partition: tuple[str, ...] = ()
    """Of a partition: the system that is named so does not start as a mirror."""


def root_names(config: bytes) -> RootNames:
    """What a grub.cfg says of the root. What it says by variables, or leaves to another file, is not seen."""
    of_filesystem, of_partition = dict[str, None](), dict[str, None]()
    for line in config.decode("utf-8", "replace").splitlines():
        if line.lstrip().startswith("#"):
            continue
        if (search := _SEARCH.match(line)) and (search[1] or _BY_FILESYSTEM.search(search[2])):
            of_filesystem[" ".join(line.split())] = None
        if _GRUB_ROOT.match(line):
            continue
        for name in _ROOT.findall(line):
            if _OF_FILESYSTEM.match(name):
                of_filesystem[f"root={name}"] = None
            elif _OF_PARTITION.match(name):
                of_partition[f"root={name}"] = None
    return RootNames(tuple(of_filesystem), tuple(of_partition))
