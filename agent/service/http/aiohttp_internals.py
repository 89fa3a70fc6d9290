"""What the API's server uses of aiohttp that aiohttp does not document: the only file here with its private names.

`tests/integration/test_aiohttp_internals.py` lists all of it, attributes and behaviour, and names what a new version
has changed; pyproject.toml holds aiohttp back until it has passed.
"""

import asyncio
from collections.abc import Callable

from aiohttp import StreamReader, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import StreamWriter
from aiohttp.http_parser import RawRequestMessage
from multidict import CIMultiDict

RequestBegan = Callable[[web.RequestHandler, StreamReader], None]


class RequestHandler(web.RequestHandler):
    """aiohttp's protocol of one connection, its private attributes under names of our own.

    Subclasses override `finish_response`, `handle_error` and `log_access`, which aiohttp calls for each answer.
    """

    __slots__ = ()

    @property
    def has_requests_ahead(self) -> bool:
        """Whether requests wait behind the one that is being answered. aiohttp takes 32 of them, then stops reading."""
        return bool(self._messages)

    @property
    def handler_task(self) -> "asyncio.Task[None] | None":
        """The task that reads requests and runs their handlers; None once the connection is lost."""
        return self._task_handler

    @property
    def current_request(self) -> web.BaseRequest | None:
        """The request that is being handled."""
        return self._current_request


class _AnonymousWriter(StreamWriter):
    """Writes answers that do not name what made them: whoever asks without credentials learns no versions."""

    async def write_headers(self, status_line: str, headers: "CIMultiDict[str]") -> None:
        headers.popall(hdrs.SERVER, None)
        await super().write_headers(status_line, headers)


def prepare_requests(server: web.Server, began: RequestBegan) -> None:
    """Have every request of this server announced before its handler runs, and answered without a Server header.

    Args:
        server: none of its connections has been made yet.
        began: is told of the connection and the body of a request whose head is complete.
    """
    make_request = server.request_factory
    loop = asyncio.get_running_loop()

    def factory(
        message: RawRequestMessage,
        body: StreamReader,
        protocol: web.RequestHandler,
        _: AbstractStreamWriter,
        task: "asyncio.Task[None]",
    ) -> web.BaseRequest:
        began(protocol, body)
        return make_request(message, body, protocol, _AnonymousWriter(protocol, loop), task)

    server.request_factory = factory
