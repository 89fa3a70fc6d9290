"""Redirects: where they lead, and who gets to see the job's headers on the way."""

import pytest

from agent.errors import ImageDownload

SECRET = [("X-Token", "geheim")]


def to(location: str, status: int = 302):
    return lambda ex: ex.reply(status, Location=location)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirect_within_the_origin_keeps_the_headers(serve, probe, content, status):
    server = serve(lambda ex: ex.file(content) if ex.target == "/b/c" else ex.reply(status, Location="b/c"))
    one = probe(server.at("/a"), headers=SECRET)
    assert await one.read() == content
    assert [(ex.target, ex.header("X-Token")) for ex in server.requests] == [
        ("/a", "geheim"),
        ("/b/c", "geheim"),
    ]
    assert one.event("redirected") == [{"url": server.at("/b/c")}]


async def test_another_origin_gets_neither_headers_nor_credentials(serve, probe, content):
    store = serve(lambda ex: ex.file(content))
    front = serve(to(store.at("/x?sig=unterschrift")))
    one = probe(front.url.replace("://", "://u:p@"), headers=[*SECRET, ("Cookie", "k=v"), ("Host", "vhost")])
    assert await one.read() == content
    assert front.requests[0].header("X-Token") == "geheim"
    assert front.requests[0].header("Host") == "vhost"
    names = {name.lower() for name, _ in store.requests[0].headers}
    assert names.isdisjoint({"x-token", "cookie", "authorization"})
    assert store.requests[0].header("Host") == f"127.0.0.1:{store.port}"
    assert "unterschrift" not in repr(one.events)


async def test_way_back_to_the_own_origin_has_the_headers_again(serve, probe, content):
    def to_front(exchange):
        exchange.reply(302, Location=front.at("/back"))

    front = serve(lambda ex: ex.file(content) if ex.target == "/back" else to(other.url)(ex))
    other = serve(to_front)
    assert await probe(front.url, headers=SECRET).read() == content
    assert other.requests[0].header("X-Token") is None
    assert [ex.header("X-Token") for ex in front.requests] == ["geheim", "geheim"]


async def test_resumption_and_ranges_ask_the_jobs_url_again(serve, probe, content):
    store = serve(lambda ex: ex.file(content, upto=100_000 if ex.number == 0 else None))
    front = serve(lambda ex: to(store.at(f"/{ex.number}"))(ex))
    one = probe(front.url, headers=SECRET)
    assert await one.read() == content
    assert await one.source.read_at(10, 10) == content[10:20]
    assert [ex.target for ex in store.requests] == ["/0", "/1", "/2"]
    assert store.requests[1].header("Range") == "bytes=100000-"
    assert not any(ex.header("X-Token") for ex in store.requests)
    assert all(ex.header("X-Token") for ex in front.requests)


async def test_credentials_in_a_redirect_are_not_used(serve, probe, content):
    store = serve(lambda ex: ex.file(content))
    front = serve(to(store.url.replace("://", "://u:geheim@")))
    one = probe(front.url)
    assert await one.read() == content
    assert store.requests[0].header("Authorization") is None
    assert "geheim" not in repr(one.events)


async def test_http_may_lead_to_https(serve, probe, content, tls, ca_file):
    store = serve(lambda ex: ex.file(content), tls=tls)
    front = serve(to(store.url))
    assert await probe(front.url, ca_file=ca_file).read() == content


async def failure(one) -> ImageDownload:
    with pytest.raises(ImageDownload) as caught:
        await one.source.open()
    assert one.sleeps == []
    return caught.value


async def test_https_never_leads_to_http(serve, probe, content, tls, ca_file):
    store = serve(lambda ex: ex.file(content))
    front = serve(to(store.at("/x?sig=geheim")), tls=tls)
    error = await failure(probe(front.url, ca_file=ca_file))
    assert error.detail == f"the server redirects from https to plain http: {store.at('/x?sig=***')}"
    assert store.requests == []


async def test_ten_redirects_are_followed_and_no_more(serve, probe, content):
    def handler(exchange):
        left = int(exchange.target[1:])
        if left:
            exchange.reply(302, Location=f"/{left - 1}")
        else:
            exchange.file(content)

    server = serve(handler)
    assert await probe(server.at("/10")).read() == content
    error = await failure(probe(server.at("/11")))
    assert error.detail == "the server redirects more than 10 times"


@pytest.mark.parametrize(
    ("headers", "detail"),
    [
        ({}, "302 Found without a Location"),
        ({"Location": "file:///etc/passwd"}, "redirects to a file URL"),
        ({"Location": "ftp://127.0.0.1/x"}, "a URL that cannot be used"),
        ({"Location": "http://a b/"}, "a URL that cannot be used"),
        ({"Location": "http://[::1/"}, "malformed URL"),
    ],
)
async def test_redirect_to_nowhere_is_refused(serve, probe, headers, detail):
    server = serve(lambda ex: ex.reply(302, **headers))
    assert detail in (await failure(probe(server.url))).detail


async def test_refusal_after_a_redirect_tells_why_the_headers_were_missing(serve, probe):
    store = serve(lambda ex: ex.reply(403))
    front = serve(to(store.url))
    error = await failure(probe(front.url, headers=SECRET))
    assert error.hint == f"httpHeader goes to {front.origin} only, but a redirect led to {store.origin}."
