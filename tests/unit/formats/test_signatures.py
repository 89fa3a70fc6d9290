"""Signature files and keys that are damaged, of other kinds, or made to do harm: each refused by its name."""

import base64
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.formats.checksum_file import find_digest
from agent.formats.signatures.armour import SIGNATURE, dearmour, split_clear_signed
from agent.formats.signatures.findings import KeyFile, Refused
from agent.formats.signatures.minisign import split_embedded
from agent.formats.signatures.packets import MAX_PACKETS, read_packets
from agent.formats.signatures.read import read_claims
from tests.kit.signature_samples import GOOD, KEYS, MINISIGN, NOW, OPENPGP, OPENPGP_KEY, SSH

PACKETS = dearmour(OPENPGP.encode(), SIGNATURE)


def read(kind, data, key=None):
    files = [KeyFile("ours", KEYS[kind].encode() if key is None else key)]
    return read_claims(kind, data, files, NOW, image=True)


@pytest.mark.parametrize("kind", GOOD)
def test_the_samples_are_good(kind):
    (finding,) = read(kind, GOOD[kind].encode()).findings
    assert finding.fault is None


def _packet(tag, body):
    return bytes((0xC0 | tag, 255)) + len(body).to_bytes(4, "big") + body


def _armour(data):
    return b"-----BEGIN PGP SIGNATURE-----\n\n" + base64.b64encode(data) + b"\n-----END PGP SIGNATURE-----\n"


DAMAGED = {
    "openpgp": {
        "nothing": (b"", "holds no PGP signature, and nothing else"),
        "a web page": (b"<html>404</html>", "what seems to be a web page"),
        "a message": (b"-----BEGIN PGP MESSAGE-----\n\nAA==\n", "a whole message"),
        "a private key": (b"-----BEGIN PGP PRIVATE KEY BLOCK-----", "a private key"),
        "armour without an end": (OPENPGP.encode()[:-40], "is cut: the END line is not there"),
        "armour without an empty line": (
            OPENPGP.encode().replace(b"\n\n", b"\n"),
            "no empty line behind its headers",
        ),
        "armour of other letters": (OPENPGP.encode().replace(b"\n\n", b"\n\n!!!!\n"), "that is not base64"),
        "NUL in the armour": (OPENPGP.encode().replace(b"\n\n", b"\n\n\0\0\0\0"), "that is not base64"),
        "an empty armour": (_armour(b""), "it holds no signature"),
        "a packet that is cut": (PACKETS[:-1], "it is cut"),
        "a header that is cut": (PACKETS + b"\xc2\xff\0", "cut within the header"),
        "no packet behind it": (PACKETS + b"\0", "does not begin a packet"),
        "a packet without a length": (b"\x8b" + PACKETS[1:], "does not say how long it is"),
        "a packet in parts": (b"\xc2\xea" + PACKETS, "comes in parts"),
        "compressed data": (_packet(8, b"\1" + PACKETS), "it holds compressed data"),
        "literal data": (PACKETS + _packet(11, b"b\0\0\0\0\0data"), "it holds literal data"),
        "a one-pass signature": (_packet(4, bytes(13)), "it holds a one-pass signature"),
        "a key": (_packet(6, bytes(50)), "it holds a packet of type 6"),
        "a user id": (PACKETS + _packet(13, b"me"), "it holds a packet of type 13"),
        "an empty signature": (_packet(2, b""), "a signature that is cut"),
        "no time": (_packet(2, b"\4\0\1\x08\0\0\0\0\0\0"), "does not say when it was made"),
        "parts beyond its end": (
            _packet(2, b"\4\0\1\x08\xff\xff\0\0\0\0"),
            "its parts are longer than it is",
        ),
        "a part of no length": (_packet(2, b"\4\0\1\x08\0\1\0\0\0\0\0"), "a part of it is cut"),
        "a part that is cut": (_packet(2, b"\4\0\1\x08\0\2\xc0\0\0\0\0"), "a part of it is cut"),
        "too many": (PACKETS * 17, "more than 16 signatures"),
    },
    "minisign": {
        "nothing": (b"", "does not begin with an untrusted comment"),
        "one line": (b"untrusted comment: x", "no signature of minisign or signify in its second line"),
        "other base64": (
            b"untrusted comment: x\nAAAA\n",
            "no signature of minisign or signify in its second line",
        ),
        "NUL": (MINISIGN.encode().replace(b"\n", b"\n\0", 1), "no signature of minisign or signify"),
        "another algorithm": (
            MINISIGN.encode().replace(b"\nRU", b"\nQU"),
            "no signature of minisign or signify",
        ),
        "no trusted comment": (
            b"\n".join(MINISIGN.encode().split(b"\n")[:2]),
            "its trusted comment is not there",
        ),
        "another third line": (
            MINISIGN.encode().replace(b"\ntrusted", b"\nsome"),
            "no trusted comment in its third",
        ),
        "no last line": (
            b"\n".join(MINISIGN.encode().split(b"\n")[:3]),
            "over its trusted comment is not there",
        ),
    },
    "ssh": {
        "nothing": (b"", "it holds no SSH SIGNATURE"),
        "no end": (SSH.encode()[:-10], "the END line is not there"),
        "other letters": (SSH.encode().replace(b"\n", b"\n!", 1), "that is not base64"),
        "another magic": (SSH.encode().replace(b"U1NI", b"U1NJ"), "does not begin with SSHSIG"),
        "another version": (
            SSH.encode().replace(b"U1NIU0lHAAAAAQ", b"U1NIU0lHAAAAAg"),
            "version 2; version 1",
        ),
    },
    "cosign": {
        "nothing": (b"", "it is empty"),
        "a few bytes": (b"AAAA", "it has 3 bytes"),
        "too many": (b"A" * 4000, "it has 3000 bytes"),
        "broken JSON": (b"{", "a bundle that is not JSON"),
        "deep JSON": (b"{" + b'"a":[' * 100_000, "a bundle that is not JSON"),
        "another bundle": (b'{"a": 1}', "its bundle has no signature"),
        "a number": (b'{"base64Signature": 1}', "its bundle has no signature"),
    },
}


@pytest.mark.parametrize(
    ("kind", "fault"), [(kind, fault) for kind, faults in DAMAGED.items() for fault in faults]
)
def test_what_is_no_signature_is_refused_by_name(kind, fault):
    data, words = DAMAGED[kind][fault]
    with pytest.raises(Refused, match=words) as refused:
        read(kind, data)
    assert refused.value.about == "signature"


SSHSIG_PARTS = {
    "cut": (lambda blob: blob[:-1], "a part of it is longer than it is"),
    "followed by more": (lambda blob: blob + b"x", "something follows its end"),
    "of another digest": (lambda blob: blob.replace(b"sha512", b"sha\xff12"), "over the digest sha"),
    "without parts": (lambda blob: blob[:10], "a part of it is longer than it is"),
}


@pytest.mark.parametrize("fault", SSHSIG_PARTS)
def test_a_damaged_ssh_signature_is_refused(fault):
    change, words = SSHSIG_PARTS[fault]
    blob = base64.b64decode("".join(SSH.splitlines()[1:-1]))
    text = (
        b"-----BEGIN SSH SIGNATURE-----\n"
        + base64.b64encode(change(blob))
        + b"\n-----END SSH SIGNATURE-----\n"
    )
    with pytest.raises(Refused, match=words):
        read("ssh", text)


NO_KEYS = {
    "openpgp": (
        b"hello",
        OPENPGP.encode(),
        b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n",
        PACKETS,
        _packet(6, b"\3" * 40),
        b"\xff",
    ),
    "minisign": (b"hello", b"RW", MINISIGN.encode(), b"\0" * 100),
    "ssh": (
        b"hello",
        b"ssh-ed25519",
        b"ssh-ed25519 AAAA",
        b"ssh-dss AAAA",
        b"x" * 100_000,
        b"\xff\xff ssh-rsa AAAAB3",
    ),
    "cosign": (
        b"hello",
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        b"-----BEGIN CERTIFICATE-----",
    ),
}


@pytest.mark.parametrize(
    ("kind", "number"), [(kind, number) for kind, all_ in NO_KEYS.items() for number in range(len(all_))]
)
def test_what_is_no_key_is_told_with_its_name(kind, number):
    with pytest.raises(Refused, match=r"^the trusted key ours cannot be used: ") as refused:
        read(kind, GOOD[kind].encode(), NO_KEYS[kind][number])
    assert refused.value.about == "key"


@pytest.mark.parametrize("kind", GOOD)
@given(data=st.data())
def test_any_change_is_refused_or_read(kind, data):
    """Nothing but `Refused` comes of a file that was changed, cut or put together anew."""
    good = GOOD[kind].encode()
    at = data.draw(st.integers(0, len(good)))
    changed = good[:at] + data.draw(st.binary(max_size=20)) + good[at + data.draw(st.integers(0, 20)) :]
    with suppress(Refused):
        assert read(kind, changed).findings


@given(st.binary(max_size=200))
def test_any_packets_are_refused_or_read(data):
    for start in (b"", PACKETS, OPENPGP.encode()):
        try:
            read("openpgp", start + data)
        except Refused:
            continue


@given(st.binary(max_size=400))
def test_any_key_is_refused_or_read(data):
    key = dearmour(OPENPGP_KEY.encode(), "PUBLIC KEY BLOCK")
    for kind, start in (
        ("openpgp", b""),
        ("openpgp", key),
        ("ssh", b"ssh-ed25519 "),
        ("minisign", b""),
        ("cosign", b""),
    ):
        try:
            read(kind, GOOD[kind].encode(), start + data)
        except Refused:
            continue


def test_packets_are_counted():
    with pytest.raises(Refused, match=f"more than {MAX_PACKETS} packets"):
        list(read_packets(b"\xcd\0" * (MAX_PACKETS + 1)))


def test_a_signature_of_another_version_does_not_spoil_the_others():
    other = _packet(2, b"\6" + bytes(60))
    findings = read("openpgp", other + PACKETS).findings
    assert [finding.fault for finding in findings] == ["it is of version 6; version 4 is understood", None]


CLEAR = """-----BEGIN PGP SIGNED MESSAGE-----
Hash: SHA256

{text}-----BEGIN PGP SIGNATURE-----

AAAA
-----END PGP SIGNATURE-----
"""


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a\nb \t\n", [b"a", b"b"]),
        ("- -dash\n- - twice\n-bare\n", [b"-dash", b"- twice", b"-bare"]),
        ("- -----BEGIN PGP SIGNATURE-----\nx\n", [b"-----BEGIN PGP SIGNATURE-----", b"x"]),
        ("\n", [b""]),
        ("nul\0here\n", [b"nul\0here"]),
    ],
)
def test_a_clear_signed_text_is_taken_apart(text, lines):
    parts = split_clear_signed(CLEAR.format(text=text).encode())
    assert list(parts.lines) == lines
    assert parts.signed == b"\r\n".join(lines)


@pytest.mark.parametrize("cut", [b"", b"\nHash: SHA256\n", b"\n\nhello\n-----BEGIN PGP\n"])
def test_a_clear_signed_text_that_is_cut_is_refused(cut):
    with pytest.raises(Refused):
        split_clear_signed(b"-----BEGIN PGP SIGNED MESSAGE-----" + cut)


def test_a_list_is_read_within_its_signature_only():
    inside, outside = "0" * 64, "1" * 64
    text = f"{outside}  a.raw\n" + CLEAR.format(text=f"{inside}  a.raw\n") + f"{outside}  a.raw\n"
    assert find_digest(text.encode(), "a.raw", "sha256", "u") == inside


@pytest.mark.parametrize(
    "data", [b"", b"x", b"untrusted comment: a\n", b"untrusted comment: a\nRWQ\n", b"a\nb\nc"]
)
def test_a_list_without_a_signature_in_front_has_none(data):
    assert split_embedded(data) is None


FINGERPRINT = "71806FD3A75A4364185E63429C28C3C17F440264"
VALID = "[GNUPG:] VALIDSIG {} 2026-01-01 1767225600 0 4 0 22 8 00 {}"
GOOD_LINE = "[GNUPG:] GOODSIG 0 Sample <sample@example.net>"
STATUSES = {
    "good": (f"[GNUPG:] NEWSIG\n{GOOD_LINE}\n{VALID}", FINGERPRINT, None),
    "by another key of the certificate": (
        f"{GOOD_LINE}\n{VALID}",
        "0" * 40,
        "another key than the one that made it",
    ),
    "good alone": (GOOD_LINE, FINGERPRINT, "gpgv does not say that it is good"),
    "valid alone": (VALID, FINGERPRINT, "gpgv does not say that it is good"),
    "good and bad": (f"{GOOD_LINE}\n{VALID}\n[GNUPG:] BADSIG 0 x", FINGERPRINT, "did not sign these bytes"),
    "expired": (f"[GNUPG:] EXPKEYSIG 0 x\n{GOOD_LINE}\n{VALID}", FINGERPRINT, "its key expired"),
    "revoked": (f"[GNUPG:] REVKEYSIG 0 x\n{VALID}", FINGERPRINT, "its key was revoked"),
    "out of date": (f"[GNUPG:] EXPSIG 0 x\n{VALID}", FINGERPRINT, "it has expired"),
    "not known": ("[GNUPG:] ERRSIG 0 22 8 00 0 4 -", FINGERPRINT, "gpgv does not know its algorithm"),
    "an error that is cut": ("[GNUPG:] ERRSIG", FINGERPRINT, "gpgv cannot check it"),
    "without a prefix": (f"GOODSIG 0 x\nVALIDSIG {FINGERPRINT}", FINGERPRINT, "does not say that it is good"),
    "nothing": ("", FINGERPRINT, "gpgv does not say that it is good"),
}


@pytest.mark.parametrize("status", STATUSES)
def test_nothing_but_the_word_of_gpgv_is_good(status):
    lines, made_by, fault = STATUSES[status]
    claims = read("openpgp", OPENPGP.encode())
    (finding,) = claims.check({"0": lines.format(made_by, FINGERPRINT).encode()})
    assert finding.key == FINGERPRINT
    assert finding.fault is None if fault is None else fault in finding.fault
