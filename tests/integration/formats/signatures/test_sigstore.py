"""Bundles of Sigstore: made by a Sigstore of the test's own, judged by us and by the library of that name."""

import base64
import copy
import hashlib
import json
import time

import pytest

from agent.errors import ToolMissing
from agent.formats.signatures.findings import KeyFile, Refused
from agent.formats.signatures.sigstore import read_keys, read_sigstore
from agent.host.sigstore import check_bundle
from tests.kit.sigstore import ISSUER, WORKFLOW, Sigstore, Times

DATA = b"what was signed\n" * 10_000
HOUR = 3600.0


@pytest.fixture(scope="module")
def sigstore():
    return Sigstore()


@pytest.fixture(scope="module")
def bundle(sigstore):
    return sigstore.sign(DATA)


def judge(bundle, *keys, data=DATA, now=None):
    """The finding in the end, as the stage comes to it."""
    files = [key if isinstance(key, KeyFile) else KeyFile("vendor", key) for key in keys]
    raw = bundle if isinstance(bundle, bytes) else json.dumps(bundle).encode()
    claims = read_sigstore(raw, files, time.time() if now is None else now)
    if claims.question is not None:
        answer = check_bundle(claims.question)
        claims.answered(answer.fault, is_root=answer.is_root)
    (finding,) = claims.check({"sha256": hashlib.sha256(data).digest()})
    return finding


def test_a_workflow_and_a_person(sigstore, bundle):
    finding = judge(bundle, sigstore.trusting())
    assert (finding.fault, finding.name, finding.user) == (None, "vendor", f"{WORKFLOW} by {ISSUER}")
    assert finding.algorithm == "ECDSA secp256r1, SHA256"
    assert abs(finding.signed_at - time.time()) < HOUR
    anna = "anna@example.net"
    assert judge(sigstore.sign(DATA, anna), sigstore.trusting(), sigstore.trusting(anna)).fault is None


def test_a_certificate_need_not_hold_any_more(sigstore):
    old = sigstore.sign(DATA, times=Times(begin=-3 * HOUR, end=-2.8 * HOUR, logged=-2.9 * HOUR))
    assert judge(old, sigstore.trusting()).fault is None


def test_of_other_bytes(sigstore, bundle):
    finding = judge(bundle, sigstore.trusting(), data=DATA[1:])
    assert (finding.about, finding.fault) == ("signature", "its signer did not sign these bytes, but others")


def test_by_somebody_else(sigstore, bundle):
    for key in (sigstore.trusting("anna@example.net"), sigstore.trusting(issuer="https://other.example.net")):
        finding = judge(bundle, key)
        assert finding.about == "key"
        assert finding.fault.startswith("whoever made it is not trusted here; trusted are ")
        assert "(the trusted key vendor)" in finding.fault
    not_named = judge(bundle, KeyFile("vendor", sigstore.trusting(), allowed=False))
    assert (not_named.about, not_named.fault) == (
        "key", "the trusted key vendor names them, but the job names others",
    )  # fmt: skip


def test_another_sigstore_of_the_same_names(bundle):
    finding = judge(bundle, Sigstore().trusting())
    assert finding.about == "key"
    assert finding.fault.startswith("its certificate is of no authority in the trusted root")


def test_signed_when_the_certificate_did_not_hold(sigstore):
    finding = judge(sigstore.sign(DATA, times=Times(logged=HOUR)), sigstore.trusting())
    assert "when its certificate did not hold" in finding.fault


def test_a_wrong_clock(sigstore, bundle):
    finding = judge(bundle, sigstore.trusting(), now=0)
    assert "the clock is wrong" in finding.fault
    assert finding.hint.startswith("Set the clock")


def entry_of(bundle):
    return bundle["verificationMaterial"]["tlogEntries"][0]


def without_promise(bundle):
    del entry_of(bundle)["inclusionPromise"]


def without_proof(bundle):
    del entry_of(bundle)["inclusionProof"]


def short_proof(bundle):
    entry_of(bundle)["inclusionProof"]["hashes"] = []


def other_log(bundle):
    entry_of(bundle)["logId"]["keyId"] = base64.b64encode(bytes(32)).decode()


def other_time(bundle):
    entry_of(bundle)["integratedTime"] = str(int(entry_of(bundle)["integratedTime"]) - 1)


def other_signature(bundle):
    bundle["messageSignature"]["signature"] = base64.b64encode(bytes(70)).decode()


def two_entries(bundle):
    bundle["verificationMaterial"]["tlogEntries"].append(entry_of(bundle))


def unknown_member(bundle):
    bundle["more"] = {"nested": [[]]}


LIES = {
    without_promise: "must contain an inclusion promise",
    without_proof: "inclusionProof Field required",
    short_proof: "inclusion proof has wrong size",
    other_log: "Signature not found for log ID",
    other_time: "invalid inclusion promise",
    other_signature: "Signature is invalid",
    two_entries: "exactly one log entry",
    unknown_member: "Extra inputs are not permitted",
}


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.__name__)
def test_a_bundle_that_lies(sigstore, bundle, lie):
    changed = copy.deepcopy(bundle)
    lie(changed)
    finding = judge(changed, sigstore.trusting())
    assert finding.about == "signature"
    assert LIES[lie] in finding.fault
    assert "\n" not in finding.fault


def test_another_file_s_entry_and_digest(sigstore, bundle):
    other = sigstore.sign(b"other")
    changed = copy.deepcopy(bundle)
    changed["verificationMaterial"]["tlogEntries"] = other["verificationMaterial"]["tlogEntries"]
    assert "inconsistent with other materials" in judge(changed, sigstore.trusting()).fault
    changed = copy.deepcopy(bundle)
    changed["messageSignature"]["messageDigest"] = other["messageSignature"]["messageDigest"]
    assert judge(changed, sigstore.trusting(), data=b"other").fault == "Signature is invalid for input"


NO_BUNDLE = {
    "empty": (b"", "it is not JSON"),
    "deep": (b"[" * 100_000, "it is not JSON"),
    "list": (b"[]", "it is no JSON object"),
    "page": (b"<html>", "it is not JSON"),
    "other JSON": (b'{"base64Signature": "AAAA"}', "it is no bundle of Sigstore"),
}


@pytest.mark.parametrize("name", NO_BUNDLE)
def test_what_is_no_bundle(sigstore, name):
    data, reason = NO_BUNDLE[name]
    with pytest.raises(Refused, match=reason):
        judge(data, sigstore.trusting())


def changed_material(bundle, **members):
    return bundle | {"verificationMaterial": bundle["verificationMaterial"] | members}


def test_what_is_no_signature_of_a_file_without_a_key(sigstore, bundle):
    refusals = {
        "it has no entry of a transparency log": changed_material(bundle, tlogEntries=[]),
        "its bundle has no certificate": changed_material(bundle, certificate=5),
        "its certificate is damaged": changed_material(bundle, certificate={"rawBytes": "AAAA"}),
        "its rawBytes is not base64": changed_material(bundle, certificate={"rawBytes": "?"}),
        "it was made with a key": changed_material(bundle, publicKey={"hint": "x"}),
        "of an attestation": bundle | {"dsseEnvelope": {}},
        "its bundle has no messageSignature": bundle | {"messageSignature": None},
        "it is not of a SHA-256": bundle
        | {"messageSignature": {"messageDigest": {"algorithm": "SHA2_512", "digest": "AAAA"}}},
    }
    for reason, document in refusals.items():
        with pytest.raises(Refused, match=reason):
            judge(document, sigstore.trusting())


def test_key_files(sigstore):
    whole = json.loads(sigstore.trusting())
    refusals = {
        "it is a trusted root alone": whole["trustedRoot"],
        "it lacks identity or issuer": whole | {"issuer": ""},
        "its trustedRoot is not what": whole | {"trustedRoot": {}},
    }
    for reason, document in refusals.items():
        with pytest.raises(Refused, match=f"the trusted key k cannot be used: {reason}") as refused:
            read_keys(KeyFile("k", json.dumps(document).encode()))
        assert refused.value.about == "key"


def test_roots_that_the_library_refuses(sigstore, bundle):
    for member, value in (("tlogs", [{"x": 1}]), ("certificateAuthorities", [{"certChain": 1}])):
        key = json.loads(sigstore.trusting())
        key["trustedRoot"][member] = value
        finding = judge(bundle, json.dumps(key).encode())
        assert finding.about == "key"
        assert finding.fault.startswith("the trusted root cannot be used")


def test_without_the_library(sigstore, bundle, monkeypatch, tmp_path):
    bare = tmp_path / "bin" / "python3"
    bare.parent.mkdir()
    bare.symlink_to("/usr/bin/python3")  # no environment, so nothing but Debian's packages
    monkeypatch.setattr("sys.executable", str(bare))
    with pytest.raises(ToolMissing, match="lacks the Python package sigstore") as missing:
        judge(bundle, sigstore.trusting())
    assert "byoi-agent[sigstore]" in missing.value.hint
