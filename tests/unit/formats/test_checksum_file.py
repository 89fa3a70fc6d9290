"""Checksum files: as the tools write them, and as nobody should."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import ChecksumFile
from agent.formats.checksum_file import find_digest
from agent.model.job import CHECKSUM_DIGITS

URL = "https://images.example.net/SUMS"
NAME = "image.raw"
MINE, OTHER = hashlib.sha256(b"mine").hexdigest(), hashlib.sha256(b"other").hexdigest()


def find(text: str | bytes, name: str = NAME, kind: str = "sha256") -> str:
    return find_digest(text.encode() if isinstance(text, str) else text, name, kind, URL)


def refusal(text: str | bytes, name: str = NAME, kind: str = "sha256") -> ChecksumFile:
    with pytest.raises(ChecksumFile) as caught:
        find(text, name, kind)
    assert (caught.value.code, caught.value.blame) == ("checksum.file", "request")
    return caught.value


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n  \n"])
def test_a_digest_alone_needs_no_name(end):
    assert find(MINE.upper() + end) == MINE
    assert find(f"\ufeff# sha256 of the image{end or chr(10)}{MINE}{end}", name="") == MINE


# -- which entry -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        f"{MINE}  ./{NAME}",
        f"{MINE} *./{NAME}",
        f"{MINE}  builds/2026/{NAME}",
        f"  {MINE}  {NAME}\r",
        f"{MINE} {NAME}",
        f"{MINE}\t{NAME}",
        f"SHA2-256 ({NAME}) = {MINE}",
        f"SHA256({NAME})= {MINE.upper()}",
        f"sha256 (builds/{NAME}) = {MINE}",
    ],
)
def test_the_entry_is_found_by_the_last_part_of_its_path(line):
    assert find(f"# sums\n{OTHER}  other.raw\n{line}\nnonsense\n") == MINE


def test_the_very_name_goes_before_a_path_that_ends_with_it():
    assert find(f"{OTHER}  old/{NAME}\n{MINE}  {NAME}\n") == MINE


def test_the_kind_decides_where_a_list_has_several():
    md5 = hashlib.md5(b"mine").hexdigest()
    text = f"MD5 ({NAME}) = {md5}\nSHA3-256 ({NAME}) = {OTHER}\nSHA256 ({NAME}) = {MINE}\n{md5}  {NAME}\n"
    assert (find(text), find(text, kind="md5")) == (MINE, md5)


def test_the_same_entry_twice_is_one():
    assert find(f"{MINE}  {NAME}\n{MINE.upper()} *{NAME}\n") == MINE


# -- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data", [b"", b" \n\n", b"\0" * 100, f"{MINE}  {NAME}".encode("utf-16"), b"\x1f\x8b\x08\0\0"]
)
def test_what_is_no_text_is_said_to_be_none(data):
    assert refusal(data).message == f"The checksum file {URL} holds no text."


def test_a_missing_entry_is_told_with_the_names_that_are_there():
    error = refusal(f"{MINE}  a\x1b[2J.raw\n{MINE}  b.raw\n")
    assert error.message == f"The checksum file {URL} has no entry for {NAME}."
    assert error.detail == "it has entries for a?[2J.raw, b.raw"
    many = refusal("".join(f"{MINE}  {number:0200}\n" for number in range(1000)))
    assert many.detail.endswith("and 992 more")
    assert len(many.detail) < 1000
    assert refusal("<html>Please log in</html>").detail == "it has no entries at all"
    # A digest without a name is not somebody else's.
    assert "no entry" in refusal(f"{MINE}\n{OTHER}  b.raw\n").message
    assert "ends without a file's name" in refusal(f"{MINE}  b/\n", name="").message


def test_different_entries_for_one_name_are_refused():
    for text in (
        f"{MINE}  {NAME}\n{OTHER}  {NAME}\n",
        f"{MINE}  a/{NAME}\n{OTHER}  b/{NAME}\n",
        f"{MINE}\n{OTHER}\n",
    ):
        error = refusal(text)
        assert f"has several different entries for {NAME}" in error.message
        assert MINE in error.detail
        assert OTHER in error.detail


def test_a_digest_of_another_kind_is_refused_with_both_lengths():
    assert (
        f"of 64 digits for {NAME}, but sha512 has 128" in refusal(f"{MINE}  {NAME}\n", kind="sha512").message
    )
    assert "tells the sha256 of" in refusal(f"SHA256 ({NAME}) = {MINE}\n", kind="sha512").message
    assert "of 63 digits" in refusal(f"SHA256 ({NAME}) = {MINE[1:]}\n").message


# -- any of them -------------------------------------------------------------------------------------------------

FILE_NAMES = st.text(
    st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1
).filter(lambda name: name not in (".", ".."))


def escape(name: str) -> tuple[str, str]:
    told = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return ("\\" if told != name else ""), told


@given(
    st.dictionaries(FILE_NAMES, st.binary(), min_size=1),
    st.sampled_from(["{e}{d}  {n}", "{e}{d} *{n}", "{e}SHA256 ({n}) = {d}"]),
)
def test_whatever_is_written_as_the_tools_do_is_read_again(files, form):
    lines = []
    for name, content in files.items():
        e, n = escape(name)
        lines.append(form.format(e=e, n=n, d=hashlib.sha256(content).hexdigest()))
    text = "\n".join(lines) + "\n"
    for name, content in files.items():
        assert find(text, name) == hashlib.sha256(content).hexdigest()


@given(
    st.one_of(st.binary(), st.text().map(str.encode)),
    st.text(max_size=5),
    st.sampled_from(sorted(CHECKSUM_DIGITS)),
)
def test_any_bytes_give_a_digest_or_a_refusal(data, name, kind):
    try:
        digest = find(data, name, kind)
    except ChecksumFile:
        return
    assert len(digest) == CHECKSUM_DIGITS[kind]
    assert digest.encode() in data.lower()
