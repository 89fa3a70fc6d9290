"""Checksum files as the tools of the field write them: sha256sum and its kin, openssl, gpg --clearsign."""

import hashlib
import shutil
import subprocess

import pytest

from agent.errors import ChecksumFile
from agent.formats.checksum_file import find_digest
from agent.model.job import CHECKSUM_DIGITS

NAMES = (
    "image.raw",
    "two words.raw",
    "back\\slash",
    "line\nend",
    " blank",
    "*star",
    "(a) = b",
    "größe",
    "a) = 0f",
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("sums")
    for name in NAMES:
        (path / name).write_bytes(name.encode())
    return path


def find(sums: bytes, name: str, kind: str = "sha256") -> str:
    return find_digest(sums, name, kind, "https://images.example.net/SUMS")


def made(directory, *command: str) -> bytes:
    return subprocess.run([*command, *NAMES], cwd=directory, check=True, capture_output=True).stdout


@pytest.mark.parametrize("options", [(), ("--binary",), ("--tag",)], ids=["text", "binary", "tag"])
@pytest.mark.parametrize("kind", CHECKSUM_DIGITS)
def test_every_name_is_found_in_what_coreutils_write(directory, kind, options):
    sums = made(directory, f"{kind}sum", *options)
    for name in NAMES:
        assert find(sums, name, kind) == hashlib.new(kind, name.encode()).hexdigest()


@pytest.mark.parametrize("options", [(), ("-r",)], ids=["plain", "coreutils"])
def test_openssl_is_understood(directory, options):
    sums = made(directory, "openssl", "dgst", "-sha256", *options)
    for name in ("image.raw", "two words.raw"):
        assert find(sums, name) == hashlib.sha256(name.encode()).hexdigest()


def test_a_clear_signed_list_is_seen_through(directory, tmp_path):
    home = tmp_path / "gnupg"
    home.mkdir(mode=0o700)
    gpg = [
        "gpg",
        "--homedir",
        str(home),
        "--batch",
        "--quiet",
        "--passphrase",
        "",
        "--pinentry-mode",
        "loopback",
    ]
    subprocess.run(
        [*gpg, "--quick-generate-key", "Tester", "ed25519", "sign", "never"], check=True, capture_output=True
    )
    text = b"- a list, and a line of dashes:\n-----\n" + made(directory, "sha256sum")
    signed = subprocess.run([*gpg, "--clearsign"], input=text, check=True, capture_output=True).stdout
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False, capture_output=True)
    shutil.rmtree(home, ignore_errors=True)
    assert b"\n- - a list" in signed
    assert find(signed, "image.raw") == hashlib.sha256(b"image.raw").hexdigest()
    # What stands around the signed text was signed by nobody.
    around = f"{'0' * 64}  image.raw\n".encode()
    assert find(around + signed + around, "image.raw") == hashlib.sha256(b"image.raw").hexdigest()
    with pytest.raises(ChecksumFile, match="was cut"):
        find(signed.partition(b"-----BEGIN PGP SIGNATURE")[0], "image.raw")
