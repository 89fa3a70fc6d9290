"""Requests: connections, TLS, proxies and redirects, up to the head of a response that can be used.

Owned by the HTTP source. Two rules keep the job's secrets where they belong: the job's headers and the
credentials of its URL go to the origin (scheme, host, port) of that URL only. A redirect to another origin
does not get them; one that leads back to the job's own origin does, as that is who they were meant for. And
no exception of aiohttp gets out of here, since their texts and attributes hold whole URLs and headers: each
becomes a fault with words of our own and without a context.
"""

import asyncio
import base64
import ssl
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Protocol
from urllib.parse import urlsplit

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from agent import __version__
from agent.aio import run_blocking
from agent.errors import Blame
from agent.model.headers import HEADER_NAME, HEADER_VALUE, RESERVED_HEADERS
from agent.model.url import (
    Origin,
    origin_of,
    redact_url,
    redirect_target,
    userinfo_of,
    without_userinfo,
)
from agent.text import printable
from agent.transfer.http.body import describe_os_error, drop
from agent.transfer.http.faults import RETRYABLE_STATUSES, DeniedFault, FatalFault, TransientFault
from agent.transfer.http.head import Head, parse_head
from agent.transfer.http.limits import HttpLimits
from agent.transfer.source import EventHook
from agent.units import KiB

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HEAD_FIELD_LIMIT = 16 * KiB  # signed redirect targets are long
_HINTS = {
    401: "Check httpHeader and, for a signed URL, its expiry.",
    403: "Check httpHeader and, for a signed URL, its expiry.",
    404: "Check the URL.",
    407: "Check the credentials of the proxy in the agent's environment.",
    410: "Check the URL.",
}


class Authorizer(Protocol):
    """Has the header Authorization for a server that asks for one by a challenge (RFC 9110, section 11)."""

    @property
    def value(self) -> str | None:
        """What to send to the origin of the URL, and to no other; None: nothing, as long as nobody asks."""

    async def renew(self, challenges: Sequence[str], used: str | None) -> None:
        """The server answered 401 to a request with the value `used`: get another one.

        Raises:
            DeniedFault, FatalFault: there is none to be had.
        """

    def denied(self, status: int) -> DeniedFault:
        """The server refuses (401 or 403), and no other value would help."""


@dataclass(slots=True)
class Answer:
    """A response whose head can be used, and whose body has not been touched."""

    head: Head
    response: aiohttp.ClientResponse = field(repr=False)
    proxied: bool = False
    """Whether a proxy was asked for it that is told whole URLs."""

    def request_again(self, extra: Mapping[str, str]) -> bytes:
        """The request that it answers, once more over its connection, with other values of some headers.

        All others are those that this server was sent before, so nothing goes where it may not.
        """
        info = self.response.request_info
        headers = CIMultiDict(info.headers)
        headers.update(extra)
        target = str(info.url) if self.proxied else info.url.raw_path_qs
        lines = [f"GET {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def close(self) -> None:
        """Drop the connection at once; safe to call twice."""
        drop(self.response)

    @contextmanager
    def closed_on_error(self) -> Iterator[None]:
        """Drop the connection if the block raises."""
        try:
            yield
        except BaseException:
            self.close()
            raise


class _Failed(Exception):
    """What became of a request, in a wrapping that aiohttp does not look into."""

    def __init__(self, error: aiohttp.ClientError) -> None:
        self.error = error
        super().__init__()


async def _ask_once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Keep aiohttp from asking a second time by itself: attempts are counted here."""
    try:
        return await handler(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _Failed(error) from None


class HttpClient:
    """Makes GET requests for one URL.

    Args:
        url: has passed `check_url`; may hold userinfo, which is sent as Basic credentials.
        headers: the job's headers, in order; names may repeat.
        ca_file: a bundle of CA certificates (PEM) in place of the system's.
        limits: how long to wait.
        on_event: is told about redirects.
        authorizer: answers the server's challenges; without one a 401 is final.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Sequence[tuple[str, str]],
        ca_file: str | None,
        limits: HttpLimits,
        on_event: EventHook,
        authorizer: Authorizer | None = None,
    ) -> None:
        self._authorizer = authorizer
        self._url = without_userinfo(url)
        self._origin = origin_of(url)
        self._ca_file = ca_file
        self._limits = limits
        self._on_event = on_event
        self._session: aiohttp.ClientSession | None = None
        self._tls: ssl.SSLContext | None = None
        self._closed = False
        self._own_headers = [(name, value) for name, value in headers if name.lower() not in RESERVED_HEADERS]
        userinfo = userinfo_of(url)
        if userinfo is not None and not any(name.lower() == "authorization" for name, _ in headers):
            token = base64.b64encode(":".join(userinfo).encode()).decode()
            self._own_headers.append(("Authorization", f"Basic {token}"))

    async def get(self, extra: dict[str, str]) -> Answer:
        """Request the URL with some more headers, following redirects.

        Returns:
            An answer with status 200, 206 or 416; the caller closes it.

        Raises:
            TransientFault: no answer came, or one that another try may mend.
            FatalFault: the server refuses for good, redirects to where we do not go, or cannot be trusted.
            DeniedFault: it wants to know who we are, and what the authorizer has does not do.
        """
        _check_headers(self._own_headers)
        url = self._url
        for _ in range(self._limits.redirects + 1):
            answer = await self._request_allowed(url, extra)
            if answer.head.status not in _REDIRECTS:
                return self._usable(answer, url)
            answer.close()
            if answer.head.location is None:
                raise FatalFault(f"the server answered {_status_text(answer.head.status)} without a Location")
            try:
                url = redirect_target(url, answer.head.location)
            except ValueError as error:
                raise FatalFault(str(error)) from error
            self._on_event("redirected", {"url": redact_url(url)})
        raise FatalFault(f"the server redirects more than {self._limits.redirects} times")

    async def close(self) -> None:
        """Close all connections; safe to call twice."""
        self._closed = True
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _request_allowed(self, url: str, extra: dict[str, str]) -> Answer:
        """One request, and after a challenge one more."""
        authorizer = self._authorizer_for(url)
        used = None if authorizer is None else authorizer.value
        answer = await self._request(url, extra)
        if authorizer is None or answer.head.status != 401:
            return answer
        challenges = answer.response.headers.getall("WWW-Authenticate", [])
        answer.close()
        await authorizer.renew(challenges, used)
        return await self._request(url, extra)

    def _authorizer_for(self, url: str) -> Authorizer | None:
        return self._authorizer if origin_of(url) == self._origin else None

    def _usable(self, answer: Answer, url: str) -> Answer:
        status = answer.head.status
        if status in (200, 206, 416):
            return answer
        answer.close()
        reason = f"the server answered {_status_text(status)}"
        if status in RETRYABLE_STATUSES:
            raise TransientFault(reason, retry_after=answer.head.retry_after)
        authorizer = self._authorizer_for(url)
        if authorizer is not None and status in (401, 403):
            raise authorizer.denied(status)
        hint = _HINTS.get(status, "")
        if self._authorizer is None and status in (401, 403) and origin_of(url) != self._origin:
            hint = f"httpHeader goes to {self._origin} only, but a redirect led to {origin_of(url)}."
        raise FatalFault(reason, hint=hint, blame=_blame_of(status), status=status)

    async def _request(self, url: str, extra: dict[str, str]) -> Answer:
        """One request to one URL. Foreign exceptions end here."""
        session = self._open_session()
        proxy = _proxy_for(origin_of(url))
        tls = await self._tls_for(url, proxy)
        fault: TransientFault | FatalFault
        try:
            # aiohttp bounds the connection by itself, so what trips the outer limit is the head.
            async with asyncio.timeout(self._limits.connect_seconds + self._limits.head_seconds):
                response = await session.get(
                    # Escapes are left as they are: a signature covers them.
                    URL(url, encoded=url.isascii()),
                    headers=self._headers(url, extra),
                    proxy=proxy,
                    ssl=tls,
                    allow_redirects=False,
                )
        except (aiohttp.ClientError, OSError, ValueError, RuntimeError) as error:
            fault = _describe(error, origin_of(url))
        except _Failed as failed:
            fault = _describe(failed.error, origin_of(url))
        else:
            return _answer(response, proxied=proxy is not None and urlsplit(url).scheme == "http")
        raise fault  # outside of the handler: the foreign exception must not become its context

    def _open_session(self) -> aiohttp.ClientSession:
        if self._closed:
            raise FatalFault("the transfer was closed")
        if self._session is None:
            self._session = aiohttp.ClientSession(
                # A connection that is kept may be dropped by the server just when it is used again: no attempt is
                # to be lost to that.
                connector=aiohttp.TCPConnector(
                    use_dns_cache=False, resolver=aiohttp.ThreadedResolver(), force_close=True
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, connect=self._limits.connect_seconds),
                middlewares=(_ask_once,),
                auto_decompress=False,
                trust_env=False,  # it would also send what it finds in ~/.netrc
                max_line_size=_HEAD_FIELD_LIMIT,
                max_field_size=_HEAD_FIELD_LIMIT,
            )
        return self._session

    async def _tls_for(self, *urls: str | None) -> ssl.SSLContext | bool:
        """What to trust on the way; the certificates are not loaded for plain http, for which it does not matter."""
        if not any(url is not None and urlsplit(url).scheme == "https" for url in urls):
            return True
        if self._tls is None:
            self._tls = await run_blocking(_tls_context, self._ca_file)
        return self._tls

    def _headers(self, url: str, extra: dict[str, str]) -> CIMultiDict[str]:
        headers = CIMultiDict(self._own_headers if origin_of(url) == self._origin else ())
        authorizer = self._authorizer_for(url)
        if authorizer is not None and authorizer.value is not None:
            headers["Authorization"] = authorizer.value
        headers.setdefault("User-Agent", f"byoi-agent/{__version__}")
        headers["Accept-Encoding"] = "identity"
        headers.update(extra)
        return headers


def _check_headers(headers: Sequence[tuple[str, str]]) -> None:
    """Refuse what could smuggle a second header, before any connection is made; values are not shown."""
    for name, value in headers:
        if not HEADER_NAME.fullmatch(name) or not HEADER_VALUE.fullmatch(value):
            raise FatalFault(
                f"the header {printable(name, 64)!r} cannot be sent",
                hint="Check httpHeader: a name has no spaces or colons, a value no line breaks.",
                blame=Blame.REQUEST,
            )


def _describe(error: Exception, origin: Origin) -> TransientFault | FatalFault:
    """A fault of aiohttp in words that hold no URL and no header."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            reason = getattr(error.certificate_error, "verify_message", "") or "it was refused"
            return FatalFault(
                f"the certificate of {origin} cannot be trusted: {reason}",
                hint="Check the server's certificate, the CA file and the clock of the rescue system.",
            )
        case aiohttp.ClientHttpProxyError():
            return _describe_proxy_refusal(error, origin)
        case ValueError():  # aiohttp.InvalidURL is one as well
            return FatalFault(
                "the request cannot be made",
                hint="Check the URL, and the names and values of httpHeader.",
                blame=Blame.REQUEST,
            )
        case _:
            return TransientFault(_describe_transient(error, origin), hint=_transient_hint(error))


def _describe_transient(error: Exception, origin: Origin) -> str:
    """The order matters: the special classes are subclasses of the general ones."""
    match error:
        case aiohttp.ClientProxyConnectionError():
            text = f"the proxy for {origin} cannot be reached: {describe_os_error(error.os_error)}"
        case aiohttp.ClientConnectorDNSError():
            text = f"{origin.host} cannot be resolved: {describe_os_error(error.os_error)}"
        case aiohttp.ClientSSLError():
            text = f"no TLS connection to {origin}: {describe_os_error(error.os_error)}"
        case aiohttp.ClientConnectorError():
            text = f"no connection to {origin}: {describe_os_error(error.os_error)}"
        case aiohttp.ConnectionTimeoutError():
            text = f"no connection to {origin} in time"
        case aiohttp.ServerDisconnectedError():
            text = f"{origin} closed the connection before it answered"
        case aiohttp.ClientResponseError():
            text = f"the answer of {origin} is not HTTP"
        case TimeoutError():
            text = f"no answer from {origin} in time"
        case _:
            text = f"the connection to {origin} failed: {describe_os_error(error)}"
    return text


def _transient_hint(error: Exception) -> str:
    """The way out where it is known; the order matters as above."""
    match error:
        case aiohttp.ClientProxyConnectionError():
            return "Check the proxy in the agent's environment: http_proxy, https_proxy, no_proxy."
        case aiohttp.ClientConnectorDNSError():
            return "Check the host's name in the URL, and the name servers of the rescue system (resolvectl status)."
        case aiohttp.ClientSSLError():
            return ""
        case aiohttp.ClientConnectorError() if isinstance(error.os_error, ConnectionRefusedError):
            return "Nothing listens there: check host and port in the URL, and that the image's server runs."
        case aiohttp.ClientConnectorError() | aiohttp.ConnectionTimeoutError():
            return "Check the server's network and the firewalls between it and the image's server."
        case _:
            return ""


def _describe_proxy_refusal(
    error: aiohttp.ClientHttpProxyError, origin: Origin
) -> TransientFault | FatalFault:
    reason = f"the proxy answered {_status_text(error.status)} when asked for {origin}"
    if error.status in RETRYABLE_STATUSES:
        return TransientFault(reason, retry_after=error.headers.get("Retry-After") if error.headers else None)
    hint = _HINTS[407] if error.status == 407 else "Check the proxy in the agent's environment."
    return FatalFault(reason, hint=hint, blame=Blame.AGENT)


def _blame_of(status: int) -> Blame:
    """Who has to mend what a final status says: 4xx is about what was asked for (RFC 9110, section 15.5)."""
    if status == 407:
        return Blame.AGENT
    return Blame.REQUEST if 400 <= status < 500 else Blame.NETWORK


def _answer(response: aiohttp.ClientResponse, *, proxied: bool) -> Answer:
    try:
        return Answer(parse_head(response.status, response.headers), response, proxied)
    except BaseException:
        drop(response)
        raise


def _status_text(status: int) -> str:
    """A status with its standard phrase; the phrase that the server sent could say anything."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _tls_context(ca_file: str | None) -> ssl.SSLContext:
    """Blocking: read the CA certificates."""
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # an SSLError is one, for a file without certificates
        raise FatalFault(
            f"the CA file {ca_file} cannot be used: {describe_os_error(error)}",
            hint="Check the path of the CA file and that it holds certificates in PEM form.",
            blame=Blame.AGENT,
        ) from error


def _proxy_for(origin: Origin) -> str | None:
    """The proxy that the environment names for an origin: http_proxy, https_proxy, all_proxy, no_proxy.

    Raises:
        FatalFault: the environment names one that cannot be used.
    """
    proxies = urllib.request.getproxies()
    proxy = proxies.get(origin.scheme) or proxies.get("all")
    bypassed = urllib.request.proxy_bypass(origin.host) or urllib.request.proxy_bypass(
        f"{origin.host}:{origin.port}"
    )
    if not proxy or bypassed:
        return None
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    scheme = urlsplit(proxy).scheme
    if scheme not in ("http", "https"):
        raise FatalFault(
            f"the environment names a proxy of the kind {printable(scheme, 32)}, which is not supported",
            hint="Use an http or https proxy, or exclude the host by no_proxy.",
            blame=Blame.AGENT,
        )
    return proxy
