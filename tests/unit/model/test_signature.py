"""The member `signature` of a job, and what the policy has to say of it."""

import json

import pytest

from agent.errors import JobInvalid
from agent.model.job import parse_job
from agent.model.policy import Policy, require_allowed
from agent.model.signature import MAX_KEYS, MAX_SIGNATURE_BYTES

URL = "https://images.example.net/a.raw"
LIST = {"checkSum": "https://images.example.net/SHA256SUMS", "checkSumType": "sha256"}
PGP = {"type": "openpgp", "url": f"{URL}.sig"}


def parse(signature, **members):
    return parse_job({"URL": URL, "type": "raw", "signature": signature} | members)


def faults(signature, **members):
    with pytest.raises(JobInvalid) as caught:
        parse(signature, **members)
    return {fault.path: fault.message for fault in caught.value.faults}


def test_a_signature_is_read():
    signature = parse(PGP | {"keys": ["debian", "a.b-c_1"]}).signature
    assert (signature.type, signature.over, signature.url) == ("openpgp", "image", f"{URL}.sig")
    assert (signature.keys, signature.public_key, signature.data) == (("debian", "a.b-c_1"), None, None)
    assert parse(None).signature is None
    assert parse({"type": "openpgp", "over": "checkSum"}, **LIST).signature.over == "checkSum"


@pytest.mark.parametrize(
    ("signature", "members", "path", "words"),
    [
        ({}, {}, "signature.type", "is required"),
        (5, {}, "signature", "must be an object"),
        ({"type": "pgp", "data": "x"}, {}, "signature.type", "must be one of openpgp, minisign, ssh, cosign"),
        ({"type": "ssh"}, {}, "signature.url", "is required, or data"),
        ({"type": "openpgp"}, {}, "signature.url", "is required, or data"),
        ({"type": "ssh", "over": "checkSum"}, LIST, "signature.url", "is required, or data"),
        (PGP | {"data": "x"}, {}, "signature.data", "stands beside url"),
        (PGP | {"over": "disk"}, {}, "signature.over", "must be one of image, checkSum"),
        (PGP | {"over": "checkSum"}, {}, "signature.over", "is not the URL of a checksum file"),
        (PGP | {"over": "checkSum"}, LIST | {"checkSumType": "md5"}, "signature.over", "a list of md5"),
        (PGP | {"url": "file:///etc/x"}, {}, "signature.url", "must begin with http"),
        (PGP | {"url": "ftp://a/b"}, {}, "signature.url", "must begin with http"),
        (PGP | {"keys": ["a"], "publicKey": "x"}, {}, "signature.publicKey", "stands beside keys"),
        (PGP | {"keys": ["../a"]}, {}, "signature.keys[0]", "is not the name of a key"),
        (PGP | {"keys": "a"}, {}, "signature.keys", "must be an array"),
        (PGP | {"keys": ["a"] * (MAX_KEYS + 1)}, {}, "signature.keys", "at most 16"),
        (PGP | {"trust": True}, {}, "signature.trust", "is an unknown key"),
        ({"type": "ssh", "data": "x" * (MAX_SIGNATURE_BYTES + 1)}, {}, "signature.data", "at most 256"),
    ],
)
def test_faults_are_told_with_their_path(signature, members, path, words):
    found = faults(signature, **members)
    assert words in found[path]


def test_what_is_shown_is_short_and_has_no_secret():
    data = "-----BEGIN SSH SIGNATURE-----\n" + "A" * 100_000
    shown = parse({"type": "ssh", "data": data, "publicKey": "k" * 100_000}).redacted()["signature"]
    assert len(json.dumps(shown)) < 3000
    job = parse(PGP | {"url": "https://u:PWSECRET@h/a.sig?t=QUERYSECRET", "keys": ["a", "b"]})
    for document in (job.redacted(), job.summary(), job.without_secrets()):
        assert "SECRET" not in json.dumps(document)
    assert job.without_secrets()["signature"]["url"] == "https://h/a.sig"
    assert parse_job(job.without_secrets()).signature.keys == ("a", "b")


def test_what_tells_the_content_is_a_checksum_or_a_signature_over_the_image():
    assert parse(PGP).tells_content
    assert not parse(PGP).has_checksum
    assert parse(PGP | {"over": "checkSum"}, **LIST).tells_content
    assert not parse(None).tells_content


def refused(policy, signature, **members):
    try:
        require_allowed(parse(signature, **members), policy, remote=True)
    except JobInvalid as error:
        return {fault.path: fault.code for fault in error.faults}
    return {}


def test_the_policy_wants_a_signature_by_the_operator_s_keys():
    policy = Policy(require_signature=True)
    assert refused(policy, None) == {"signature": "signature.missing"}
    assert refused(policy, PGP | {"publicKey": "x"}) == {"signature.publicKey": "signature.missing"}
    assert refused(policy, PGP) == refused(policy, PGP | {"keys": ["a"]}) == {}
    with pytest.raises(JobInvalid) as caught:
        require_allowed(parse(None), policy, remote=False)
    assert "docs/provenance.md" in caught.value.hint


def test_a_signature_goes_by_the_policy_of_urls():
    assert refused(Policy(allow_http=False), PGP | {"url": "http://h/a.sig"}) == {
        "signature.url": "job.invalid"
    }


def test_a_signed_list_may_come_over_plain_http():
    careful = Policy(require_checksum="http")
    plain = {"URL": "http://h/a.raw", "checkSum": "http://h/SUMS", "checkSumType": "sha256"}
    assert refused(careful, None, **plain) == {"checkSum": "job.invalid"}
    assert refused(careful, PGP, **plain) == {"checkSum": "job.invalid"}
    assert refused(careful, PGP | {"over": "checkSum"}, **plain) == {}


def test_a_signature_over_the_image_is_no_checksum():
    assert refused(Policy(require_checksum=True), PGP) == {"checkSum": "job.invalid"}
