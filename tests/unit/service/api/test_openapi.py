"""The description of the API: whole, self-contained, and of the routes that the application has."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from agent.model.job import parse_job
from agent.service.api.app import PREFIXES, Parts, make_app
from agent.service.api.auth import Authenticator
from agent.service.api.openapi import openapi_document
from agent.service.config.model import ApiConfig, Config, OvhCredentials
from agent.service.http.request_body import BodyReader
from agent.service.jobs.audit import Failures
from agent.service.jobs.publisher import StatusPublisher

SECRET = "hunter2"
PLAIN = Config(service_name="ns1.example.net")
FULL = Config(
    service_name="ns1.example.net",
    api=ApiConfig(token=SECRET, client_ca="/etc/ca.pem", ovh=OvhCredentials("app", SECRET, SECRET)),
)


@pytest.fixture
def document() -> dict[str, Any]:
    return openapi_document(FULL)


def walk(node: object) -> Iterator[dict[str, Any]]:
    """Every object of a document."""
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from walk(value)
    elif isinstance(node, list):
        for value in node:
            yield from walk(value)


def operations(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (method.upper(), path): operation
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method != "parameters"
    }


async def test_it_describes_every_route_and_no_other(document):
    bodies = BodyReader()
    parts = Parts(
        config=FULL,
        slot=None,
        publisher=StatusPublisher({}),
        authenticator=Authenticator(
            SECRET, accept_client_certificates=False, ovh=None, bodies=bodies, failures=Failures()
        ),
        bodies=bodies,
        disks=dict,
    )
    app = make_app(parts)
    routes = {(route.method, route.resource.canonical) for route in app.router.routes()}
    assert routes == {(method, prefix + path) for prefix in PREFIXES for method, path in operations(document)}
    assert [server["url"].rstrip("/") for server in document["servers"]] == list(PREFIXES)


def test_it_is_valid_openapi(document):
    import schemathesis

    schema = schemathesis.openapi.from_dict(document)
    schema.validate()
    results = list(schema.get_all_operations())
    assert len([result.ok() for result in results]) == len(operations(document))


def test_every_reference_leads_to_one_of_its_own_components(document):
    references = [node["$ref"] for node in walk(document) if "$ref" in node]
    assert references
    for reference in references:
        kind, name = reference.removeprefix("#/components/").split("/")
        assert document["components"][kind][name]


def test_every_example_is_of_its_schema(document):
    checked = 0
    for node in walk(document):
        examples = [node["example"]] if "example" in node else []
        examples += [item["value"] for item in node.get("examples", {}).values()]
        for example in examples:
            schema = {**node["schema"], "components": document["components"]}
            Draft202012Validator(schema).validate(example)
            checked += 1
    assert checked > 10


def test_the_example_jobs_are_jobs(document):
    content = operations(document)["POST", "/dedicated/server/{serviceName}/bringYourOwnImage"]["requestBody"]
    for example in content["content"]["application/json"]["examples"].values():
        parse_job(example["value"])


def test_only_the_ways_in_force_are_named(document):
    schemes = {name for way in document["security"] for name in way}
    assert schemes == set(document["components"]["securitySchemes"])
    assert openapi_document(PLAIN)["security"] == [{}]


def test_what_is_open_says_so(document):
    open_ones = {key for key, operation in operations(document).items() if operation.get("security") == []}
    assert open_ones == {(method, path) for method in ("GET", "HEAD") for path in ("/healthz", "/auth/time")}


def test_it_holds_no_secret_and_is_json(document):
    assert SECRET not in json.dumps(document)
