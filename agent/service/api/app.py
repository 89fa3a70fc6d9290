"""The HTTP application: one for the Unix socket and the TLS listener, each route also under /1.0.

Handlers are short: they read a request, ask the slot or the publisher of its status, and answer. Who may call is
decided in front of them (`agent.service.api.auth`), and every refusal becomes a JSON object there too
(`agent.service.http.middleware`).
"""

import asyncio
import functools
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from agent import __version__
from agent.aio import run_blocking
from agent.model.job import Job, parse_job
from agent.model.job_text import read_json
from agent.model.policy import require_allowed
from agent.model.schema.status import MAX_REVISION
from agent.model.status import DONE
from agent.service.api.auth import CALLER, Authenticator, authenticate
from agent.service.api.inventory import WAIT_SECONDS, Inventory, InventoryHangs
from agent.service.api.metrics import load_library
from agent.service.config.model import Config
from agent.service.http.connection import long_wait
from agent.service.http.errors import ApiError
from agent.service.http.middleware import json_errors
from agent.service.http.request_body import BodyReader
from agent.service.http.request_head import check_request_head
from agent.service.jobs.audit import acted
from agent.service.jobs.phases import RebootState
from agent.service.jobs.publisher import StatusPublisher, Subscription
from agent.service.jobs.refusals import RebootOrdered, SlotClosing, SlotTaken, StillCancelling
from agent.service.jobs.slot import Slot

PREFIXES = ("", "/1.0")
DEPLOYMENT = "/dedicated/server/{serviceName}/bringYourOwnImage"
MAX_WAIT_SECONDS = 60.0
"""Of a long poll, whatever its client asks for."""
HEARTBEAT_SECONDS = 15.0
"""Between two lines of a stream of events: proxies and clients drop what is silent."""
# A longer job is parsed in a thread: the loop serves others meanwhile.
_READ_HERE_BYTES = 16 * 1024

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Parts:
    """What the application serves from."""

    config: Config
    slot: Slot
    publisher: StatusPublisher
    authenticator: Authenticator
    bodies: BodyReader
    disks: Callable[[bool], dict[str, Any]]
    """The inventory document; blocking. True: with what is on each disk."""
    disks_seconds: float = WAIT_SECONDS
    """How long a request waits for the inventory."""
    metrics: Callable[[], bytes] | None = None
    """Their text; needs what `load_library` imports. None: /metrics is answered 404."""
    middlewares: tuple[Any, ...] = ()
    """Outside of those of the API: they see every answer as it is sent."""


def make_app(parts: Parts) -> web.Application:
    """The application, for `agent.service.http.server.serve`."""
    app = web.Application(
        middlewares=[
            *parts.middlewares,
            json_errors,
            check_request_head,
            authenticate(parts.authenticator, parts.bodies),
        ],
        client_max_size=0,  # bodies are read by BodyReader, which has a bound of its own
    )
    api = _Api(parts)
    routes: tuple[tuple[str, str, Handler], ...] = (
        ("POST", DEPLOYMENT, api.post),
        ("GET", DEPLOYMENT, api.get),
        ("DELETE", DEPLOYMENT, api.delete),
        ("GET", "/auth/time", api.time),
        ("GET", "/v1/status", api.status),
        ("GET", "/v1/events", api.events),
        ("GET", "/v1/receipt", api.receipt),
        ("GET", "/v1/disks", api.disks),
        ("GET", "/healthz", api.healthz),
        ("GET", "/metrics", api.metrics),
        ("GET", "/openapi.json", api.openapi),
    )
    for prefix in PREFIXES:
        for method, path, handler in routes:
            app.router.add_route(method, prefix + path, handler)
            if method == "GET":
                app.router.add_route("HEAD", prefix + path, handler)
    return app


def _void() -> web.Response:
    # A 200 with an empty body makes the clients of the OVH API raise.
    return web.Response(body=b"null", content_type="application/json")


def _reboot_ordered() -> ApiError:
    return ApiError(
        409,
        "The reboot into the deployed system has been ordered and cannot be called off any more.",
        error_code="REBOOT_ORDERED",
        details={"hint": "If the server does not go down, `byoi status` says so after 300 s."},
    )


def _parse(body: bytes) -> tuple[dict[str, Any], Job]:
    document = read_json(body)
    return document, parse_job(document)


class _Api:
    """The handlers."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._slot = parts.slot
        self._publisher = parts.publisher
        self._inventories = {
            contents: Inventory(functools.partial(parts.disks, contents), wait_seconds=parts.disks_seconds)
            for contents in (False, True)
        }
        """Without and with what is on the disks, for which they are read."""
        self._reading = asyncio.Lock()
        """Held while a large job is parsed, so that one at a time is: that takes memory of up to ten times its length
        (docs/architecture.md)."""

    # -- the OVH API's routes -----------------------------------------------------------------------------------

    def _check_server(self, request: web.Request) -> None:
        name, own = request.match_info["serviceName"], self._parts.config.service_name
        if name != own:
            raise ApiError(
                404,
                f"This agent runs on {own}, not on the server that was asked for.",
                cls="Client::NotFound::Server",
                error_code="SERVER_NOT_FOUND",
            )

    async def post(self, request: web.Request) -> web.StreamResponse:
        self._check_server(request)
        with self._slot_refusals():
            self._slot.check_free()  # while it is not, no body is worth reading
            document, job = await self._read_job(request)
            job_id = await self._slot.post(document, job, job_id=None, origin="api")
        acted("accepted", request[CALLER], job_id)
        return _void()

    async def _read_job(self, request: web.Request) -> tuple[dict[str, Any], Job]:
        body = await self._parts.bodies.read(request)
        if len(body) > _READ_HERE_BYTES:
            async with self._reading:
                document, job = await run_blocking(_parse, body)
        else:
            document, job = _parse(body)
        require_allowed(job, self._parts.config.policy, remote=request[CALLER].remote)
        return document, job

    @contextmanager
    def _slot_refusals(self) -> Iterator[None]:
        """The answer where the slot takes no job."""
        try:
            yield
        except SlotTaken as taken:
            raise self._refusal(taken) from None
        except SlotClosing:
            raise ApiError(503, "The agent is stopping; try again.", headers={"Retry-After": "10"}) from None

    def _refusal(self, taken: SlotTaken) -> ApiError:
        reboot = self._publisher.document.get("reboot") or {}
        return _reboot_ordered() if reboot.get("state") == RebootState.ORDERED else ApiError(409, str(taken))

    async def get(self, request: web.Request) -> web.StreamResponse:
        self._check_server(request)
        if self._publisher.document.get("status") is None:
            raise ApiError(
                404,
                "There is no deployment on this server.",
                cls="Client::NotFound::Deployment",
                error_code="DEPLOYMENT_NOT_FOUND",
            )
        return await self._answer_status(request, counts=True)

    async def delete(self, request: web.Request) -> web.StreamResponse:
        self._check_server(request)
        job_id = self._publisher.document.get("id")
        try:
            await self._slot.erase()
        except RebootOrdered:
            raise _reboot_ordered() from None
        except StillCancelling as waiting:
            acted("erased", request[CALLER], job_id)
            raise ApiError(
                503,
                f"The deployment is being cancelled and has not stopped yet: {waiting}. It is erased when it has.",
                error_code="STILL_CANCELLING",
                headers={"Retry-After": "10"},
            ) from None
        if job_id is not None:
            acted("erased", request[CALLER], job_id)
        return _void()

    async def time(self, request: web.Request) -> web.StreamResponse:
        del request
        return web.json_response(int(time.time()))

    # -- the rest --------------------------------------------------------------------------------------------

    async def status(self, request: web.Request) -> web.StreamResponse:
        since = _number(request, "since", 0, MAX_REVISION)
        if since is not None and not since.is_integer():
            raise ApiError(400, "The query member since must be a whole number.", error_code="INVALID_QUERY")
        wait = _number(request, "wait", 0, 3600)
        if wait is not None and since is not None:
            with long_wait(request):
                await self._publisher.wait(int(since), min(wait, MAX_WAIT_SECONDS))
        return await self._answer_status(request, counts=request[CALLER].remote)

    async def _answer_status(self, request: web.Request, *, counts: bool) -> web.StreamResponse:
        """Answer with the status document.

        Where it says `done` and `counts`, the outcome counts as seen by whoever gave the job, once the answer is out.
        """
        publisher = self._publisher
        response = web.Response(body=publisher.encoded(), content_type="application/json")
        response.headers["Cache-Control"] = "no-store"
        over = publisher.document.get("status") == DONE
        job_id = publisher.document.get("id")
        if counts and over and request.method == "GET":
            await response.prepare(request)
            await response.write_eof()
            await self._slot.outcomes.see(job_id)
        return response

    async def events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-store"}
        )
        with long_wait(request), self._publisher.subscribe() as subscription:
            await response.prepare(request)
            while request.method != "HEAD":
                piece = await _next_piece(subscription)
                if piece is None:
                    break
                await response.write(piece)
        return response

    async def receipt(self, request: web.Request) -> web.StreamResponse:
        del request
        receipt = self._slot.receipt
        if receipt is None:
            raise ApiError(
                404,
                "There is no receipt on this server: no deployment has ended.",
                cls="Client::NotFound::Receipt",
                error_code="RECEIPT_NOT_FOUND",
            )
        return web.json_response(receipt, headers={"Cache-Control": "no-store"})

    async def disks(self, request: web.Request) -> web.StreamResponse:
        inventory = self._inventories[_flag(request, "contents")]
        try:
            document = await inventory.document()
        except InventoryHangs:
            raise ApiError(
                503,
                f"The inventory of the disks has not come in {self._parts.disks_seconds:g} s: a disk, or udev, "
                "does not answer. The kernel's log may name it.",
                error_code="INVENTORY_HANGS",
                headers={"Retry-After": "10"},
            ) from None
        return web.json_response(document, dumps=functools.partial(json.dumps, ensure_ascii=True))

    async def healthz(self, request: web.Request) -> web.StreamResponse:
        del request
        return web.json_response({"status": "ok", "version": __version__})

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        del request
        if self._parts.metrics is None:
            raise ApiError(404, "This agent keeps no metrics.")
        await load_library()
        text = self._parts.metrics()
        return web.Response(body=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def openapi(self, request: web.Request) -> web.StreamResponse:
        del request
        from agent.service.api.openapi import openapi_document  # noqa: PLC0415 - large, and rarely asked for

        return web.json_response(openapi_document(self._parts.config))


async def _next_piece(subscription: Subscription) -> bytes | None:
    """The next event as it is sent, or a comment where nothing happens; None at the end."""
    try:
        async with asyncio.timeout(HEARTBEAT_SECONDS):
            told = await subscription.get()
    except TimeoutError:
        return b": nothing new\n\n"
    return None if told is None else told.payload


def _flag(request: web.Request, key: str) -> bool:
    text = request.query.get(key, "false")
    if text not in ("true", "false"):
        message = f"The query member {key} must be true or false."
        raise ApiError(400, message, error_code="INVALID_QUERY")
    return text == "true"


def _number(request: web.Request, key: str, low: float, high: float) -> float | None:
    text = request.query.get(key)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        message = f"The query member {key} must be a number from {low:g} to {high:g}."
        raise ApiError(400, message, error_code="INVALID_QUERY")
    return value
