"""The HTTP source against servers that refuse or cannot be reached; and what the errors do not show."""

from datetime import UTC, datetime, timedelta

import pytest

from agent.errors import ImageChanged, ImageDownload
from agent.transfer.http.limits import HttpLimits


def first_then(first, later):
    """Do one thing at the first request and another at all that follow."""
    return lambda ex: first(ex) if ex.number == 0 else later(ex)


async def failure(probe_of, kind=ImageDownload, chunk: int = 65536):
    with pytest.raises(kind) as caught:
        await probe_of.read(chunk)
    return caught.value


# -- statuses ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, *range(520, 531)])
async def test_busy_server_is_asked_again(serve, probe, content, status):
    server = serve(first_then(lambda ex: ex.reply(status), lambda ex: ex.file(content)))
    one = probe(server.url)
    assert await one.read() == content
    assert (len(one.sleeps), one.event("retrying")[0]["attempt"]) == (1, 1)


@pytest.mark.parametrize(
    ("status", "detail", "hint", "blame"),
    [
        (400, "the server answered 400 Bad Request", "", "request"),
        (401, "the server answered 401 Unauthorized", "httpHeader", "request"),
        (403, "the server answered 403 Forbidden", "expiry", "request"),
        (404, "the server answered 404 Not Found", "Check the URL.", "request"),
        (410, "the server answered 410 Gone", "Check the URL.", "request"),
        (451, "the server answered 451 Unavailable For Legal Reasons", "", "request"),
        (407, "the server answered 407 Proxy Authentication Required", "proxy", "agent"),
        (501, "the server answered 501 Not Implemented", "", "network"),
        (531, "the server answered 531", "", "network"),
        (799, "the server answered 799", "", "network"),
        (204, "the server answered 204 No Content", "", "network"),
        (304, "the server answered 304 Not Modified", "", "network"),
    ],
)
async def test_refusal_is_final_at_once(serve, probe, status, detail, hint, blame):
    server = serve(lambda ex: ex.reply(status))
    one = probe(server.at("/a?sig=geheim"))
    error = await failure(one)
    assert (error.detail, len(server.requests), one.sleeps) == (detail, 1, [])
    assert hint in error.hint
    assert error.message == f"Could not download image located: {server.at('/a?sig=***')}"
    assert (error.code, error.blame, error.retryable) == ("image.download", blame, False)


@pytest.mark.parametrize("url", ["http://a..b/image", f"http://{'a' * 70}.example/image"])
async def test_host_that_can_be_none_is_a_fault_of_the_request(probe, url):
    one = probe(url)
    error = await failure(one)
    assert (error.blame, error.retryable, one.sleeps) == ("request", False, [])


@pytest.mark.parametrize("offered", [True, False])
async def test_content_length_that_is_too_long_is_told_as_that(serve, probe, content, offered):
    """The server has less than it announces, and closes early for ever; where it has ranges it says so."""

    def handler(exchange):
        if offered and exchange.start:
            exchange.reply(416, Content_Range=f"bytes */{len(content)}", ETag='"v1"')
        else:
            more = {"Accept-Ranges": "bytes"} if offered else {}
            exchange.head(200, Content_Length=len(content) + 50, ETag='"v1"', **more)
            exchange.send(content)

    error = await failure(probe(serve(handler).url))
    assert str(len(content)) in error.detail
    assert str(len(content) + 50) in error.detail
    assert "Content-Length" in error.hint
    assert (error.blame, error.retryable) == ("network", False)


async def test_partial_answer_to_a_request_for_everything_is_refused(serve, probe, content):
    server = serve(lambda ex: ex.reply(206, content, Content_Range="bytes 0-299999/300000"))
    assert "answered 206 to a request for the whole file" in (await failure(probe(server.url))).detail


async def test_retry_after_is_honoured_and_capped(serve, probe, content):
    date = datetime.now(UTC) + timedelta(seconds=60)
    values = ["20", date.strftime("%a, %d %b %Y %H:%M:%S GMT"), "86400", "soon"]

    def handler(exchange):
        if exchange.number < len(values):
            exchange.reply(429, Retry_After=values[exchange.number])
        else:
            exchange.file(content)

    one = probe(serve(handler).url)
    assert await one.read() == content
    assert one.sleeps[0] == 20
    assert 50 < one.sleeps[1] <= 60
    assert one.sleeps[2] == 120
    assert one.sleeps[3] <= 8


async def test_attempts_are_used_up_with_the_last_fault_and_the_place(serve, probe, content):
    server = serve(first_then(lambda ex: ex.file(content, upto=5000), lambda ex: ex.reply(503)))
    one = probe(server.url)
    error = await failure(one)
    assert error.detail == (
        "the server answered 503 Service Unavailable, at byte 5000 of 300000, after 6 attempts"
    )
    assert len(one.sleeps) == 5
    assert (error.blame, error.retryable) == ("network", True)


# -- no connection -------------------------------------------------------------------------------------------


async def test_refused_connection_is_tried_again(serve, probe, content):
    server = serve(lambda ex: ex.file(content))
    url = server.url
    server.stop()
    one = probe(url, limits=HttpLimits(attempts=3))
    error = await failure(one)
    assert "Connect call failed" in error.detail or "refused" in error.detail.lower()
    assert "Nothing listens there" in error.hint
    assert (len(one.sleeps), "after 3 attempts" in error.detail) == (2, True)


async def test_unknown_name_is_tried_again(probe):
    one = probe("http://no-such-host.invalid/image", limits=HttpLimits(attempts=2))
    error = await failure(one)
    assert "no-such-host.invalid cannot be resolved" in error.detail
    assert "name servers" in error.hint
    assert len(one.sleeps) == 1


async def test_connection_closed_before_the_answer_is_tried_again(serve, probe, content):
    server = serve(lambda ex: ex.file(content) if ex.number > 3 else None)
    assert await probe(server.url).read() == content


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2 geheim\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nbody",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4, 4\r\n\r\nbody",
    ],
    ids=["ssh", "length twice", "length listed twice"],
)
async def test_answer_that_is_not_http(serve, probe, answer):
    server = serve(lambda ex: ex.send(answer))
    error = await failure(probe(server.url, limits=HttpLimits(attempts=2)))
    assert "is not HTTP" in error.detail


# -- secrets -------------------------------------------------------------------------------------------------

SECRET_HEADERS = [("Authorization", "Bearer kopfgeheim"), ("X-Token", "kopfgeheim")]


def misbehaviours(content):
    def cut(exchange):
        exchange.file(content, upto=exchange.start)

    return {
        "not found": lambda ex: ex.reply(404),
        "busy": lambda ex: ex.reply(503),
        "cut": cut,
        "reset": lambda ex: ex.reset(),
        "silent": lambda ex: ex.hold(),
        "not HTTP": lambda ex: ex.send(b"kopfgeheim\r\n\r\n"),
        "changed": first_then(cut, lambda ex: ex.file(content, etag='"v2"')),
        "redirect loop": lambda ex: ex.reply(302, Location=ex.target),
        "redirect to plain file": lambda ex: ex.reply(302, Location="file:///etc/kopfgeheim"),
        "redirect to nonsense": lambda ex: ex.reply(302, Location="http://u:kopfgeheim@[::1/"),
        "bad length": lambda ex: ex.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\n"),
        "chunk nonsense": lambda ex: ex.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n"),
    }


@pytest.mark.parametrize("kind", list(misbehaviours(b"")))
async def test_no_secret_gets_into_any_error(serve, probe, content, show_all, kind):
    server = serve(misbehaviours(content)[kind])
    url = server.at("/a?sig=abfragegeheim#stueckgeheim").replace("://", "://nutzer:passwortgeheim@")
    limits = HttpLimits(connect_seconds=0.5, head_seconds=0.1, stall_seconds=0.2, attempts=2)
    one = probe(url, headers=SECRET_HEADERS, limits=limits)
    with pytest.raises((ImageDownload, ImageChanged)) as caught:
        await one.read()
    shown = show_all(caught.value) + repr(one.source) + repr(one.events)
    assert "geheim" not in shown
    assert "nutzer" not in shown


async def test_header_that_cannot_be_sent_is_refused_without_showing_it(probe, show_all):
    with pytest.raises(ImageDownload) as caught:
        await probe("http://127.0.0.1:1/", headers=[("X-Token", "geheim\r\nX: y")]).source.open()
    assert caught.value.detail == "the header 'X-Token' cannot be sent"
    assert (caught.value.blame, caught.value.retryable) == ("request", False)
    assert "geheim" not in show_all(caught.value)
