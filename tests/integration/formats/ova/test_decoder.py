"""OVAs by tarfile and GNU tar, in every order and chunking, with and without manifest, damaged and hostile."""

import contextlib
import gzip
import hashlib
import io
import random
import subprocess
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import ChecksumMismatch, DeployError, ImageDamaged, ImageType, ImageUnsafe
from agent.formats.detect import sniff
from agent.formats.extent import ImageTooLarge, Zero
from agent.formats.ova.decoder import OvaDecoder
from agent.units import GiB, KiB, MiB
from tests.kit.extents import content_of
from tests.kit.fuzz import examples

OVF_NAMESPACE = "http://schemas.dmtf.org/ovf/envelope/1"
VMDK_FORMAT = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"


def ovf(capacity, href="disk.vmdk", attributes="", units="byte"):
    return f"""<?xml version="1.0"?>
<Envelope xmlns="{OVF_NAMESPACE}" xmlns:ovf="{OVF_NAMESPACE}">
  <References><File ovf:id="file1" ovf:href="{href}" {attributes}/></References>
  <DiskSection><Info/><Disk ovf:diskId="vmdisk1" ovf:fileRef="file1" ovf:capacity="{capacity}"
    ovf:capacityAllocationUnits="{units}" ovf:format="{VMDK_FORMAT}"/></DiskSection>
</Envelope>""".encode()


def manifest(members, algorithm="sha256", names=None, space=""):
    lines = []
    for name in names or members:
        digest = hashlib.new(algorithm, members[name]).hexdigest()
        lines.append(f"{algorithm.upper()}{space}({name}){space}= {digest}\n")
    return "".join(lines).encode()


def pack(members, order=None, kind=tarfile.USTAR_FORMAT):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=kind) as tar:
        for name in order or members:
            info = tarfile.TarInfo(name)
            info.size = len(members[name])
            tar.addfile(info, io.BytesIO(members[name]))
    return out.getvalue()


def decode(data, step=None, disk_size=GiB, decoder=None):
    """The guest disk, on a dirty one."""
    decoder = decoder or OvaDecoder(disk_size)
    disk = bytearray()

    def apply(extents):
        for extent in extents:
            if not disk:
                disk.extend(b"\xa5" * decoder.virtual_size)
            content = content_of(extent)
            disk[extent.offset : extent.offset + len(content)] = content

    for at in range(0, len(data), step or max(len(data), 1)):
        # Spoilt once it has been used: nothing may be read from a buffer that was fed before.
        buffer = bytearray(data[at : at + (step or len(data))])
        apply(decoder.feed(memoryview(buffer)))
        buffer[:] = b"\xee" * len(buffer)
    apply(decoder.finish())
    assert decoder.virtual_size == len(disk)
    return bytes(disk)


def guest(size):
    source = random.Random(3)
    out = bytearray()
    while len(out) < size:
        run = source.randrange(1, 100_000)
        out += source.choice([source.randbytes(run), b"text " * (run // 5), bytes(3 * run)])
    return bytes(out[:size])


CONTENT = guest(700 * KiB)


@pytest.fixture(scope="module")
def make_vmdk(tmp_path_factory):
    def make(content, subformat="streamOptimized"):
        path = tmp_path_factory.mktemp("vmdk") / "disk.raw"
        path.write_bytes(content)
        argv = ["qemu-img", "convert", "-O", "vmdk", "-o", f"subformat={subformat}", path, f"{path}.vmdk"]
        subprocess.run(argv, check=True, capture_output=True, timeout=60)
        return path.with_name("disk.raw.vmdk").read_bytes()

    return make


@pytest.fixture(scope="module")
def vmdk(make_vmdk):
    return make_vmdk(CONTENT)


@pytest.fixture
def members(vmdk):
    return {"box.ovf": ovf(len(CONTENT)), "disk.vmdk": vmdk}


@pytest.mark.parametrize("subformat", ["streamOptimized", "monolithicSparse"])
@pytest.mark.parametrize("step", [7, 511, 4096, 65536, None])
def test_the_disk_comes_back_in_every_chunking(make_vmdk, subformat, step):
    members = {"box.ovf": ovf(len(CONTENT)), "disk.vmdk": make_vmdk(CONTENT, subformat)}
    data = pack(members)
    assert sniff(data) == "ova"
    assert decode(data, step) == CONTENT


def test_byte_by_byte(make_vmdk):
    content = guest(100 * KiB)
    members = {"box.ovf": ovf(len(content)), "disk.vmdk": make_vmdk(content)}
    members["box.mf"] = manifest(members)
    assert decode(pack(members), 1) == content


@pytest.mark.parametrize("kind", ["ustar", "gnu", "pax"])
def test_gnu_tars_archives(tmp_path, members, kind):
    members["box.mf"] = manifest(members)
    for name, content in members.items():
        (tmp_path / name).write_bytes(content)
    argv = ["tar", "-cf", "-", f"--format={kind}", *(f"./{name}" for name in members)]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, check=True, timeout=30)
    assert decode(done.stdout, 4096) == CONTENT


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "sha512"])
@pytest.mark.parametrize("space", ["", " "])
@pytest.mark.parametrize(
    "order",
    [
        "box.ovf box.mf box.cert disk.vmdk box.nvram",
        "box.ovf disk.vmdk box.mf",
        "box.mf box.ovf disk.vmdk box.nvram",
        "box.cert box.mf box.nvram box.ovf disk.vmdk",
        "box.ovf box.nvram disk.vmdk box.mf box.cert",
    ],
)
def test_a_manifest_is_checked_wherever_it_stands(members, algorithm, space, order):
    members |= {"box.cert": b"-----BEGIN CERTIFICATE-----", "box.nvram": b"n" * 8684}
    named = [name for name in order.split() if name not in ("box.mf", "box.cert")]
    members["box.mf"] = manifest(members, algorithm, named, space)
    assert decode(pack(members, order.split()), 65536) == CONTENT
    for name in named:
        digest = hashlib.new(algorithm, members[name]).hexdigest()
        wrong = digest[:-1] + ("0" if digest[-1] != "0" else "1")
        faulty = members | {"box.mf": members["box.mf"].replace(digest.encode(), wrong.encode())}
        with pytest.raises(ChecksumMismatch) as caught:
            decode(pack(faulty, order.split()))
        assert name in caught.value.detail
        assert (digest in caught.value.message, wrong in caught.value.message) == (True, True)


def test_a_member_that_was_changed_is_noticed(members):
    members["box.nvram"] = b"before"
    members["box.mf"] = manifest(members)
    members["box.nvram"] = b"behind"
    with pytest.raises(ChecksumMismatch, match="sha256"):
        decode(pack(members))


@pytest.mark.parametrize("order", ["box.ovf box.mf disk.vmdk", "box.ovf disk.vmdk box.mf"])
def test_a_manifest_must_name_disk_and_descriptor(members, order):
    for name in ("box.ovf", "disk.vmdk"):
        incomplete = members | {"box.mf": manifest(members, names=[name])}
        with pytest.raises(ImageDamaged, match="does not name"):
            decode(pack(incomplete, order.split()))


def test_a_manifest_that_names_what_is_not_there_is_damage(members):
    members["box.mf"] = manifest(members) + manifest({"gone.iso": b""})
    with pytest.raises(ImageDamaged, match=r"gone\.iso"):
        decode(pack(members))


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense",
        b"MD5(disk.vmdk)= 0123456789abcdef0123456789abcdef",
        b"SHA256(disk.vmdk)= 1234",
        b"SHA384(disk.vmdk)= " + b"0" * 96,
        b"\xff\xfe",
    ],
)
def test_a_manifest_that_cannot_be_checked_does_not_pass(members, line):
    for order in ("box.ovf box.mf disk.vmdk", "box.ovf disk.vmdk box.mf"):
        faulty = members | {"box.mf": manifest(members) + line}
        with pytest.raises(ImageDamaged, match="manifest has the line"):
            decode(pack(faulty, order.split()))


@pytest.mark.parametrize("order", ["box.ovf box.mf disk.vmdk", "box.ovf disk.vmdk box.mf"])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"SHA256(", b"SHA2-256("),
        (b"SHA256(", b"SHA-256 ("),
        (b"", b"\xef\xbb\xbf"),
        (b"", b"# made by hand\n"),
        (b"", b"SHA256(box.mf)= " + hashlib.sha256(b"").hexdigest().encode() + b"\n"),
    ],
    ids=["openssl-3", "hyphen", "bom", "comment", "itself"],
)
def test_a_manifest_as_other_tools_write_it(members, order, old, new):
    text = manifest(members)
    members["box.mf"] = text.replace(old, new) if old else new + text
    assert decode(pack(members, order.split()), 4096) == CONTENT
    members["disk.vmdk"] = members["disk.vmdk"][:-1] + b"\1"
    with pytest.raises((ChecksumMismatch, ImageDamaged)):
        decode(pack(members, order.split()))


def test_a_manifest_may_name_the_certificate_and_names_with_parentheses(members):
    members["Box (64-bit).ovf"] = members.pop("box.ovf").replace(b"disk.vmdk", b"Box (64-bit).vmdk")
    members["Box (64-bit).vmdk"] = members.pop("disk.vmdk")
    members["box.cert"] = b"certificate"
    members["box.mf"] = manifest(members, space=" ")
    order = ["Box (64-bit).ovf", "box.mf", "box.cert", "Box (64-bit).vmdk"]
    assert decode(pack(members, order)) == CONTENT
    members["box.cert"] = b"another one"
    with pytest.raises(ChecksumMismatch, match=r"box\.cert|another|manifest|got"):
        decode(pack(members, order))


def test_what_macos_puts_beside_its_files_is_passed_over(members):
    order = []
    for name in list(members):
        members[f"._{name}"] = b"\0\x05\x16\x07" + bytes(200)
        order += [f"._{name}", name]
    assert decode(pack(members, order), 511) == CONTENT


def test_a_reference_may_be_percent_encoded(members):
    members["My VM-disk1.vmdk"] = members.pop("disk.vmdk")
    members["box.ovf"] = ovf(len(CONTENT), "My%20VM-disk1.vmdk")
    members["box.mf"] = manifest(members)
    assert decode(pack(members, ["box.ovf", "My VM-disk1.vmdk", "box.mf"])) == CONTENT
    members["box.ovf"] = ovf(len(CONTENT), "My%20VM-disk1.vmdk/..%2fsecret")
    with pytest.raises(ImageUnsafe, match="ovf_disk"):
        decode(pack(members, ["box.ovf", "My VM-disk1.vmdk"]))


def test_a_compressed_disk_before_its_descriptor_is_told_as_that(members):
    members["box.ovf"] = ovf(len(CONTENT), "disk.vmdk.gz")
    members["disk.vmdk.gz"] = gzip.compress(members.pop("disk.vmdk"))
    with pytest.raises(ImageUnsafe, match="ova_order"):
        decode(pack(members, ["disk.vmdk.gz", "box.ovf"]))


def test_two_manifests_or_two_descriptors_are_refused(members):
    members["box.mf"] = members["other.mf"] = manifest(members)
    with pytest.raises(ImageUnsafe, match="ova_manifest"):
        decode(pack(members))
    del members["box.mf"], members["other.mf"]
    members["other.ovf"] = members["box.ovf"]
    with pytest.raises(ImageUnsafe, match="ovf_disk"):
        decode(pack(members))


@pytest.mark.parametrize("attribute", ["", 'ovf:compression="gzip"'])
@pytest.mark.parametrize("step", [511, None])
def test_a_disk_that_is_compressed_with_gzip(members, attribute, step):
    members["box.ovf"] = ovf(len(CONTENT), "disk.vmdk.gz", attribute)
    members["disk.vmdk.gz"] = gzip.compress(members.pop("disk.vmdk"))
    members["box.mf"] = manifest(members)
    assert decode(pack(members), step) == CONTENT
    with pytest.raises(ImageDamaged):
        decode(pack(members | {"disk.vmdk.gz": members["disk.vmdk.gz"][:-9]}))


def test_a_disk_that_is_not_compressed_as_the_ovf_says_is_damage(members):
    members["box.ovf"] = ovf(len(CONTENT), attributes='ovf:compression="gzip"')
    with pytest.raises(ImageDamaged, match="not compressed"):
        decode(pack(members))


def test_what_is_in_the_gzip_must_be_a_vmdk_of_a_bounded_size(members):
    members["disk.vmdk"] = gzip.compress(b"x" * 200_000)
    with pytest.raises(ImageType, match="expected vmdk"):
        decode(pack(members))
    members["disk.vmdk"] = gzip.compress(gzip.compress(b"x"))
    with pytest.raises(ImageUnsafe, match="nested_compression"):
        decode(pack(members))


def test_a_gzip_bomb_behind_a_good_vmdk_is_refused(members, make_vmdk):
    bomb = make_vmdk(CONTENT, "monolithicSparse") + bytes(80 * MiB)
    members["disk.vmdk"] = gzip.compress(bomb, 1)
    with pytest.raises(ImageTooLarge):
        decode(pack(members), disk_size=MiB)


def test_a_disk_before_its_descriptor_is_refused(members):
    with pytest.raises(ImageUnsafe) as caught:
        decode(pack(members, ["disk.vmdk", "box.ovf"]))
    assert "ova_order" in caught.value.message
    assert "tar cf" in caught.value.hint


@pytest.mark.parametrize(
    "content", [b"KDMV" + bytes(1000), b"QFI\xfb" + bytes(100), b"conectix", b"vhdxfile"]
)
def test_a_disk_that_the_descriptor_does_not_name_is_refused(members, content):
    members["extra.bin"] = content
    for order in (["box.ovf", "extra.bin", "disk.vmdk"], ["box.ovf", "disk.vmdk", "extra.bin"]):
        with pytest.raises(ImageUnsafe) as caught:
            decode(pack(members, order))
        assert "ovf_disk" in caught.value.message
        assert "extra.bin" in caught.value.detail


def test_other_members_are_passed_over(members):
    members |= {"seed.iso": bytes(40_000), "box.nvram": b"\0", "empty": b"", "README": b"text"}
    order = ["box.ovf", "seed.iso", "empty", "disk.vmdk", "box.nvram", "README"]
    assert decode(pack(members, order), 4096) == CONTENT


def test_a_missing_disk_or_descriptor_is_told(members):
    with pytest.raises(ImageUnsafe, match="ovf_disk"):
        decode(pack(members, ["box.ovf"]))
    with pytest.raises(ImageDamaged, match="no OVF descriptor"):
        decode(pack({"README": b"text"}))
    with pytest.raises(ImageUnsafe, match="ovf_disk"):
        decode(pack(members | {"box.ovf": ovf(len(CONTENT), "other.vmdk")}, ["box.ovf"]))


def test_descriptor_and_manifest_are_bounded(members):
    for name in ("box.ovf", "box.mf"):
        with pytest.raises(ImageUnsafe, match="ova_member"):
            decode(pack(members | {name: b" " * (MiB + 1)}))


def test_the_capacity_is_compared_with_the_descriptors(members):
    for capacity in (len(CONTENT) + 2 * MiB, 10 * GiB):
        with pytest.raises(ImageDamaged, match=str(len(CONTENT))):
            decode(pack(members | {"box.ovf": ovf(capacity)}))
    # Rounded to a grain, or to the unit that it is counted in; or left to a property.
    for given_as in (ovf(len(CONTENT) + 60_000), ovf(1, units="byte * 2^20"), ovf("${size}")):
        assert decode(pack(members | {"box.ovf": given_as})) == CONTENT


def test_a_guest_that_is_too_large_is_refused(members):
    with pytest.raises(ImageTooLarge):
        decode(pack(members), disk_size=len(CONTENT) - 512)


def test_a_disk_of_another_format_is_named(members):
    with pytest.raises(ImageType, match="`qcow2`"):
        decode(pack(members | {"disk.vmdk": b"QFI\xfb\0\0\0\3" + bytes(1000)}))
    for content in (b"", b"KD", b"\x1f"):
        with pytest.raises(ImageDamaged):
            decode(pack(members | {"disk.vmdk": content}))


def test_every_cut_is_noticed(members):
    members["box.mf"] = manifest(members)
    data = pack(members)
    end = len(data.rstrip(b"\0"))
    end += -end % 512 + 1024
    assert decode(data[:end]) == CONTENT
    for length in {*range(0, end - 1024, 10_007), *range(0, 4096, 512), end - 1025, end - 1536}:
        with pytest.raises((ImageDamaged, ImageUnsafe)):
            decode(data[:length])


def closed_by(data, zeros):
    """The archive with so many bytes of zeros at its end."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        last = tar.getmembers()[-1]
    end = last.offset_data + last.size
    return data[: end + -end % 512] + bytes(zeros)


@pytest.mark.parametrize("zeros", [0, 100, 512, 1023])
@pytest.mark.parametrize("order", ["box.ovf disk.vmdk box.mf", "box.mf box.ovf disk.vmdk"])
def test_an_archive_that_nothing_closes_is_noted_where_its_manifest_says_that_all_is_there(
    members, order, zeros
):
    members["box.mf"] = manifest(members)
    data = pack(members, order.split())
    for step in (511, None):
        decoder = OvaDecoder(GiB)
        assert decode(data, step, decoder=decoder) == CONTENT
        assert decoder.notes == ()
        decoder = OvaDecoder(GiB)
        assert decode(closed_by(data, zeros), step, decoder=decoder) == CONTENT
        assert ["close it" in note for note in decoder.notes] == [True]


@pytest.mark.parametrize("zeros", [0, 100, 512, 1023])
def test_an_archive_that_nothing_closes_may_be_cut_where_no_manifest_says_otherwise(members, zeros):
    for names in ([], ["box.ovf"], ["disk.vmdk"]):
        packed = members | ({"box.mf": manifest(members, names=names)} if names else {})
        told = "manifest does not name" if names else "blocks of zeros that close it"
        with pytest.raises(ImageDamaged, match=told) as caught:
            decode(closed_by(pack(packed), zeros))
        assert caught.value.hint
    # The manifest names what a cut has taken.
    members |= {"box.nvram": b"settings"}
    members["box.mf"] = manifest(members)
    with pytest.raises(ImageDamaged, match=r"names 'box\.nvram'"):
        decode(closed_by(pack(members, ["box.mf", "box.ovf", "disk.vmdk"]), zeros))


# -- archives of a directory ---------------------------------------------------------------------------------


def in_directory(members, directory="box/"):
    return {directory + name: content for name, content in members.items()}


@pytest.mark.parametrize(
    "order", ["box.ovf box.mf disk.vmdk", "box.mf box.ovf disk.vmdk", "box.ovf disk.vmdk box.mf"]
)
@pytest.mark.parametrize("href", ["disk.vmdk", "./disk.vmdk", "di%73k.vmdk"])
def test_a_directory_that_was_packed_as_one(members, order, href):
    """Descriptor and manifest name files as seen from where they are themselves."""
    members = {"box.ovf": ovf(len(CONTENT), href), "disk.vmdk": members["disk.vmdk"]}
    members["box.mf"] = manifest(members)
    names = [f"my box/{name}" for name in order.split()]
    packed = pack(in_directory(members, "my box/"), names)
    for step in (511, None):
        assert decode(packed, step) == CONTENT
    damaged = in_directory(members | {"box.mf": manifest(members | {"disk.vmdk": b"other"})}, "my box/")
    with pytest.raises(ChecksumMismatch):
        decode(pack(damaged, names))


def test_gnu_tars_archive_of_a_directory(tmp_path, members):
    members["box.mf"] = manifest(members)
    (tmp_path / "box").mkdir()
    for name, content in members.items():
        (tmp_path / "box" / name).write_bytes(content)
    argv = ["tar", "-cf", "-", "box/box.ovf", "box/box.mf", "box/disk.vmdk"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, check=True, timeout=30)
    assert decode(done.stdout, 4096) == CONTENT


def test_the_disk_is_not_looked_for_elsewhere(members):
    packed = {"box/box.ovf": members["box.ovf"], "disk.vmdk": members["disk.vmdk"]}
    with pytest.raises(ImageUnsafe, match="ovf_disk"):
        decode(pack(packed))
    with pytest.raises(ImageUnsafe, match="ova_order"):
        decode(pack(in_directory(members), ["box/disk.vmdk", "box/box.ovf"]))


def test_the_size_of_the_guest_is_known_before_its_first_extent(members):
    decoder = OvaDecoder(GiB)
    data = pack(members)
    assert decoder.virtual_size is None
    assert isinstance(next(decoder.feed(memoryview(data))), Zero)
    assert decoder.virtual_size == len(CONTENT)


@settings(max_examples=examples(200))
@given(
    st.lists(st.tuples(st.integers(0, 8000), st.integers(0, 255)), min_size=1, max_size=4),
    st.booleans(),
    st.sampled_from([4096, None]),
)
def test_mutants_raise_the_known_errors_only(vmdk, changes, fix, step):
    members = {"box.ovf": ovf(len(CONTENT)), "box.mf": b"", "disk.vmdk": vmdk}
    members["box.mf"] = manifest(members, names=["box.ovf", "disk.vmdk"])
    data = bytearray(pack(members))
    for at, value in changes:
        data[at] = value
    for at in range(0, 8192, 512) if fix else ():
        if data[at + 257 : at + 262] == b"ustar":
            data[at + 148 : at + 156] = b" " * 8
            data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    with contextlib.suppress(DeployError, ImageTooLarge):
        assert decode(bytes(data), step) == CONTENT
