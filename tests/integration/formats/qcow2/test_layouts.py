"""Every layout that qemu-img can make, on a dirty disk, in every chunking: the same bytes that it reads itself."""

import random
import subprocess

import pytest

from agent.errors import DeployError, ImageDamaged, ImageUnsafe
from agent.units import KiB, MiB
from tests.kit import qcow2


def qemu_img(*arguments):
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def qemu_io(image, *commands):
    """Run qemu-io; it ends with 0 even where a command fails, and then says so."""
    flags = [flag for command in commands for flag in ("-c", command)]
    done = subprocess.run(
        ["qemu-io", "-f", "qcow2", *flags, str(image)], check=True, capture_output=True, text=True
    )
    assert "failed" not in done.stdout + done.stderr


def as_raw(image):
    """What qemu-img reads from the image."""
    raw = image.with_suffix(".golden")
    qemu_img("convert", "-O", "raw", image, raw)
    return raw.read_bytes()


def check(image, chunks=(4096, 65536, MiB, 0), **fields):
    file, golden = image.read_bytes(), as_raw(image)
    for chunk in chunks:
        assert qcow2.decode(file, chunk=chunk, **fields).guest == golden


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """A guest disk of 3 MiB and a bit: random, compressible, constant and zero pieces."""
    dice = random.Random(7)
    disk = bytearray()
    for _ in range(3 * MiB // 16384 + 1):
        kind = dice.randrange(5)
        piece = {0: dice.randbytes(16384), 1: dice.randbytes(64) * 256, 2: b"\x77" * 16384}.get(
            kind, bytes(16384)
        )
        disk += piece
    disk = disk[: 3 * MiB + 5 * 512]
    path = tmp_path_factory.mktemp("raw") / "disk.raw"
    path.write_bytes(disk)
    return path


OPTIONS = [
    "compat=0.10",
    "compat=1.1",
    "compat=1.1,lazy_refcounts=on",
    "cluster_size=512",
    "cluster_size=1k,compat=0.10",
    "cluster_size=4k",
    "cluster_size=256k",
    "cluster_size=2M",
    "refcount_bits=1",
    "refcount_bits=16,cluster_size=512",
    "refcount_bits=64",
    "refcount_bits=64,cluster_size=512",
    "extended_l2=on",
    "extended_l2=on,cluster_size=16k",
    "extended_l2=on,cluster_size=2M",
    "preallocation=off",
    "preallocation=metadata",
    "preallocation=metadata,cluster_size=4k",
    "preallocation=falloc",
    "preallocation=full",
    "preallocation=metadata,extended_l2=on",
]
COMPRESSED = [
    "compression_type=zlib",
    "compression_type=zlib,compat=0.10",
    "compression_type=zlib,cluster_size=512",
    "compression_type=zlib,cluster_size=4k",
    "compression_type=zlib,cluster_size=2M",
    "compression_type=zlib,extended_l2=on",
    "compression_type=zstd",
    "compression_type=zstd,cluster_size=512",
    "compression_type=zstd,cluster_size=4k",
    "compression_type=zstd,cluster_size=2M",
    "compression_type=zstd,extended_l2=on,cluster_size=16k",
]


@pytest.mark.parametrize("options", OPTIONS)
def test_converted(raw, tmp_path, options):
    qemu_img("convert", "-O", "qcow2", "-o", options, raw, tmp_path / "image")
    check(tmp_path / "image")


@pytest.mark.parametrize("options", COMPRESSED)
def test_compressed(raw, tmp_path, options):
    qemu_img("convert", "-c", "-O", "qcow2", "-o", options, raw, tmp_path / "image")
    check(tmp_path / "image")


@pytest.mark.parametrize("flags", [["-W", "-m", "16"], ["-c", "-W", "-m", "16"]])
@pytest.mark.parametrize("options", ["cluster_size=64k", "cluster_size=4k", "cluster_size=512"])
def test_written_out_of_order(raw, tmp_path, flags, options):
    for _ in range(2):  # the order is another one each time
        qemu_img("convert", *flags, "-O", "qcow2", "-o", options, raw, tmp_path / "image")
        check(tmp_path / "image", chunks=(4096, 0))


@pytest.mark.parametrize("chunk", [1, 7, 511])
@pytest.mark.parametrize("flags", [[], ["-c"], ["-c", "-o", "cluster_size=4k"], ["-o", "extended_l2=on"]])
def test_in_the_smallest_pieces(raw, tmp_path, flags, chunk):
    small = tmp_path / "small.raw"
    small.write_bytes(raw.read_bytes()[: (16 if chunk == 1 else 200) * KiB + 512])
    qemu_img("convert", *flags, "-O", "qcow2", small, tmp_path / "image")
    check(tmp_path / "image", chunks=[chunk])
    if chunk > 1:
        check(tmp_path / "image", chunks=[chunk], known_size=False)


@pytest.mark.parametrize("size", [512, 1024, 65536 - 512, 65536, 65536 + 512, 3 * MiB + 1536])
@pytest.mark.parametrize("options", ["cluster_size=512", "cluster_size=64k", "extended_l2=on"])
def test_virtual_sizes_that_are_no_multiple_of_anything(tmp_path, size, options):
    content = random.Random(size).randbytes(size)
    (tmp_path / "raw").write_bytes(content)
    for flags in ([], ["-c"]):
        qemu_img("convert", *flags, "-O", "qcow2", "-o", options, tmp_path / "raw", tmp_path / "image")
        assert qcow2.decode((tmp_path / "image").read_bytes()).guest == content


@pytest.mark.parametrize(
    "options", ["cluster_size=64k", "cluster_size=4k", "cluster_size=4k,compat=0.10", "extended_l2=on"]
)
@pytest.mark.parametrize("seed", range(2))
def test_rewritten_in_random_order_with_zeros_and_discards(tmp_path, options, seed):
    dice = random.Random(seed)
    image = tmp_path / "image"
    qemu_img("create", "-f", "qcow2", "-o", options, image, 12 * MiB + 512)
    commands = []
    for n in range(120):
        offset, length = dice.randrange(12 * MiB) & -512, dice.choice([512, 4096, 20480, 65536, 300 * KiB])
        length = min(length, 12 * MiB - offset)
        kinds = ["write", "write", "write", "write -z", "write -z -u", "discard"]
        kind = dice.choice(kinds if "0.10" not in options else ["write"])
        commands.append(f"{kind}{f' -P {n}' if kind == 'write' else ''} {offset} {length}")
    qemu_io(image, *commands)
    check(image)
    check(image, known_size=False)


def test_compressed_clusters_between_plain_ones(raw, tmp_path):
    image = tmp_path / "image"
    qemu_img("convert", "-c", "-O", "qcow2", raw, image)
    qemu_io(image, *(f"write -P {n + 1} {n * 327680 + 8192} 70000" for n in range(9)))
    check(image)


def test_internal_snapshots_are_ignored(tmp_path):
    image = tmp_path / "image"
    qemu_img("create", "-f", "qcow2", image, 6 * MiB)
    for n in range(4):
        qemu_io(image, *(f"write -P {n * 40 + i + 1} {(i * 7 + n) % 90 * 65536} 65536" for i in range(20)))
        qemu_img("snapshot", "-c", f"s{n}", image)
    qemu_io(image, "write -P 200 100000 500000", "discard 3M 1M")
    check(image)
    qemu_img("snapshot", "-a", "s1", image)
    check(image)


def test_a_bitmap_and_a_dirty_image_are_ignored(raw, tmp_path):
    image = tmp_path / "image"
    qemu_img("convert", "-O", "qcow2", "-o", "lazy_refcounts=on", raw, image)
    qemu_img("bitmap", "--add", image, "b0")
    qemu_io(image, "write -P 3 0 1M")
    file = bytearray(image.read_bytes())
    golden = as_raw(image)
    file[79] |= 1
    assert qcow2.decode(file).guest == golden


def test_a_resized_image_has_its_l1_table_behind_the_data(raw, tmp_path):
    image = tmp_path / "image"
    qemu_img("convert", "-O", "qcow2", "-o", "cluster_size=4k", raw, image)
    qemu_img("resize", image, 40 * MiB)
    qemu_io(image, "write -P 77 30M 100k")
    check(image)


def test_an_image_with_a_filesystem(tmp_path):
    tree = tmp_path / "tree"
    dice = random.Random(3)
    for n in range(60):
        (tree / f"d{n % 7}").mkdir(parents=True, exist_ok=True)
        (tree / f"d{n % 7}" / f"f{n}").write_bytes(dice.randbytes(dice.randrange(60000)))
    disk = tmp_path / "disk.raw"
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", tree, disk, "24M"], check=True)
    for flags in ([], ["-c"], ["-c", "-o", "compression_type=zstd"], ["-o", "cluster_size=512"]):
        qemu_img("convert", *flags, "-O", "qcow2", disk, tmp_path / "image")
        assert qcow2.decode((tmp_path / "image").read_bytes(), chunk=MiB).guest == disk.read_bytes()


@pytest.mark.parametrize("flags", [[], ["-c"], ["-o", "cluster_size=4k"]])
def test_a_truncated_file_is_damaged(raw, tmp_path, flags):
    qemu_img("convert", *flags, "-O", "qcow2", raw, tmp_path / "image")
    file, golden = (tmp_path / "image").read_bytes(), raw.read_bytes()
    dice = random.Random(5)
    for length in [dice.randrange(len(file)) for _ in range(40)]:
        if "-c" in flags and length > len(file) - 512:
            continue  # the cut is in the last cluster's last sector: who inflates finds it
        if len(file) - length < 65536 and outcome(file[:length], known_size=False) == golden:
            continue  # only the rest of a cluster behind the end of the guest disk is gone
        with pytest.raises(ImageDamaged, match="ends at byte"):
            qcow2.decode(file[:length], known_size=False)
        driver = qcow2.Driver(file, known_size=True)
        driver.apply(driver.decoder.feed(memoryview(file)[:length]))
        with pytest.raises(
            ImageDamaged, match=f"ends at byte {length}" if length < 112 else f"{length} of {len(file)}"
        ):
            driver.apply(driver.decoder.finish())


def test_a_file_that_was_truncated_at_the_server_is_refused_by_its_tables(raw, tmp_path):
    qemu_img("convert", "-O", "qcow2", raw, tmp_path / "image")
    file = (tmp_path / "image").read_bytes()
    for length in (70 * KiB, 200 * KiB, 300 * KiB, len(file) // 2, len(file) - 64 * KiB):
        with pytest.raises((ImageDamaged, ImageUnsafe)):
            qcow2.decode(file[:length])


def test_where_qemu_img_accepts_a_mutant_it_is_the_same_or_refused(raw, tmp_path):
    dice = random.Random(11)
    small = tmp_path / "small.raw"
    small.write_bytes(raw.read_bytes()[: 512 * KiB])
    for flags in (
        ["-o", "cluster_size=4k"],
        ["-c", "-o", "cluster_size=4k"],
        ["-o", "extended_l2=on,cluster_size=16k"],
    ):
        qemu_img("convert", *flags, "-O", "qcow2", small, tmp_path / "image")
        file = (tmp_path / "image").read_bytes()
        l1 = int.from_bytes(file[40:48], "big")
        table = int.from_bytes(file[l1 : l1 + 8], "big") & ~(1 << 63)
        for _ in range(40):
            mutant = bytearray(file)
            for _ in range(dice.randrange(1, 4)):
                position = dice.choice([l1 + dice.randrange(8), *[table + dice.randrange(1024)] * 3])
                mutant[position] = dice.choice([0, 255, dice.randrange(256), mutant[position] ^ 1])
            (tmp_path / "mutant").write_bytes(mutant)
            arguments = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", "mutant", "out"]
            accepted = (
                subprocess.run(arguments, check=False, capture_output=True, cwd=tmp_path).returncode == 0
            )
            ours = outcome(mutant, fetch=True)
            if accepted and ours is not None:
                assert ours == (tmp_path / "out").read_bytes()


def outcome(file, **fields):
    try:
        return qcow2.decode(file, **fields).guest
    except DeployError:
        return None
