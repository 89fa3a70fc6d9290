"""Heads of responses: what they say, and whether they belong to the same file."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from agent.transfer.http.faults import ChangedFault, FatalFault
from agent.transfer.http.head import (
    check_again,
    check_first,
    check_range,
    parse_head,
    range_headers,
    read_head,
)


def head(status: int = 200, **headers):
    return parse_head(status, CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()}))


FIRST = head(content_length="1000", etag='"a"', last_modified="Mon", accept_ranges="bytes")


def test_length_comes_from_content_length():
    assert (FIRST.length, FIRST.chunked, FIRST.length_checked) == (1000, False, True)


def test_chunks_outrank_a_length():
    one = head(content_length="5", transfer_encoding="Chunked")
    assert (one.length, one.chunked, one.length_checked) == (None, True, True)


def test_no_framing_at_all_is_unchecked():
    assert not head().length_checked


@pytest.mark.parametrize("text", ["-1", "+5", "1e3", "0x10", "", "1, 1", "9" * 19, "\u0665"])
def test_malformed_length_is_refused(text):
    with pytest.raises(FatalFault, match="Content-Length"):
        head(content_length=text)


@pytest.mark.parametrize(
    ("value", "offers", "refuses"),
    [(None, False, False), ("bytes", True, False), ("none", False, True), ("Bytes", True, False)],
)
def test_range_support_has_three_states(value, offers, refuses):
    one = head(**({} if value is None else {"accept_ranges": value}))
    assert (one.offers_ranges, one.refuses_ranges) == (offers, refuses)


def test_range_request_is_made_on_condition():
    assert range_headers(FIRST, 10) == {"Range": "bytes=10-", "If-Range": '"a"'}
    assert range_headers(head(etag='W/"a"', last_modified="Mon"), 10, 20) == {
        "Range": "bytes=10-19",
        "If-Range": "Mon",
    }
    assert range_headers(head(etag='W/"a"'), 10) == {"Range": "bytes=10-"}


def test_whole_file_needs_status_200():
    check_first(FIRST)
    for status in (206, 416):
        with pytest.raises(FatalFault, match=str(status)):
            check_first(head(status))


def test_answer_without_validators_passes_for_the_same_file():
    check_again(FIRST, head(content_length="1000"))


@pytest.mark.parametrize(
    "other",
    [{"content_length": "999"}, {"etag": '"b"'}, {"last_modified": "Tue"}, {"content_encoding": "gzip"}],
)
def test_any_difference_is_a_change(other):
    with pytest.raises(ChangedFault):
        check_again(FIRST, head(**({"content_length": "1000"} | other)))


def test_long_header_values_are_cut_in_messages():
    with pytest.raises(ChangedFault) as caught:
        check_again(FIRST, head(content_length="1000", etag='"' + "x\x1b" * 5000 + '"'))
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()


def test_good_range_tells_the_length_of_its_body():
    assert check_range(FIRST, head(206, content_range="bytes 400-999/1000"), 400) == 600
    assert check_range(FIRST, head(206, content_range="bytes 400-499/1000", content_length="100"), 400) == 100
    assert check_range(FIRST, head(206, content_range="Bytes 400-499/*"), 400) == 100


def test_same_file_sent_whole_means_no_ranges():
    assert check_range(FIRST, head(content_length="1000"), 400) is None


@pytest.mark.parametrize(
    ("content_range", "kind"),
    [
        ("bytes 401-999/1000", ChangedFault),
        ("bytes 400-999/1001", ChangedFault),
        ("bytes 400-1000/1000", FatalFault),
        ("bytes 400-1000/*", FatalFault),
        ("bytes 400-399/1000", FatalFault),
        ("items 400-999/1000", FatalFault),
        ("", FatalFault),
    ],
)
def test_wrong_ranges(content_range, kind):
    with pytest.raises(kind):
        check_range(FIRST, head(206, content_range=content_range), 400)


def test_file_that_ends_where_the_transfer_was_cut_was_announced_too_long():
    with pytest.raises(FatalFault, match="announced 1000 bytes and has 400"):
        check_range(FIRST, head(416, content_range="bytes */400"), 400)
    with pytest.raises(ChangedFault):
        check_range(FIRST, head(416, content_range="bytes */400", etag='"b"'), 400)


def test_unsatisfiable_range_is_a_change():
    with pytest.raises(ChangedFault, match="1000 bytes at first and 300 now: no byte 400"):
        check_range(FIRST, head(416, content_range="bytes */300"), 400)


# -- heads that are read here ------------------------------------------------------------------------------------

PLAIN = (
    b"HTTP/1.1 206 Partial Content\r\nServer: nginx/1.22.1\r\nContent-Length:  100\r\nConnection: keep-alive\r\n"
    b'ETag: "v1"\r\ncontent-range: bytes 0-99/1000\r\nX-A: b:c\r\nX-A: d\r\nX-Empty:'
)


def test_a_plain_head_is_read_as_aiohttp_would():
    head = read_head(PLAIN)
    assert head is not None
    assert (head.status, head.length, head.etag) == (206, 100, '"v1"')
    assert (head.content_range, head.chunked, head.persists) == ("bytes 0-99/1000", False, True)


@pytest.mark.parametrize("word", [b"close", b"Close", b"keep-alive, close"])
def test_a_connection_that_ends_is_noticed(word):
    head = read_head(PLAIN.replace(b"keep-alive", word))
    assert head is not None
    assert not head.persists


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"HTTP/1.1 206 Partial Content", b"HTTP/1.0 206 Partial Content"),
        (b"HTTP/1.1 206 Partial Content", b"HTTP/1.1 2060 Partial Content"),
        (b"HTTP/1.1 206 Partial Content", b"ICY 206 OK"),
        (b"HTTP/1.1 206 Partial Content", b"\r\nHTTP/1.1 206 Partial Content"),
        (b"Content-Length:  100\r\n", b""),
        (b"Content-Length:  100\r\n", b"Content-Length: 100\r\nContent-Length: 100\r\n"),
        (b"100", b"100, 100"),
        (b"100", b"+100"),
        (b"100", b"1e2"),
        (b"100", b"9" * 19),
        (b"Content-Length: ", b"Content-Length : "),
        (b"Server:", b"Transfer-Encoding: chunked\r\nServer:"),
        (b"Server:", b"Upgrade: h2c\r\nServer:"),
        (b"Server:", b" folded: yes\r\nServer:"),
        (b"Server:", b": nameless\r\nServer:"),
        (b"Server:", b"nothing\r\nServer:"),
        (b"X-A: d", b"ETag: d"),
        (b"b:c", b"b\nc"),
        (b"b:c", b"b\rc"),
        (b"b:c", b"b\0c"),
        (b"\r\nContent-Length", b"\nContent-Length"),
    ],
)
def test_what_is_not_plain_is_not_read(old, new):
    assert old in PLAIN
    assert read_head(PLAIN.replace(old, new, 1)) is None


@given(st.binary(max_size=200))
def test_no_bytes_make_it_raise(data):
    read_head(data)
    read_head(PLAIN + data)
