"""Who may call: the one check in front of every route.

| way in | what lets a caller pass |
|---|---|
| Unix socket | the mode of the socket's file: root, and the group that the socket was given |
| TLS | a client certificate of the configured CA, a bearer token, or OVH's signature of the request |

Every credential that is presented is checked, also on the socket and also beside another one that would do: a caller
with a wrong token learns so, whichever way they came. Without any, only `/healthz` and `/auth/time` are answered.

A signature says who sent a request, not how often. The same request signed in the same second has the same signature,
and clients do that: two posts at once (one of which has to be told 409), a delete and its retry. So signatures are not
remembered; within the minute in which its timestamp is good a signed request may come again. TLS keeps others from
having one, and the slot bounds what it can do: a post while a job runs is refused, a second delete changes nothing.
"""

import hashlib
import hmac
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from agent.aio import run_blocking
from agent.service.http.connection import authenticated
from agent.service.http.errors import ApiError
from agent.service.http.request_body import BodyReader
from agent.service.http.request_head import peer_of_request
from agent.service.jobs.audit import Failures
from agent.service.jobs.caller import AuthMethod, Caller
from agent.service.jobs.peer import Peer
from agent.text import printable
from agent.units import KiB

OPEN_PATHS = frozenset(prefix + path for prefix in ("", "/1.0") for path in ("/healthz", "/auth/time"))
"""What is answered without credentials, by GET and HEAD."""

OVH_APPLICATION = "X-Ovh-Application"
OVH_CONSUMER = "X-Ovh-Consumer"
OVH_TIMESTAMP = "X-Ovh-Timestamp"
OVH_SIGNATURE = "X-Ovh-Signature"
# X-Ovh-Application alone is no credential: the client sends it with calls that it does not sign, too.
_OVH_SIGNED = (OVH_CONSUMER, OVH_TIMESTAMP, OVH_SIGNATURE)

MAX_CLOCK_SKEW = 60
"""Seconds that a signed request's timestamp may be off, either way. The client asks /auth/time for our clock."""

_UNSIGNED_BODY = frozenset({hdrs.METH_GET, hdrs.METH_HEAD, hdrs.METH_DELETE})
_SIGNATURE = re.compile(r"\$1\$[0-9a-f]{40}")
_TIMESTAMP = re.compile(r"[0-9]{1,12}")
_BEARER = re.compile(r"[Bb][Ee][Aa][Rr][Ee][Rr] +(\S+) *")
# Below this a SHA-1 takes less time than handing it to a thread.
_HASH_HERE = 64 * KiB
_MAX_NAME = 200
"""Characters of a credential's name in the log."""


class OvhKeys(Protocol):
    """The three keys of OVH's signature, as `[api.ovh]` of the configuration has them."""

    @property
    def application_key(self) -> str:
        """Names the application; sent in the clear."""

    @property
    def application_secret(self) -> str:
        """Shared with the client, never sent."""

    @property
    def consumer_key(self) -> str:
        """Names the user of the application; sent in the clear, and part of what is signed."""


CALLER = web.RequestKey("caller", Caller)
"""Where a handler finds its caller: `request[CALLER]`."""


class Authenticator:
    """Checks callers. Holds the secrets; its repr does not show them."""

    def __init__(
        self,
        token: str | None,
        *,
        accept_client_certificates: bool,
        ovh: OvhKeys | None,
        bodies: BodyReader,
        failures: Failures,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Args:
        token: that `Authorization: Bearer` has to carry; None where none is configured.
        accept_client_certificates: whether the TLS listener verifies certificates of clients against a CA.
        ovh: the keys of OVH's signature; None where none are configured.
        bodies: reads the body of a signed request.
        failures: is told of everybody who is refused.
        clock: seconds since the epoch.
        """
        self.take(token, accept_client_certificates=accept_client_certificates, ovh=ovh)
        self._bodies = bodies
        self._failures = failures
        self._clock = clock

    def take(self, token: str | None, *, accept_client_certificates: bool, ovh: OvhKeys | None) -> None:
        """Take these credentials from now on, and no others."""
        self._token = None if token is None else _digest(token)
        self._certificates = accept_client_certificates
        self._ovh = ovh

    def is_current(self, caller: Caller) -> bool:
        """Whether what a caller showed is still taken. Which certificates are is the listener's business."""
        match caller.auth_method:
            case AuthMethod.TOKEN:
                return caller.credential == self._token
            case AuthMethod.SIGNATURE:
                return self._ovh is not None and caller.credential == _keys_digest(self._ovh)
            case AuthMethod.CERTIFICATE:
                return self._certificates
            case _:
                return True

    async def check(self, request: web.Request) -> Caller:
        """Who calls; checks every credential that the request presents.

        Raises:
            ApiError: 401 no credential or a wrong token; 403 a signature that is not right; what `BodyReader.read`
                raises for the body of a signed request.
        """
        peer = peer_of_request(request)
        try:
            return await self._caller(request, peer)
        except ApiError as error:
            if error.status in (401, 403):
                self._failures.failed(peer, _way_tried(request), error.error_code)
            raise

    async def _caller(self, request: web.Request, peer: Peer) -> Caller:
        if request.path in OPEN_PATHS and request.method in (hdrs.METH_GET, hdrs.METH_HEAD):
            return Caller(AuthMethod.OPEN, peer)
        caller = None if peer.is_remote else Caller(AuthMethod.SOCKET, peer)
        certificate = _verified_certificate(request) if self._certificates else {}
        if certificate:
            caller = Caller(AuthMethod.CERTIFICATE, peer, certificate_name(certificate))
        if hdrs.AUTHORIZATION in request.headers:
            caller = Caller(AuthMethod.TOKEN, peer, "api.token", self._check_token(request))
        if _is_signed(request):
            keys = await self._check_signature(request)
            caller = Caller(AuthMethod.SIGNATURE, peer, keys.application_key, _keys_digest(keys))
        if caller is None:
            raise _unauthorized(f"Credentials are required: {self._accepted()}.")
        return caller

    def _accepted(self) -> str:
        """What this server takes, in words."""
        ways = ["a client certificate"] if self._certificates else []
        ways += ["a bearer token"] if self._token is not None else []
        ways += ["a signature with the application key"] if self._ovh is not None else []
        return " or ".join(ways) or "none are configured for this listener"

    def _check_token(self, request: web.Request) -> bytes:
        """The digest of the token that was shown."""
        if self._token is None:
            raise _unauthorized("No token is configured on this server (api.token_file).")
        match = _BEARER.fullmatch(_only(request, hdrs.AUTHORIZATION) or "")
        if match is None:
            raise _unauthorized("The Authorization header must be one `Bearer TOKEN`.")
        if not hmac.compare_digest(_digest(match[1]), self._token):
            raise _unauthorized("The bearer token is not the one of this server.")
        return self._token

    # -- OVH's signature ---------------------------------------------------------------------------------------

    async def _check_signature(self, request: web.Request) -> OvhKeys:
        """The rules of OVH's API: "$1$" and the SHA-1 of secret, consumer key, method, URL, body and timestamp.

        All that can be refused without the body is refused without it. Returns the keys that it was signed with.
        """
        keys = self._ovh
        if keys is None:
            raise _forbidden("INVALID_KEY", "No application key is configured on this server ([api.ovh]).")
        if not _same(_only(request, OVH_APPLICATION), keys.application_key):
            raise _forbidden("INVALID_KEY", "The application key is not the one of this server.")
        if not _same(_only(request, OVH_CONSUMER), keys.consumer_key):
            raise _forbidden("NOT_CREDENTIAL", "The consumer key is not the one of this server.")
        timestamp = self._check_timestamp(request)
        signature = _only(request, OVH_SIGNATURE) or ""
        if not _SIGNATURE.fullmatch(signature):
            raise _forbidden("INVALID_CREDENTIAL", "The signature must be $1$ and 40 hexadecimal digits.")
        body = b"" if request.method in _UNSIGNED_BODY else await self._bodies.read(request)
        head = "+".join((keys.application_secret, keys.consumer_key, request.method, _url_of(request)))
        if not hmac.compare_digest(await _sign(head, body, timestamp), signature):
            raise _forbidden(
                "INVALID_CREDENTIAL", f"The signature is not that of {request.method} {_url_of(request)}."
            )
        return keys

    def _check_timestamp(self, request: web.Request) -> str:
        timestamp = _only(request, OVH_TIMESTAMP) or ""
        if not _TIMESTAMP.fullmatch(timestamp):
            raise _forbidden("QUERY_TIME_OUT", "The timestamp must be a number of seconds since the epoch.")
        off = int(timestamp) - int(self._clock())
        if abs(off) > MAX_CLOCK_SKEW:
            message = f"The timestamp is {abs(off)} seconds {'ahead of' if off > 0 else 'behind'} this server's clock"
            raise _forbidden(
                "QUERY_TIME_OUT", f"{message}, at most {MAX_CLOCK_SKEW} are taken (see /auth/time)."
            )
        return timestamp


async def _sign(head: str, body: bytes, timestamp: str) -> str:
    if len(body) <= _HASH_HERE:
        return _signature(head, body, timestamp)
    return await run_blocking(_signature, head, body, timestamp)


def _signature(head: str, body: bytes, timestamp: str) -> str:
    digest = hashlib.sha1(
        _bytes(head) + b"+", usedforsecurity=False
    )  # SHA-1 is what clients of this API sign with
    digest.update(body)
    digest.update(b"+" + timestamp.encode())
    return "$1$" + digest.hexdigest()


def _url_of(request: web.Request) -> str:
    """The URL as the client wrote it: our scheme, its Host header, and the target of its request line untouched."""
    scheme = "https" if peer_of_request(request).is_remote else "http"
    return f"{scheme}://{_only(request, hdrs.HOST) or ''}{request.raw_path}"


# -- the request -------------------------------------------------------------------------------------------------


def _is_signed(request: web.Request) -> bool:
    return any(name in request.headers for name in _OVH_SIGNED)


def _way_tried(request: web.Request) -> str:
    if _is_signed(request):
        return AuthMethod.SIGNATURE.value
    return AuthMethod.TOKEN.value if hdrs.AUTHORIZATION in request.headers else "none"


def _verified_certificate(request: web.Request) -> Mapping[str, Any]:
    """The client's certificate, if the handshake verified it: one that was not is given as empty."""
    transport = request.transport
    return (None if transport is None else transport.get_extra_info("peercert")) or {}


def certificate_name(certificate: Mapping[str, Any]) -> str:
    """Subject and serial number of a certificate, as `ssl.SSLSocket.getpeercert` gives it, for the log."""
    names = [f"{key}={value}" for part in certificate.get("subject", ()) for key, value in part]
    return printable(", ".join([*names, f"serial {certificate.get('serialNumber', '?')}"]), _MAX_NAME)


def _only(request: web.Request, name: str) -> str | None:
    """A header that must not be given twice: of two, neither counts."""
    values = request.headers.getall(name, [])
    return values[0] if len(values) == 1 else None


# -- comparing ---------------------------------------------------------------------------------------------------


def _bytes(text: str) -> bytes:
    # aiohttp decodes what is no UTF-8 in a header to surrogates.
    return text.encode("utf-8", "surrogateescape")


def _digest(text: str) -> bytes:
    """Of equal length whatever the text, so that comparing tells nothing of either."""
    return hashlib.sha256(_bytes(text)).digest()


def _keys_digest(keys: OvhKeys) -> bytes:
    return _digest(f"{keys.application_key}\0{keys.application_secret}\0{keys.consumer_key}")


def _same(given: str | None, expected: str) -> bool:
    return hmac.compare_digest(_digest(given or ""), _digest(expected)) and given is not None


def _unauthorized(message: str) -> ApiError:
    return ApiError(401, message, headers={hdrs.WWW_AUTHENTICATE: 'Bearer realm="byoi-agent"'})


def _forbidden(code: str, message: str) -> ApiError:
    return ApiError(403, message, error_code=code)


# -- in front of the routes --------------------------------------------------------------------------------------


def authenticate(authenticator: Authenticator, bodies: BodyReader) -> Middleware:
    """The middleware that checks every request, and lets its body go when it has been answered.

    Handlers find their caller in `request[CALLER]` and read the body by `bodies.read(request)`.
    """

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        async with bodies.reading(request):
            caller = request[CALLER] = await authenticator.check(request)
            if caller.auth_method is not AuthMethod.OPEN:
                authenticated(request, caller)
            return await handler(request)

    return check
