"""What is refused of a request by its head alone: before anybody asks who calls, and before a body is read.

A browser presents the certificate of its user with whatever any page makes it send, and follows every name to any
address. So what it says of where a request comes from decides, on every route and listener:

| header | what passes |
|---|---|
| `Sec-Fetch-Site` | absent, `same-origin`, or `none`: an address that its user typed |
| `Origin` | absent, or over TLS the very host that was asked; `null` never |

A page that has its own name lead to this server (DNS rebinding) asks the very host too. Over TLS the browser wants a
certificate of that name, which we have not. To the Unix socket it only comes through a port that somebody forwards,
without TLS; no page is served there, so nothing that names an origin passes.
"""

from socket import AF_UNIX

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from agent.service.http.errors import ApiError
from agent.service.jobs.peer import Peer, peer_of
from agent.units import KiB, format_size

MAX_HEAD_BYTES = 32 * KiB
SEC_FETCH_SITE = "Sec-Fetch-Site"
_OWN_SITE = frozenset({"same-origin", "none"})
_JSON = "application/json"


@web.middleware
async def check_request_head(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse a request for what its head says. In front of `authenticate`.

    Raises:
        ApiError: 403 a browser sent it for a page of another origin, 431 the head is too large.
    """
    if _head_bytes(request) > MAX_HEAD_BYTES:
        raise ApiError(431, f"The head of the request may have at most {format_size(MAX_HEAD_BYTES)}.")
    if _is_of_another_origin(request):
        raise ApiError(
            403,
            "A browser sent this for a page of another origin; that is never taken.",
            error_code="CROSS_ORIGIN",
        )
    return await handler(request)


def _head_bytes(request: web.Request) -> int:
    """As it was sent, the blank line at its end apart."""
    line = len(f"{request.method} {request.raw_path} HTTP/1.1\r\n")
    return line + sum(len(name) + len(value) + len(b": \r\n") for name, value in request.raw_headers)


def _is_of_another_origin(request: web.Request) -> bool:
    if any(site not in _OWN_SITE for site in request.headers.getall(SEC_FETCH_SITE, ())):
        return True
    own = None if over_unix_socket(request) else f"https://{request.headers.get(hdrs.HOST, '')}".lower()
    return any(origin.lower() != own for origin in request.headers.getall(hdrs.ORIGIN, ()))


def check_media_type(request: web.Request) -> None:
    """Over the network a body says that it is JSON: no page can have a browser say so of what it sends elsewhere.

    On the Unix socket, where the peer is a program of this machine, curl's `-d` need not say it.

    Raises:
        ApiError: 415.
    """
    if request.content_type != _JSON and not over_unix_socket(request):
        raise ApiError(415, f"The body must be sent with the header `Content-Type: {_JSON}`.")


def over_unix_socket(request: web.Request) -> bool:
    """Whether the request came over a Unix socket; what cannot be told came over the network."""
    transport = request.transport
    sock = None if transport is None else transport.get_extra_info("socket")
    return sock is not None and sock.family == AF_UNIX


def peer_of_request(request: web.Request) -> Peer:
    """Who is at the other end; what cannot be told any more came over the network."""
    transport = request.transport
    sock = None if transport is None else transport.get_extra_info("socket")
    try:
        return Peer() if sock is None else peer_of(sock)
    except OSError:
        return Peer()
