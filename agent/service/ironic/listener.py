"""The command API: what the conductor calls, on a listener of its own, by its token and by nothing else.

| call | answer |
|---|---|
| `GET /v1/commands/` | 200 `{"commands": [...]}` |
| `GET /v1/commands/{id}` | 200 the command; 404 |
| `POST /v1/commands/?wait=true` or `false` | 200 the command; 400, 409 while another one runs |

Every refusal is a JSON object with `faultstring`. The token stands in the query, as the protocol has it: so no log of
ours shows one.
"""

import hmac
import json
from collections.abc import Callable
from typing import Any

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from agent.aio import run_blocking
from agent.service.http.connection import authenticated
from agent.service.http.errors import ApiError
from agent.service.http.limits import Limits
from agent.service.http.request_body import BodyReader
from agent.service.http.request_head import peer_of_request
from agent.service.ironic.long_texts import LongTexts
from agent.service.ironic.messages import MAX_COMMAND_BYTES, Refusal, read_order
from agent.service.ironic.orders import Orders
from agent.service.jobs.audit import Failures
from agent.service.jobs.caller import AuthMethod, Caller

log = structlog.get_logger(__name__)

BODY_SECONDS = 60.0
"""In which a body has to be here: a conductor gives up after as long."""
LIMITS = Limits(request_seconds=BODY_SECONDS)


def make_app(
    orders: Orders, token: Callable[[], str], heard: Callable[[], object], failures: Failures
) -> web.Application:
    """The application, for `agent.service.http.server.serve`.

    Args:
        orders: what is commanded.
        token: the one that is right now; empty where none is.
        heard: is called for each request with the right token.
        failures: is told of everybody who has no right.
    """
    bodies = BodyReader(limit=MAX_COMMAND_BYTES, large_at_once=1, seconds=BODY_SECONDS)
    commands = _Commands(orders, bodies)
    app = web.Application(middlewares=[_refusals, _authentication(token, heard, failures)], client_max_size=0)
    app.router.add_get("/v1/commands/", commands.list)
    app.router.add_get("/v1/commands/{id}", commands.show)
    app.router.add_post("/v1/commands/", commands.run)
    return app


@web.middleware
async def _refusals(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Refusal as refusal:
        return _answer(refusal)
    except ApiError as error:
        return _answer(Refusal(error.status, "InvalidContentError", error.message))
    except web.HTTPException as answer:
        if answer.status < 400:
            raise
        return _answer(
            Refusal(answer.status, "NotFound", f"{answer.reason}: there is nothing like that here")
        )
    except Exception as error:
        log.error("ironic_request_crashed", exc_info=error)  # noqa: TRY400
        return _answer(Refusal(500, "CommandExecutionError", f"The agent failed: {type(error).__name__}"))


def _answer(refusal: Refusal) -> web.Response:
    return web.json_response(refusal.document(), status=refusal.status)


def _authentication(token: Callable[[], str], heard: Callable[[], object], failures: Failures) -> Any:
    @web.middleware
    async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
        peer = peer_of_request(request)
        right, shown = token(), request.query.get("agent_token", "")
        # aiohttp decodes what is no UTF-8 to surrogates.
        if not right or not hmac.compare_digest(shown.encode("utf-8", "surrogatepass"), right.encode()):
            failures.failed(peer, AuthMethod.IRONIC.value, "agent_token")
            raise Refusal(401, "InvalidToken", "Unauthorized: the agent_token is missing or wrong")
        authenticated(request, Caller(AuthMethod.IRONIC, peer, "agent_token"))
        heard()
        return await handler(request)

    return authenticate


class _Commands:
    """The handlers."""

    def __init__(self, orders: Orders, bodies: BodyReader) -> None:
        self._orders = orders
        self._bodies = bodies

    async def list(self, request: web.Request) -> web.StreamResponse:
        del request
        return web.json_response({"commands": self._orders.listed()})

    async def show(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self._orders.find(request.match_info["id"]).document())

    async def run(self, request: web.Request) -> web.StreamResponse:
        async with self._bodies.reading(request):
            body = LongTexts()
            await self._bodies.receive(request, body.feed)
            order = await run_blocking(read_order, body)
        document = await self._orders.take(order, wait=request.query.get("wait", "false").lower() == "true")
        return web.Response(body=await run_blocking(_encoded, document), content_type="application/json")


def _encoded(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode()
