"""Zip archives by Python, read forward in every chunking; and those whose parts do not agree."""

import contextlib
import io
import struct
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import DeployError, ImageDamaged, ImageUnsafe
from agent.formats.archives.member import Data, End, Member, MemberCheck
from agent.formats.archives.zip import ZipReader
from tests.kit.fuzz import examples

FILES = {"README": b"read me", "d/disk.raw": bytes(range(256)) * 40, "empty": b""}
METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]


class Forward(io.RawIOBase):
    """A file that cannot seek: what is written to it has its lengths behind each member."""

    def __init__(self):
        self.content = bytearray()

    def writable(self):
        return True

    def write(self, data):
        self.content += data
        return len(data)


def read(data, step=None):
    """The members as they come: a list of (name, type, bytes)."""
    reader = ZipReader(MemberCheck("archive_member"))
    found = []

    def take(events):
        for event in events:
            match event:
                case Member():
                    found.append([event.name, event.type, b"", event.size])
                case Data():
                    found[-1][2] += bytes(event.data)
                case End():
                    assert found[-1].pop() in (None, len(found[-1][2]))

    for at in range(0, len(data), step or max(len(data), 1)):
        take(reader.feed(memoryview(data)[at : at + (step or len(data))]))
    take(reader.finish())
    return [tuple(member) for member in found]


def archive(files=FILES, method=zipfile.ZIP_DEFLATED, *, forward=False, zip64=False, comment=b""):
    out = Forward() if forward else io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as packed:
        packed.comment = comment
        for name, content in files.items():
            with packed.open(zipfile.ZipInfo(name) if method == zipfile.ZIP_STORED else deflated(name), "w",
                             force_zip64=zip64) as member:  # fmt: skip
                member.write(content)
    return bytes(out.content if forward else out.getvalue())


def deflated(name):
    info = zipfile.ZipInfo(name)
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


def plain(files=FILES):
    return [(name, "file", content) for name, content in files.items()]


@pytest.mark.parametrize("step", [1, 7, 511, 4096, None])
@pytest.mark.parametrize("zip64", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_pythons_archives_in_every_chunking(method, zip64, step):
    assert read(archive(method=method, zip64=zip64, comment=b"a comment"), step) == plain()


@pytest.mark.parametrize("step", [1, 7, 511, None])
@pytest.mark.parametrize("zip64", [False, True])
def test_lengths_behind_the_members(zip64, step):
    assert read(archive(forward=True, zip64=zip64), step) == plain()


def test_a_directory_of_its_own_and_names_of_other_letters():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed:
        packed.mkdir("images")
        packed.writestr("images/größe.raw", b"1")
    assert read(out.getvalue()) == [("images", "directory", b""), ("images/größe.raw", "file", b"1")]


def test_a_long_directory():
    files = {f"{'n' * 90} {number}": b"" for number in range(1000)}
    assert read(archive(files), 65536) == plain(files)


def test_a_stored_member_whose_length_comes_behind_it_is_refused():
    with pytest.raises(ImageUnsafe, match="zip_method") as caught:
        read(archive(method=zipfile.ZIP_STORED, forward=True))
    assert "README" in caught.value.detail


def test_zeros_at_the_beginning_of_such_a_member_are_no_descriptor_of_an_empty_one():
    """As libarchive 3.7 stores a disk without boot code."""
    with pytest.raises(ImageUnsafe, match="zip_method"):
        read(archive({"disk.raw": bytes(4096)}, method=zipfile.ZIP_STORED, forward=True))


@pytest.mark.parametrize(("method", "name"), [(zipfile.ZIP_BZIP2, "bzip2"), (zipfile.ZIP_LZMA, "lzma")])
def test_other_methods_are_refused_by_their_names(method, name):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as packed:
        packed.writestr("disk.raw", b"content" * 100)
    with pytest.raises(ImageUnsafe, match="zip_method") as caught:
        read(out.getvalue())
    assert name in caught.value.detail


def changed(data, at, form, value):
    return data[:at] + struct.pack(form, value) + data[at + struct.calcsize(form) :]


def directory(data):
    return data.index(b"PK\1\2")


def last(data):
    return data.rindex(b"PK\5\6")


@pytest.mark.parametrize("where", ["member", "directory"])
def test_an_encrypted_member_is_refused(where):
    data = archive()
    with pytest.raises(ImageUnsafe, match="encryption"):
        read(changed(data, 6 if where == "member" else directory(data) + 8, "<H", 1))


def test_a_link_is_refused():
    info = zipfile.ZipInfo("disk.raw")
    info.create_system, info.external_attr = 3, 0o120777 << 16
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed:
        packed.writestr(info, "/dev/sda")
    with pytest.raises(ImageUnsafe, match="archive_member"):
        read(out.getvalue())


@pytest.mark.parametrize(("at", "what"), [(14, "CRC"), (18, "bytes"), (22, "bytes")])
@pytest.mark.parametrize("method", METHODS)
def test_a_wrong_crc_or_length_in_front_of_a_member_is_damage(method, at, what):
    data = archive({"a": b"content" * 9}, method)
    value = struct.unpack_from("<I", data, at)[0]
    with pytest.raises(ImageDamaged, match=what):
        read(changed(data, at, "<I", value - 1))


@pytest.mark.parametrize("at", [0, 4, 8, 12])
def test_a_wrong_number_behind_a_member_is_damage(at):
    data = archive({"a": b"content" * 9}, forward=True)
    start = data.index(b"PK\7\x08")
    with pytest.raises(ImageDamaged, match="followed by"):
        read(changed(data, start + at, "<B", data[start + at] ^ 1))


def test_a_descriptor_without_its_signature():
    data = archive({"a": b"content" * 9}, forward=True)
    start = data.index(b"PK\7\x08")
    bare = data[:start] + data[start + 4 :]
    end = last(bare)
    bare = changed(bare, end + 16, "<I", directory(bare))
    assert read(bare, 7) == [("a", "file", b"content" * 9)]


@pytest.mark.parametrize("at", [10, 16, 20, 24, 42, 46])
def test_a_directory_that_says_something_else_is_damage(at):
    """Method, CRC, both lengths, offset and name: what another tool would unpack is another file."""
    data = archive({"a": b"content" * 9})
    at += directory(data)
    with pytest.raises(ImageDamaged):
        read(changed(data, at, "<B", data[at] ^ 1))


def test_a_member_that_the_directory_does_not_name_is_damage():
    both, one = archive({"a": b"1", "b": b"2"}), archive({"a": b"1"})
    entry = one[directory(one) : last(one)]
    start = directory(both)
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 1, 1, len(entry), start, 0)
    with pytest.raises(ImageDamaged, match="does not name b'b'"):
        read(both[:start] + entry + end)


@pytest.mark.parametrize("at", [8, 10, 12, 16])
def test_a_last_record_that_lies_is_damage(at):
    data = archive()
    at += last(data)
    with pytest.raises(ImageDamaged, match="last record"):
        read(changed(data, at, "<B", data[at] ^ 1))


def test_one_of_several_parts_is_refused():
    data = archive()
    with pytest.raises(ImageUnsafe, match="zip_parts"):
        read(changed(data, last(data) + 4, "<H", 1))


def test_bytes_behind_the_end_are_damage():
    for step in (1, None):
        with pytest.raises(ImageDamaged):
            read(archive() + b"x", step)


def test_two_members_of_one_name_are_refused():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed:
        packed.writestr("a", b"1")
        with pytest.warns(UserWarning, match="Duplicate"):
            packed.writestr("a", b"2")
    with pytest.raises(ImageUnsafe, match="archive_member"):
        read(out.getvalue())


SAMPLES = [archive(), archive(method=zipfile.ZIP_STORED), archive(forward=True), archive(zip64=True)]


@pytest.mark.parametrize("sample", SAMPLES)
def test_every_cut_is_noticed(sample):
    for length in range(len(sample)):
        with pytest.raises(ImageDamaged):
            read(sample[:length])


@settings(max_examples=examples(400))
@given(
    st.sampled_from(SAMPLES),
    st.lists(st.tuples(st.integers(0, 20000), st.integers(0, 255)), min_size=1, max_size=6),
    st.sampled_from([64, 100_000]),
)
def test_mutants_raise_the_known_errors_only(sample, changes, step):
    data = bytearray(sample)
    for at, value in changes:
        data[at % len(data)] = value
    with contextlib.suppress(DeployError):
        read(bytes(data), step)
