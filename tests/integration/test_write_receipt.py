"""`byoi write --receipt`: what was done, in a file that is there before anything is."""

import base64
import json
import subprocess
import sys

import pytest

from agent.units import MiB
from tests.kit.commands import ROOT, run
from tests.kit.disks import make_disk
from tests.kit.signing import receipt_key

SIZE = 64 * MiB


@pytest.fixture
def key(tmp_path):
    return receipt_key(tmp_path)


@pytest.fixture
def target(tmp_path):
    return make_disk(tmp_path / "disk.img", SIZE)


@pytest.fixture
def kept(tmp_path):
    return tmp_path / "receipt.json"


@pytest.fixture
def write(byoi, gpt_image, target, kept):
    """byoi write to the disk, with a receipt: write(*options)."""

    def deploy(*options: object, checksum: str | None = None):
        words = ["--url", gpt_image.path, "--checksum", checksum or f"sha256:{gpt_image.sha256}"]
        return byoi("write", *words, "--disk", target, "--receipt", kept, *options)

    return deploy


def predicate(kept) -> dict:
    payload = json.loads(kept.read_text())["payload"]
    return json.loads(base64.b64decode(payload))["predicate"]


def test_a_receipt_is_signed_and_verified(write, byoi, kept, key, gpt_image, target):
    done = write("--receipt-key", key, "--verify", "readback", "--json")
    assert done.status == 0, done.err
    told = predicate(kept)
    assert (told["origin"], told["jobId"], told["readBack"]) == ("command", None, "readback")
    assert told["outcome"] == {
        "status": "done",
        "message": done.document["message"],
        "error": None,
        "diskState": "committed",
    }
    assert told["image"]["checksum"] == f"sha256:{gpt_image.sha256}"
    assert told["disks"][0]["path"] == str(target)

    public = key.with_suffix(".pub")
    good = byoi("receipt", "--verify", kept, "--key", public)
    assert (good.status, good.err) == (0, "")
    assert "good, by the key" in good.out
    elsewhere = [sys.executable, ROOT / "tests/kit/dsse_check.py", kept, public]
    assert subprocess.run(elsewhere, capture_output=True, check=False, timeout=60).returncode == 0


def test_without_a_key_it_is_not_signed(write, byoi, kept, key):
    assert write().status == 0
    assert json.loads(kept.read_text())["signatures"] == []
    checked = byoi("receipt", "--verify", kept, "--key", key.with_suffix(".pub"))
    assert checked.status == 1
    assert "it is not signed" in checked.err


def test_the_receipt_of_a_deployment_that_failed(write, kept):
    assert write(checksum="sha256:" + "0" * 64).status == 1
    outcome = predicate(kept)["outcome"]
    assert (outcome["status"], outcome["error"]["code"], outcome["diskState"]) == (
        "error",
        "checksum.mismatch",
        "empty",
    )


def test_the_receipt_of_a_deployment_that_was_refused(write, kept, target):
    target.write_bytes(bytes(4 * MiB))
    assert write().status != 0
    outcome = predicate(kept)["outcome"]
    assert (outcome["status"], outcome["diskState"]) == ("error", "untouched")


def test_the_receipt_has_no_secret(write, kept, tmp_path):
    data = tmp_path / "user-data"
    data.write_text("#!/bin/sh\n# s3cret-canary\n")
    done = write("--hostname", "web1", "--user-data", data)
    assert done.status == 0, done.err
    assert "userData" in json.dumps(predicate(kept))
    assert "s3cret-canary" not in json.dumps(predicate(kept))


@pytest.fixture
def untouched(target, kept):
    """The disk is as it was, and so is what stands under the receipt's name."""
    before = target.read_bytes()

    def check(there: bytes | None = None) -> None:
        assert target.read_bytes() == before
        assert (kept.read_bytes() if kept.exists() else None) == there

    return check


def test_a_file_that_exists_is_left_alone(write, kept, untouched):
    kept.write_bytes(b"an older receipt")
    refused = write()
    assert refused.status == 2
    assert f"{kept} exists; it is left alone" in refused.err
    untouched(b"an older receipt")


@pytest.mark.parametrize("place", ["nowhere/receipt.json", "/proc/receipt.json"])
def test_a_file_that_cannot_be_made_is_refused_first(byoi, gpt_image, target, tmp_path, untouched, place):
    refused = byoi("write", "--url", gpt_image.path, "--disk", target, "--receipt", tmp_path / place)
    assert refused.status == 2
    assert "could not be made" in refused.err
    untouched()


def test_a_file_without_room_is_refused_first(gpt_image, target, kept, untouched):
    """As on a full filesystem: the process may not make files of more than 64 KiB."""
    command = [
        sys.executable,
        "-m",
        "agent.cli",
        "write",
        "--url",
        gpt_image.path,
        "--disk",
        target,
        "--receipt",
        kept,
    ]
    limited = ["sh", "-c", 'ulimit -f 128; exec "$@"', "sh", *map(str, command)]
    refused = subprocess.run(limited, capture_output=True, text=True, check=False, cwd=ROOT, timeout=60)
    assert refused.returncode == 2
    assert "has no room: File too large" in refused.stderr
    untouched()


@pytest.mark.parametrize(
    ("algorithm", "mode", "said"),
    [
        (["ec", "-pkeyopt", "ec_paramgen_curve:P-256"], 0o600, "not of Ed25519"),
        (["ed25519"], 0o644, "open to every user"),
    ],
)
def test_a_key_that_cannot_be_used_is_refused_first(write, tmp_path, untouched, algorithm, mode, said):
    wrong = tmp_path / "wrong.key"
    run("openssl", "genpkey", "-algorithm", *algorithm, "-out", wrong)
    wrong.chmod(mode)
    refused = write("--receipt-key", wrong)
    assert refused.status == 2
    assert said in refused.err
    assert wrong.read_text().splitlines()[1] not in refused.err
    untouched()


def test_a_key_that_is_damaged_is_refused_first(write, key, untouched):
    lines = key.read_text().splitlines()
    key.write_text("\n".join((lines[0], lines[1][:40], lines[2])))
    refused = write("--receipt-key", key)
    assert refused.status == 2
    assert "holds a key that is damaged" in refused.err
    untouched()


def test_where_nothing_was_begun_there_is_no_receipt(write, byoi, key, gpt_image, target, untouched):
    for refused in (
        write("--dry-run"),
        write("--receipt-key", "nothing.key"),
        write("--checksum", "sha256:nonsense"),
        write("--size", "1M"),
        byoi("write", "--url", gpt_image.path, "--disk", target, "--receipt-key", key),
    ):
        assert refused.status == 2, refused.err
    untouched()
