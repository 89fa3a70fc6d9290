"""What is refused by a request's head, before its caller is looked at and its body is read; and what answers tell."""

import pytest

from agent.service.http.request_head import MAX_HEAD_BYTES
from tests.integration.service.conftest import ROUTE, TOKEN, answer_of, closed, error_of

ELSEWHERE = "https://elsewhere.example"
FOREIGN = {
    "origin": f"Origin: {ELSEWHERE}",
    "null": "Origin: null",
    "empty": "Origin:",
    "plain": "Origin: http://@HOST@",
    "beside": "Origin: https://@HOST@.elsewhere.example",
    "two": f"Origin: https://@HOST@\r\nOrigin: {ELSEWHERE}",
    "cross-site": "Sec-Fetch-Site: cross-site",
    "same-site": "Sec-Fetch-Site: same-site",
    "another": "Sec-Fetch-Site: unheard-of",
    "contradiction": "Origin: https://@HOST@\r\nSec-Fetch-Site: cross-site",
}


async def opened(site, way, head):
    """A connection that has sent the head. Over TLS its credentials are those of an operator."""
    host = f"127.0.0.1:{site.port}"
    text = head.replace("@HOST@", host) + f"\r\nHost: {host}\r\n"
    if way == "unix":
        return await site.open_unix(f"{text}\r\n".encode())
    return await site.open_tls(f"{text}Authorization: Bearer {TOKEN}\r\n\r\n".encode())


@pytest.mark.parametrize("header", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("way", ["unix", "tls"])
async def test_what_a_browser_sends_for_another_origin_is_refused_without_its_body(start, way, header):
    async with start() as site:
        reader, _ = await opened(site, way, f"POST {ROUTE} HTTP/1.1\r\n{header}\r\nContent-Length: 9")
        error = await error_of(reader)
        assert (error["status"], error["class"], error["errorCode"]) == (
            403,
            "Client::Forbidden",
            "CROSS_ORIGIN",
        )
        assert site.seen == []


@pytest.mark.parametrize(
    "line", ["GET /healthz", "GET /nowhere", "OPTIONS /healthz", f"DELETE {ROUTE}", "HEAD /1.0/healthz"]
)
async def test_it_is_refused_on_every_route(start, line):
    async with start() as site:
        reader, _ = await opened(site, "tls", f"{line} HTTP/1.1\r\nOrigin: {ELSEWHERE}\r\nConnection: close")
        assert (await closed(reader)).startswith(b"HTTP/1.1 403 ")
        assert site.seen == []


@pytest.mark.parametrize(
    "header", ["Sec-Fetch-Site: none", "Sec-Fetch-Site: same-origin", "Origin: https://@HOST@"]
)
async def test_what_its_user_typed_or_our_own_page_sent_is_taken_over_tls(start, header):
    async with start() as site:
        reader, _ = await opened(site, "tls", f"GET {ROUTE} HTTP/1.1\r\n{header}")
        assert (await answer_of(reader))[0] == 200


async def test_no_origin_is_that_of_the_socket(start):
    """A page that has its name lead to a forwarded port sends the very host that was asked."""
    async with start() as site:
        for origin in ("http://localhost", "https://localhost", "http://rebound.example"):
            reader, _ = await site.open_unix(
                f"GET /healthz HTTP/1.1\r\nHost: {origin.split('/')[2]}\r\nOrigin: {origin}\r\n\r\n".encode()
            )
            assert (await error_of(reader))["errorCode"] == "CROSS_ORIGIN"


@pytest.mark.parametrize(
    ("way", "header", "status"),
    [
        ("tls", "Content-Type: application/json", 200),
        ("tls", "content-type: Application/JSON; charset=utf-8", 200),
        ("tls", "Content-Type: application/x-www-form-urlencoded", 415),
        ("tls", "Content-Type: text/plain", 415),
        ("tls", "X-Nothing: said", 415),
        ("unix", "Content-Type: application/x-www-form-urlencoded", 200),
        ("unix", "X-Nothing: said", 200),
    ],
)
async def test_over_the_network_a_body_says_that_it_is_json(start, way, header, status):
    async with start() as site:
        reader, writer = await opened(site, way, f"POST {ROUTE} HTTP/1.1\r\n{header}\r\nContent-Length: 2")
        if status == 200:
            writer.write(b"{}")
            assert (await answer_of(reader))[0] == 200
        else:
            error = await error_of(reader)  # without having seen the body
            assert (error["status"], error["errorCode"]) == (415, "UNSUPPORTED_MEDIA_TYPE")
            assert "Content-Type: application/json" in error["message"]


def head_of(length):
    """A head of so many bytes, the blank line at its end apart."""
    head = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
    while (left := length - len(head)) > 0:
        field = min(left, 8000)
        head += b"X: " + b"a" * (field - len(b"X: \r\n")) + b"\r\n"
    return head + b"\r\n"


@pytest.mark.parametrize(("length", "status"), [(MAX_HEAD_BYTES, 200), (MAX_HEAD_BYTES + 1, 431)])
async def test_a_head_is_taken_up_to_its_bound(start, length, status):
    """Sent in one piece it is complete before anybody can look at its length."""
    async with start() as site:
        reader, _ = await site.open_unix(head_of(length))
        assert (await answer_of(reader))[0] == status


# -- what an answer tells ------------------------------------------------------------------------------------------

ASKED = {
    "an answer": b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
    "HEAD": b"HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
    "a stream": b"GET /broken HTTP/1.1\r\nHost: x\r\n\r\n",
    "nowhere": b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n",
    "another method": b"PATCH /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
    "a fault": b"GET /crash?secret=1 HTTP/1.1\r\nHost: x\r\n\r\n",
    "an expectation": b"GET /healthz HTTP/1.1\r\nHost: x\r\nExpect: miracles\r\n\r\n",
    "no HTTP": b"nonsense\r\n\r\n",
    "a long line": b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
async def test_no_answer_names_what_made_it(start, asked):
    async with start() as site:
        reader, _ = await site.open_unix(asked)
        head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.")
    assert b"\nserver:" not in head.lower()
    assert b"aiohttp" not in head.lower()
