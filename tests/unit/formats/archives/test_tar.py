"""Archives by GNU tar and by Python, in every format and chunking, and archives that nobody should unpack."""

import contextlib
import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import DeployError, ImageDamaged, ImageUnsafe
from agent.formats.archives.member import Data, End, Hole, Member, MemberCheck
from agent.formats.archives.tar import TarReader
from tests.kit.fuzz import examples

LONG = "/".join(["a directory of a long name"] * 6) + "/disk.vmdk"
FILES = {
    "box.ovf": b"<Envelope/>",
    "empty": b"",
    "box-disk001.vmdk": bytes(range(256)) * 9,
    "block": b"x" * 512,
}


OVA = MemberCheck("ova_member")


def new_reader(*, sparse=False):
    return TarReader(OVA, sparse=sparse)


def read(data, step=None, *, sparse=False):
    """The members as they come: a list of (name, type, bytes)."""
    reader = new_reader(sparse=sparse)
    found = []

    def take(events):
        for event in events:
            match event:
                case Member():
                    found.append([event.name, event.type, b"", event.size])
                case Data():
                    found[-1][2] += bytes(event.data)
                case Hole():
                    found[-1][2] += bytes(event.length)
                case End():
                    assert len(found[-1][2]) == found[-1].pop()

    for at in range(0, len(data), step or max(len(data), 1)):
        take(reader.feed(memoryview(data)[at : at + (step or len(data))]))
    take(reader.finish())
    return [tuple(member) for member in found]


def archive(files, kind=tarfile.USTAR_FORMAT, change=lambda info: None, **options):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=kind, **options) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            change(info)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def plain(files):
    return [(name, "file", content) for name, content in files.items()]


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("step", [1, 7, 511, 4096, 65536, None])
def test_pythons_archives_in_every_chunking(kind, step):
    files = FILES | {LONG: b"long"}
    assert read(archive(files, kind), step) == plain(files)


@pytest.mark.parametrize(
    ("kind", "mark"), [(tarfile.GNU_FORMAT, b"\x80"), (tarfile.PAX_FORMAT, b"size=34359738373")]
)
def test_a_size_beyond_eight_octal_gigabytes(kind, mark):
    info = tarfile.TarInfo("big")
    info.size = 2**35 + 5
    data = info.tobuf(kind)
    assert mark in data
    assert list(new_reader().feed(memoryview(data))) == [Member("big", 2**35 + 5, "file")]


def test_a_global_pax_header_holds_for_what_follows():
    data = archive({"a": b"1"}, tarfile.PAX_FORMAT, pax_headers={"comment": "of no concern"})
    assert read(data) == [("a", "file", b"1")]


@pytest.mark.parametrize(
    "name",
    ["/etc/shadow", "../up", "a/../../up", "a/..", "c:\\windows", "new\nline", "n" * 5000, "bell\a", ""],
)
def test_names_that_lead_elsewhere_are_refused(name):
    with pytest.raises(ImageUnsafe) as caught:
        read(archive({name: b"1"}, tarfile.GNU_FORMAT))
    assert "ova_member" in caught.value.message


def test_a_pax_path_is_checked_as_well():
    data = archive(
        {"harmless": b"1"}, tarfile.PAX_FORMAT, lambda info: info.pax_headers.update(path="/etc/shadow")
    )
    with pytest.raises(ImageUnsafe, match="ova_member"):
        read(data)


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"4", b"6", b"S", b"V", b"M", b"Z"])
def test_links_devices_and_unknown_types_are_refused(kind):
    def change(info):
        info.type, info.linkname, info.size = kind, "/etc/shadow", 0

    with pytest.raises(ImageUnsafe, match="ova_member"):
        read(archive({"disk.vmdk": b""}, change=change))


@pytest.mark.parametrize("second", ["a", "./a", "d//../a", ".//a"])
def test_two_members_of_one_name_are_refused(second):
    both = archive({"a": b"1"})[:1024] + archive({second: b"2"})
    with pytest.raises(ImageUnsafe):
        read(both)


def test_ten_thousand_members_are_refused():
    with pytest.raises(ImageUnsafe, match="ova_member"):
        read(archive({f"member {number}": b"" for number in range(1025)}))


def test_a_huge_extension_header_is_refused():
    data = archive(
        {"a": b"1"}, tarfile.PAX_FORMAT, lambda info: info.pax_headers.update(comment="c" * 70_000)
    )
    with pytest.raises(ImageUnsafe, match="ova_member"):
        read(data)


@pytest.mark.parametrize("record", [b"99 path=x\n", b"path=x\n", b"0 path=x\n", b"9 path=xx", b"7 pathx\n"])
def test_a_malformed_pax_record_is_damage(record):
    data = archive({"PaxHeader": record}, change=lambda info: setattr(info, "type", b"x")) + archive(FILES)
    with pytest.raises(ImageDamaged):
        read(data)


def test_every_cut_is_noticed():
    data = archive(FILES | {LONG: b"long"}, tarfile.GNU_FORMAT)
    end = len(data.rstrip(b"\0"))
    end += -end % 512
    assert read(data[: end + 1024]) == read(data)
    # Between two members, where a cut looks like the end of an archive that nothing closes.
    between = members_end(data)
    assert max(between) == end
    for length in {*range(0, end, 97), *range(512, end, 512)} - between:
        with pytest.raises(ImageDamaged):
            read(data[:length])


def members_end(data):
    """The offsets behind each member."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {info.offset_data + info.size + -info.size % 512 for info in tar}


@pytest.mark.parametrize("step", [1, 511, None])
def test_an_archive_that_is_not_closed_says_so(step):
    data = archive(FILES)
    for at in members_end(data):
        for zeros in (0, 1, 511, 512, 513, 1023, 1024, 10240):
            reader = new_reader()
            content = data[:at] + bytes(zeros)
            for start in range(0, len(content), step or len(content)):
                list(reader.feed(memoryview(content)[start : start + (step or len(content))]))
            list(reader.finish())
            assert reader.closed is (zeros >= 1024)


def test_zeros_alone_or_behind_an_extension_are_no_end():
    head = archive({"a" * 200: b""}, tarfile.GNU_FORMAT)[:1024]
    for zeros in (0, 100, 512, 1024):
        with pytest.raises(ImageDamaged):
            read(head + bytes(zeros))
        if zeros < 1024:
            with pytest.raises(ImageDamaged):
                read(bytes(zeros))


def test_only_zeros_may_follow_the_end():
    data = archive(FILES)
    assert read(data + bytes(100_001), 4096) == plain(FILES)
    for garbage in (b"x", archive(FILES)):
        for step in (1, None):
            with pytest.raises(ImageDamaged, match="garbage"):
                read(data + garbage, step)


def test_one_zero_block_in_the_middle_is_damage():
    data = archive(FILES)
    with pytest.raises(ImageDamaged):
        read(data[:1024] + bytes(512) + data[1024:])


def test_a_changed_header_is_noticed():
    data = bytearray(archive({"a": b"1"}))
    for at in range(512):
        changed = data.copy()
        changed[at] ^= 0x01
        with pytest.raises((ImageDamaged, ImageUnsafe)):
            read(bytes(changed))


@pytest.mark.parametrize("content", [b"", b"x" * 512, b"<html>" * 1000, bytes(512)])
def test_what_is_no_archive_is_damage(content):
    with pytest.raises(ImageDamaged):
        read(content)


SAMPLES = [archive(FILES | {LONG: b"long"}, kind) for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)]


def fix_checksums(data):
    """Make the headers' checksums right again, so that what is behind them is reached."""
    for at in range(0, len(data) - 511, 512):
        if data[at + 257 : at + 262] == b"ustar":
            data[at + 148 : at + 156] = b" " * 8
            data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])


@settings(max_examples=examples(400))
@given(
    st.sampled_from(SAMPLES),
    st.lists(st.tuples(st.integers(0, 8000), st.integers(0, 255)), min_size=1, max_size=6),
    st.booleans(),
    st.sampled_from([64, 100_000]),
)
def test_mutants_raise_the_known_errors_only(sample, changes, fix, step):
    data = bytearray(sample)
    for at, value in changes:
        data[at % len(data)] = value
    if fix:
        fix_checksums(data)
    with contextlib.suppress(DeployError):
        read(bytes(data), step)
