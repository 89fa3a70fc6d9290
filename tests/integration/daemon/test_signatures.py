"""Signed images by the daemon: the operator's keys, what the policy wants, and what the status tells."""

import base64

import jsonschema
import pytest

from agent.model.schema.status import status_schema
from tests.kit.deployments import job

REQUIRED = '[trust]\nkeys = "{}"\nrequire_signature = true\n'


@pytest.fixture
def keys(tmp_path, gpg):
    path = tmp_path / "keys"
    path.mkdir()
    (path / "vendor.asc").write_bytes(gpg.public("rsa"))
    return path


@pytest.fixture
def signature(gpg, image):
    return {"type": "openpgp", "data": base64.b64encode(gpg.sign(image.data, "rsa")).decode()}


def test_what_the_operator_s_key_has_signed_is_deployed_and_told(make_agent, web, image, keys, signature):
    agent = make_agent(config=REQUIRED.format(keys)).start()
    assert agent.post(job(web.url, None, signature=signature)).status == 200
    done = agent.wait_for("done", "error")
    assert done["status"] == "done", done
    (signed,) = done["signature"]["signatures"]
    assert (signed["name"], signed["user"], signed["accepted"]) == ("vendor", "rsa <rsa@example.net>", True)
    jsonschema.validate(done, status_schema())


def test_nothing_else_is_taken(make_agent, web, gpg, keys, signature):
    agent = make_agent(config=REQUIRED.format(keys)).start()
    answer = agent.post(job(web.url, None))
    assert answer.status == 400
    (fault,) = answer.json["details"]["faults"]
    assert (fault["path"], fault["code"]) == ("signature", "signature.missing")
    own = signature | {"publicKey": gpg.public("rsa").decode()}
    (fault,) = agent.post(job(web.url, None, signature=own)).json["details"]["faults"]
    assert fault["path"] == "signature.publicKey"


def test_a_key_that_was_taken_away_counts_no_more(make_agent, web, disk, keys, gpg, signature):
    agent = make_agent(config=REQUIRED.format(keys)).start()
    (keys / "vendor.asc").write_bytes(gpg.public("bob"))
    before = disk.read_bytes()
    assert agent.post(job(web.url, None, signature=signature)).status == 200
    failed = agent.wait_for("done", "error")
    assert (failed["error"]["code"], failed["signature"]) == ("signature.key", None)
    assert disk.read_bytes() == before
