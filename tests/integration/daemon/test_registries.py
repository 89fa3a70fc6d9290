"""Images in registries by the daemon: what the status tells, what the policy refuses, and where credentials stay."""

import jsonschema
import pytest

from agent.model.schema.status import status_schema
from tests.kit.deployments import job
from tests.kit.registry import BASIC, PASSWORD, USER, Shelf
from tests.kit.server import serving

AUTH = {"username": USER, "password": PASSWORD}


@pytest.fixture
def shelf(image):
    shelf = Shelf()
    shelf.put_disk(image.data)
    return shelf


@pytest.fixture
def registry(shelf):
    """A registry that lets in who has the password."""

    def answer(request):
        if request.header("Authorization") == f"Basic {BASIC}":
            shelf.answer(request)
        else:
            request.reply(401, WWW_Authenticate='Basic realm="x"')

    with serving(answer) as server:
        yield server


def url_of(registry, reference: str = "team/web:1") -> str:
    return f"oci+http://{registry.host}:{registry.port}/{reference}"


def secrets_of(agent) -> list[str]:
    """Where the password, or its base64, is."""
    places = {path.name: path.read_bytes().decode() for path in agent.journal.parent.iterdir()}
    places |= {"log": agent.log, "status": str(agent.status())}
    return [place for place, text in places.items() if PASSWORD in text or BASIC in text]


@pytest.mark.parametrize("auth", [AUTH, {"auth": BASIC}])
def test_what_the_url_led_to_is_told_and_the_credentials_are_kept_nowhere(make_agent, registry, shelf, auth):
    agent = make_agent().start()
    assert agent.post(job(url_of(registry), None, registryAuth=auth)).status == 200
    done = agent.wait_for("done", "error")
    assert done["status"] == "done", done
    jsonschema.validate(done, status_schema())
    layer = done["checksum"]
    assert done["registry"] == {"index": None, "manifest": next(iter(shelf.manifests)), "layer": layer}
    assert done["job"]["registryAuth"] == dict.fromkeys(auth, "***")
    assert secrets_of(agent) == []
    agent.kill()
    assert agent.start().status()["registry"] == done["registry"]


def test_credentials_that_are_refused_are_kept_nowhere(make_agent, registry, disk):
    before = disk.read_bytes()
    agent = make_agent().start()
    agent.post(job(url_of(registry), None, registryAuth={"username": "other", "password": PASSWORD}))
    failed = agent.wait_for("done", "error")
    assert (failed["error"]["code"], failed["registry"]) == ("registry.denied", None)
    assert secrets_of(agent) == []
    assert disk.read_bytes() == before


def test_the_policy_on_plain_http_is_one_on_registries_too(make_agent, registry):
    agent = make_agent(config="[policy]\nallow_http = false\n").start()
    answer = agent.post(job(url_of(registry), None, registryAuth=AUTH))
    assert answer.status == 400
    assert answer.json["details"]["faults"][0]["path"] == "URL"
    assert PASSWORD not in answer.body.decode()
