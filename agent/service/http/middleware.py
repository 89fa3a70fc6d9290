"""Error answers of the running server: each is a JSON object, whoever made it.

`json_errors` is the outermost middleware of the application. What never reaches a middleware (a head that cannot be
parsed, a bad `Expect`) is answered by `agent.service.http.connection`, with the same objects.
"""

import structlog
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from agent.errors import DeployError
from agent.service.http.errors import KINDS, ApiError, error_of_status, refusal_of

log = structlog.get_logger(__name__)

# What an answer of aiohttp's own has to keep; everything else of it describes a body that is not sent.
_KEPT_HEADERS = (hdrs.ALLOW, hdrs.RETRY_AFTER, hdrs.WWW_AUTHENTICATE)


def error_response(error: ApiError) -> web.Response:
    """The answer to a request that was refused."""
    return web.json_response(error.body(), status=error.status, headers=error.headers)


def response_of(answer: web.HTTPException) -> web.StreamResponse:
    """An answer of aiohttp's own, as a JSON object if it is an error."""
    if answer.status < 400:
        return answer
    kept = {str(name): answer.headers[name] for name in _KEPT_HEADERS if name in answer.headers}
    return error_response(error_of_status(answer.status, kept))


@web.middleware
async def json_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every refusal and every fault with a JSON object.

    An unexpected fault is logged with its type and place, and answered with 500 and nothing of its text: that may
    quote what a client or an image server sent.
    """
    try:
        return await handler(request)
    except ApiError as error:
        return error_response(error)
    except DeployError as error:
        return error_response(refusal_of(error))
    except web.HTTPException as answer:
        return response_of(answer)
    except Exception as error:
        if isinstance(error, ConnectionError) and (
            request.transport is None or request.transport.is_closing()
        ):
            raise  # the client is gone: nobody is left to be answered
        _log_fault(request, error)
        if request.writer.output_size > 0:
            # A second answer would end up inside of the first.
            raise ConnectionResetError("the answer broke off") from None
        return error_response(ApiError(500, KINDS[500].message))


def _log_fault(request: web.Request, error: Exception) -> None:
    """Log where it happened. The text of the exception stays out: it may hold what was being worked on."""
    place, traceback = "", error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        place = f"{code.co_filename}:{traceback.tb_lineno} in {code.co_name}"
        traceback = traceback.tb_next
    resource = request.match_info.route.resource
    route = resource.canonical if resource is not None else "none"
    log.error("request_failed", method=request.method, route=route, fault=type(error).__name__, place=place)
