"""The receipt of a deployment, over the API and by the command; checked by a tool that is not ours."""

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.daemon.test_jobs import SECRETS, secret_job
from tests.kit.commands import ROOT, run
from tests.kit.deployments import job
from tests.kit.signing import receipt_key

RECEIPT = "/v1/receipt"


@pytest.fixture
def key(tmp_path):
    return receipt_key(tmp_path)


def config(key):
    return f'[receipt]\nkey_file = "{key}"\n'


def statement(receipt):
    return json.loads(base64.b64decode(receipt["payload"]))


def check_elsewhere(path, key):
    """By securesystemslib, in a process of its own."""
    command = [sys.executable, ROOT / "tests/kit/dsse_check.py", path, key.with_suffix(".pub")]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_a_receipt_is_signed_survives_the_agent_and_goes_with_the_state(
    make_agent, key, web, image, disk, tmp_path
):
    agent = make_agent(config=config(key)).start()
    none = agent.get(RECEIPT)
    assert (none.status, none.json["errorCode"]) == (404, "RECEIPT_NOT_FOUND")
    agent.post(secret_job(web.url, image))
    agent.wait_for("done")
    answer = agent.get(RECEIPT)
    assert answer.status == 200
    told = statement(answer.json)
    assert told["subject"][0]["digest"] == {"sha256": image.sha256}
    assert told["predicate"]["disks"][0]["path"] == str(disk)
    everything = answer.body.decode() + json.dumps(told) + agent.journal.read_text()
    assert [secret for secret in SECRETS if secret in everything] == []
    assert "PRIVATE" not in everything

    kept = tmp_path / "receipt.json"
    kept.write_bytes(answer.body)
    elsewhere = check_elsewhere(kept, key)
    assert elsewhere.returncode == 0, elsewhere.stderr
    assert json.loads(elsewhere.stdout) == told

    agent.kill()
    agent.start()
    assert agent.get(RECEIPT).body == answer.body
    assert agent.delete().status == 200
    assert agent.get(RECEIPT).status == 404
    assert "payloadType" not in agent.journal.read_text()


def test_the_receipt_of_a_deployment_that_failed_says_how(make_agent, web, image):
    agent = make_agent().start()
    agent.post(job(web.url, "0" * 64))
    agent.wait_for("error")
    receipt = agent.get(RECEIPT).json
    assert receipt["signatures"] == []
    outcome = statement(receipt)["predicate"]["outcome"]
    assert (outcome["error"]["code"], outcome["diskState"]) == ("checksum.mismatch", "empty")


def test_the_command_shows_keeps_and_checks_it(make_agent, byoi, key, web, image, tmp_path):
    agent = make_agent(config=config(key)).start()
    environment = {"BYOI_SOCKET": str(agent.socket)}
    nothing = byoi("receipt", **environment)
    assert (nothing.status, nothing.out) == (1, "")
    assert "no deployment has ended" in nothing.err

    agent.post(job(web.url, image.sha256))
    agent.wait_for("done")
    shown = byoi("receipt", **environment)
    assert (shown.status, shown.err) == (0, "")
    for text in ("done: The image is deployed", f"sha256:{image.sha256}", "both ends and the config drive"):
        assert text in shown.out

    kept, public = tmp_path / "receipt.json", key.with_suffix(".pub")
    kept.write_text(byoi("receipt", "--json", **environment).out)
    good = byoi("receipt", "--verify", kept, "--key", public)
    assert good.status == 0, good.err
    assert "good, by the key" in good.out
    told = byoi("receipt", "--verify", kept, "--key", public, "--json")
    assert json.loads(told.out) == statement(json.loads(kept.read_text()))

    changed = json.loads(kept.read_text())
    text = base64.b64decode(changed["payload"]).replace(b'"done"', b'"fine"')
    changed["payload"] = base64.b64encode(text).decode()
    other = tmp_path / "other.json"
    other.write_text(json.dumps(changed))
    for path, said in ((other, "was changed"), (tmp_path / "receipt.key", "no JSON document")):
        bad = byoi("receipt", "--verify", path, "--key", public)
        assert (bad.status, bad.out) == (1, ""), bad.err
        assert said in bad.err
    assert check_elsewhere(other, key).returncode == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--verify", "nothing.json", "--key", "@KEY@"], "nothing.json cannot be read"),
        (["--verify", "/dev/null"], "goes with --key"),
        (["--key", "@KEY@"], "goes with --verify"),
        (["--verify", "/dev/null", "--key", "nothing.pub"], "nothing.pub cannot be read"),
    ],
)
def test_what_cannot_be_checked_is_wrong_usage(byoi, key, words, said):
    words = [str(key.with_suffix(".pub")) if word == "@KEY@" else word for word in words]
    done = byoi("receipt", *words)
    assert (done.status, done.out) == (2, "")
    assert said in done.err


def test_a_private_key_is_not_taken_to_check_with(byoi, key, tmp_path):
    kept = tmp_path / "receipt.json"
    kept.write_text(json.dumps({"payloadType": "x", "payload": "", "signatures": [{"keyid": "", "sig": ""}]}))
    done = byoi("receipt", "--verify", kept, "--key", key)
    assert done.status == 2
    assert "holds a private key: give the public one" in done.err


def test_a_key_that_is_none_keeps_the_agent_from_starting_and_is_shown_by_nobody(make_agent, tmp_path):
    wrong = tmp_path / "wrong.key"
    run("openssl", "genpkey", "-algorithm", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", wrong)
    wrong.chmod(0o600)
    path = make_agent(config=config(wrong)).write_config()
    command = [sys.executable, "-m", "agent.service.daemon", "--check", "--config", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=60)
    assert done.returncode == 2
    assert "receipt.key_file: the file holds a key that is not of Ed25519" in done.stderr
    assert wrong.read_text().splitlines()[1] not in done.stdout + done.stderr


def test_without_a_key_the_agent_does_without_the_library(make_agent, web, image):
    """It is 5 MB of code: a daemon that signs nothing has no use for it."""
    agent = make_agent(fresh=True).start()
    agent.post(job(web.url, image.sha256))
    agent.wait_for("done")
    assert agent.get(RECEIPT).status == 200
    maps = f"/proc/{agent.process.pid}/maps"
    assert "cryptography" not in Path(maps).read_text()
