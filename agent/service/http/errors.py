"""What the API says when it refuses: one kind of JSON object for every error answer.

`ApiError` is what handlers raise. `refusal_of` turns the errors of a deployment into it, and `error_of_status` the
bare statuses that aiohttp itself answers with. Nothing here knows a request or a socket;
`agent.service.http.middleware` makes the answers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from agent.errors import Blame, DeployError, JobInvalid


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """How an HTTP status is named in an error body where nothing more exact is known."""

    cls: str
    code: str
    message: str


BAD_REQUEST = ErrorKind("Client::BadRequest", "BAD_REQUEST", "The request cannot be understood.")
INTERNAL = ErrorKind(
    "Server::InternalError", "INTERNAL_ERROR", "The agent failed to answer; its log has the reason."
)

KINDS: Mapping[int, ErrorKind] = {
    400: BAD_REQUEST,
    401: ErrorKind("Client::Unauthorized", "NOT_CREDENTIAL", "Credentials are required."),
    403: ErrorKind("Client::Forbidden", "FORBIDDEN", "This caller may not do that."),
    404: ErrorKind("Client::NotFound", "NOT_FOUND", "There is nothing at this path."),
    405: ErrorKind("Client::MethodNotAllowed", "METHOD_NOT_ALLOWED", "This path does not know that method."),
    408: ErrorKind(
        "Client::RequestTimeout", "REQUEST_TIMEOUT", "The body of the request did not arrive in time."
    ),
    409: ErrorKind(
        "Client::BadRequest::TaskAlreadyExists", "TASK_ALREADY_EXISTS", "A deployment is in the way."
    ),
    413: ErrorKind(
        "Client::BadRequest::BodyTooLarge", "BODY_TOO_LARGE", "The body of the request is too large."
    ),
    415: ErrorKind(
        "Client::BadRequest::UnsupportedMediaType",
        "UNSUPPORTED_MEDIA_TYPE",
        "The body has a type or an encoding that is not taken.",
    ),
    417: ErrorKind("Client::BadRequest", "EXPECTATION_FAILED", "Only the expectation 100-continue is known."),
    431: ErrorKind(
        "Client::BadRequest::HeadTooLarge", "HEAD_TOO_LARGE", "The head of the request is too large."
    ),
    500: INTERNAL,
    503: ErrorKind("Server::Unavailable", "UNAVAILABLE", "The agent cannot do that now; try again."),
}
"""Every status that an error answer of the API may have, apart from odd ones of aiohttp's own."""


class ApiError(Exception):
    """A request is refused, with this HTTP status and body. The message is shown to people and holds no secret."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        cls: str | None = None,
        error_code: str | None = None,
        details: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """What is not given is that of the status, see KINDS.

        Args:
            status: of the answer.
            message: for people.
            cls: the member `class`.
            error_code: the member `errorCode`.
            details: the member of that name.
            headers: of the answer, `Retry-After` for one.
        """
        kind = KINDS.get(status, INTERNAL)
        self.status = status
        self.message = message
        self.cls = cls or kind.cls
        self.error_code = error_code or kind.code
        self.details = dict(details or {})
        self.headers = dict(headers or {})
        super().__init__(message)

    def body(self) -> dict[str, Any]:
        """The JSON object of the answer.

        Clients of the OVH API raise by the status and by `errorCode`, and show `message` to their user; `details` is
        always an object, so that nobody has to ask first whether it is there.
        """
        return {
            "class": self.cls,
            "message": self.message,
            "errorCode": self.error_code,
            "details": self.details,
        }


def error_of_status(status: int, headers: Mapping[str, str] | None = None) -> ApiError:
    """The error for a status that comes without a body of ours, such as aiohttp's own 404.

    Args:
        status: of the answer, 400 or above.
        headers: that the answer has to keep (`Allow`).
    """
    kind = KINDS.get(status)
    if kind is None:
        phrase = next((known.phrase for known in HTTPStatus if known == status), "Error")
        side = "Client" if status < 500 else "Server"
        kind = ErrorKind(
            f"{side}::{phrase.title().replace(' ', '')}", phrase.upper().replace(" ", "_"), f"{phrase}."
        )
    return ApiError(status, kind.message, cls=kind.cls, error_code=kind.code, headers=headers)


def refusal_of(error: DeployError) -> ApiError:
    """The answer to a request that a deployment's error refused.

    A fault of the job is 400 with every fault in `details`; another fault of the request (an unknown disk group) is
    400 with the error's code, blame and hint; a fault of the server's own side is 503, or 500 where it is a fault of
    the agent.
    """
    if isinstance(error, JobInvalid):
        faults = error.document()["faults"]
        own_hint = {} if error.hint == error.default_hint else {"hint": error.hint}
        return ApiError(
            400,
            error.message,
            cls="Client::BadRequest::InvalidJob",
            error_code=error.code,
            details={"faults": faults} | own_hint,
        )
    document = error.document()
    details = {key: document[key] for key in ("blame", "retryable", "detail", "hint")}
    if error.blame is Blame.AGENT:
        return ApiError(500, error.message, error_code=error.code, details=details)
    status = 503 if error.blame in (Blame.DISK, Blame.NETWORK) else 400
    cls = "Server::Unavailable" if status == 503 else "Client::BadRequest"
    return ApiError(status, error.message, cls=cls, error_code=error.code, details=details)
