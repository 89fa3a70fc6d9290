"""Who we are to a registry: answers its challenges, by name and password, or by a token of the service that it names.

A token is asked for when the registry wants one, and again when it does not take the last one any more: they are good
for minutes, and an image may come for hours. Where a name and a password may go is decided here: to the registry, and
to the token service that it names, which has to be behind https. By plain http they go to a registry that the job names
by plain http, and to no other host. Sources: the distribution project's token authentication specification; RFC 7617.
"""

import asyncio
import base64
import re
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import urlencode, urlsplit

from agent.errors import Blame
from agent.formats.oci.manifest import ManifestRefused, read_object
from agent.model.registry import RegistryAuth
from agent.model.url import Origin, check_web_url, origin_of, redact_url, userinfo_of
from agent.transfer.http.challenge import Challenge, read_challenges
from agent.transfer.http.faults import DeniedFault, FatalFault
from agent.units import KiB

TOKEN_BYTES = 64 * KiB
"""The longest answer of a token service that is read."""
_TOKEN = re.compile("[A-Za-z0-9._~+/=-]{1,16384}")
_MAX_SCOPE = 1024

Fetch = Callable[[str, Sequence[tuple[str, str]], int], Awaitable[bytes]]
"""Fetches a document: its URL, headers for its origin, and the most bytes; raises FatalFault."""

_GIVE = "Give a user and a password or token that may pull the image, in registryAuth."
_CHECK = "Check the user and the password or token in registryAuth, and that they may pull this repository."


class Login:
    """The `Authorizer` of one repository.

    Args:
        registry: the origin of the registry.
        repository: its name there, for the scope of a token.
        auth: the job's credentials; None: whoever.
        fetch: asks the token service.
        fixed: whether the job sends an Authorization of its own, instead of all this.
    """

    def __init__(
        self,
        registry: Origin,
        repository: str,
        auth: RegistryAuth | None,
        fetch: Fetch,
        *,
        fixed: bool = False,
    ) -> None:
        self._registry = registry
        self._repository = repository
        self._basic = None if auth is None else _basic(auth)
        self._fetch = fetch
        self._fixed = fixed
        self._lock = asyncio.Lock()
        self.value: str | None = None
        """See `Authorizer.value`."""

    async def renew(self, challenges: Sequence[str], used: str | None) -> None:
        """See `Authorizer.renew`. Of several connections that ask at once, one asks the service."""
        async with self._lock:
            if self.value == used:
                self.value = await self._answer(read_challenges(challenges), used)

    def denied(self, status: int) -> DeniedFault:
        """See `Authorizer.denied`."""
        if self._fixed:
            whom, hint = "the Authorization of httpHeader", "Check it, and whether it has expired."
        elif self._basic is None:
            whom, hint = "a request without credentials", _GIVE
        else:
            whom, hint = "the user of registryAuth", _CHECK
        return DeniedFault(f"it answered {status} to {whom}", hint=hint, status=status)

    async def _answer(self, challenges: Sequence[Challenge], used: str | None) -> str:
        if self._fixed:
            raise self.denied(401)
        for challenge in challenges:
            if challenge.scheme == "bearer" and "realm" in challenge.parameters:
                return f"Bearer {await self._token(challenge)}"
        if not any(challenge.scheme == "basic" for challenge in challenges):
            offered = ", ".join(challenge.scheme[:20] for challenge in challenges) or "none"
            raise DeniedFault(f"it offers no way in that is known here (basic, bearer), but {offered}")
        if self._basic is None:
            raise DeniedFault("it wants a user name and a password", hint=_GIVE, status=401)
        if used == self._basic:
            raise DeniedFault("it does not take the user name and the password", hint=_CHECK, status=401)
        return self._basic

    async def _token(self, challenge: Challenge) -> str:
        realm = challenge.parameters["realm"]
        self._check_realm(realm)
        query = {"service": challenge.parameters.get("service", ""), "scope": self._scope(challenge)}
        asked = urlencode({key: value for key, value in query.items() if value})
        url = f"{realm}{'&' if urlsplit(realm).query else '?'}{asked}"
        headers = () if self._basic is None else (("Authorization", self._basic),)
        service = redact_url(realm)
        try:
            data = await self._fetch(url, headers, TOKEN_BYTES)
        except FatalFault as fault:
            if fault.status in (400, 401, 403):
                hint = _GIVE if self._basic is None else _CHECK
                raise DeniedFault(
                    f"its token service {service} gives no token ({fault.status})", hint=hint
                ) from fault
            raise FatalFault(
                f"the registry's token service {service}: {fault}",
                hint=fault.hint,
                blame=fault.blame,
                retryable=fault.retryable,
            ) from fault
        return _read_token(data, service)

    def _scope(self, challenge: Challenge) -> str:
        """What the token is for: this repository, and to pull, whatever else a registry would like to have one for."""
        asked = challenge.parameters.get("scope", "")
        is_own_kind = asked and not any(part.startswith("repository:") for part in asked.split())
        return asked[:_MAX_SCOPE] if is_own_kind else f"repository:{self._repository}:pull"

    def _check_realm(self, realm: str) -> None:
        """Refuse a token service that must not be asked, before it is.

        Raises:
            DeniedFault: it is somewhere that our secrets, or a token, may not go.
        """
        wrong = check_web_url(realm)
        if wrong is not None or urlsplit(realm).fragment or userinfo_of(realm) is not None:
            fault = wrong or "the URL has a user name or a fragment"
            raise DeniedFault(f"it names a token service that cannot be asked: {fault}")
        origin = origin_of(realm)
        if origin.scheme == "https" or origin == self._registry:
            return
        if self._registry.scheme == "https":
            raise DeniedFault(f"it names a token service by plain http: {redact_url(realm)}")
        if self._basic is not None:
            raise DeniedFault(
                f"it wants the user name and the password sent to another host by plain http: {redact_url(realm)}",
                hint="Put TLS before the token service.",
            )


def _basic(auth: RegistryAuth) -> str:
    return f"Basic {base64.b64encode(f'{auth.username}:{auth.password}'.encode()).decode()}"


def _read_token(data: bytes, service: str) -> str:
    try:
        document = read_object(data)
    except ManifestRefused as refusal:
        raise FatalFault(f"the answer of the token service {service} is none: {refusal}") from None
    token = document.get("token") or document.get("access_token")
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise FatalFault(f"the answer of the token service {service} has no token", blame=Blame.NETWORK)
    return token
