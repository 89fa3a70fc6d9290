"""The schemas and the models say the same. Where they differ, the schema is the wider one."""

import re
import string
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from agent import errors
from agent.errors import DeployError, Fault, JobInvalid
from agent.model.disk_state import DiskState, with_disk_state
from agent.model.disks import GroupSpec, Holder, configured_groups, disk_groups, eligibility
from agent.model.job import parse_job
from agent.model.schema.disks import disks_schema
from agent.model.schema.errors import error_body_schema, error_codes
from agent.model.schema.job import job_schema
from agent.model.schema.status import REBOOT_STATES, WAITING_ON, idle_schema, status_schema
from agent.model.selector import hint_values
from agent.model.stage import ACTIVE, STAGES, State
from agent.model.status import Progress, StageTime, Status
from agent.model.surroundings import (
    MAX_FAULTS,
    ContactState,
    Trouble,
    agent_member,
    configuration_member,
    contact_member,
)
from agent.service.config.model import RebootConfig
from agent.service.http.errors import refusal_of
from agent.service.jobs.phases import RebootState
from agent.service.jobs.reboot import HandOver
from agent.service.jobs.view import idle_document
from agent.transfer import meter
from tests.unit.model.test_disks import ARRAY, HDD, MOUNT, NVME, SSD

JOB = Draft202012Validator(job_schema())
STATUS = Draft202012Validator(status_schema(), format_checker=Draft202012Validator.FORMAT_CHECKER)
IDLE = Draft202012Validator(idle_schema())
DISKS = Draft202012Validator(disks_schema())
ERROR = Draft202012Validator(error_body_schema())
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJ5b2ktYWdlbnQtdGVzdC1rZXk user@host"


@pytest.mark.parametrize("validator", [JOB, STATUS, IDLE, DISKS, ERROR])
def test_each_is_a_schema_of_the_draft(validator):
    Draft202012Validator.check_schema(validator.schema)


# -- the job -----------------------------------------------------------------------------------------------------


def known_keys(document: dict) -> set[str]:
    """The keys that the reader knows, as it says itself when it meets another one."""
    with pytest.raises(JobInvalid) as caught:
        parse_job(document)
    message = next(fault.message for fault in caught.value.faults if fault.path.endswith("surprise"))
    return set(message.partition("known are ")[2].split(", "))


def job(**members):
    return {"URL": "https://h/i", "type": "raw"} | members


PAIR = job_schema()["properties"]["httpHeader"]["items"]


@pytest.mark.parametrize(
    ("document", "part"),
    [
        (job(surprise=1), job_schema()),
        (job(configdrive={"surprise": 1}), job_schema()["properties"]["configdrive"]),
        (job(httpHeader=[{"surprise": 1}]), PAIR),
        (job(disk={"surprise": 1}), job_schema()["properties"]["disk"]),
    ],
)
def test_the_reader_of_jobs_and_the_schema_know_the_same_keys(document, part):
    assert known_keys(document) == set(part["properties"])
    assert part["additionalProperties"] is False


TEXTS = st.sampled_from(
    ["", "a", "-bad-", "a" * 64, "a" * 20_000, "x\ny", "\U0001f600", "\ud83d", "\x00", "EFI", "0" * 32, KEY]
)
WILD = st.one_of(st.booleans(), st.integers(-1, 2**31), st.just(1.5), TEXTS, st.just([]), st.just({}))


def mostly(*good: object, wild=WILD) -> st.SearchStrategy:
    """One of these, or null, or now and then something that nobody has thought of."""
    return st.integers(0, 11).flatmap(lambda n: wild if n == 0 else st.sampled_from([*good, None]))


def documents(required=(), **members: st.SearchStrategy) -> st.SearchStrategy:
    optional = {name: value for name, value in members.items() if name not in required}
    return st.fixed_dictionaries({name: members[name] for name in required}, optional=optional)


def nested(strategy: st.SearchStrategy) -> st.SearchStrategy:
    return st.one_of(strategy, strategy, strategy, mostly())


PAIRS = nested(
    st.lists(documents(["key"], key=mostly("X-A", "x-b", "rôle"), value=mostly("", "v", "ü")), max_size=2),
)
DRIVES = nested(
    documents(
        enable=mostly(True, False),  # noqa: FBT003
        hostname=mostly("web1.example.net", "a" * 63, "1"),
        sshKey=mostly(KEY, f"# one\n{KEY}\n\n{KEY}"),
        userData=mostly("", "#!/bin/sh\r\n"),
        userMetadatas=PAIRS,
        networkData=mostly({}, {"links": []}),
        vendorData=mostly({}, "", "text"),
        content=st.one_of(st.none(), mostly("AAAA", "AA\nA=", "https://h/d?a", "AAA", "ftp://h/d")),
    )
)
SELECTORS = nested(
    documents(
        serial=mostly("Z1", "<or> Z1 <or> Z2", "s!= Z1", "ü" * 1024),
        name=mostly("/dev/sda", "<in> sd"),
        size=mostly(1, 100, ">= 100", "<range-in> [ 1 2 ]"),
        rotational=mostly(True, False, "yes", 0, "f"),  # noqa: FBT003
        any=mostly(True, "true", 1),  # noqa: FBT003
    )
)
SUMS = {"md5": "0" * 32, "sha1": "A" * 40, "sha256": "f" * 64, "sha512": "9" * 128}
CHECKED = st.one_of(
    st.just({}),
    st.sampled_from([{"checkSum": digits, "checkSumType": kind} for kind, digits in SUMS.items()]),
    documents(checkSum=mostly(*SUMS.values(), "https://h/SUMS", "HTTP://h/s?a"), checkSumType=mostly(*SUMS)),
)
JOBS = st.builds(
    lambda job, checked: job | checked,
    documents(
        ["URL", "type"],
        URL=st.sampled_from(["https://h/i", "HTTP://h:80/i?a=b", "file:///i", "http://h/" + "a" * 8000, ""]),
        type=st.sampled_from(["raw", "qcow2", "ova", "vmdk"]),
        configdrive=DRIVES,
        description=mostly("web", "ü" * 8000),
        diskGroupId=mostly(0, 1, 2**31 - 1),
        disk=SELECTORS,
        httpHeader=PAIRS,
        mirrors=mostly([], ["https://m/i"], ["HTTP://m:80/i", "http://n/i?a"], ["file:///i"], ["x", 1]),
        efiBootloaderPath=mostly("\\EFI\\debian\\grubx64.efi", "/EFI/a (1).efi"),
    ),
    CHECKED,
)


@given(JOBS)
def test_the_schema_takes_whatever_the_reader_takes(document):
    try:
        parse_job(document)
    except JobInvalid:
        return
    assert list(JOB.iter_errors(document)) == []


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"type": "raw"},
        {"URL": None, "type": "raw"},
        job(type="qed"),
        job(surprise=1),
        job(checkSum="0" * 32),
        job(checkSumType="md5"),
        job(checkSum="0" * 32, checkSumType="sha1"),
        job(checkSum="g" * 32, checkSumType="md5"),
        job(checkSum="0" * 32, checkSumType="crc"),
        job(checkSum="ftp://h/SUMS", checkSumType="md5"),
        job(checkSum="https://h/SUMS"),
        job(mirrors="https://m/i"),
        job(mirrors=["file:///i"]),
        job(mirrors=["https://m/i"] * 17),
        job(mirrors=[None]),
        job(diskGroupId=-1),
        job(diskGroupId=2**31),
        job(diskGroupId="1"),
        job(disk="Z1"),
        job(disk={"serial": 1}),
        job(disk={"serial": ""}),
        job(disk={"serial": "a" * 1025}),
        job(disk={"size": 1.5}),
        job(disk={"rotational": []}),
        job(disk={"serial": "Z1", "surprise": 1}),
        job(description=""),
        job(description="a" * 16385),
        job(httpHeader={"a": "b"}),
        job(httpHeader=[{"value": "v"}]),
        job(httpHeader=[{"key": "no colon:"}]),
        job(httpHeader=[{"key": "k", "value": "v", "more": 1}]),
        job(httpHeader=[{"key": "k"}] * 257),
        job(configdrive={"hostname": "-a"}),
        job(configdrive={"hostname": "a" * 64}),
        job(configdrive={"enable": "yes"}),
        job(configdrive={"networkData": "text"}),
        job(configdrive={"vendorData": []}),
        job(configdrive={"content": "*"}),
        job(configdrive={"content": ["AAAA"]}),
        job(configdrive={"content": "ftp://h/d"}),
        job(efiBootloaderPath="EFI"),
    ],
)
def test_what_the_schema_can_tell_it_refuses_as_the_reader_does(document):
    assert list(JOB.iter_errors(document)) != []
    with pytest.raises(JobInvalid):
        parse_job(document)


# -- the status --------------------------------------------------------------------------------------------------


def every_error() -> list[DeployError]:
    """One of each class, its template filled in."""
    made = []
    for cls in vars(errors).values():
        if not (isinstance(cls, type) and issubclass(cls, DeployError)) or cls is DeployError:
            continue
        names = [name for _, name, _, _ in string.Formatter().parse(cls.template) if name]
        fault = Fault("path", "message", cls.code)
        made.append(cls([fault, fault]) if names == ["summary"] else cls(**dict.fromkeys(names, "x")))
    return made


SURROUNDINGS = {
    "agent": agent_member("0.1.0", ["192.0.2.7"], ["/run/byoi-agent/api.sock"]),
    "controlPlane": None,
    "ironic": None,
    "configuration": configuration_member([]),
}


def status(state: State, **members) -> dict:
    begun = STAGES[: STAGES.index(state) + 1] if state in STAGES else ()
    fields = {
        "server_name": "ns1",
        "state": state,
        "message": "m",
        "checksum": None,
        "percent": 12.34,
        "attempt": 1,
        "progress": Progress(),
        "started_at": 1000.0,
        "updated_at": 1001.5,
        "stages": tuple(StageTime(stage.value, 1000, 0.5) for stage in begun),
    }
    document = Status(**fields | members).document()
    return document | {"id": None, "revision": 1, "reboot": None} | SURROUNDINGS


@pytest.mark.parametrize("state", list(State))
def test_a_status_in_each_state_is_of_the_schema(state):
    STATUS.validate(status(state, finished_at=None if state in ACTIVE else 1002.0))


def test_a_full_status_is_of_the_schema():
    progress = Progress(1, 2, 3, rate=4.6, eta=5.5, waiting_on="disk")
    STATUS.validate(
        status(
            State.DONE,
            checksum="sha256:ab",
            progress=progress,
            disks=(SSD.to_json(),),
            job={"URL": "x"},
            notes=("resumed at byte 1",),
        )
        | {"id": "job-1"}
    )
    STATUS.validate(status(State.DONE, disks=({"path": "/dev/sda", "size": 1},)))


@pytest.mark.parametrize("error", every_error(), ids=lambda error: error.code)
def test_a_status_with_each_error_is_of_the_schema(error):
    for state in DiskState:
        STATUS.validate(status(State.ERROR, error=with_disk_state(error.document(), state)))


@pytest.mark.parametrize("enabled", [True, False])
def test_a_reboot_as_the_hand_over_tells_it_is_of_the_schema(enabled):
    async def mark(_: float | None) -> bool:
        return True

    hand_over = HandOver(RebootConfig(enabled=enabled), lambda: None, mark)
    STATUS.validate(status(State.DONE) | {"reboot": hand_over.document()})


@pytest.mark.parametrize("member", sorted(status_schema()["properties"]))
def test_a_status_without_one_of_its_members_is_not(member):
    document = status(State.WRITE)
    del document[member]
    assert not STATUS.is_valid(document)
    assert not STATUS.is_valid(status(State.WRITE) | {"surprise": 1})


def test_an_empty_slot_is_idle_and_no_status():
    document = idle_document("ns1", ["a note"]) | {"revision": 1} | SURROUNDINGS
    IDLE.validate(document)
    assert not STATUS.is_valid(document)
    assert not IDLE.is_valid(status(State.DONE))


@pytest.mark.parametrize("trouble", [None, *Trouble])
@pytest.mark.parametrize("state", ContactState)
def test_a_control_plane_and_doubts_are_of_the_schema(state, trouble):
    member = contact_member("https://c", state, since=1.0, reason="r", trouble=trouble, next_try=2.0)
    doubts = configuration_member(
        [Fault("a", "b", "config.invalid")] * (MAX_FAULTS + 9), [Fault("a", "b", "config.doubt")]
    )
    assert (doubts["faultCount"], len(doubts["faults"])) == (MAX_FAULTS + 9, MAX_FAULTS)
    around = {"controlPlane": member, "ironic": {**member, "node": None}, "configuration": doubts}
    STATUS.validate(status(State.WRITE) | around)
    IDLE.validate(idle_document("ns1") | {"revision": 1} | SURROUNDINGS | around)


def test_words_of_higher_rooms_are_the_same_there():
    assert set(WAITING_ON) == {meter.NETWORK, meter.DISK, meter.CPU}
    assert set(REBOOT_STATES) == {state.value for state in RebootState}


def test_every_code_in_the_sources_is_listed():
    assert {error.code for error in every_error()} <= set(error_codes())
    assert all(re.fullmatch(r"[a-z]+\.[a-z_]+", code) for code in error_codes())
    assert {"checksum.type", "checksum.pair", "image.write"} <= set(error_codes())


# -- disks and errors --------------------------------------------------------------------------------------------


def test_an_inventory_is_of_the_schema():
    disks = (replace(SSD, holders=(MOUNT, ARRAY), by_id=("a",)), HDD, NVME)
    specs = (GroupSpec(1, (SSD.path, "/dev/gone")), GroupSpec(2, ("/dev/gone",)))
    configured = configured_groups(specs, {SSD.path: SSD})
    for groups in ((), disk_groups(disks), configured):
        listed = [
            disk.to_json()
            | {"diskGroupId": None, "eligible": False, "reasons": list(eligibility(disk, explicit=False))}
            | {"hints": hint_values(disk)}
            for disk in disks
        ]
        DISKS.validate({"disks": listed, "groups": [group.to_json() for group in groups]})


def test_every_kind_of_holder_is_known():
    for kind in ("mount", "swap", "md", "lvm", "dm", "bcache", "other"):
        holder = Holder(kind, "/dev/x", "", "/dev/sda", stoppable=False)
        STATUS.validate(status(State.DONE, disks=(replace(SSD, holders=(holder,)).to_json(),)))


@pytest.mark.parametrize("error", every_error(), ids=lambda error: error.code)
def test_the_refusal_of_each_error_is_of_the_schema(error):
    ERROR.validate(refusal_of(error).body())


def test_the_faults_of_a_real_job_are_of_the_schema():
    with pytest.raises(JobInvalid) as caught:
        parse_job({"type": "x", "checkSum": "1", "checkSumType": "crc", "surprise": 1})
    body = refusal_of(caught.value).body()
    ERROR.validate(body)
    assert [fault["path"] for fault in body["details"]["faults"]] == [
        "URL",
        "type",
        "checkSumType",
        "surprise",
    ]
