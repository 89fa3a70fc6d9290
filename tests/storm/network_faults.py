"""A server that draws its faults: what it does to a request, by the name of the fault.

docs/transfer.md has a row for each of them, which says what a deployment must come to.
"""

import os
import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

from agent.units import KiB, MiB
from tests.kit.server import Answer, Request
from tests.storm.network_server import DATE, Scene, Style, head

Fault = Callable[[Scene], None]
FAULTS: dict[str, Fault] = {}
"""Each changes a scene."""


def fault(act: Fault) -> Fault:
    FAULTS[act.__name__.replace("_", "-")] = act
    return act


# -- what goes by ----------------------------------------------------------------------------------------------


@fault
def none(scene: Scene) -> None:
    """Nothing is wrong."""


@fault
def cut(scene: Scene) -> None:
    def made() -> Answer:
        share, reset = scene.chance.random(), scene.chance.random() < 0.4
        if scene.chance.random() < 0.2:
            share = scene.chance.random() * 300 / len(scene.data)  # in the head

        def answer(request: Request) -> None:
            stream = scene.style.answer(request, scene.data)
            scene.style.send(request, stream[: min(int(share * len(stream)), len(stream) - 1)])
            if reset:
                request.reset()

        return answer

    scene.some(made, scene.most_cuts)


@fault
def stall(scene: Scene) -> None:
    share = scene.chance.random()

    def answer(request: Request) -> None:
        stream = scene.style.answer(request, scene.data)
        request.send(stream[: int(share * len(stream))])
        request.hold()

    scene.first.append(answer)


@fault
def late_head(scene: Scene) -> None:
    scene.first.append(lambda request: request.hold())


@fault
def trickle(scene: Scene) -> None:
    share = scene.chance.random()

    def answer(request: Request) -> None:
        stream = scene.style.answer(request, scene.data)
        at = int(share * len(stream))
        request.send(stream[:at])
        while at < len(stream) and not request.server.stopping.wait(0.05):
            request.send(stream[at : at + 1])
            at += 1

    scene.first.append(answer)


def refusing(scene: Scene, status: int) -> Answer:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=1), usegmt=True)
    asked = scene.chance.choice((None, "0", "1", "-1", "soon", "9" * 400, later, DATE))
    headers = {"Content-Length": 4} | ({} if asked is None else {"Retry-After": asked})
    return lambda request: request.send(head(status, headers) + b"busy")


BUSY = (408, 425, 429, 500, 502, 503, 504, 520, 530)


@fault
def busy(scene: Scene) -> None:
    scene.some(lambda: refusing(scene, scene.chance.choice(BUSY)), 4)


def wrong_chunk(scene: Scene) -> Answer:
    nonsense = scene.chance.choice(
        (b"ZZ\r\n", b"-5\r\nhello\r\n", b"f" * 40 + b"\r\n", b"5\r\nhello, world\r\n", b"5\0\r\nhello\r\n")
    )
    part = scene.data[: scene.chance.randrange(len(scene.data))]

    def answer(request: Request) -> None:
        chunks = b"%x\r\n%s\r\n" % (len(part), part) if part else b""
        request.send(head(200, {"Transfer-Encoding": "chunked", "ETag": '"v1"'}) + chunks + nonsense)

    return answer


@fault
def wrong_chunks(scene: Scene) -> None:
    scene.style = Style(
        **{**vars(scene.style), "chunked": True, "dated": False, "etag": '"v1"', "ranges": False}
    )
    scene.some(lambda: wrong_chunk(scene), scene.most_cuts)


@fault
def redirect(scene: Scene) -> None:
    there = scene.elsewhere
    assert there is not None

    def made() -> Answer:
        to = scene.chance.choice(("/b", "?c=1", "../d", there.at("/e")))
        status = scene.chance.choice((301, 302, 303, 307, 308))
        return lambda request: request.send(head(status, {"Location": to, "Content-Length": 0}))

    scene.some(made, 8)


@fault
def more_than_announced(scene: Scene) -> None:
    scene.style = Style(**{**vars(scene.style), "chunked": False})
    more = scene.chance.randbytes(scene.chance.randint(1, 100 * KiB))
    scene.always = lambda request: request.send(scene.style.answer(request, scene.data) + more)


@fault
def etag_gone(scene: Scene) -> None:
    """The rest comes without the word that it is of the same file."""
    scene.resumable()
    scene.cut_once()
    style = Style(**{**vars(scene.style), "etag": None, "dated": False})
    scene.always = lambda request: style.send(request, style.answer(request, scene.data))


# -- what does not ---------------------------------------------------------------------------------------------


@fault
def cut_for_good(scene: Scene) -> None:
    """The server has less than it announces."""
    at = scene.chance.randrange(len(scene.data))

    def answer(request: Request) -> None:
        stream = scene.style.answer(request, scene.data)
        if not scene.style.chunked:
            missing = len(scene.data) - at
            body = stream.partition(b"\r\n\r\n")[2] if not scene.style.interim else stream
            stream = stream[: len(stream) - min(missing, len(body))]
        else:
            stream = stream[: int(at / len(scene.data) * len(stream))]
        request.send(stream)

    scene.always = answer


@fault
def stall_for_good(scene: Scene) -> None:
    at = scene.chance.randrange(len(scene.data))

    def answer(request: Request) -> None:
        stream = scene.style.answer(request, scene.data)
        if request.start <= at:
            request.send(stream[: max(len(stream) - (len(scene.data) - at), 0)])
        request.hold()

    scene.always = answer


@fault
def busy_for_good(scene: Scene) -> None:
    scene.always = refusing(scene, scene.chance.choice(BUSY))


@fault
def refused(scene: Scene) -> None:
    scene.always = refusing(
        scene, scene.chance.choice((400, 401, 402, 403, 404, 405, 406, 409, 410, 451, 499))
    )


@fault
def strange_status(scene: Scene) -> None:
    status = scene.chance.choice(
        (201, 202, 203, 205, 206, 226, 299, 300, 305, 306, 399, 501, 505, 508, 511, 599)
    )
    scene.always = lambda request: request.send(head(status, {"Content-Length": 0}))


@fault
def no_http(scene: Scene) -> None:
    chance = scene.chance
    nonsense = chance.choice(
        (
            b"", b"\0" * 1000, chance.randbytes(1000), b"HTTP/9.9 200 OK\r\n\r\n", b"HTTP/1.1 2000 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", b"SSH-2.0-x\r\n",
            b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n", b"HTTP/1.1 200 OK\r\nno header\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200_000 + b"\r\n", b"HTTP/1.1 100 Continue\r\n\r\n" * 5,
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0x10\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 30 + b"\r\n\r\n",
        )
    )  # fmt: skip
    scene.always = lambda request: request.send(nonsense)


@fault
def redirect_for_good(scene: Scene) -> None:
    to = scene.chance.choice(
        ("/again", "", "http://", "ftp://a.invalid/x", "file:///etc/passwd", "http://[", "http://a b/")
    )
    scene.always = lambda request: request.send(head(302, {"Location": to, "Content-Length": 0}))


@fault
def range_lies(scene: Scene) -> None:
    """The rest that is sent is not the rest that was asked for, by the server's own words."""
    scene.resumable()
    scene.cut_once()
    kind = scene.chance.choice(("begin", "total", "etag", "date", "416", "whole"))
    size = len(scene.data)

    def answer(request: Request) -> None:
        if kind == "whole" or (kind == "date" and not scene.style.dated):
            scene.style.send(request, scene.style.answer(request, scene.data, ETag='"v2"'))
        elif request.span is None:
            scene.serve(request)
        else:
            request.send(lie(request.start))

    def lie(start: int) -> bytes:
        said: dict[str, object] = {"ETag": '"v1"', "Content-Range": f"bytes {start}-{size - 1}/{size}"}
        match kind:
            case "begin":
                start += 1
                said["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
            case "total":
                said["Content-Range"] = f"bytes {start}-{size - 1}/{size + 1}"
            case "etag":
                said["ETag"] = '"v2"'
            case "date":
                said["Last-Modified"] = "Tue, 06 Oct 2020 10:00:00 GMT"
            case "416":
                return head(416, {"Content-Range": f"bytes */{size // 2}", "Content-Length": 0})
        return head(206, {**said, "Content-Length": size - start}) + scene.data[start:]

    scene.always = answer


# -- other bytes -------------------------------------------------------------------------------------------------


def serving_instead(scene: Scene, data: bytes) -> None:
    scene.always = lambda request: scene.style.send(request, scene.style.answer(request, data))


@fault
def flipped(scene: Scene) -> None:
    at = scene.chance.randrange(len(scene.data))
    other = bytearray(scene.data)
    other[at] ^= 1 << scene.chance.randrange(8)
    serving_instead(scene, bytes(other))


@fault
def doubled(scene: Scene) -> None:
    """A piece comes twice, and as much is missing at the end."""
    at, length = scene.chance.randrange(len(scene.data)), scene.chance.randint(1, 64 * KiB)
    data = scene.data[: at + length] + scene.data[at:]
    data = data[: len(scene.data)]
    if data == scene.data:
        flipped(scene)
    else:
        serving_instead(scene, data)


@fault
def short(scene: Scene) -> None:
    """The file was cut at its origin, within its last partition."""
    serving_instead(scene, scene.data[: scene.chance.randrange(600 * KiB, min(3 * MiB, len(scene.data) - 1))])


@fault
def wrong_rest(scene: Scene) -> None:
    """The server's words are right, and the bytes of the rest are those of another file."""
    scene.resumable()
    at = len(scene.data) // 2
    scene.cut_once(at)
    other = scene.data[:at] + bytes(byte ^ 1 for byte in scene.data[at:])
    serving_instead(scene, other)


@fault
def page(scene: Scene) -> None:
    serving_instead(
        scene, b"<!DOCTYPE html><html><body>Please log in.</body></html>" * scene.chance.randint(1, 500)
    )


@fault
def unframed(scene: Scene) -> None:
    """Neither a length nor chunks: the end of the connection is the end of the file."""
    scene.always = lambda request: request.send(head(200, {"Connection": "close"}) + scene.data)


@fault
def unframed_cut(scene: Scene) -> None:
    part = scene.data[: scene.chance.randrange(len(scene.data))]
    scene.always = lambda request: request.send(head(200, {"Connection": "close"}) + part)


# -- TLS -----------------------------------------------------------------------------------------------------


@fault
def tls_expired(scene: Scene) -> None:
    """The server's certificate is of yesterday (see `network`)."""


@fault
def tls_other_name(scene: Scene) -> None:
    """The server's certificate is another host's (see `network`)."""


@fault
def tls_unknown(scene: Scene) -> None:
    """Nobody here trusts whoever signed the server's certificate (see `network`)."""


@fault
def tls_none(scene: Scene) -> None:
    """Plain HTTP where TLS is expected (see `network`)."""


@fault
def tls_cut(scene: Scene) -> None:
    """The connection ends within a record of TLS."""

    def made() -> Answer:
        share = scene.chance.random()
        record = b"\x17\x03\x03" + scene.chance.choice((b"\x40\x00", b"\x00\x40", b"\xff\xff")) + b"x" * 37

        def answer(request: Request) -> None:
            stream = scene.style.answer(request, scene.data)
            request.send(stream[: int(share * len(stream))])
            with socket.socket(fileno=os.dup(request.connection.fileno())) as beneath:
                beneath.settimeout(None)
                beneath.sendall(record)
                beneath.shutdown(socket.SHUT_RDWR)

        return answer

    scene.some(made, scene.most_cuts)
