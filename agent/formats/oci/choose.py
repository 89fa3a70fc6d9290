"""Chooses what is meant: of an index the entry for this machine, of a manifest the layer with the disk. Pure.

Nothing is guessed: where two could be meant the refusal lists them, and their digests can be put into the URL.
"""

from collections.abc import Iterable, Sequence

from agent.formats.oci.look import Look
from agent.formats.oci.manifest import DISK_TYPE, Descriptor, Index, Manifest, ManifestRefused
from agent.text import printable

DISK_TYPES = ("metal", "raw", "qemu")
"""Values of the annotation `disktype` that suit a server's own disk, the best one first. Podman's machine images have
it, beside `applehv`, `hyperv` and `wsl`."""
MAX_LOOKED_AT = 16
"""Layers that are looked into, where a manifest has several."""

_NAMES = {
    "x86_64": "amd64",
    "x64": "amd64",
    "aarch64": "arm64",
    "armv8": "arm64",
    "armv7l": "arm",
    "armv6l": "arm",
    "i386": "386",
    "i686": "386",
    "loongarch64": "loong64",
}
"""What the kernel and others call an architecture, and what Go calls it, which registries follow."""
_NO_MACHINE = "unknown"
"""The architecture of attestations that BuildKit puts beside images."""
_MIN_DISK = 512
"""Bytes of the smallest file that could hold a disk."""
_LISTED = 8
_SHOWN = 60


def architecture(name: str) -> str:
    """An architecture as registries call it, from how `uname -m` or a maker does."""
    return _NAMES.get(name.lower(), name.lower())


def choose_entry(index: Index, machine: str) -> Descriptor:
    """The entry for a machine.

    Args:
        index: the list.
        machine: its architecture as `uname -m` has it.

    Raises:
        ManifestRefused: there is none, or more than one.
    """
    wanted = architecture(machine)
    entries = [entry for entry in index.entries if entry.architecture != _NO_MACHINE]
    named = [entry for entry in entries if entry.architecture is not None]
    fitting = [entry for entry in named if architecture(entry.architecture or "") == wanted]
    # Where no entry says what machine it is for, they are for any.
    fitting = _distinct(fitting or ([] if named else entries))
    if not fitting:
        there = ", ".join(dict.fromkeys(_shown(entry.architecture) for entry in named)) or "none at all"
        raise ManifestRefused(
            f"it has no image for {wanted}, which this machine is: there is {there}",
            hint="Push the image for this architecture, or name the one that is meant by its digest.",
        )
    if len(fitting) == 1:
        return fitting[0]
    for disk_type in DISK_TYPES:
        typed = [entry for entry in fitting if entry.annotations.get(DISK_TYPE) == disk_type]
        if len(typed) == 1:
            return typed[0]
        if typed:
            break
    raise ManifestRefused(
        f"it has {len(fitting)} images for {wanted}, and nothing says which is meant",
        detail=_listed(f"{entry.digest}{_type_of(entry)}" for entry in fitting),
        hint=f"Name one by its digest in the URL, or annotate it ({DISK_TYPE}: {' or '.join(DISK_TYPES)}).",
    )


def candidates(manifest: Manifest) -> tuple[Descriptor, ...]:
    """The layers that could hold the disk.

    Raises:
        ManifestRefused: there are none, or too many to look into.
    """
    found = _distinct(layer for layer in manifest.layers if layer.size >= _MIN_DISK)
    if not found:
        raise ManifestRefused("it has no layer that could be a disk image")
    if len(found) > MAX_LOOKED_AT:
        raise ManifestRefused(
            f"it has {len(found)} layers, and at most {MAX_LOOKED_AT} are looked into",
            hint="Push the disk image as an artifact with one layer, or as a container disk made from scratch.",
        )
    return tuple(found)


def choose_layer(layers: Sequence[Descriptor], looks: Sequence[Look]) -> Descriptor:
    """The layer with the disk, by what was seen in each.

    Raises:
        ManifestRefused: there is none, or more than one.
    """
    seen = list(zip(layers, looks, strict=True))
    disks = [(layer, look) for layer, look in seen if look.is_disk]
    # The disk may lie deep in an archive; where there is one archive, it can be in no other.
    found = disks or [(layer, look) for layer, look in seen if look.is_archive]
    if len(found) == 1:
        return found[0][0]
    words = f"{len(disks)} disk images, and nothing says which is meant" if disks else "no disk image"
    raise ManifestRefused(
        f"it has {words}",
        detail=_listed(f"{layer}: {look}" for layer, look in (disks or seen)),
        hint="Push the disk image as an artifact of its own.",
    )


def _distinct(entries: Iterable[Descriptor]) -> list[Descriptor]:
    return list({entry.digest: entry for entry in entries}.values())


def _type_of(entry: Descriptor) -> str:
    named = entry.annotations.get(DISK_TYPE)
    return f" ({DISK_TYPE} {_shown(named)})" if named else ""


def _shown(text: str | None) -> str:
    return printable(text or "", _SHOWN)


def _listed(words: Iterable[str]) -> str:
    listed = list(words)
    more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    return "; ".join(listed[:_LISTED]) + more
