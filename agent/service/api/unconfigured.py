"""The application of an agent whose configuration has faults: it takes no job, and says why.

For the Unix socket alone: whom the network is to let in is what the configuration would have told.
"""

from aiohttp import web

from agent.errors import ConfigInvalid
from agent.service.api.app import PREFIXES
from agent.service.api.metrics import Metrics, load_library
from agent.service.http.errors import ApiError
from agent.service.http.middleware import json_errors
from agent.service.http.request_head import check_request_head
from agent.service.jobs.publisher import StatusPublisher


def make_unconfigured_app(publisher: StatusPublisher) -> web.Application:
    """The status and the metrics; everything else is answered 503.

    Args:
        publisher: shows the faults, in the member `configuration`.
    """
    metrics = Metrics()

    async def status(_: web.Request) -> web.Response:
        answer = web.Response(body=publisher.encoded(), content_type="application/json")
        answer.headers["Cache-Control"] = "no-store"
        return answer

    async def measure(_: web.Request) -> web.Response:
        await load_library()
        text = metrics.text(None, publisher.document)
        return web.Response(body=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def refuse(_: web.Request) -> web.Response:
        raise _refusal(publisher)

    app = web.Application(
        middlewares=[metrics.middleware, json_errors, check_request_head], client_max_size=0
    )
    for prefix in PREFIXES:
        app.router.add_get(f"{prefix}/v1/status", status)
        app.router.add_get(f"{prefix}/metrics", measure)
    app.router.add_route("*", "/{rest:.*}", refuse)
    return app


def _refusal(publisher: StatusPublisher) -> ApiError:
    configuration = publisher.document["configuration"]
    count, first = configuration["faultCount"], configuration["faults"][0]
    text = f"{first['path']}: {first['message']}" if first["path"] else first["message"]
    others = f" (and {count - 1} more)" if count > 1 else ""
    return ApiError(
        503,
        f"The agent does nothing, because its configuration has faults: {text}{others}",
        error_code=ConfigInvalid.code,
        details={"hint": "`byoi status` lists them."},
    )
