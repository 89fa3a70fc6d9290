from http import HTTPStatus

import pytest

from agent import errors
from agent.errors import Fault, ImageFormat, JobInvalid
from agent.service.http.errors import KINDS, ApiError, error_of_status, refusal_of


def test_the_faults_of_a_job_are_all_told_with_their_paths():
    faults = [Fault("URL", "is required"), Fault("type", "is required")]
    error = refusal_of(JobInvalid(faults))
    assert error.status == 400
    assert error.body() == {
        "class": "Client::BadRequest::InvalidJob",
        "message": "URL: is required; type: is required",
        "errorCode": "job.invalid",
        "details": {"faults": [fault.document() for fault in faults]},
    }


def test_a_lone_fault_that_the_ovh_api_has_a_message_for_is_told_by_its_code():
    body = refusal_of(JobInvalid([Fault("checkSumType", "Bad checkSumType", "checksum.type")])).body()
    assert (body["errorCode"], body["message"]) == ("checksum.type", "Bad checkSumType")
    assert "hint" not in body["details"]


def test_an_unknown_type_is_answered_with_the_types_that_the_message_does_not_name():
    body = refusal_of(JobInvalid([Fault("type", ImageFormat.template, "image.format")])).body()
    assert body["message"] == "Bad format image, expected: qcow2, raw, ova."
    assert "vmdk, vhd, vhdx or vdi" in body["details"]["hint"]


@pytest.mark.parametrize(
    ("error", "status", "cls"),
    [
        (errors.DiskGroupUnknown(group=7), 400, "Client::BadRequest"),
        (errors.DiskIo(device="the inventory", reason="EIO"), 503, "Server::Unavailable"),
        (errors.ToolMissing(tool="libudev"), 500, "Server::InternalError"),
    ],
)
def test_whose_fault_it_is_decides_the_status(error, status, cls):
    refusal = refusal_of(error)
    assert (refusal.status, refusal.cls, refusal.error_code) == (status, cls, error.code)
    assert refusal.details["hint"] == error.hint


@pytest.mark.parametrize("status", [status for status in HTTPStatus if status >= 400])
def test_every_status_has_a_name_of_its_own_kind(status):
    error = error_of_status(status, {"Allow": "GET"})
    assert error.status == status
    assert error.cls.startswith("Client" if status < 500 else "Server")
    assert error.message
    assert error.error_code.replace("_", "").replace("-", "").replace("'", "").isalnum()
    assert error.headers == {"Allow": "GET"}


def test_a_status_that_nobody_has_heard_of_is_told_too():
    assert error_of_status(499).body()["class"].startswith("Client::")


def test_an_error_keeps_what_it_is_given_and_takes_the_rest_from_its_status():
    error = ApiError(404, "gone", cls="Client::NotFound::Deployment")
    assert (error.cls, error.error_code, error.message) == (
        "Client::NotFound::Deployment",
        KINDS[404].code,
        "gone",
    )
