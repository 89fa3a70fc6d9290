"""The agent's own requests: in which words there was no answer."""

import asyncio
import ssl

import aiohttp
import pytest
import trustme

from agent.model.surroundings import Trouble
from agent.service.http.asking import NoAnswer, asked, bounded_body


async def ask(url, context, limit=100):
    timeout = aiohttp.ClientTimeout(total=20)
    async with (
        aiohttp.ClientSession() as session,
        asked(session, "GET", url, context=context, ca_option="x.ca_file", timeout=timeout) as response,
    ):
        return await bounded_body(response, limit)


async def serve(answer, tls=None):
    """A server that answers with these bytes, and its port."""

    async def talk(reader, writer):
        await reader.read(1)
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0, ssl=tls)
    return server, server.sockets[0].getsockname()[1]


async def test_a_server_that_speaks_no_tls_is_not_told_as_one_whose_certificate_is_bad():
    server, port = await serve(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    async with server:
        with pytest.raises(NoAnswer, match=r"^it cannot be reached: no TLS: ") as told:
            await ask(f"https://127.0.0.1:{port}", ssl.create_default_context())
    assert told.value.trouble is Trouble.CONNECTION


@pytest.mark.parametrize(
    ("issuer", "host", "why"),
    [("other", "127.0.0.1", "certificate"), ("own", "ironic.example.net", "not valid for '127.0.0.1'")],
)
async def test_what_is_wrong_with_a_certificate_is_told_and_which_option_names_the_ca(issuer, host, why):
    authorities = {"own": trustme.CA(), "other": trustme.CA()}
    server_side, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authorities[issuer].issue_cert(host).configure_cert(server_side)
    authorities["own"].configure_trust(trusting)
    server, port = await serve(b"HTTP/1.1 204 No Content\r\n\r\n", server_side)
    async with server:
        with pytest.raises(NoAnswer) as told:
            await ask(f"https://127.0.0.1:{port}", trusting)
    text = str(told.value)
    assert text.startswith("its certificate is not trusted: ")
    assert why in text
    assert text.endswith(" (x.ca_file names the CA)")
    assert told.value.trouble is Trouble.CERTIFICATE


async def test_of_a_body_that_is_too_long_nothing_is_given():
    server, port = await serve(b"HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n" + bytes(101))
    async with server:
        url = f"http://127.0.0.1:{port}"
        assert await ask(url, ssl.create_default_context()) is None
        assert await ask(url, ssl.create_default_context(), limit=101) == bytes(101)
