"""TLS: who is trusted, and what is said when nobody is."""

import ssl
from datetime import UTC, datetime, timedelta

import pytest
import trustme

from agent.errors import ImageDownload
from agent.transfer.http.limits import HttpLimits


async def failure(one) -> ImageDownload:
    with pytest.raises(ImageDownload) as caught:
        await one.source.open()
    return caught.value


def context_for(authority: trustme.CA, name: str, **options) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name, **options).configure_cert(context)
    return context


async def test_own_authority_is_trusted(serve, probe, content, tls, ca_file):
    server = serve(lambda ex: ex.file(content), tls=tls)
    assert await probe(server.url, ca_file=ca_file).read(50_000) == content


async def test_small_file_that_comes_whole_with_its_head(serve, probe, tls, ca_file):
    server = serve(lambda ex: ex.file(b"small"), tls=tls)
    assert await probe(server.url, ca_file=ca_file).read() == b"small"


async def test_unknown_authority_is_fatal_at_once(serve, probe, tls):
    server = serve(lambda ex: ex.reply(200), tls=tls)
    one = probe(server.url)
    error = await failure(one)
    assert f"the certificate of {server.origin} cannot be trusted: " in error.detail
    assert "certificate" in error.detail.partition(": ")[2]
    assert "CA file" in error.hint
    assert (one.sleeps, server.requests) == ([], [])
    assert (error.blame, error.retryable) == ("network", False)


async def test_wrong_authority_is_fatal_at_once(serve, probe, tls, tmp_path):
    path = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(path))
    one = probe(serve(lambda ex: ex.reply(200), tls=tls).url, ca_file=str(path))
    assert "cannot be trusted" in (await failure(one)).detail
    assert one.sleeps == []


async def test_certificate_for_another_name_is_fatal_at_once(serve, probe, authority, ca_file):
    server = serve(lambda ex: ex.reply(200), tls=context_for(authority, "images.example.org"))
    one = probe(server.url, ca_file=ca_file)
    assert "not valid for '127.0.0.1'" in (await failure(one)).detail
    assert one.sleeps == []


async def test_expired_certificate_is_fatal_at_once_and_the_clock_is_hinted_at(
    serve, probe, authority, ca_file
):
    past = datetime.now(UTC) - timedelta(days=1)
    server = serve(lambda ex: ex.reply(200), tls=context_for(authority, "127.0.0.1", not_after=past))
    one = probe(server.url, ca_file=ca_file)
    error = await failure(one)
    assert "expired" in error.detail
    assert "clock" in error.hint
    assert one.sleeps == []


async def test_server_that_speaks_no_tls_is_tried_again(serve, probe):
    server = serve(lambda ex: ex.reply(200))
    one = probe(server.url.replace("http:", "https:"), limits=HttpLimits(connect_seconds=1, attempts=2))
    error = await failure(one)
    assert "no TLS connection" in error.detail or "no connection" in error.detail or "in time" in error.detail
    assert len(one.sleeps) == 1


async def test_handshake_that_is_cut_is_tried_again(serve, probe, content, tls, ca_file):
    server = serve(lambda ex: ex.file(content), tls=tls)
    real = server._serve
    seen = []

    def flaky(connection):
        seen.append(1)
        if len(seen) == 1:
            connection.recv(100)
            connection.close()
        else:
            real(connection)

    server._serve = flaky
    one = probe(server.url, ca_file=ca_file)
    assert await one.read() == content
    assert len(one.sleeps) == 1


@pytest.mark.parametrize("text", [None, "", "no certificate"])
async def test_bad_ca_file_is_named(probe, tmp_path, text):
    path = tmp_path / "ca.pem"
    if text is not None:
        path.write_text(text)
    error = await failure(probe("https://127.0.0.1:1/", ca_file=str(path)))
    assert f"the CA file {path} cannot be used" in error.detail
    assert (error.blame, error.retryable) == ("agent", False)
