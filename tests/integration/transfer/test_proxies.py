"""Proxies named by the environment: used, bypassed, refusing."""

import contextlib
import socket
import threading

import pytest

from agent.errors import ImageDownload


class Proxy:
    """A forward and CONNECT proxy of the smallest kind."""

    def __init__(self, refusal: bytes = b"") -> None:
        self.lines: list[bytes] = []
        self.heads: list[bytes] = []
        self.refusal = refusal
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.stopping = threading.Event()
        self.listener.settimeout(0.05)
        self.threads = [threading.Thread(target=self._accept)]
        self.threads[0].start()

    def _accept(self) -> None:
        while not self.stopping.is_set():
            try:
                client, _ = self.listener.accept()
            except TimeoutError:
                continue
            client.settimeout(20)
            self.threads.append(threading.Thread(target=self._serve, args=(client,)))
            self.threads[-1].start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(4096)
            line = head.split(b"\r\n")[0]
            self.lines.append(line)
            self.heads.append(head)
            if self.refusal:
                client.sendall(self.refusal)
                return
            method, target, _ = line.split()
            authority = target if method == b"CONNECT" else target.split(b"/")[2]
            host, _, port = authority.partition(b":")
            with socket.create_connection((host.decode(), int(port))) as server:
                if method == b"CONNECT":
                    client.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
                else:
                    server.sendall(head.replace(b"http://" + authority, b"", 1))
                pump = threading.Thread(target=self._pump, args=(client, server))
                pump.start()
                self._pump(server, client)
                pump.join(25)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join(25)
        self.listener.close()


@pytest.fixture
def make_proxy():
    made = []

    def make(refusal: bytes = b"") -> Proxy:
        made.append(Proxy(refusal))
        return made[-1]

    yield make
    for one in made:
        one.stop()


async def test_plain_http_goes_through_the_proxy_of_the_environment(
    serve, probe, content, make_proxy, monkeypatch
):
    server, proxy = serve(lambda ex: ex.file(content)), make_proxy()
    monkeypatch.setenv("http_proxy", proxy.url.replace("://", "://user:geheim@"))
    assert await probe(server.url).read() == content
    assert proxy.lines == [f"GET {server.url} HTTP/1.1".encode()]
    assert b"Proxy-Authorization: Basic " in proxy.heads[0]


async def test_https_goes_through_a_tunnel(serve, probe, content, make_proxy, monkeypatch, tls, ca_file):
    server, proxy = serve(lambda ex: ex.file(content), tls=tls), make_proxy()
    monkeypatch.setenv("ALL_PROXY", proxy.url.removeprefix("http://"))
    secret = [("X-Token", "geheim")]
    assert await probe(server.url, ca_file=ca_file, headers=secret).read(50_000) == content
    assert proxy.lines == [f"CONNECT 127.0.0.1:{server.port} HTTP/1.1".encode()]
    assert b"geheim" not in proxy.heads[0]
    assert server.requests[0].header("X-Token") == "geheim"


async def test_no_proxy_is_honoured(serve, probe, content, make_proxy, monkeypatch):
    server, proxy = serve(lambda ex: ex.file(content)), make_proxy()
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv("no_proxy", "example.org, 127.0.0.1")
    assert await probe(server.url).read() == content
    assert proxy.lines == []


async def test_refusal_of_the_proxy_is_told_without_its_password(probe, make_proxy, monkeypatch, show_all):
    proxy = make_proxy(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
    monkeypatch.setenv("https_proxy", proxy.url.replace("://", "://user:geheim@"))
    with pytest.raises(ImageDownload) as caught:
        await probe("https://example.org/image").source.open()
    assert "the proxy answered 407 Proxy Authentication Required" in caught.value.detail
    assert (caught.value.blame, caught.value.retryable) == ("agent", False)
    assert "geheim" not in show_all(caught.value)


async def test_socks_proxy_is_refused_with_a_hint(probe, monkeypatch):
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:1080")
    with pytest.raises(ImageDownload, match="socks5") as caught:
        await probe("http://example.org/image").source.open()
    assert "no_proxy" in caught.value.hint
    assert (caught.value.blame, caught.value.retryable) == ("agent", False)
