"""What the agent's own requests have in common, to a control plane and to Ironic: how much of an answer is read, and in
which words there was none. No text holds a URL, a header, or what aiohttp says of them.
"""

import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from agent.model.surroundings import Trouble


class NoAnswer(Exception):
    """Nobody was reached, or the answer broke off. The text is for people."""

    def __init__(self, reason: str, trouble: Trouble) -> None:
        self.trouble = trouble
        super().__init__(reason)


@asynccontextmanager
async def asked(
    session: aiohttp.ClientSession,
    method: str,
    url: str,
    *,
    context: ssl.SSLContext,
    ca_option: str,
    timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's own
    **more: Any,
) -> AsyncIterator[aiohttp.ClientResponse]:
    """The answer to a request, before its body. Redirects are not followed: one would take a token along.

    Args:
        session: makes the request.
        method: of HTTP.
        url: that is asked.
        context: by which its certificate is checked.
        ca_option: the option that names the CA, for people.
        timeout: of the whole, its body included.
        more: for `session.request`.

    Raises:
        NoAnswer: also while the body is read within the context.
    """
    try:
        async with session.request(
            method, url, ssl=context, timeout=timeout, allow_redirects=False, **more
        ) as response:
            yield response
    except TimeoutError:
        raise NoAnswer(f"it did not answer within {timeout.total:.0f} s", Trouble.TIMEOUT) from None
    except aiohttp.ClientConnectorCertificateError as error:
        raise NoAnswer(_distrust(error.certificate_error, ca_option), Trouble.CERTIFICATE) from None
    except (aiohttp.ClientError, OSError) as error:
        raise NoAnswer(f"it cannot be reached: {os_reason(error)}", Trouble.CONNECTION) from None


async def bounded_body(response: aiohttp.ClientResponse, limit: int) -> bytes | None:
    """The body of an answer; None where it is longer than `limit`, and then no more of it is read."""
    parts, length = [], 0
    async for part in response.content.iter_any():
        length += len(part)
        if length > limit:
            return None
        parts.append(part)
    return b"".join(parts)


def _distrust(error: Exception, ca_option: str) -> str:
    why = getattr(error, "verify_message", "").rstrip(".") or "it was refused"
    return f"its certificate is not trusted: {why} ({ca_option} names the CA)"


def os_reason(error: Exception) -> str:
    """What the system says of a fault of a connection or of a file."""
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        error = error.os_error
    if isinstance(error, ssl.SSLError):
        return f"no TLS: {(error.reason or 'unknown fault').replace('_', ' ').lower()}"
    if isinstance(error, OSError) and error.strerror:
        # asyncio's text of a failed connection is about the address; a name that is not found has a number below 0.
        return os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
    return type(error).__name__
