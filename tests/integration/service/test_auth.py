"""Who may call, shown with the clients that people use: python-ovh, and plain HTTP over the socket and over TLS."""

import asyncio
import hashlib
import json
import time
from collections.abc import Callable

import aiohttp
import ovh
import ovh.client
import pytest
import trustme

from agent.aio import run_blocking
from tests.integration.service.conftest import NAME, ROUTE, TOKEN, Keys, Site, answer_of, closed, error_of


async def request_of(
    site: Site, method: str = "GET", path: str = ROUTE, *, cert=None, **options
) -> tuple[int, dict]:
    async with (
        aiohttp.ClientSession(headers={"Content-Type": "application/json"}) as session,
        session.request(method, site.url + path, ssl=site.tls(cert), **options) as response,
    ):
        return response.status, await response.json()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


# -- python-ovh --------------------------------------------------------------------------------------------------


async def by_ovh(site: Site, keys: Keys, act: Callable[[ovh.Client], object]) -> object:
    """Do something with the real client, which blocks."""

    def run() -> object:
        ovh.client.ENDPOINTS["local"] = site.url + "/1.0"
        client = ovh.Client(
            endpoint="local",
            application_key=keys.application_key,
            application_secret=keys.application_secret,
            consumer_key=keys.consumer_key,
        )
        client._session.verify = site.ca_file
        client._session.trust_env = False  # a CA bundle or a proxy of this machine would go before
        try:
            return act(client)
        finally:
            client._session.close()
            del ovh.client.ENDPOINTS["local"]

    return await run_blocking(run)


PATH = f"/dedicated/server/{NAME}/bringYourOwnImage"


async def test_the_real_ovh_client_posts_asks_and_deletes(start):
    user_data = "größe: 1\n" * 20_000  # above what is hashed on the loop, and not ASCII

    def act(client: ovh.Client) -> None:
        assert client.post(PATH, URL="https://h/i", type="raw", configdrive={"userData": user_data}) is None
        assert client.get(PATH, since=3, wait="a b") is None
        assert client.delete(PATH) is None

    async with start() as site:
        await by_ovh(site, Keys(), act)
    assert [(method, way) for method, way, _ in site.seen] == [
        ("POST", "signature"),
        ("GET", "signature"),
        ("DELETE", "signature"),
    ]
    assert json.loads(site.seen[0][2])["configdrive"] == {"userData": user_data}


async def test_the_same_signed_call_twice_in_a_second_is_no_offence(start):
    async with start() as site:
        await by_ovh(site, Keys(), lambda client: [client.delete(PATH) for _ in range(5)])
    assert len(site.seen) == 5


@pytest.mark.parametrize(
    ("keys", "error"),
    [
        (Keys(application_key="other"), ovh.InvalidKey),
        (Keys(consumer_key="other"), ovh.NotCredential),
        (Keys(application_secret="other"), ovh.InvalidCredential),
    ],
)
async def test_each_wrong_key_is_told_apart_by_the_real_client(start, keys, error):
    async with start() as site:
        with pytest.raises(error):
            await by_ovh(site, keys, lambda client: client.post(PATH, URL="x"))
    assert site.seen == []


async def test_a_server_without_ovh_keys_refuses_signatures(start):
    async with start(ovh=None) as site:
        with pytest.raises(ovh.InvalidKey, match=r"\[api\.ovh\]"):
            await by_ovh(site, Keys(), lambda client: client.get(PATH))


# -- signatures by hand ------------------------------------------------------------------------------------------


def signed(
    site: Site, method: str = "GET", path: str = ROUTE, *, body: bytes = b"", at: int | None = None, **more
):
    keys, timestamp = Keys(), str(int(time.time()) if at is None else at)
    url = more.get("url", site.url + path)
    text = f"{keys.application_secret}+{keys.consumer_key}+{method}+{url}".encode() + b"+" + body
    return {
        "X-Ovh-Application": keys.application_key,
        "X-Ovh-Consumer": keys.consumer_key,
        "X-Ovh-Timestamp": timestamp,
        "X-Ovh-Signature": "$1$" + hashlib.sha1(text + b"+" + timestamp.encode()).hexdigest(),
    }


@pytest.mark.parametrize(("off", "status"), [(-61, 403), (-60, 200), (0, 200), (60, 200), (61, 403)])
async def test_a_timestamp_is_good_for_a_minute_either_way(start, off, status):
    async with start(clock=lambda: 1_700_000_000.9) as site:
        got, document = await request_of(site, headers=signed(site, at=1_700_000_000 + off))
    assert got == status
    if status == 403:
        assert document["errorCode"] == "QUERY_TIME_OUT"
        assert "61 seconds" in document["message"]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"X-Ovh-Timestamp": None}, "QUERY_TIME_OUT"),
        ({"X-Ovh-Timestamp": "1e9"}, "QUERY_TIME_OUT"),
        ({"X-Ovh-Timestamp": "-5"}, "QUERY_TIME_OUT"),
        ({"X-Ovh-Timestamp": "9" * 5000}, "QUERY_TIME_OUT"),
        ({"X-Ovh-Application": None}, "INVALID_KEY"),
        ({"X-Ovh-Consumer": None}, "NOT_CREDENTIAL"),
        ({"X-Ovh-Consumer": "kéy"}, "NOT_CREDENTIAL"),
        ({"X-Ovh-Signature": None}, "INVALID_CREDENTIAL"),
        ({"X-Ovh-Signature": "$1$" + "0" * 40}, "INVALID_CREDENTIAL"),
        ({"X-Ovh-Signature": "$2$" + "0" * 40}, "INVALID_CREDENTIAL"),
    ],
)
async def test_a_signature_with_one_part_wrong_or_missing_is_refused(start, change, code):
    async with start() as site:
        headers = {name: value for name, value in (signed(site) | change).items() if value is not None}
        status, document = await request_of(site, headers=headers)
    assert (status, document["class"], document["errorCode"]) == (403, "Client::Forbidden", code)
    assert site.seen == []


async def test_a_signature_covers_method_path_query_host_and_body(start):
    body = b'{"URL":"x"}'
    async with start() as site:
        good = signed(site, "POST", ROUTE + "?a=1", body=body)
        assert (await request_of(site, "POST", ROUTE + "?a=1", data=body, headers=good))[0] == 200
        for method, path, sent, host in (
            ("PUT", ROUTE + "?a=1", body, None),
            ("POST", ROUTE + "?a=2", body, None),
            ("POST", ROUTE + "?a=1", body + b" ", None),
            ("POST", ROUTE + "?a=1", b"", None),
            ("POST", "/1.0" + ROUTE + "?a=1", body, None),
            ("POST", ROUTE + "?a=1", body, "elsewhere.example.net"),
        ):
            headers = good | ({"Host": host} if host else {})
            status, document = await request_of(site, method, path, data=sent, headers=headers)
            assert (status, document["errorCode"]) == (403, "INVALID_CREDENTIAL"), (method, path)
    assert len(site.seen) == 1


async def test_a_signature_given_twice_counts_as_none(start):
    async with start() as site:
        headers = [*signed(site).items(), ("X-Ovh-Signature", "$1$" + "0" * 40)]
        status, document = await request_of(site, headers=aiohttp.typedefs.CIMultiDict(headers))
    assert (status, document["errorCode"]) == (403, "INVALID_CREDENTIAL")


async def test_a_name_from_the_client_is_what_is_signed(start):
    """Whatever the client calls this server: the Host header is part of the URL that it signed."""
    async with start() as site:
        headers = signed(site, url="https://rescue.example.net:9443" + ROUTE) | {
            "Host": "rescue.example.net:9443"
        }
        assert (await request_of(site, headers=headers))[0] == 200


async def test_the_body_of_an_unknown_application_is_not_read(start):
    async with start() as site:
        headers = signed(site, "POST") | {"X-Ovh-Application": "other"}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        reader, _ = await site.open_tls(
            f"POST {ROUTE} HTTP/1.1\r\nHost: x\r\nContent-Length: 20000000\r\n{head}\r\n".encode()
        )
        assert (await error_of(reader))["errorCode"] == "INVALID_KEY"  # and not one byte of it was sent


# -- bearer tokens, certificates, the socket ---------------------------------------------------------------------


async def test_a_bearer_token_lets_its_holder_pass(start):
    async with start() as site:
        assert (await request_of(site, headers=bearer(TOKEN)))[0] == 200
        assert (await request_of(site, headers={"Authorization": f"bearer  {TOKEN} "}))[0] == 200
    assert [way for _, way, _ in site.seen] == ["token", "token"]


@pytest.mark.parametrize(
    "value",
    [
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        "Bearer ",
        "Bearer",
        TOKEN,
        f"Basic {TOKEN}",
        "Bearer töken",
        "",
    ],
)
async def test_anything_but_the_token_is_refused(start, value):
    async with start() as site:
        status, document = await request_of(site, headers={"Authorization": value})
    assert (status, document["class"], document["errorCode"]) == (
        401,
        "Client::Unauthorized",
        "NOT_CREDENTIAL",
    )
    assert TOKEN not in json.dumps(document)
    assert site.seen == []


async def test_two_authorization_headers_count_as_none(start):
    async with start() as site:
        headers = aiohttp.typedefs.CIMultiDict(
            [("Authorization", f"Bearer {TOKEN}"), ("Authorization", "Bearer x")]
        )
        assert (await request_of(site, headers=headers))[0] == 401


async def test_a_client_certificate_of_the_configured_ca_lets_its_holder_pass(start, ca):
    async with start(token=None, ovh=None) as site:
        assert (await request_of(site, cert=ca.issue_cert("control@example.net")))[0] == 200
    assert [way for _, way, _ in site.seen] == ["certificate"]


async def test_a_client_certificate_of_another_ca_is_refused_in_the_handshake(start):
    stranger = trustme.CA().issue_cert("control@example.net")
    async with start() as site:
        with pytest.raises(aiohttp.ClientError):
            await request_of(site, cert=stranger)
    assert site.seen == []


async def test_a_client_certificate_means_nothing_where_no_ca_is_configured(start, ca):
    async with start(certificates=False) as site:
        assert (await request_of(site, cert=ca.issue_cert("control@example.net")))[0] == 401


async def test_without_credentials_the_network_sees_health_and_time_only(start):
    async with start() as site:
        for path in ("/healthz", "/1.0/healthz", "/auth/time", "/1.0/auth/time"):
            assert (await request_of(site, path=path))[0] == 200
        for path in (ROUTE, "/1.0" + ROUTE, "/", "/healthz/", "/nowhere", "//healthz", "/1.0/1.0/healthz"):
            status, document = await request_of(site, path=path)
            assert (status, document["errorCode"]) == (401, "NOT_CREDENTIAL"), path
        assert (await request_of(site, "POST", "/healthz"))[0] == 401
    assert site.seen == []


async def test_the_refusal_says_what_is_taken(start):
    async with start(token=None) as site:
        _, document = await request_of(site)
    assert document["message"] == (
        "Credentials are required: a client certificate or a signature with the application key."
    )


async def over_socket(site: Site, *headers: str, path: str = ROUTE) -> tuple[int, dict | None]:
    head = "".join(f"{header}\r\n" for header in ("Host: localhost", "Connection: close", *headers))
    reader, _ = await site.open_unix(f"GET {path} HTTP/1.1\r\n{head}\r\n".encode())
    status, _, body = await answer_of(reader)
    assert await closed(reader) == b""
    return status, json.loads(body)


async def test_on_the_socket_the_mode_of_its_file_is_the_check(start):
    async with start() as site:
        assert (await over_socket(site))[0] == 200
    assert [way for _, way, _ in site.seen] == ["socket"]


async def test_a_credential_that_is_presented_on_the_socket_is_checked_too(start):
    async with start() as site:
        assert (await over_socket(site, f"Authorization: Bearer {TOKEN}"))[0] == 200
        assert (await over_socket(site, "Authorization: Bearer wrong"))[0] == 401
        good = [f"{name}: {value}" for name, value in signed(site, url=f"http://localhost{ROUTE}").items()]
        assert (await over_socket(site, *good))[0] == 200
        status, document = await over_socket(site, *good[:-1], "X-Ovh-Signature: $1$" + "0" * 40)
        assert (status, document["errorCode"]) == (403, "INVALID_CREDENTIAL")
    assert [way for _, way, _ in site.seen] == ["token", "signature"]


# -- bodies ------------------------------------------------------------------------------------------------------


def post(length: int, *headers: str, path: str = ROUTE) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {length}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def test_a_body_over_the_limit_is_refused_before_it_is_sent(start):
    async with start(limit=1000) as site:
        reader, _ = await site.open_unix(post(1001))
        error = await error_of(reader)
        assert (error["status"], error["errorCode"]) == (413, "BODY_TOO_LARGE")


async def test_a_body_of_unknown_length_is_cut_off_at_the_limit(start):
    async with start(limit=1000) as site:
        reader, writer = await site.open_unix(
            f"POST {ROUTE} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
            + b"3e8\r\n"
            + bytes(1000)
        )
        writer.write(b"\r\n1\r\nx\r\n")
        assert (await error_of(reader))["status"] == 413


async def test_a_compressed_body_is_refused(start):
    async with start() as site:
        reader, _ = await site.open_unix(post(4, "Content-Encoding: gzip") + b"1234")
        assert (await error_of(reader))["status"] == 415


async def test_a_body_that_does_not_come_is_waited_for_no_longer_than_allowed(start):
    async with start(seconds=0.1) as site:
        reader, _ = await site.open_unix(post(4) + b"123")
        error = await error_of(reader)
        assert (error["status"], error["errorCode"]) == (408, "REQUEST_TIMEOUT")


async def test_two_large_bodies_at_once_are_held_and_a_third_waits(start):
    big = bytes(200_000)
    async with start(small=1000, seconds=100) as site:
        held = [await site.open_unix(post(len(big)) + big[:-1]) for _ in range(2)]
        third, _ = await site.open_unix(post(len(big)) + big)
        small, _ = await site.open_unix(post(3) + b"abc")
        assert (await answer_of(small))[0] == 200  # small ones pass by
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await third.readexactly(1)
        held[0][1].write(b"x")
        assert (await answer_of(held[0][0]))[0] == 200
        assert (await answer_of(third))[0] == 200
    assert [len(body) for _, _, body in site.seen] == [3, len(big), len(big)]


async def test_no_place_for_a_large_body_in_time_is_told_as_such(start):
    async with start(small=10, seconds=0.2, large_at_once=1) as site:
        first, _ = await site.open_unix(post(100, path="/held") + bytes(100))
        second, _ = await site.open_unix(post(100) + bytes(100))
        error = await error_of(second)
        assert (error["status"], error["errorCode"], error["headers"]["retry-after"]) == (
            503,
            "UNAVAILABLE",
            "5",
        )
        site.gate.set()
        assert (await answer_of(first))[0] == 200
        third, _ = await site.open_unix(post(100) + bytes(100))
        assert (await answer_of(third))[0] == 200


async def test_a_caller_who_goes_away_gives_the_place_back(start):
    async with start(small=10, seconds=100, large_at_once=1) as site:
        _, writer = await site.open_unix(post(100) + bytes(99))
        second, _ = await site.open_unix(post(100) + bytes(100))
        writer.transport.abort()
        assert (await answer_of(second))[0] == 200
