"""L1 tables of many MiB: small clusters under a large disk, as far as qemu-img goes."""

import random
import struct
import subprocess
import tracemalloc
from array import array

import pytest

from agent.errors import ImageMemory, ImageUnsafe
from agent.formats.extent import Fetch, Write, Zero
from agent.formats.qcow2.decoder import Qcow2Decoder, Qcow2Limits
from agent.formats.qcow2.header import DEFAULT_LIMITS, HEADER_BYTES, read_header
from agent.formats.qcow2.tables import in_file_order, l1_holes, read_l1
from agent.units import GiB, KiB, MiB

SPAN = 64 * 512  # of the guest disk, that one L2 table of 512 bytes maps
DISK = 256 * GiB


def qemu(*argv):
    done = subprocess.run(list(map(str, argv)), check=True, capture_output=True, text=True, timeout=120)
    assert "failed" not in done.stdout + done.stderr


def pieces(file, chunk, *, limits=DEFAULT_LIMITS):
    """What is not zeros of the guest disk; every byte of it is given once."""
    decoder = Qcow2Decoder(len(file), DISK, can_fetch=True, limits=limits)
    written, given = {}, []

    def take(extents):
        for extent in extents:
            match extent:
                case Write():
                    written[extent.offset] = bytes(extent.data)
                    given.append((extent.offset, len(extent.data)))
                case Zero():
                    given.append((extent.offset, extent.length))
                case Fetch():
                    extent.data = bytes(file[extent.offset : extent.offset + extent.length])

    for at in range(0, len(file), chunk):
        take(decoder.feed(memoryview(file)[at : at + chunk]))
    take(decoder.finish())
    position = 0
    for offset, length in sorted(given):
        assert offset == position
        position += length
    assert position == decoder.virtual_size
    return {offset: data for offset, data in written.items() if any(data)}


@pytest.mark.parametrize(("size", "chunk"), [(9 * GiB, 4096), (40 * GiB, 65536), (128 * GiB, MiB)])
def test_clusters_of_512_bytes_under_a_disk_of_more_than_8_gib(tmp_path, size, chunk):
    path, source = tmp_path / "image", random.Random(3)
    qemu("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=512", path, size)
    places = [0, size - 512, *(source.randrange(size // SPAN) * SPAN + 512 for _ in range(20))]
    qemu("qemu-io", "-f", "qcow2", *(f"-cwrite -P {n + 1} {at} 512" for n, at in enumerate(places)), path)
    expected = {at: bytes([n + 1]) * 512 for n, at in enumerate(places)}
    assert pieces(path.read_bytes(), chunk) == expected


def test_an_l1_table_that_a_resize_has_moved_behind_the_data(tmp_path):
    path = tmp_path / "image"
    qemu("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=512", path, "1M")
    qemu("qemu-io", "-f", "qcow2", "-cwrite -P 7 0 512k", path)
    qemu("qemu-img", "resize", "-q", path, 20 * GiB)
    found = pieces(path.read_bytes(), 65536, limits=Qcow2Limits(early_bytes=64 * KiB))
    assert b"".join(found[at] for at in sorted(found)) == b"\x07" * 512 * KiB
    assert sum(map(len, found.values())) == 512 * KiB == max(found) + len(found[max(found)])


def test_what_qemu_img_does_not_make_is_refused(tmp_path):
    path = tmp_path / "image"
    qemu("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=512", path, 128 * GiB)
    with path.open("rb") as file:
        head = bytearray(file.read(HEADER_BYTES))
    assert read_header(bytes(head), None).l1_length == 32 * MiB
    struct.pack_into(">Q", head, 24, 128 * GiB + 512)
    with pytest.raises(ImageUnsafe, match="l1_size"):
        read_header(bytes(head), None)


def header_of(tmp_path, size):
    path = tmp_path / "image"
    qemu("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=512", path, size)
    with path.open("rb") as file:
        return read_header(file.read(HEADER_BYTES), None)


def l1_of(header, count, seed=None):
    """An L1 table that names so many L2 tables, in the order of the file or in any."""
    entries = header.l1_length // 8
    offsets = [header.l1_offset + header.l1_length + n * 512 for n in range(count)]
    if seed is not None:
        random.Random(seed).shuffle(offsets)
    table = array("Q", bytes(header.l1_length))
    for n, offset in enumerate(offsets):
        table[n * (entries // count)] = 1 << 63 | offset
    table.byteswap()
    return bytearray(table.tobytes())


@pytest.mark.parametrize("seed", [None, 5])
def test_an_l1_table_takes_no_more_memory_than_stated(tmp_path, seed):
    header, limit = header_of(tmp_path, 9 * GiB), 256 * KiB
    data = l1_of(header, limit, seed)
    tracemalloc.start()
    try:
        l1 = read_l1(data, header, None, limit)
        zeros = sum(length for _, length in l1_holes(l1, header))
        ordered = in_file_order(l1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert zeros == 9 * GiB - limit * SPAN
    assert list(ordered.offsets) == sorted(l1.offsets)
    assert dict(zip(*ordered, strict=True)) == dict(zip(*l1, strict=True))
    assert peak < 24 * limit + 5 * MiB


def test_tables_on_one_place_stay_in_the_order_of_the_guest(tmp_path):
    header = header_of(tmp_path, 9 * GiB)
    first = header.l1_offset + header.l1_length
    entries = [1 << 63 | first + 512 * at for at in (5, 2, 5, 0, 2, 2)]
    l1 = in_file_order(read_l1(struct.pack(">6Q", *entries), header, None, 6))
    assert [(offset - first) // 512 for offset in l1.offsets] == [0, 2, 2, 2, 5, 5]
    assert list(l1.indices) == [3, 1, 4, 5, 0, 2]


def test_more_l2_tables_than_the_bound_are_refused_with_a_way_out(tmp_path):
    header = header_of(tmp_path, 9 * GiB)
    with pytest.raises(ImageMemory) as caught:
        read_l1(l1_of(header, 1001), header, None, 1000)
    assert "more than 1000 L2 tables" in caught.value.detail
    assert "larger clusters" in caught.value.hint
