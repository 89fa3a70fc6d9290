"""A job whose checkSum is the URL of a checksum file: deployed, planned and refused, by a real server."""

import hashlib
import json

import pytest

from agent.units import MiB
from tests.kit.deployments import job

SIZE = 64 * MiB
SECRET = {"key": "X-Token", "value": "only-for-the-image"}


@pytest.fixture
def target(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(b"\xa5" * SIZE)
    return path


@pytest.fixture
def sums(gpt_image):
    return f"{'0' * 64}  other.raw\n{gpt_image.sha256}  gpt image.raw\n".encode()


@pytest.fixture
def write(byoi, web, gpt_image, target):
    """Deploy the image under a name that has to be decoded, with the checksum file behind this URL."""

    def deploy(checksum: str, *options: object, **members: object):
        url = web.publish(gpt_image.path, "builds/gpt%20image.raw")
        document = job(f"{url}?token=secret", checksum, **members)
        return byoi("write", "-", "--disk", target, "--json", *options, stdin=json.dumps(document).encode())

    return deploy


def test_the_digest_of_the_list_is_compared(write, web, sums, gpt_image, target):
    moved = web.publish(sums, "mirror/SHA256SUMS")
    outcome = write(web.publish(b"", "SHA256SUMS", status=302, location=moved), httpHeader=[SECRET])
    document = outcome.document
    assert (outcome.status, document["checksum"]) == (0, f"sha256:{gpt_image.sha256}")
    assert document["job"]["checkSum"].endswith("/SHA256SUMS")
    assert any(gpt_image.sha256 in note and "SHA256SUMS" in note for note in document["notes"])
    assert target.read_bytes()[:440] == gpt_image.path.read_bytes()[:440]
    # One origin: the header goes to both.
    assert {request.header("X-Token") for request in web.requests} == {SECRET["value"]}


def test_a_list_elsewhere_gets_no_header_of_the_job(write, web, sums, serving_elsewhere):
    elsewhere = serving_elsewhere(lambda request: request.reply(200, sums))
    assert write(elsewhere.at("/SUMS"), httpHeader=[SECRET]).status == 0
    assert [request.header("X-Token") for request in elsewhere.requests] == [None]


def test_a_list_with_another_digest_leaves_nothing_bootable(write, web, target):
    url = web.publish(f"SHA256 (gpt image.raw) = {'1' * 64}\n".encode(), "SUMS")
    outcome = write(url)
    assert (outcome.status, outcome.error["code"]) == (1, "checksum.mismatch")
    assert target.read_bytes()[:512] == bytes(512)


def test_a_dry_run_resolves_it(write, web, sums, gpt_image, target):
    outcome = write(web.publish(sums, "SUMS"), "--dry-run")
    assert outcome.status == 0
    assert f"compare sha256 {gpt_image.sha256}" in outcome.out
    assert target.read_bytes() == b"\xa5" * SIZE


REFUSED = {
    "missing": ({"status": 404}, b"", "cannot be fetched", "request"),
    "failing": ({"status": 501}, b"", "cannot be fetched", "network"),
    "too large": ({}, b"#" * (MiB + 1), "is larger than 1.0 MiB", "request"),
    "no text": ({}, bytes(1000), "holds no text", "request"),
    "no entry": ({}, b"%s  b.raw\n" % (b"0" * 64), "has no entry for gpt image.raw", "request"),
    "two entries": (
        {},
        b"%s  gpt image.raw\n%s  gpt image.raw\n" % (b"0" * 64, b"1" * 64),
        "several different",
        "request",
    ),
    "another kind": ({}, b"%s  gpt image.raw\n" % (b"0" * 40), "a digest of 40 digits", "request"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_it_is_refused_before_the_first_write(write, web, target, fault):
    options, content, words, blame = REFUSED[fault]
    outcome = write(web.publish(content, "SUMS", **options) + "?signature=abc")
    assert outcome.status == (2 if blame == "request" else 1)
    error = outcome.error
    assert (error["code"], error["blame"], error["retryable"]) == ("checksum.file", blame, False)
    assert words in error["message"]
    assert "abc" not in json.dumps(outcome.document)
    assert error["diskState"] == "untouched"
    assert target.read_bytes() == b"\xa5" * SIZE
    assert not any("gpt" in request.target for request in web.requests)


def test_the_option_takes_a_url(byoi, web, sums, gpt_image, target):
    image = web.publish(gpt_image.path, "gpt%20image.raw")
    outcome = byoi(
        "write",
        "--url",
        image,
        "--checksum",
        f"SHA256:{web.publish(sums, 'SUMS')}",
        "--disk",
        target,
        "--json",
    )
    assert (outcome.status, outcome.document["checksum"]) == (0, f"sha256:{gpt_image.sha256}")
    untyped = byoi("write", "--url", image, "--checksum", "https://h/SUMS?sig=abc", "--disk", target)
    assert untyped.status == 2
    assert "expected TYPE:HEX" in untyped.err
    assert "abc" not in untyped.err


def test_a_wrong_url_is_a_fault_of_the_job(byoi, web, gpt_image, target):
    for url in ("ftp://h/SUMS", "file:///etc/SUMS", "https://"):
        document = job("https://h/i", url)
        outcome = byoi("write", "-", "--disk", target, "--json", stdin=json.dumps(document).encode())
        assert outcome.status == 2
        assert [fault["path"] for fault in outcome.error["faults"]] == ["checkSum"]
    assert hashlib.sha256(target.read_bytes()).hexdigest() == hashlib.sha256(b"\xa5" * SIZE).hexdigest()
