"""Signatures over digests: made by minisign, signify, ssh-keygen and openssl, and read by us."""

import base64
import hashlib
import json
import os
import time

import pytest

from agent.formats.signatures.cosign import read_cosign
from agent.formats.signatures.findings import WHOLE, KeyFile, Refused
from agent.formats.signatures.minisign import read_minisign, split_embedded
from agent.formats.signatures.sshsig import read_sshsig
from tests.kit.commands import run
from tests.kit.signing import Minisign, OpenSsl, Signify, Ssh

DATA = b"what was signed\n" * 10_000


@pytest.fixture
def signed(tmp_path):
    path = tmp_path / "image.raw"
    path.write_bytes(DATA)
    return path


def judge(read, signature, keys, data=DATA, now=None):
    """The one finding in the end, and what it took."""
    files = [each if isinstance(each, KeyFile) else KeyFile("key", each) for each in keys]
    claims = read(signature, files, time.time() if now is None else now)
    evidence = {name: data if name == WHOLE else hashlib.new(name, data).digest() for name in claims.wanted}
    (finding,) = claims.check(evidence)
    return finding, claims.wanted


def both(read, signature, keys):
    """Good over what was signed, and not over anything else: gives what it took."""
    finding, wanted = judge(read, signature, keys)
    assert finding.fault is None
    assert judge(read, signature, keys, DATA[1:])[0].fault is not None
    return wanted


def test_minisign(tmp_path, signed):
    before = int(time.time())
    key, other = Minisign(tmp_path, "a"), Minisign(tmp_path, "b")
    signature = key.sign(signed)
    assert both(read_minisign, signature, [other.public, key.public]) == ("blake2b",)
    finding, _ = judge(read_minisign, signature, [key.public])
    assert finding.signed_at >= before
    assert finding.key in key.public.decode()  # minisign prints the id into the comment
    assert both(read_minisign, signature, [key.public.split(b"\n")[1]]) == ("blake2b",)  # the bare base64
    assert both(read_minisign, key.sign(signed, "-l"), [key.public]) == (WHOLE,)


def test_minisign_s_faults(tmp_path, signed):
    key, other = Minisign(tmp_path, "a"), Minisign(tmp_path, "b")
    signature = key.sign(signed)
    finding, _ = judge(read_minisign, signature, [KeyFile("vendor", other.public)])
    assert finding.about == "key"
    assert "unknown here; known are " in finding.fault
    assert "the trusted key vendor" in finding.fault
    finding, _ = judge(
        read_minisign, signature, [KeyFile("a", key.public, allowed=False), KeyFile("b", other.public)]
    )
    assert (finding.about, finding.fault) == ("key", "the trusted key a made it, but the job names others")
    changed = signature.replace(b"timestamp:", b"timestamp:1")
    assert "trusted comment was changed" in judge(read_minisign, changed, [key.public])[0].fault
    assert "the clock is wrong" in judge(read_minisign, signature, [key.public], now=0.0)[0].fault


def test_signify(tmp_path, signed):
    key = Signify(tmp_path, "openbsd")
    assert both(read_minisign, key.sign(signed), [key.public]) == (WHOLE,)
    signature, message = split_embedded(key.sign(signed, embedded=True))
    assert message == DATA
    assert both(read_minisign, signature, [key.public]) == (WHOLE,)
    assert split_embedded(key.sign(signed)) is None


SSH_KEYS = {
    "ed25519": ("ed25519", None),
    "rsa": ("rsa", 2048),
    "p256": ("ecdsa", 256),
    "p384": ("ecdsa", 384),
    "p521": ("ecdsa", 521),
}


@pytest.mark.parametrize("kind", SSH_KEYS)
def test_ssh(tmp_path, signed, kind):
    key, other = Ssh(tmp_path, "a", *SSH_KEYS[kind]), Ssh(tmp_path, "b")
    assert both(read_sshsig, key.sign(signed), [other.public + key.public]) == ("sha512",)
    assert both(read_sshsig, key.sign(signed, "-O", "hashalg=sha256"), [key.public]) == ("sha256",)
    finding, _ = judge(read_sshsig, key.sign(signed), [key.public])
    assert finding.user == "a@example.net"
    assert finding.key in run("ssh-keygen", "-l", "-f", tmp_path / "a.pub")
    assert judge(read_sshsig, key.sign(signed), [other.public])[0].about == "key"


@pytest.mark.parametrize(
    ("front", "fault"),
    [
        ("*@example.net", None),
        ('a@b namespaces="git,file"', None),
        ("a@b valid-after=20200101", None),
        ('a@b namespaces="git"', "its key is for other things (git)"),
        ('a@b valid-before="20200101"', "its key expired on 2020-01-01"),
        (
            "a@b valid-after=20900101Z",
            "its key counts from 2090-01-01 on; by the clock of this server it is 20",
        ),
    ],
)
def test_allowed_signers_are_obeyed(tmp_path, signed, front, fault):
    key = Ssh(tmp_path, "a")
    finding, _ = judge(read_sshsig, key.sign(signed), [f"# who may sign\n\n{front} ".encode() + key.public])
    assert finding.fault is None if fault is None else finding.fault.startswith(fault)
    assert finding.user == front.split()[0]


def test_ssh_s_faults(tmp_path, signed):
    key = Ssh(tmp_path, "a")
    finding, _ = judge(read_sshsig, key.sign(signed, namespace="git"), [key.public])
    assert finding.fault == "it is made for 'git', not for files (ssh-keygen -Y sign -n file)"
    short = Ssh(tmp_path, "short", "rsa", 1024)
    assert (
        "1024 bits of RSA, fewer than 2048" in judge(read_sshsig, short.sign(signed), [short.public])[0].fault
    )
    with pytest.raises(Refused, match="private key") as refused:
        judge(read_sshsig, key.sign(signed), [(tmp_path / "a").read_bytes()])
    assert refused.value.about == "key"
    with pytest.raises(Refused, match="the option cert-authority, which is not understood"):
        judge(read_sshsig, key.sign(signed), [b"a@b cert-authority " + key.public])


COSIGN_KEYS = {
    "ecdsa": (),
    "p384": ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"),
    "rsa": ("-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"),
}


@pytest.mark.parametrize("kind", COSIGN_KEYS)
def test_cosign(tmp_path, signed, kind):
    key, other = OpenSsl(tmp_path, "a", *COSIGN_KEYS[kind]), OpenSsl(tmp_path, "b")
    plain = key.sign(signed)
    text = base64.b64encode(plain)
    old = json.dumps({"base64Signature": text.decode(), "cert": "", "rekorBundle": None}).encode()
    new = json.dumps(
        {"mediaType": "x", "messageSignature": {"messageDigest": {}, "signature": text.decode()}}
    ).encode()
    for form in (plain, text, text + b"\n", old, new):
        assert both(read_cosign, form, [other.public, key.public]) == ("sha256",)
    finding, _ = judge(read_cosign, text, [KeyFile("other", other.public)])
    assert finding.fault is not None
    finding, _ = judge(
        read_cosign, text, [KeyFile("a", key.public, allowed=False), KeyFile("b", other.public)]
    )
    assert finding.about == "key"


def test_cosign_with_a_key_of_ed25519(tmp_path, signed):
    key = OpenSsl(tmp_path, "a", "-algorithm", "ED25519")
    assert both(read_cosign, base64.b64encode(key.sign_whole(signed)), [key.public]) == (WHOLE,)


def test_cosign_s_faults(tmp_path, signed):
    key = OpenSsl(tmp_path, "a")
    short = OpenSsl(tmp_path, "short", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024")
    with pytest.raises(Refused, match="1024 bits of RSA, fewer than 2048"):
        judge(read_cosign, short.sign(signed), [short.public])
    with pytest.raises(Refused, match="private key"):
        judge(read_cosign, key.sign(signed), [(tmp_path / "a.pem").read_bytes()])
    with pytest.raises(Refused, match="of an attestation"):
        judge(read_cosign, b'{"dsseEnvelope": {}}', [key.public])
    with pytest.raises(Refused, match="which no signature of cosign has"):
        judge(read_cosign, os.urandom(10), [key.public])
