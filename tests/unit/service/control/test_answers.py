"""What an answer of a control plane means, whatever it holds."""

import json

import pytest

from agent.model.job_text import MAX_DEPTH, MAX_JOB_BYTES, MAX_VALUES
from agent.service.control.answers import (
    Action,
    ControlFault,
    check_available,
    check_id,
    read_action,
    read_offer,
)

JOB = {"URL": "https://images.example.net/a.raw", "type": "raw"}
SECRET = "hunter2"


def answer(**members) -> bytes:
    return json.dumps({"id": "job-1", "job": JOB} | members).encode()


# -- the question for a job ----------------------------------------------------------------------------------------


def test_there_may_be_none():
    assert read_offer(204, b"") is None
    assert read_offer(204, b"whatever") is None


def test_a_job_is_given_with_its_id():
    offer = read_offer(200, answer(unknown=[1, 2]))
    assert (offer.id, offer.job, offer.fault) == ("job-1", JOB, None)


@pytest.mark.parametrize("status", [100, 201, 206, 301, 302, 400, 401, 404, 418])
def test_any_other_status_gives_none(status):
    with pytest.raises(ControlFault, match=f"it answered {status} to the question for a job") as caught:
        read_offer(status, answer())
    assert not caught.value.is_final


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (None, "it answered with more than 25231360 bytes"),
        (b"", "its answer is not JSON"),
        (b"\xff\xfe{\0}\0", "its answer is not JSON in UTF-8"),
        (b'{"id": "job-1"', "its answer is not JSON"),
        (b"[]", "its answer is not a JSON object"),
        (b'"job-1"', "its answer is not a JSON object"),
        (b"null", "its answer is not a JSON object"),
        (b"{}", "it gave a job without an id of 1 to 128"),
        (answer(id=None), "it gave a job without an id of 1 to 128"),
        (answer(id=7), "it gave a job without an id of 1 to 128"),
        (answer(id=["job-1"]), "it gave a job without an id of 1 to 128"),
        (b"[" * 100_000, f"its answer is nested more than {MAX_DEPTH} levels deep"),
        (b"[" + b"1," * (2 * MAX_VALUES), f"its answer holds more than {MAX_VALUES} values"),
        (b'{"job": {"a": ' + b"[" * 100_000, f"its answer is nested more than {MAX_DEPTH} levels deep"),
        (b'{"n": ' + b"9" * 5000 + b"}", "its answer is not JSON"),
    ],
)
def test_an_answer_that_makes_no_sense_is_a_fault_that_may_pass(body, reason):
    with pytest.raises(ControlFault) as caught:
        read_offer(200, body)
    assert str(caught.value).startswith(reason)
    assert not caught.value.is_final


@pytest.mark.parametrize("job", [None, [], "job", 7])
def test_a_job_that_is_no_object_is_one_without_members(job):
    assert read_offer(200, answer(job=job)).job == {}


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b'{"id": "job-1", "job": {"URL": "a", "URL": "b"}}', "URL: is given twice"),
        (b'{"id": "job-1", "job": {"diskGroupId": NaN}}', "the job is not JSON: it holds NaN"),
        (b'{"id": "job-1", "job": ' + b"[" * 1000, f"the job is nested more than {MAX_DEPTH} levels deep"),
        (b'{"id": "job-1", "job": [' + b"[]," * MAX_VALUES, f"the job holds more than {MAX_VALUES} values"),
        (
            b' {\n"id" : "job-1", "job": ' + b"[" * 1000,
            f"the job is nested more than {MAX_DEPTH} levels deep",
        ),
        (answer(job="x" * MAX_JOB_BYTES), f"at most {MAX_JOB_BYTES} are taken"),
    ],
    ids=["twice", "NaN", "deep", "many", "deep, with spaces", "long"],
)
def test_a_job_that_could_not_be_posted_is_given_with_its_fault_to_be_refused_by_its_id(body, fault):
    offer = read_offer(200, body)
    assert offer.id == "job-1"
    assert fault in offer.fault.message


@pytest.mark.parametrize(
    "beginning", [b'{"id": "a/b", ', b'{"id": "\xff", ', b'{"id": "", ', b'{"id": "..", ']
)
def test_an_id_in_front_of_a_bomb_is_checked_like_any_other(beginning):
    with pytest.raises(ControlFault, match="it gave a job without an id of"):
        read_offer(200, beginning + b'"job": ' + b"[" * 1000)


@pytest.mark.parametrize(
    "beginning", [b'{"id": "job-\\u0031", ', b'{"job": 1, "id": "job-1", ', b'[{"id": "job-1", ']
)
def test_an_id_that_does_not_stand_in_front_of_a_bomb_is_not_read(beginning):
    with pytest.raises(ControlFault, match="levels deep"):
        read_offer(200, beginning + b'"x": ' + b"[" * 1000)


def test_neither_an_offer_nor_a_fault_shows_what_the_answer_holds():
    assert SECRET not in repr(read_offer(200, answer(job=JOB | {"httpHeader": SECRET})))
    for body in (answer(id=f"{SECRET}/"), b'{"job": "' + SECRET.encode(), b"[" * 100 + SECRET.encode()):
        with pytest.raises(ControlFault) as caught:
            read_offer(200, body)
        assert SECRET not in str(caught.value)


# -- the answer to a status ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "action"),
    [
        (200, b'{"action": "continue"}', Action.CONTINUE),
        (200, b'{"action": "cancel"}', Action.CANCEL),
        (202, b'\xef\xbb\xbf{"action": "cancel", "more": {}}', Action.CANCEL),
        (204, b"", Action.CONTINUE),
        (299, b"OK", Action.CONTINUE),
        (200, None, Action.CONTINUE),
        (200, b'{"action": "CANCEL"}', Action.CONTINUE),
        (200, b'{"action": ["cancel"]}', Action.CONTINUE),
        (200, b'["cancel"]', Action.CONTINUE),
        (200, b'{"action": "cancel", "x": ' + b"[" * 100_000, Action.CONTINUE),
        (404, b'{"action": "continue"}', Action.GONE),
        (410, None, Action.GONE),
    ],
)
def test_what_a_status_is_answered(status, body, action):
    assert read_action(status, body) is action


@pytest.mark.parametrize(
    ("status", "is_final"),
    [
        *((status, True) for status in (400, 402, 405, 409, 413, 415, 422, 451, 499)),
        *(
            (status, False)
            for status in (101, 301, 302, 307, 308, 401, 403, 407, 408, 425, 429, 500, 503, 599)
        ),
    ],
)
def test_a_status_that_is_not_taken_may_be_taken_later_or_never(status, is_final):
    with pytest.raises(ControlFault, match=f"it answered {status} to a status") as caught:
        read_action(status, b'{"action": "cancel"}')
    assert caught.value.is_final is is_final


# -- both ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 599])
def test_a_busy_control_plane_says_when_to_come_again(status):
    with pytest.raises(ControlFault, match=f"it answered {status}") as caught:
        check_available(status, "17")
    assert (caught.value.retry_after, caught.value.is_final) == ("17", False)


@pytest.mark.parametrize("status", [200, 204, 302, 400, 404, 428, 430, 499])
def test_no_other_status_is_a_busy_one(status):
    check_available(status, "17")


@pytest.mark.parametrize("job_id", ["1", "job-1", "a.b_c~d", "...", ".a", "urn:uuid:0f9c", "x" * 128])
def test_an_id_that_stays_one_segment_of_a_url_is_taken(job_id):
    check_id(job_id)


@pytest.mark.parametrize(
    "job_id", ["", ".", "..", "a/b", "%2e", "a?b", "a#b", "a b", "ä", "a\n", "\0", "x" * 129]
)
def test_any_other_id_is_refused_for_good(job_id):
    with pytest.raises(ControlFault, match="an id of") as caught:
        check_id(job_id)
    assert caught.value.is_final
