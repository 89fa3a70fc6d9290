"""What the images storm reads: a sample of each format, made by other products' tools, and the agent's reader of it."""

import random
import struct
import subprocess
import uuid
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from agent.errors import ConfigDriveContent, ConfigDriveCreate
from agent.formats import lldp, smbios
from agent.formats.archives.unpack import Archive
from agent.formats.chain import Chained
from agent.formats.checksum_file import find_digest
from agent.formats.compressed import Decompressor
from agent.formats.extent import Decoder
from agent.formats.image import examine
from agent.formats.ova.decoder import OvaDecoder
from agent.formats.ova.ovf import parse_ovf
from agent.formats.qcow2.decoder import Qcow2Decoder
from agent.formats.raw import RawDecoder
from agent.formats.ready_drive import filesystem_of, unpack
from agent.formats.tables.existing import read_existing
from agent.formats.tables.gpt import Gpt
from agent.formats.tables.labels import label_of
from agent.formats.tables.layout import finish_head, place_drive, stale_backup
from agent.formats.tables.mbr import parse_logicals
from agent.formats.tables.read import TableError, read_table
from agent.formats.vdi import VdiDecoder
from agent.formats.vhd import VhdDecoder
from agent.formats.vhdx.decoder import VhdxDecoder
from agent.formats.vhdx.header import crc32c
from agent.formats.vmdk.decoder import VmdkDecoder
from agent.host.fat import build_fat, read_fat
from agent.host.iso import build_iso, read_iso
from agent.model.boot_entries import parse_csv, parse_entries
from agent.model.job_text import TextRefused, bounded_text, read_json
from agent.units import KiB, MiB
from tests.kit.commands import run
from tests.kit.decoding import DISK, deploy, guest
from tests.kit.ova import OVF, make_ova
from tests.storm.subject import Read, Subject, as_it_is, parser
from tests.storm.vouched import vouched
from tests.unit.stages.memory import gpt_disk

CONTENT = guest(512 * KiB) + bytes(256 * KiB) + guest(256 * KiB)


def pieces(data: bytes, chance: random.Random) -> Iterator[memoryview]:
    """The file in pieces of lengths that are drawn."""
    view, most, at = memoryview(data), chance.choice((511, 64 * KiB, DISK, DISK, 4 * DISK)), 0
    while at < len(view):
        length = chance.randint(max(most // 2, 1), most)
        yield view[at : at + length]
        at += length


# -- disk images ---------------------------------------------------------------------------------------------

QCOW2 = {
    "qcow2": (), "qcow2-v2": ("-o", "compat=0.10"), "qcow2-small": ("-o", "cluster_size=4096"),
    "qcow2-extended": ("-o", "extended_l2=on"), "qcow2-zlib": ("-c",),
    "qcow2-zstd": ("-c", "-o", "compression_type=zstd"),
}  # fmt: skip
OTHERS = {
    "vmdk-stream": ("-O", "vmdk", "-o", "subformat=streamOptimized"),
    "vmdk-sparse": ("-O", "vmdk", "-o", "subformat=monolithicSparse"),
    "vhd": ("-O", "vpc", "-o", "subformat=dynamic,force_size=on"),
    "vhd-fixed": ("-O", "vpc", "-o", "subformat=fixed,force_size=on"),
    "vhdx": ("-O", "vhdx", "-o", "block_size=1M"),
    "vdi": ("-O", "vdi"),
}
DECODERS: dict[str, Callable[[int], Decoder]] = {
    "qcow2": lambda size: Qcow2Decoder(size, DISK, can_fetch=False),
    "vmdk": lambda size: VmdkDecoder(DISK),
    "vpc": lambda size: VhdDecoder(size, DISK),
    "vhdx": lambda size: VhdxDecoder(size, DISK, can_fetch=False),
    "vdi": lambda size: VdiDecoder(DISK),
}
PACKED = {
    "gzip": ("gzip", "-6"), "xz": ("xz", "-1"), "zstd": ("zstd", "-q", "-3", "--check"), "bzip2": ("bzip2", "-1"),
    "lz4": ("lz4", "-q"),
}  # fmt: skip


def make_samples(directory: Path, content: bytes = CONTENT) -> None:
    raw = directory / "disk.raw"
    raw.write_bytes(content)
    for name, options in QCOW2.items():
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", *options, raw, directory / name)
    for name, options in OTHERS.items():
        run("qemu-img", "convert", "-f", "raw", *options, raw, directory / name)
    for name, command in PACKED.items():
        packed = subprocess.run([*command, "-c"], input=content, capture_output=True, check=True).stdout
        (directory / name).write_bytes(packed)
    for name, command in {"zip": ("zip", "-q", "-"), "tar": ("tar", "-cf", "-", "--format=gnu")}.items():
        packed = subprocess.run([*command, raw.name], cwd=directory, capture_output=True, check=True).stdout
        (directory / name).write_bytes(packed)
    make_ova(raw, directory / "ova", manifest="right")


def disk_image(name: str, qemu: str, data: bytes, content: bytes) -> Subject:
    make = DECODERS[qemu]

    def read(data: bytes, chance: random.Random) -> bytes:
        return bytes(deploy(make(len(data)), pieces(data, chance)))

    mended = mend_vhdx if qemu == "vhdx" else as_it_is
    return Subject(name, data, read, content, qemu, mended=mended)


def mend_vhdx(data: bytes, chance: random.Random) -> bytes:
    """Right checksums for both headers and both tables of regions."""
    out = bytearray(data)
    for start, length in (
        (64 * KiB, 4 * KiB),
        (128 * KiB, 4 * KiB),
        (192 * KiB, 64 * KiB),
        (256 * KiB, 64 * KiB),
    ):
        part = out[start : start + length]
        if len(part) == length and chance.random() < 0.8:
            part[4:8] = bytes(4)
            struct.pack_into("<I", out, start + 4, crc32c(bytes(part)))
    return bytes(out)


def unpacked(name: str) -> Read:
    def read(data: bytes, chance: random.Random) -> bytes:
        unpacker = Archive(name, DISK) if name in ("zip", "tar") else Decompressor(name, DISK, 64 * MiB)
        return bytes(deploy(Chained(unpacker, lambda content: RawDecoder(None)), pieces(data, chance)))

    return read


def ova(data: bytes, chance: random.Random) -> bytes:
    return bytes(deploy(OvaDecoder(DISK), pieces(data, chance)))


# -- tables --------------------------------------------------------------------------------------------------

TABLE_DISK = 6 * MiB
TARGET = 8 * MiB


def table(data: bytes, chance: random.Random) -> bytes:
    """All that a deployment does with a table: what it writes lies on the disk."""
    image = data[:TABLE_DISK].ljust(TABLE_DISK, b"\0")
    facts = examine(image, len(image))
    found = read_table(image, None)
    if found is None or facts.table is None:
        return b""

    def look(offset: int, length: int) -> bytes:
        assert length <= MiB
        return image[offset : offset + length] if offset >= 0 else b""

    read_existing(look, len(image), chance.choice((None, 512, 4096)))
    extended = None if isinstance(found, Gpt) else next((p for p in found.partitions if p.number <= 4), None)
    logicals = () if extended is None else parse_logicals(look, extended, found.sector_size)
    slot = place_drive(found, TARGET, found.sector_size, 512 * KiB, logicals)
    assert 0 < slot.start < slot.start + slot.size <= TARGET
    head = image[:MiB]
    finished = finish_head(
        head, found, TARGET, slot, unique_guid=uuid.UUID(int=9), drive_type="iso9660", logicals=logicals
    )
    assert len(finished.head) == MiB
    for offset, written in (*finished.tail_writes, *finished.other_writes):
        assert MiB <= offset <= offset + len(written) <= TARGET
    ranges = stale_backup(found, len(image), TARGET) if isinstance(found, Gpt) else ()
    for offset, length in ranges:
        assert MiB <= offset < offset + length <= TARGET
    return b""


def mend_gpt(data: bytes, chance: random.Random) -> bytes:
    """Right checksums in both copies."""
    out = bytearray(data)
    for header, entries in ((512, 1024), (len(out) - 512, len(out) - 33 * 512)):
        if len(out) < TABLE_DISK or chance.random() < 0.2:
            continue
        count, size = struct.unpack_from("<II", out, header + 80)
        length = min(count * size, 128 * 128)
        struct.pack_into("<I", out, header + 88, zlib.crc32(out[entries : entries + length]))
        size = struct.unpack_from("<I", out, header + 12)[0]
        struct.pack_into("<I", out, header + 16, 0)
        struct.pack_into("<I", out, header + 16, zlib.crc32(out[header : header + min(size, 512)]))
    return bytes(out)


def mbr_disk() -> bytes:
    """An MBR with a primary and two logical partitions."""
    disk = bytearray(TABLE_DISK)

    def entry(at: int, kind: int, start: int, sectors: int) -> None:
        struct.pack_into("<B3sB3sII", disk, at, 0, b"", kind, b"", start, sectors)

    entry(446, 0x83, 2048, 2048)
    entry(462, 0x0F, 4096, 6144)
    for at in (0, 2 * MiB, 3 * MiB):
        disk[at + 510 : at + 512] = b"\x55\xaa"
    entry(2 * MiB + 446, 0x83, 128, 1024)
    entry(2 * MiB + 462, 0x05, 2048, 2048)
    entry(3 * MiB + 446, 0x83, 128, 1024)
    return bytes(disk)


# -- filesystems and texts -----------------------------------------------------------------------------------

TREE = {
    "openstack/latest/meta_data.json": b'{"uuid": "1"}',
    "openstack/latest/user_data": b"#!/bin/sh\n" * 100,
    "ec2/latest/meta-data.json": b"{}",
}
REPORT = b"""BootCurrent: 0001
BootOrder: 0001,0000
Boot0000* UiApp\tFvVol(7cb8bdc9-f8eb-4f34-aaea-3ee4af6516a1)/FvFile(462caa21-7614-4503-836e-8ab6f4662331)
Boot0001* debian\tHD(1,GPT,5ef04b62-24cd-4a6f-aa11-c0ee3d5c4b47,0x800,0x100000)/File(\\EFI\\debian\\shimx64.efi)
"""
SUMS = (
    b"# sums\n"
    + b"".join(b"%064x  image-%d.raw\n" % (n, n) for n in range(20))
    + b"SHA256 (a) = "
    + b"a" * 64
)
JOB = (
    b'{"URL": "http://a.example/x", "type": "raw", "configdrive": {"enable": true, "userData": "#!/bin/sh"}}'
)
FRAME = bytes.fromhex("0180c200000e001b213c9df888cc") + bytes.fromhex(
    "020704001b213c9df8040703001b213c9df80602007808096c6c64702d7465737400fe0600120f0203000000"
)
DMI = (
    bytes([17, 40, 1, 0])
    + bytes(8)
    + struct.pack("<H", 16384)
    + bytes(26)
    + b"a\0b\0\0"
    + bytes([127, 4, 2, 0, 0, 0])
)


def ready(data: bytes) -> None:
    filesystem_of(unpack(data))


def texts() -> Iterator[Subject]:
    drives = {"iso": build_iso(TREE), "fat": build_fat(TREE)}
    fat, iso = drives["fat"], drives["iso"]
    yield Subject("ISO", iso, parser(read_iso), refusals=(OSError,))
    yield Subject("FAT", fat[: 2 * MiB], parser(read_fat), refusals=(OSError,))
    for name, drive in drives.items():
        yield Subject(f"drive-{name}", drive, parser(ready), refusals=(ConfigDriveContent,))
        yield Subject(f"label-{name}", drive[: 128 * KiB], parser(label_of))
    ovf = OVF.format(size=1000, capacity=len(CONTENT)).encode()
    yield Subject("OVF", ovf, parser(parse_ovf))
    sums = parser(lambda data: find_digest(data, "image-7.raw", "sha256", "http://a.example"))
    yield Subject("checksum file", SUMS, sums)
    yield Subject(
        "job", JOB, parser(lambda data: (bounded_text(data), read_json(data))), refusals=(TextRefused,)
    )
    yield Subject("LLDP", FRAME, parser(lldp.read_tlvs))
    yield Subject("SMBIOS", DMI, parser(smbios.installed_memory))
    yield Subject("boot entries", REPORT, parser(lambda data: parse_entries(data.decode(errors="replace"))))
    yield Subject("loader list", "shimx64.efi,debian,,x\n".encode("utf-16"), parser(parse_csv))


def subjects(directory: Path) -> list[Subject]:
    """All of them, from the samples that `make_samples` has made there."""
    content = (directory / "disk.raw").read_bytes()
    formats = dict.fromkeys(QCOW2, "qcow2") | {name: qemu for name, (_, qemu, *_) in OTHERS.items()}
    found = [
        disk_image(name, qemu, (directory / name).read_bytes(), content) for name, qemu in formats.items()
    ]
    for name in (*PACKED, "zip"):
        data = (directory / name).read_bytes()
        found.append(Subject(name, data, unpacked(name), content, sealed=True))
    found.append(Subject("tar", (directory / "tar").read_bytes(), unpacked("tar"), content))
    found.append(Subject("ova", (directory / "ova").read_bytes(), ova, content))
    refusals = (TableError, ConfigDriveCreate)
    found.append(Subject("GPT", gpt_disk(TABLE_DISK), table, refusals=refusals, mended=mend_gpt))
    found.append(Subject("MBR", mbr_disk(), table, refusals=refusals))
    return [*found, *texts(), *vouched()]
