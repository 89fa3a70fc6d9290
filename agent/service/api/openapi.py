"""The description of the API, OpenAPI 3.1, made from the models and the configuration in force.

It needs no other document: every reference is to its own components. What it says of a route is what
`agent.service.api.app` does; the tests compare the two.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from agent import __version__
from agent.errors import Fault, JobInvalid
from agent.model.job import BAD_CHECKSUM_TYPE
from agent.model.schema.disks import disks_schema
from agent.model.schema.errors import error_body_schema
from agent.model.schema.job import job_schema
from agent.model.schema.receipt import envelope_schema
from agent.model.schema.status import MAX_REVISION, idle_schema, status_schema
from agent.model.stage import State
from agent.model.status import Progress, StageTime, Status
from agent.model.surroundings import (
    ContactState,
    agent_member,
    configuration_member,
    contact_member,
)
from agent.service.api.auth import (
    MAX_CLOCK_SKEW,
    OPEN_PATHS,
    OVH_APPLICATION,
    OVH_CONSUMER,
    OVH_SIGNATURE,
    OVH_TIMESTAMP,
)
from agent.service.config.model import Config
from agent.service.http.errors import KINDS, ApiError, error_of_status, refusal_of

JSON = "application/json"
# In front of every route that is not open.
_REFUSALS = (400, 401, 403, 431, 500)
_OVH_SCHEMES = {
    "ovhApplication": (OVH_APPLICATION, "The application key."),
    "ovhConsumer": (OVH_CONSUMER, "The consumer key."),
    "ovhTimestamp": (
        OVH_TIMESTAMP,
        f"Seconds since the epoch by the clock of /auth/time, at most {MAX_CLOCK_SKEW} off.",
    ),
    "ovhSignature": (
        OVH_SIGNATURE,
        "`$1$` and the hexadecimal SHA-1 of secret+consumer+method+URL+body+timestamp, body empty for GET and DELETE.",
    ),
}


def openapi_document(config: Config) -> dict[str, Any]:
    """The description of the API as this agent serves it.

    Args:
        config: gives the server's name, and the ways to authenticate that are set up.
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "byoi-agent",
            "version": __version__,
            "summary": "Deploys an image to this server.",
            "description": "Each path also answers under /1.0. On the Unix socket the mode of its file decides who may "
            "call; over the network there is TLS, and one of the credentials below. What a browser sends for a page of "
            "another origin is refused (403).",
        },
        "servers": [{"url": "/"}, {"url": "/1.0", "description": "For clients of the OVH API."}],
        "security": _security(config),
        "paths": _paths(config.service_name),
        "components": {
            "schemas": {
                "Job": job_schema(),
                "Status": status_schema(),
                "Idle": idle_schema(),
                "Receipt": envelope_schema(),
                "Disks": disks_schema(),
                "Error": error_body_schema(),
            },
            "responses": {str(status): _error_response(status) for status in sorted(KINDS)},
            "securitySchemes": _security_schemes(),
        },
    }


# -- who may call ------------------------------------------------------------------------------------------------


def _security_schemes() -> dict[str, Any]:
    headers = {
        name: {"type": "apiKey", "in": "header", "name": header, "description": text}
        for name, (header, text) in _OVH_SCHEMES.items()
    }
    return {
        "token": {"type": "http", "scheme": "bearer"},
        "certificate": {"type": "mutualTLS", "description": "A client certificate of the configured CA."},
        **headers,
    }


def _security(config: Config) -> list[dict[str, list[str]]]:
    """The ways that are set up; the empty one is the Unix socket."""
    ways: list[dict[str, list[str]]] = [{}]
    if config.api.client_ca is not None:
        ways.append({"certificate": []})
    if config.api.token is not None:
        ways.append({"token": []})
    if config.api.ovh is not None:
        ways.append({name: [] for name in _OVH_SCHEMES})
    return ways


# -- routes ------------------------------------------------------------------------------------------------------


def _paths(service_name: str) -> dict[str, Any]:
    deployment = {
        "parameters": [
            {
                "name": "serviceName",
                "in": "path",
                "required": True,
                "description": "The name of this server.",
                "schema": {"type": "string", "enum": [service_name]},
            }
        ],
        "post": _post(service_name),
        "get": _operation(
            "getDeployment",
            "The state of the deployment. Once it has answered `done` the server goes on to reboot.",
            _json("Status", _ref("Status"), _status_example(service_name)),
            (404,),
        ),
        "delete": _operation(
            "deleteDeployment",
            "Cancel the deployment, call off a pending reboot, and forget the state. The server stays as it is.",
            _void("It is gone, or there was none."),
            (404, 409, 503),
        ),
    }
    paths: dict[str, Any] = {
        "/dedicated/server/{serviceName}/bringYourOwnImage": deployment,
        "/auth/time": {"get": _get_time()},
        "/v1/status": {"get": _get_status(service_name)},
        "/v1/events": {"get": _get_events()},
        "/v1/receipt": {
            "get": _operation(
                "getReceipt",
                "The receipt of the deployment, once that has ended; gone when its state is deleted or replaced.",
                _json("The receipt", _ref("Receipt")),
                (404,),
            )
        },
        "/v1/disks": {"get": _get_disks()},
        "/healthz": {"get": _get_health()},
        "/metrics": {
            "get": _operation(
                "getMetrics",
                "Metrics for Prometheus.",
                _response("Text format 0.0.4", "text/plain", {"type": "string"}),
                (404,),
            )
        },
        "/openapi.json": {
            "get": _operation("getDescription", "This document.", _json("OpenAPI 3.1", {"type": "object"}))
        },
    }
    for path in OPEN_PATHS & paths.keys():
        operation = paths[path]["get"]
        operation["security"] = []
        del operation["responses"]["401"]
    for item in paths.values():
        item["head"] = _head_of(item["get"])
    return paths


def _post(service_name: str) -> dict[str, Any]:
    operation = _operation(
        "postDeployment",
        f"Deploy an image to {service_name}. A state that is over is replaced.",
        _void("The job is taken and survives a crash of the agent."),
        (404, 408, 409, 413, 415, 503),
    )
    operation["requestBody"] = {
        "required": True,
        "content": {JSON: {"schema": _ref("Job"), "examples": _job_examples()}},
    }
    return operation


def _get_time() -> dict[str, Any]:
    text = "This server's clock, in seconds since the epoch. What is signed carries it."
    return _operation("getTime", text, _json("Seconds", {"type": "integer"}, 1_700_000_000))


def _get_health() -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {"status": {"const": "ok"}, "version": {"type": "string"}},
        "required": ["status", "version"],
    }
    return _operation("getHealth", "Whether the agent answers.", _json("It does", schema))


def _get_status(service_name: str) -> dict[str, Any]:
    schema = {"oneOf": [_ref("Status"), _ref("Idle")]}
    operation = _operation(
        "getStatus",
        "The state of the deployment, or that there is none. With `since` and `wait` it answers when the document's "
        "revision is another one, or the time is over.",
        _json("Status", schema, _status_example(service_name)),
        (503,),
    )
    operation["parameters"] = [
        _query(
            "since",
            "The revision that the client has.",
            {"type": "integer", "minimum": 0, "maximum": MAX_REVISION},
        ),
        _query("wait", "Seconds, at most 60 of them.", {"type": "number", "minimum": 0, "maximum": 3600}),
    ]
    return operation


def _get_events() -> dict[str, Any]:
    text = (
        "What happens, as server-sent events. `status` comes first, then `stage` "
        '{"stage", "state": "begin" | "end", "seconds", "failed"}, `progress` (the status, at most once a second), '
        '`note` {"text"} and `result` (the status). The id of an event is the revision. A comment comes every 15 '
        "seconds in which nothing happens."
    )
    return _operation(
        "getEvents", text, _response("The stream", "text/event-stream", {"type": "string"}), (503,)
    )


# -- parts of operations -----------------------------------------------------------------------------------------


def _operation(name: str, text: str, good: Mapping[str, Any], refusals: Sequence[int] = ()) -> dict[str, Any]:
    statuses = sorted({*_REFUSALS, *refusals})
    errors = {str(status): {"$ref": f"#/components/responses/{status}"} for status in statuses}
    return {"operationId": name, "description": text, "responses": {"200": dict(good), **errors}}


def _head_of(get: Mapping[str, Any]) -> dict[str, Any]:
    """The operation HEAD of a path: answered as GET is, without the body."""
    name = "head" + get["operationId"].removeprefix("get")
    answers = {status: {"description": f"The head of GET's {status}."} for status in get["responses"]}
    return {**get, "operationId": name, "description": "The head of what GET answers.", "responses": answers}


def _get_disks() -> dict[str, Any]:
    operation = _operation(
        "getDisks",
        "The disks of this server, their groups, and why a disk is not eligible.",
        _json("The inventory", _ref("Disks")),
        (400, 503),
    )
    text = "Whether the disks of the groups are read, to tell in their member `contents` what is on them."
    operation["parameters"] = [_query("contents", text, {"type": "boolean", "default": False})]
    return operation


def _query(name: str, text: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": text, "schema": dict(schema)}


def _response(text: str, content_type: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": text, "content": {content_type: {"schema": dict(schema)}}}


def _json(text: str, schema: Mapping[str, Any], example: Any = None) -> dict[str, Any]:
    response = _response(text, JSON, schema)
    if example is not None:
        response["content"][JSON]["example"] = example
    return response


def _void(text: str) -> dict[str, Any]:
    return _response(text, JSON, {"type": "null"})


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


# -- examples ----------------------------------------------------------------------------------------------------


def _error_response(status: int) -> dict[str, Any]:
    return _json(KINDS[status].message, _ref("Error"), _example_error(status).body())


def _example_error(status: int) -> ApiError:
    if status == 400:
        return refusal_of(JobInvalid([Fault("checkSumType", BAD_CHECKSUM_TYPE, "checksum.type")]))
    return error_of_status(status)


def _job_examples() -> dict[str, Any]:
    small = {"URL": "https://images.example.net/debian-12.qcow2", "type": "qcow2"}
    drive = {
        "enable": True,
        "hostname": "web1.example.net",
        "sshKey": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKq3 ops@example.net",
        "userData": "#cloud-config\npackages: [nginx]\n",
        "userMetadatas": [{"key": "role", "value": "web"}],
    }
    full = small | {
        "checkSum": "0123456789abcdef" * 4,
        "checkSumType": "sha256",
        "configdrive": drive,
        "description": "web servers",
        "diskGroupId": 1,
        "httpHeader": [{"key": "Authorization", "value": "Bearer ..."}],
    }
    return {
        "smallest": {"value": {"URL": small["URL"]}},
        "as in the OVH API": {"value": small},
        "full": {"value": full},
        "a disk by what it is": {"value": small | {"disk": {"serial": "S64GNE0R1", "size": ">= 400"}}},
    }


def _status_example(service_name: str) -> dict[str, Any]:
    began = 1_700_000_000.0
    status = Status(
        server_name=service_name,
        state=State.WRITE,
        message="Downloading the image and writing it to the disk.",
        checksum=None,
        percent=41.7,
        attempt=1,
        progress=Progress(
            bytes_downloaded=450_000_000,
            bytes_total=1_000_000_000,
            bytes_written=420_000_000,
            rate=110_000_000.0,
            eta=5.0,
            waiting_on="network",
            connections=2,
        ),
        started_at=began,
        updated_at=began + 7.5,
        stages=(
            StageTime("preflight", began, 1.5),
            StageTime("claim", began + 1.5, 2.0),
            StageTime("write", began + 3.5, None),
        ),
        disk={"path": "/dev/sda", "size": 480_000_000_000},
        image_type="raw",
        image_packing="gzip",
        job={"URL": "https://images.example.net/debian-12.raw.gz", "type": "raw"},
    )
    surroundings = {
        "agent": agent_member(
            __version__, ["192.0.2.7"], ["/run/byoi-agent/api.sock", "https://0.0.0.0:9443"]
        ),
        "controlPlane": contact_member(
            "https://control.example.net/byoi", ContactState.ANSWERING, since=began - 60
        ),
        "ironic": None,
        "configuration": configuration_member([]),
    }
    return status.document() | {"id": None, "revision": 1_700_000_007_500, "reboot": None} | surroundings
