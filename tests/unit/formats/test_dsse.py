"""Envelopes: what is signed, what is refused, and that nothing but a good signature is taken."""

import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from agent.formats import dsse
from agent.formats.dsse import EnvelopeFault, KeyFault, NotVerified

KIND = "application/vnd.in-toto+json"


def private_pem(key, form=PrivateFormat.PKCS8, lock=None):
    return key.private_bytes(Encoding.PEM, form, lock or NoEncryption()).decode()


def public_pem(key):
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


KEY, OTHER = ed25519.Ed25519PrivateKey.generate(), ed25519.Ed25519PrivateKey.generate()
SIGNED = dsse.seal(KIND, b'{"a":1}', private_pem(KEY))


def test_what_is_signed_is_that_of_the_specification():
    """The example of the protocol's own page."""
    assert dsse.pre_authentication("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_a_signed_envelope_is_good_by_its_key_and_by_no_other():
    envelope = dsse.envelope_of(SIGNED)
    assert (envelope.payload_type, envelope.payload) == (KIND, b'{"a":1}')
    assert dsse.verify(envelope, public_pem(KEY)) == SIGNED["signatures"][0]["keyid"]
    with pytest.raises(NotVerified, match="by another key"):
        dsse.verify(envelope, public_pem(OTHER))


@pytest.mark.parametrize("member", ["payload", "payloadType", "sig"])
def test_whatever_is_changed_in_it_is_found(member):
    changed = json.loads(json.dumps(SIGNED))
    match member:
        case "payload":
            changed["payload"] = base64.b64encode(b'{"a":2}').decode()
        case "payloadType":
            changed["payloadType"] = "text/plain"
        case _:
            changed["signatures"][0]["sig"] = base64.b64encode(bytes(64)).decode()
    with pytest.raises(NotVerified, match="changed after it was signed"):
        dsse.verify(dsse.envelope_of(changed), public_pem(KEY))


def test_the_key_id_that_an_envelope_claims_counts_for_nothing():
    lying = {**SIGNED, "signatures": [{"keyid": "somebody else", "sig": SIGNED["signatures"][0]["sig"]}]}
    assert dsse.verify(dsse.envelope_of(lying), public_pem(KEY)) == SIGNED["signatures"][0]["keyid"]


def test_one_good_signature_among_others_suffices():
    strange = dsse.seal(KIND, b'{"a":1}', private_pem(OTHER))["signatures"]
    both = {**SIGNED, "signatures": [*strange, *SIGNED["signatures"]]}
    assert dsse.verify(dsse.envelope_of(both), public_pem(KEY))


def test_without_a_key_there_is_no_signature_and_nothing_verifies_it():
    bare = dsse.seal(KIND, b"x", None)
    assert bare["signatures"] == []
    with pytest.raises(NotVerified, match="not signed"):
        dsse.verify(dsse.envelope_of(bare), public_pem(KEY))


def test_the_alphabet_for_urls_is_read_too():
    data = bytes(range(256))
    document = dsse.seal(KIND, data, private_pem(KEY))
    document["payload"] = base64.urlsafe_b64encode(data).decode()
    assert dsse.verify(dsse.envelope_of(document), public_pem(KEY))


# -- keys ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no key in PEM"),
        ("-----BEGIN nothing", "no key in PEM"),
        (public_pem(KEY).decode(), "no private key in PKCS #8"),
        (private_pem(KEY, PrivateFormat.OpenSSH), "no private key in PKCS #8"),
        (private_pem(KEY, lock=BestAvailableEncryption(b"x")), "encrypted"),
        (private_pem(ec.generate_private_key(ec.SECP256R1())), "not of Ed25519"),
        (private_pem(rsa.generate_private_key(65537, 2048)), "not of Ed25519"),
        ("-----BEGIN PRIVATE KEY-----\n!!!\n-----END PRIVATE KEY-----\n", "damaged"),
        ("-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIE\n-----END PRIVATE KEY-----\n", "damaged"),
    ],
)
def test_what_is_no_key_to_sign_with_is_named(text, said):
    with pytest.raises(KeyFault, match=said):
        dsse.seal(KIND, b"x", text)


def test_a_key_to_sign_with_is_told_without_loading_the_cryptography():
    assert dsse.signing_key_fault(private_pem(KEY)) is None
    assert "Ed25519" in (dsse.signing_key_fault(private_pem(rsa.generate_private_key(65537, 2048))) or "")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no public key in PEM"),
        (b"\xff" * 100, "no public key in PEM"),
        (private_pem(KEY).encode(), "private key: give the public one"),
        (public_pem(rsa.generate_private_key(65537, 2048)), "not of Ed25519"),
        (b"x" * 20000, "too large"),
    ],
)
def test_what_is_no_key_to_check_with_is_named(data, said):
    with pytest.raises(KeyFault, match=said):
        dsse.verify(dsse.envelope_of(SIGNED), data)


# -- hostile bytes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([], "no JSON object"),
        ({}, "payloadType"),
        ({**SIGNED, "payloadType": "é"}, "payloadType"),
        ({**SIGNED, "payload": 1}, "payload is no text"),
        ({**SIGNED, "payload": "a"}, "payload is no base64"),
        ({**SIGNED, "payload": "aa\nbb"}, "payload is no base64"),
        ({**SIGNED, "signatures": None}, "signatures"),
        ({**SIGNED, "signatures": [{}] * 17}, "signatures"),
        ({**SIGNED, "signatures": ["x"]}, "no JSON object"),
        ({**SIGNED, "signatures": [{"keyid": 1, "sig": ""}]}, "keyid"),
        ({**SIGNED, "signatures": [{"keyid": "x"}]}, "sig is no text"),
    ],
)
def test_what_is_no_envelope_is_named(document, said):
    with pytest.raises(EnvelopeFault, match=said):
        dsse.read_envelope(json.dumps(document).encode())


def test_what_is_no_json_or_too_large_is_refused_before_it_is_parsed():
    for text, said in (
        (b"{", "no JSON document"),
        (b"[" * 100_000, "no JSON document"),
        (b"\xff\xfe", "no JSON document"),
        (b" " * (dsse.MAX_ENVELOPE_BYTES + 1), "more than"),
    ):
        with pytest.raises(EnvelopeFault, match=said):
            dsse.read_envelope(text)


@given(st.binary(max_size=200))
def test_bytes_of_any_kind_are_refused_as_what_they_are(data):
    with pytest.raises(EnvelopeFault):
        dsse.read_envelope(data)


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_an_envelope_with_any_byte_changed_is_never_taken_for_another_payload(at, value):
    text = bytearray(json.dumps(SIGNED).encode())
    text[at % len(text)] = value
    try:
        envelope = dsse.read_envelope(bytes(text))
        dsse.verify(envelope, public_pem(KEY))
    except (EnvelopeFault, NotVerified):
        return
    assert (envelope.payload_type, envelope.payload) == (KIND, b'{"a":1}')
