"""A server that answers range requests with other bytes than its download has: nothing of them reaches the disk."""

import hashlib
import random
import struct

import pytest

from agent.units import KiB, MiB
from tests.kit import qcow2
from tests.kit.checks import assert_complete, assert_nothing_boots
from tests.kit.disks import DISK_SIZE, make_disk
from tests.kit.images import Image, make_image
from tests.kit.server import Server, serving

CLUSTER = 4 * KiB
# More than what may wait in memory for its table.
GUEST = 20 * MiB
FIRST, AGAIN, TWICE = 8 * MiB, 16 * MiB, 64 * KiB
PLANTED = b"planted " * 512


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    """A guest disk of random bytes for the most part, 64 KiB of which occur twice."""
    data = bytearray(make_image(tmp_path_factory.mktemp("system"), GUEST).data)
    dice = random.Random(4)
    data[7 * MiB : 18 * MiB] = dice.randbytes(11 * MiB)
    data[AGAIN : AGAIN + TWICE] = data[FIRST : FIRST + TWICE]
    (path := tmp_path_factory.mktemp("guest") / "disk.raw").write_bytes(data)
    return Image(path)


def clusters_of(system):
    """Its clusters; the second occurrence names the host clusters of the first."""
    clusters = {}
    for n in range(GUEST // CLUSTER):
        content = system.data[n * CLUSTER : (n + 1) * CLUSTER]
        if AGAIN <= n * CLUSTER < AGAIN + TWICE:
            clusters[n] = qcow2.Share(n - (AGAIN - FIRST) // CLUSTER)
        elif any(content):
            clusters[n] = qcow2.Data(content)
    return clusters


def build(system, *, tables_last):
    """An image with its tables behind all data, or before the data of each."""
    builder = qcow2.Builder(cluster_bits=12, size=GUEST)
    clusters = clusters_of(system)
    items = builder.items(clusters)
    data = [item for item in items if item[0] == "data"]
    tables = [item for item in items if item[0] == "l2"]
    if tables_last:
        return builder.build(clusters, [("refcounts",), *data, ("l1",), *tables])
    order = [("refcounts",), ("l1",)]
    for table in tables:
        order += [table, *(item for item in data if item[1] // builder.per_table == table[1])]
    return builder.build(clusters, order)


def two_faced(file, other):
    """Answers a whole download with `file`, and a range with both ends with bytes of `other`."""

    def answer(request):
        start, end = request.span or (0, None)
        if end is None:
            request.file(bytes(file))
            return
        request.head(
            206, Content_Length=end - start, Content_Range=f"bytes {start}-{end - 1}/{len(file)}", ETag='"v1"'
        )
        request.send(other[start:end])

    return answer


def deploy(start_write, server: Server, file, tmp_path):
    disk = tmp_path / "disk"
    make_disk(disk, DISK_SIZE, b"\xa5")
    sha256 = hashlib.sha256(file).hexdigest()
    return disk, start_write(disk, server.url, sha256, "--type", "qcow2").finish()


def test_a_table_that_was_fetched_and_comes_otherwise_leaves_nothing_that_boots(
    start_write, system, tmp_path
):
    image = build(system, tables_last=True)
    other = bytearray(image.file)
    # Two clusters of the root change places: an image that holds together, and another one.
    first = image.l2_offsets[3] + 8 * 100
    entries = struct.unpack_from(">2Q", other, first)
    struct.pack_into(">2Q", other, first, *reversed(entries))
    with serving(two_faced(image.file, other)) as server:
        disk, outcome = deploy(start_write, server, image.file, tmp_path)
        assert any(server.ranges), "it was not needed to fetch anything"
    assert outcome.status == 1
    assert outcome.error["code"] == "image.changed"
    assert "differ when read twice" in str(outcome.error)
    assert_nothing_boots(disk)


@pytest.mark.parametrize("tables_last", [True, False], ids=["late tables", "tables before their data"])
def test_bytes_that_have_passed_come_from_the_disk_and_never_from_the_server_again(
    start_write, system, tmp_path, tables_last
):
    image = build(system, tables_last=tables_last)
    # Whatever data is asked for: it would be this.
    other = bytearray(image.file)
    for start in image.hosts.values():
        other[start : start + CLUSTER] = PLANTED
    with serving(two_faced(image.file, other)) as server:
        disk, outcome = deploy(start_write, server, image.file, tmp_path)
        assert any(server.ranges) == tables_last
    assert outcome.status == 0, outcome.err
    assert PLANTED not in disk.read_bytes()
    assert_complete(disk, system, tmp_path)


def test_bytes_that_have_passed_come_from_the_disk_without_ranges_too(start_write, system, tmp_path):
    image = build(system, tables_last=False)
    with serving(lambda request: request.file(bytes(image.file), ranges=False)) as server:
        disk, outcome = deploy(start_write, server, image.file, tmp_path)
    assert outcome.status == 0, outcome.err
    assert_complete(disk, system, tmp_path)


def test_a_random_byte_of_the_ranges_is_enough(start_write, system, tmp_path):
    """Each fetched byte counts, and not only those that make another image."""
    image = build(system, tables_last=True)
    tables = [image.l1_offset, *(start for start in image.l2_offsets.values())]
    other = bytearray(image.file)
    other[random.Random(5).choice(tables) + 4095] ^= 1
    with serving(two_faced(image.file, other)) as server:
        disk, outcome = deploy(start_write, server, image.file, tmp_path)
    assert outcome.status == 1
    assert outcome.error["code"] in {"image.changed", "image.damaged"}
    assert_nothing_boots(disk)


def test_the_partition_table_may_be_a_copy_of_what_is_too_far_behind_to_be_seen_at_first(
    start_write, system, tmp_path
):
    """The whole file is read before anything is written, but only the first 10 MiB of the guest disk are kept."""
    builder = qcow2.Builder(cluster_bits=12, size=GUEST)
    twin = 15 * MiB // CLUSTER
    kept = [
        *range(MiB // CLUSTER),
        *range(10 * MiB // CLUSTER, 15 * MiB // CLUSTER),
        *range(19 * MiB // CLUSTER, 5120),
    ]
    clusters = {n: qcow2.Data(system.data[n * CLUSTER : (n + 1) * CLUSTER]) for n in kept}
    clusters |= {twin: clusters[0], 0: qcow2.Share(twin)}
    tables = sorted({n // builder.per_table for n in clusters})
    first = [table for table in tables if table]
    data = [("data", n) for n in sorted(clusters, key=lambda n: n != twin) if n]
    late = [item for item in data if item[1] < builder.per_table]
    order = [("refcounts",), ("l1",), *(("l2", table) for table in first)]
    order += [item for item in data if item not in late] + [("l2", 0), *late]
    image = builder.build(clusters, order)
    assert 4 * MiB < image.l2_offsets[0] < len(image.file) < 12 * MiB
    with serving(lambda request: request.file(bytes(image.file))) as server:
        disk, outcome = deploy(start_write, server, image.file, tmp_path)
    assert outcome.status == 0, outcome.err
    assert disk.read_bytes()[:440] == system.data[:440]
