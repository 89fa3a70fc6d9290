"""Random qcow2 files, built and broken: the decoder gives the guest's bytes or refuses, and nothing else."""

import random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.errors import DeployError, ImageMemory
from agent.formats.extent import ImageTooLarge
from agent.formats.qcow2.decoder import Qcow2Limits
from agent.units import KiB, MiB
from tests.kit import qcow2
from tests.kit.fuzz import examples

quiet = settings(
    max_examples=examples(40),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
CHUNKS = st.sampled_from([1, 7, 100, 511, 512, 4096, 0])


def contents(seed, cluster, *, packable):
    """Bytes of a cluster; those that are to be compressed shrink, some of them to less than a sector."""
    dice = random.Random(seed)
    if not packable:
        return dice.randbytes(cluster)
    return (dice.randbytes(dice.choice([1, 40, cluster // 3])) * cluster)[:cluster]


@st.composite
def images(draw, *, shares=True):
    """An image of up to 40 clusters with everything that can be in one, in any order."""
    extended = draw(st.booleans())
    version = 3 if extended else draw(st.sampled_from([2, 3]))
    bits = 14 if extended else draw(st.sampled_from([9, 10, 12]))
    cluster = 1 << bits
    count = draw(st.integers(1, 3 if extended else 40))
    spread = draw(st.sampled_from([1, 7, 50]))
    size = (count - 1) * spread * cluster + 512 * draw(st.integers(1, cluster // 512))
    codec = "zlib" if version == 2 else draw(st.sampled_from(["zlib", "zstd"]))
    builder = qcow2.Builder(cluster_bits=bits, version=version, size=size, extended=extended, codec=codec)
    kinds = [
        "data",
        "hole",
        "packed",
        *(["share"] if shares else []),
        *(["zero", "zero_kept"] if version == 3 else []),
    ]
    clusters = {}
    for n in range(count):
        index, seed = n * spread, draw(st.integers(0, 2**32))
        plain = contents(seed, cluster, packable=False)
        kind = draw(st.sampled_from(kinds))
        owners = [i for i, c in clusters.items() if isinstance(c, (qcow2.Data, qcow2.Packed))]
        if extended and kind == "zero_kept":
            used = draw(st.integers(0, 2**32 - 1))
            clusters[index] = qcow2.Subclusters(plain, used, draw(st.integers(0, 2**32 - 1)) & ~used)
        elif kind == "share" and owners:
            clusters[index] = qcow2.Share(draw(st.sampled_from(owners)))
        elif kind == "packed":
            clusters[index] = qcow2.Packed(contents(seed, cluster, packable=True))
        elif kind in {"zero", "zero_kept"}:
            clusters[index] = qcow2.ZeroFlag(plain if kind == "zero_kept" else None)
        elif kind == "data":
            clusters[index] = qcow2.Data(plain)
    items = builder.items(clusters, group=draw(st.integers(1, 9)), leaks=draw(st.integers(0, 2)))
    order = draw(st.permutations(items)) if draw(st.booleans()) else items
    return builder.build(clusters, order)


@quiet
@given(data=st.data(), chunk=CHUNKS, known=st.booleans())
def test_a_random_image_is_decoded_in_one_pass(data, chunk, known):
    image = data.draw(images(shares=False))
    assert qcow2.decode(image.file, chunk=chunk, known_size=known).guest == image.guest


@quiet
@given(data=st.data(), chunk=CHUNKS, early=st.sampled_from([2 * KiB, 8 * KiB, 16 * MiB]))
def test_with_range_requests_every_image_is_decoded_whatever_its_order(data, chunk, early):
    image = data.draw(images())
    done = qcow2.decode(image.file, chunk=chunk, fetch=True, limits=Qcow2Limits(early_bytes=early))
    assert done.guest == image.guest


@quiet
@given(data=st.data(), chunk=CHUNKS, early=st.sampled_from([2 * KiB, 8 * KiB]), recall=st.booleans())
def test_with_scratch_an_image_is_decoded_or_refused_for_memory(data, chunk, early, recall):
    image = data.draw(images())
    fields = {"limits": Qcow2Limits(early_bytes=early), "recall": recall, "disk_size": 8 * MiB}
    try:
        done = qcow2.decode(image.file, chunk=chunk, **fields)
    except ImageMemory:
        return
    assert done.guest == image.guest


@quiet
@given(data=st.data(), chunk=CHUNKS, fetch=st.sampled_from([True, None]), known=st.booleans())
def test_a_broken_image_is_refused_or_decoded_and_nothing_else_happens(data, chunk, fetch, known):
    image = data.draw(images())
    file = bytearray(image.file)
    interesting = [*range(112), *(image.l1_offset + i for i in range(64))]
    interesting += [offset + i for offset in image.l2_offsets.values() for i in range(64)]
    for _ in range(data.draw(st.integers(1, 6))):
        position = data.draw(st.sampled_from(interesting) | st.integers(0, len(file) - 1)) % len(file)
        file[position] = data.draw(st.integers(0, 255))
    file = file[: data.draw(st.integers(0, len(file))) or len(file)]
    driver = qcow2.Driver(
        file, fetch=fetch, known_size=known, disk_size=2 * MiB, limits=Qcow2Limits(runs=4096)
    )
    try:
        driver.run(chunk or len(file))
    except (DeployError, ImageTooLarge):
        return
    assert driver.decoder.virtual_size <= 2 * MiB
