from pathlib import Path

import pytest

from agent import errors
from agent.errors import Blame, DeployError, Fault, JobInvalid
from agent.model import job
from agent.model.disk_state import DiskState, with_disk_state


def family():
    found, queue = [], [DeployError]
    while queue:
        for cls in queue.pop().__subclasses__():
            found.append(cls)
            queue.append(cls)
    return found


def test_every_code_is_used_once_and_says_whose_fault_it_is():
    codes = [cls.code for cls in family()]
    assert len(codes) == len(set(codes)) > 20
    assert all(isinstance(cls.blame, Blame) for cls in family())


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (errors.ImageWrite(type="qcow2"), "image.write", "Can't write qcow2 on disk."),
        (
            errors.ImageMemory(),
            "image.memory",
            "Could not download, qcow2 image is too big to download in memory.",
        ),
        (
            errors.ImageDownload(url="http://h/i"),
            "image.download",
            "Could not download image located: http://h/i",
        ),
        (errors.ImageFormat(), "image.format", "Bad format image, expected: qcow2, raw, ova."),
        (
            errors.ChecksumMismatch(algorithm="sha256", got="1234", expected="5678"),
            "checksum.mismatch",
            "Bad sha256 for downloaded file, got: 1234 while expecting 5678.",
        ),
        (
            errors.ImageType(found="raw", expected="qcow2"),
            "image.type",
            "image provided format is `raw` which does not match expected qcow2 format",
        ),
        (
            errors.ImageSize(image_size=9, device="/dev/sda", device_size=8),
            "image.size",
            "image provided has a size of `9` bytes which is larger than `/dev/sda` of `8` bytes",
        ),
        (
            errors.ImageNoTable(type="raw", found="html"),
            "image.no_table",
            (
                "image provided format is not of type raw because no partition table was found. "
                "It seems to contain: `html`"
            ),
        ),
        (errors.GptRelocate(), "gpt.relocate", "Can not move backup GPT data structures to the end of disk."),
        (errors.ConfigDriveCreate(), "configdrive.create", "Could not create configdrive on disk."),
    ],
)
def test_the_messages_of_the_ovh_api_are_kept_to_the_letter(error, code, message):
    assert (error.code, error.message) == (code, message)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (job.BAD_CHECKSUM_TYPE, "checksum.type"),
        (job.BAD_CHECKSUM_PAIR, "checksum.pair"),
    ],
)
def test_a_lone_fault_with_a_code_of_its_own_is_told_under_that_code(message, code):
    error = JobInvalid([Fault("checkSumType", message, code)])
    assert (error.code, error.message) == (code, message)
    assert error.document()["faults"] == [{"path": "checkSumType", "message": message, "code": code}]


def test_several_faults_are_told_together_with_their_paths():
    error = JobInvalid([Fault("URL", "is required"), Fault("type", "is required")])
    assert error.code == "job.invalid"
    assert error.message == "URL: is required; type: is required"


def test_the_document_carries_detail_and_hint_apart_from_the_message():
    document = errors.DiskIo(device="/dev/sda", reason="EIO", detail="at byte 512").document()
    assert document["message"] == "Input/output fault on /dev/sda: EIO."
    assert document["detail"] == "at byte 512"
    assert "SMART" in document["hint"]


@pytest.mark.parametrize("cls", family(), ids=lambda cls: cls.code)
def test_every_error_has_a_hint_even_where_its_raiser_gives_none(cls):
    if (
        cls is errors.JobCancelled
    ):  # nothing is to be mended: its hint is what is on the disk, in every status
        document = with_disk_state(cls().document(), DiskState.EMPTY)
        assert document["hint"] == DiskState.EMPTY.sentence
        return
    assert cls.default_hint.endswith(".")
    assert len(cls.default_hint) > 20


@pytest.mark.parametrize("code", sorted({cls.code for cls in family()} | {"checksum.type", "checksum.pair"}))
def test_every_code_is_in_the_documentation_with_its_cause_and_its_cure(code):
    page = Path(__file__).parents[2] / "docs" / "errors.md"
    (row,) = [line for line in page.read_text().splitlines() if line.startswith(f"| `{code}` |")]
    cause, cure = row.split(" | ")[1:]
    assert len(cause) > 10
    assert cure.strip(" |")
