"""Images that are signed as distributors sign them, deployed by the command; and every way in which that is refused."""

import base64
import bz2
import hashlib
import json
import time

import pytest

from agent.units import KiB, MiB
from tests.kit.deployments import job
from tests.kit.signing import Minisign, OpenSsl, Signify, Ssh
from tests.kit.sigstore import ISSUER, WORKFLOW, Sigstore

SIZE = 64 * MiB
UNTOUCHED = b"\xa5"
NAME = "image.raw"


@pytest.fixture
def target(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(UNTOUCHED * SIZE)
    return path


@pytest.fixture
def image_url(web, gpt_image):
    return web.publish(gpt_image.path, NAME)


@pytest.fixture
def write(byoi, target, tmp_path):
    """byoi write with the key in a file: write(url, key, option, ...)."""

    def deploy(url: str, key: bytes, *options: str):
        path = tmp_path / "vendor.key"
        path.write_bytes(key)
        return byoi("write", "--url", url, "--trusted-key", path, "--disk", target, "--json", *options)

    return deploy


@pytest.fixture(scope="module")
def sigstore():
    return Sigstore()


def assert_signed(outcome, over="image"):
    assert outcome.status == 0, outcome.err
    document = outcome.document
    assert document["message"] == "The image is deployed and verified."
    assert document["signature"]["over"] == over
    (signature,) = document["signature"]["signatures"]
    assert (signature["accepted"], signature["reason"], signature["name"]) == (True, None, None)
    assert any("is signed by" in note for note in document["notes"])
    return signature


# -- as distributors publish -----------------------------------------------------------------------------------


def gnu(kind, image, name=NAME):
    with image.path.open("rb") as file:
        return f"{'0' * 40}  other.raw\n{hashlib.file_digest(file, kind).hexdigest()}  {name}\n".encode()


def test_debian_a_list_and_its_signature(write, web, gpg, gpt_image, image_url, target):
    sums = gnu("sha512", gpt_image)
    listed = web.publish(sums, "SHA512SUMS")
    sign = web.publish(gpg.sign(sums, "rsa", more=("--armor",)), "SHA512SUMS.sign")
    words = (
        "--checksum",
        f"sha512:{listed}",
        "--signature",
        f"openpgp:{sign}",
        "--signature-over",
        "checkSum",
    )
    signature = assert_signed(write(image_url, gpg.public("rsa", armoured=False), *words), "checkSum")
    assert (signature["user"], signature["algorithm"]) == ("rsa <rsa@example.net>", "RSA 2048, SHA512")
    assert target.read_bytes()[:440] == gpt_image.path.read_bytes()[:440]


def test_ubuntu_a_list_and_a_binary_signature(write, web, gpg, gpt_image, image_url):
    sums = gnu("sha256", gpt_image)
    listed = web.publish(sums, "SHA256SUMS")
    sign = web.publish(gpg.sign(sums, "rsa", "bob"), "SHA256SUMS.gpg")
    words = (
        "--checksum",
        f"sha256:{listed}",
        "--signature",
        f"openpgp:{sign}",
        "--signature-over",
        "checkSum",
    )
    outcome = write(image_url, gpg.public("rsa"), *words)
    assert outcome.status == 0
    findings = outcome.document["signature"]["signatures"]
    assert [finding["accepted"] for finding in findings] == [True, False]
    assert findings[1]["reason"] == "its key is unknown here; the job's publicKey is another"


def test_fedora_a_clear_signed_list_with_lines_of_the_bsds(write, web, gpg, gpt_image, image_url):
    text = f"# {NAME}: 20971520 bytes\nSHA256 ({NAME}) = {gpt_image.sha256}\n".encode()
    listed = web.publish(gpg.sign(text, "rsa", how="--clear-sign"), "Fedora-Cloud-CHECKSUM")
    assert_signed(
        write(image_url, gpg.public("rsa"), "--checksum", f"sha256:{listed}", "--signature", "openpgp"),
        "checkSum",
    )


def test_arch_a_signature_beside_the_image(write, web, gpg, gpt_image, image_url):
    sign = web.publish(gpg.sign(gpt_image.data, "alice"), NAME + ".sig")
    signature = assert_signed(write(image_url, gpg.public("alice"), "--signature", f"openpgp:{sign}"))
    assert signature["signedAt"].startswith(time.strftime("%Y-", time.gmtime()))


def test_flatcar_a_signature_of_the_compressed_image(write, web, gpg, gpt_image):
    packed = bz2.compress(gpt_image.data, 1)
    url = web.publish(packed, "flatcar.bin.bz2")
    sign = web.publish(gpg.sign(packed, "rsa"), "flatcar.bin.bz2.sig")
    assert_signed(write(url, gpg.public("rsa"), "--signature", f"openpgp:{sign}"))


def test_alpine_an_armoured_signature_in_a_file_here(write, gpg, gpt_image, image_url, tmp_path):
    (tmp_path / "image.asc").write_bytes(gpg.sign(gpt_image.data, "alice", more=("--armor",)))
    assert_signed(write(image_url, gpg.public("alice"), "--signature", f"openpgp:{tmp_path}/image.asc"))


def test_openbsd_a_list_behind_its_signature(write, web, gpt_image, image_url, tmp_path):
    key, text = Signify(tmp_path, "openbsd"), tmp_path / "SHA256"
    text.write_text(f"SHA256 ({NAME}) = {gpt_image.sha256}\n")
    listed = web.publish(key.sign(text, embedded=True), "SHA256.sig")
    words = ("--checksum", f"sha256:{listed}", "--signature", "minisign")
    signature = assert_signed(write(image_url, key.public, *words), "checkSum")
    assert (signature["algorithm"], signature["signedAt"]) == ("Ed25519", None)


@pytest.mark.parametrize("checksum", [True, False])
def test_minisign_over_the_image(write, web, gpt_image, image_url, tmp_path, checksum):
    key, copy = Minisign(tmp_path, "k"), tmp_path / NAME
    copy.write_bytes(gpt_image.data)
    words = ("--checksum", gpt_image.sha256) if checksum else ()
    sign = web.publish(key.sign(copy), NAME + ".minisig")
    signature = assert_signed(write(image_url, key.public, "--signature", f"minisign:{sign}", *words))
    assert signature["algorithm"] == "Ed25519, BLAKE2b"


def test_ssh_over_the_image(write, web, gpt_image, image_url, tmp_path):
    key, copy = Ssh(tmp_path, "k"), tmp_path / NAME
    copy.write_bytes(gpt_image.data)
    signature = assert_signed(
        write(image_url, key.public, "--signature", f"ssh:{web.publish(key.sign(copy), 'image.sig')}")
    )
    assert signature["user"] == "k@example.net"


def test_cosign_over_the_image(write, gpt_image, image_url, tmp_path):
    key, copy = OpenSsl(tmp_path, "k"), tmp_path / NAME
    copy.write_bytes(gpt_image.data)
    key.sign(copy)  # beside it, plain: the option packs it for the job
    assert_signed(
        write(image_url, key.public, "--signature", f"cosign:{copy}.sig", "--checksum", gpt_image.sha256)
    )


def test_sigstore_over_the_image(write, sigstore, web, gpt_image, image_url):
    """As Talos and others publish: FILE.sigstore.json beside the file."""
    bundle = web.publish(json.dumps(sigstore.sign(gpt_image.data)).encode(), f"{NAME}.sigstore.json")
    signature = assert_signed(
        write(
            image_url,
            sigstore.trusting(),
            "--signature",
            f"sigstore:{bundle}",
            "--checksum",
            gpt_image.sha256,
        )
    )
    assert signature["user"] == f"{WORKFLOW} by {ISSUER}"


def test_sigstore_over_the_list(write, sigstore, web, gpt_image, image_url):
    sums = gnu("sha256", gpt_image)
    listed = web.publish(sums, "SHA256SUMS")
    bundle = web.publish(json.dumps(sigstore.sign(sums)).encode(), "SHA256SUMS.sigstore.json")
    words = (
        "--signature",
        f"sigstore:{bundle}",
        "--signature-over",
        "checkSum",
        "--checksum",
        f"sha256:{listed}",
    )
    assert_signed(write(image_url, sigstore.trusting(), *words), "checkSum")


# -- refused ---------------------------------------------------------------------------------------------------


@pytest.fixture
def refused(byoi, target, image_url):
    """Deploy the image with this signature; it has to fail. Gives the error, and whether the disk was left alone."""

    def deploy(*options: str, **members: object):
        document = job(image_url, None, **members)
        outcome = byoi(
            "write", "-", "--disk", target, "--json", *options, stdin=json.dumps(document).encode()
        )
        assert outcome.status != 0
        data = target.read_bytes()
        assert data == UNTOUCHED * SIZE or not any(data[:MiB]), "something may boot"
        return outcome.error, data == UNTOUCHED * SIZE

    return deploy


def openpgp(data: bytes, key: bytes, **more: object):
    return {"type": "openpgp", "data": data.decode(), "publicKey": key.decode(), **more}


def armoured(gpg, data, *names, **more):
    return gpg.sign(data, *names, more=("--armor", *more.pop("more", ())), **more)


def test_a_signature_of_another_image_leaves_nothing_bootable(refused, gpg, gpt_image):
    made = armoured(gpg, gpt_image.data + b"\n", "alice")
    error, untouched = refused(signature=openpgp(made, gpg.public("alice")))
    assert (error["code"], error["blame"], untouched) == ("signature.invalid", "image", False)
    assert error["message"].endswith(
        "/image.raw is not accepted: its key did not sign these bytes, but others."
    )
    assert "alice <alice@example.net>" in error["detail"]
    assert error["diskState"] == "empty"


@pytest.mark.parametrize("kind", ["minisign", "ssh", "cosign"])
def test_so_do_those_over_digests(refused, tmp_path, kind):
    other = tmp_path / "other"
    other.write_bytes(b"other")
    key = {"minisign": Minisign, "ssh": Ssh, "cosign": OpenSsl}[kind](tmp_path, "k")
    data = key.sign(other)
    if kind == "cosign":
        data = base64.b64encode(data)
    error, untouched = refused(
        signature={"type": kind, "data": data.decode(), "publicKey": key.public.decode()}
    )
    assert (error["code"], untouched) == ("signature.invalid", False)
    assert "these bytes" in error["message"]


def test_a_bundle_of_another_image_leaves_nothing_bootable(refused, sigstore):
    made = json.dumps(sigstore.sign(b"other"))
    error, untouched = refused(
        signature={"type": "sigstore", "data": made, "publicKey": sigstore.trusting().decode()}
    )
    assert (error["code"], error["blame"], untouched) == ("signature.invalid", "image", False)
    assert error["message"].endswith("its signer did not sign these bytes, but others.")


def test_a_bundle_that_cannot_count_is_refused_before_the_first_write(refused, sigstore, gpt_image):
    made = json.dumps(sigstore.sign(gpt_image.data))
    for key, words in (
        (sigstore.trusting("anna@example.net"), "whoever made it is not trusted here"),
        (Sigstore().trusting(), "its certificate is of no authority in the trusted root"),
    ):
        error, untouched = refused(signature={"type": "sigstore", "data": made, "publicKey": key.decode()})
        assert (error["code"], untouched) == ("signature.key", True)
        assert words in error["message"]


BEFORE_ANY_WRITE = {
    "unknown key": ("signature.key", "its key is unknown here"),
    "expired key": ("signature.key", "its key expired on 2020-12-31; by the clock of this server it is 20"),
    "short key": ("signature.key", "1024 bits of RSA, fewer than 2048"),
    "weak digest": ("signature.invalid", "SHA1, which is too weak"),
    "future key": ("signature.invalid", "the clock is wrong"),
    "no key": ("signature.key", "the job's publicKey cannot be used: it holds no PGP public key block"),
    "no signature": ("signature.invalid", "it holds no PGP signature"),
    "cut": ("signature.invalid", "is cut: the END line is not there"),
    "text": ("signature.invalid", "it is of a text"),
    "older minisign": ("signature.invalid", "over the file itself and not over its digest"),
}


@pytest.mark.parametrize("fault", BEFORE_ANY_WRITE)
def test_what_can_be_seen_is_refused_before_the_first_write(refused, gpg, gpt_image, tmp_path, web, fault):
    data, alice = gpt_image.data, gpg.public("alice")
    copy = tmp_path / NAME
    match fault:
        case "unknown key":
            signature = openpgp(armoured(gpg, data, "alice"), gpg.public("bob"))
        case "expired key":
            signature = openpgp(armoured(gpg, data, "expired", now="20200601T000000"), gpg.public("expired"))
        case "future key":
            signature = openpgp(armoured(gpg, data, "future", now="20500601T000000"), gpg.public("future"))
        case "short key":
            signature = openpgp(armoured(gpg, data, "short"), gpg.public("short"))
        case "weak digest":
            signature = openpgp(armoured(gpg, data, "rsa", more=("--digest-algo", "SHA1")), gpg.public("rsa"))
        case "text":
            signature = openpgp(armoured(gpg, b"lines", "alice", more=("--textmode",)), alice)
        case "no key":
            signature = openpgp(armoured(gpg, data, "alice"), b"hello")
        case "no signature":
            signature = openpgp(b"hello", alice)
        case "cut":
            signature = openpgp(armoured(gpg, data, "alice")[:-20], alice)
        case _:
            copy.write_bytes(data)
            key = Minisign(tmp_path, "k")
            signature = {
                "type": "minisign",
                "data": key.sign(copy, "-l").decode(),
                "publicKey": key.public.decode(),
            }
    error, untouched = refused(signature=signature)
    code, words = BEFORE_ANY_WRITE[fault]
    assert (error["code"], untouched, error["diskState"]) == (code, True, "untouched")
    assert words in error["message"]
    assert not web.requests


def test_a_signature_that_cannot_be_fetched_is_missing(refused, web, gpg):
    key = gpg.public("alice").decode()
    where = {
        "type": "openpgp",
        "publicKey": key,
        "url": web.publish(b"", "gone.sig", status=404) + "?token=abc",
    }
    error, untouched = refused(signature=where)
    assert (error["code"], error["blame"], untouched) == ("signature.missing", "request", True)
    assert "gone.sig" in error["message"]
    assert "abc" not in json.dumps(error)
    where["url"] = web.publish(bytes(257 * KiB), "large.sig")
    error, untouched = refused(signature=where)
    assert (error["code"], untouched) == ("signature.invalid", True)
    assert "larger than 256.0 KiB" in error["message"]


LISTS = {
    "not clear-signed": (
        "signature.missing",
        "it is not clear-signed, and the job names no signature beside it",
    ),
    "cut": ("signature.invalid", "the clear-signed text was cut"),
    "changed": ("signature.invalid", "did not sign these bytes"),
    "behind it": ("checksum.file", "has no entry for image.raw"),
}


@pytest.mark.parametrize("fault", LISTS)
def test_a_list_counts_as_far_as_it_is_signed(refused, web, gpg, gpt_image, fault):
    entry = f"{gpt_image.sha256}  {NAME}\n".encode()
    signed = gpg.sign(entry, "alice", how="--clear-sign")
    content = {
        "not clear-signed": entry,
        "cut": signed[: signed.index(b"-----BEGIN PGP SIGNATURE")],
        "changed": signed.replace(entry[:8], b"00000000"),
        "behind it": gpg.sign(b"nothing\n", "alice", how="--clear-sign") + entry,
    }[fault]
    error, untouched = refused(
        checkSum=web.publish(content, "SUMS"),
        checkSumType="sha256",
        signature={"type": "openpgp", "over": "checkSum", "publicKey": gpg.public("alice").decode()},
    )
    code, words = LISTS[fault]
    assert (error["code"], untouched) == (code, True)
    assert words in error["message"]


def test_the_operator_s_keys_are_known_by_name(
    byoi, web, gpg, gpt_image, image_url, target, tmp_path, refused
):
    keys, config = tmp_path / "keys", tmp_path / "agent.toml"
    keys.mkdir()
    (keys / "vendor.asc").write_bytes(gpg.public("rsa"))
    (keys / "old.gpg").write_bytes(gpg.public("alice", armoured=False))
    (keys / "README").write_text("of no type")
    config.write_text(f'service_name = "ns1"\n[trust]\nkeys = "{keys}"\n')
    sign = web.publish(gpg.sign(gpt_image.data, "rsa"), "image.sig")
    words = (
        "write",
        "--config",
        config,
        "--url",
        image_url,
        "--signature",
        f"openpgp:{sign}",
        "--disk",
        target,
        "--json",
    )
    for names in ((), ("--trusted-key", "vendor"), ("--trusted-key", "old", "--trusted-key", "vendor")):
        outcome = byoi(*words, *names, "--json")
        assert outcome.status == 0, outcome.err
        assert outcome.document["signature"]["signatures"][0]["name"] == "vendor"
    target.write_bytes(UNTOUCHED * SIZE)
    error, untouched = refused(
        "--config", config, signature={"type": "openpgp", "url": sign, "keys": ["old"]}
    )
    assert (error["code"], untouched) == ("signature.key", True)
    assert "the trusted key vendor made it, but the job names others" in error["message"]
    error, untouched = refused(
        "--config", config, signature={"type": "openpgp", "url": sign, "keys": ["olf"]}
    )
    assert (error["code"], untouched) == ("signature.key", True)
    assert f"there is no key olf in {keys}" in error["message"]
    assert error["detail"] == "there are: old, vendor"
    error, _ = refused("--config", config, signature={"type": "ssh", "url": sign})
    assert "there is no key of the type ssh in" in error["message"]


def test_a_dry_run_tells_what_will_be_checked(byoi, web, gpg, gpt_image, image_url, target):
    sign = web.publish(gpg.sign(gpt_image.data, "alice"), "image.sig")
    document = job(
        image_url, None, signature=openpgp(b"x", gpg.public("alice")) | {"url": sign, "data": None}
    )
    outcome = byoi("write", "-", "--disk", target, "--dry-run", stdin=json.dumps(document).encode())
    assert outcome.status == 0, outcome.err
    assert "compare the length, and check the openpgp signature of the image" in outcome.out
    document["signature"]["publicKey"] = gpg.public("bob").decode()
    outcome = byoi("write", "-", "--disk", target, "--dry-run", stdin=json.dumps(document).encode())
    assert outcome.status != 0
    assert "its key is unknown here" in outcome.err
    assert target.read_bytes() == UNTOUCHED * SIZE
