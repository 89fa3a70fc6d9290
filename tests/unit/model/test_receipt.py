"""The statement: what is in it, what is not, and that the same facts give the same bytes."""

import base64
import hashlib
import json
from dataclasses import replace

import pytest
from jsonschema import Draft202012Validator

from agent.errors import ChecksumMismatch, DeployError, JobCancelled
from agent.model.disk_state import DiskState, with_disk_state
from agent.model.job import parse_job
from agent.model.receipt import Circumstances, encode, make_statement
from agent.model.schema.receipt import envelope_schema, statement_schema
from agent.model.stage import STAGES, State
from agent.model.status import Progress, StageTime, Status
from tests.unit.model.test_disks import SSD

STATEMENT = Draft202012Validator(statement_schema(), format_checker=Draft202012Validator.FORMAT_CHECKER)
DIGEST = "ab" * 32
CANARY = "canary-of-the-user"
JOB = parse_job(
    {
        "URL": f"https://user:{CANARY}1@images.example.net/debian-13.qcow2?token={CANARY}2#{CANARY}3",
        "mirrors": [f"https://mirror.example.net/x?sig={CANARY}4"],
        "type": "qcow2",
        "checkSum": f"https://images.example.net/SHA256SUMS?token={CANARY}5",
        "checkSumType": "sha256",
        "signature": {"type": "openpgp", "url": f"https://images.example.net/x.sig?token={CANARY}6"},
        "httpHeader": [{"key": "Authorization", "value": f"Bearer {CANARY}7"}],
        "configdrive": {
            "enable": True,
            "userData": f"#!/bin/sh\necho {CANARY}8\n",
            "sshKey": f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{'A' * 32} {CANARY}9",
            "userMetadatas": [{"key": "k", "value": f"{CANARY}10"}],
            "networkData": {"x": f"{CANARY}11"},
            "vendorData": f"{CANARY}12",
        },
    }
)
AROUND = Circumstances("a-job", "control", 1_700_000_000.0, {"byoi-agent": "1.0", "linux": "6.1"})
DONE = Status(
    server_name="ns1",
    state=State.DONE,
    message="The image is deployed and verified.",
    checksum=f"sha256:{DIGEST}",
    percent=100.0,
    attempt=1,
    progress=Progress(bytes_downloaded=1000, bytes_total=1000, bytes_written=1000),
    started_at=1_700_000_001.0,
    updated_at=1_700_000_009.0,
    finished_at=1_700_000_009.0,
    stages=tuple(StageTime(stage.value, 1_700_000_001.0 + at, 1.0) for at, stage in enumerate(STAGES)),
    disks=(SSD.to_json(),),
    image_type="qcow2",
    job=JOB.redacted(),
    notes=("a note",),
)


def failed(error: DeployError, state: DiskState) -> Status:
    told = with_disk_state(error.document(), state)
    return replace(DONE, state=State.ERROR, message=error.message, checksum=None, error=told)


def statement(status: Status, around: Circumstances = AROUND) -> dict:
    made = make_statement(status.document(), around)
    STATEMENT.validate(made)
    return made


def test_it_says_which_image_went_where():
    made = statement(DONE)
    assert made["subject"] == [{"name": "debian-13.qcow2", "digest": {"sha256": DIGEST}}]
    said = made["predicate"]
    assert said["outcome"] == {
        "status": "done",
        "message": "The image is deployed and verified.",
        "error": None,
        "diskState": "committed",
    }
    assert said["disks"] == [
        {
            "path": SSD.path,
            "model": SSD.model,
            "serial": SSD.serial,
            "wwn": SSD.wwn,
            "size": SSD.size,
            "failed": None,
        }
    ]
    assert (said["jobId"], said["origin"], said["server"]) == ("a-job", "control", "ns1")
    assert (said["image"]["compared"], said["readBack"]) == (True, "commit")
    assert said["versions"] == {"byoi-agent": "1.0", "linux": "6.1"}
    assert said["times"]["acceptedAt"] == "2023-11-14T22:13:20.000Z"


def test_a_disk_that_was_kept_out_is_in_it_with_the_reason():
    disks = ({**SSD.to_json(), "failed": "it is worn"}, {"path": "/dev/sdb", "size": 2**30, "failed": None})
    said = statement(replace(DONE, disks=disks))["predicate"]["disks"]
    assert [(disk["path"], disk["failed"]) for disk in said] == [(SSD.path, "it is worn"), ("/dev/sdb", None)]


def test_what_a_registry_had_is_in_it_and_its_credentials_are_not():
    found = {"index": None, "manifest": f"sha256:{'1' * 64}", "layer": f"sha256:{DIGEST}"}
    auth = {"username": f"{CANARY}13", "password": f"{CANARY}14"}
    job = parse_job({"URL": "oci://registry.example.net/team/web:1", "registryAuth": auth})
    made = statement(replace(DONE, registry=found, job=job.redacted()))
    image = made["predicate"]["image"]
    assert (image["registry"], image["compared"]) == (found, True)
    assert made["subject"][0]["name"] == "web:1"
    assert CANARY not in json.dumps(made)


def test_a_deployment_that_failed_has_one_too_and_is_about_its_job():
    error = ChecksumMismatch(algorithm="sha256", got="1", expected="2")
    made = statement(failed(error, DiskState.EMPTY))
    said = made["predicate"]
    digest = hashlib.sha256(encode(said["job"])).hexdigest()
    assert made["subject"] == [{"name": "job", "digest": {"sha256": digest}}]
    assert (said["outcome"]["error"]["code"], said["outcome"]["diskState"]) == ("checksum.mismatch", "empty")
    assert said["readBack"] is None


def test_one_that_never_had_a_disk_has_one_as_well():
    status = replace(
        failed(JobCancelled(), DiskState.UNTOUCHED),
        disks=(),
        stages=(),
        image_type=None,
        progress=Progress(),
    )
    made = statement(status, Circumstances(None, None, None, {}))
    assert made["predicate"]["disks"] == []


def test_several_disks_are_all_told():
    document = replace(DONE, disks=(SSD.to_json(), {**SSD.to_json(), "path": "/dev/sdb"}))
    made = statement(document)
    assert [disk["path"] for disk in made["predicate"]["disks"]] == [SSD.path, "/dev/sdb"]


def test_what_was_read_back_is_what_the_status_says():
    assert (
        make_statement(DONE.document() | {"readBack": "readback"}, AROUND)["predicate"]["readBack"]
        == "readback"
    )


def test_no_secret_is_in_it():
    text = encode(statement(DONE)).decode()
    assert CANARY not in text
    assert "images.example.net/debian-13.qcow2" in text


@pytest.mark.parametrize(
    "credentials",
    [
        {"username": "me", "password": f"{CANARY}1"},
        {"auth": base64.b64encode(f"me:{CANARY}".encode()).decode()},
    ],
)
def test_no_credential_of_a_registry_is_in_it(credentials):
    job = parse_job({"URL": "oci://registry.example.net/a/b:1", "type": "raw", "registryAuth": credentials})
    made = statement(replace(DONE, job=job.redacted()))
    text = encode(made).decode()
    assert [secret for secret in credentials.values() if secret in text and secret != "me"] == []
    assert made["subject"][0]["name"] == "b:1"


def test_the_same_facts_give_the_same_bytes_and_they_are_ascii():
    again = json.loads(json.dumps(DONE.document()))
    shuffled = dict(reversed(again.items()))
    text = encode(make_statement(DONE.document(), AROUND))
    assert text == encode(make_statement(shuffled, AROUND))
    assert text.isascii()
    assert b" " not in text.replace(b"The image is deployed and verified.", b"").replace(b"a note", b"")[:40]
    strange = DONE.document() | {"servername": "é\udcff\n"}
    assert encode(make_statement(strange, AROUND)).isascii()


@pytest.mark.parametrize("schema", [statement_schema(), envelope_schema()])
def test_each_is_a_schema_of_the_draft(schema):
    Draft202012Validator.check_schema(schema)
