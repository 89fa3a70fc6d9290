"""OpenPGP signatures that gpg made, read by us and checked by gpgv."""

import base64
import time

import pytest

from agent.formats.signatures.armour import split_clear_signed
from agent.formats.signatures.findings import KeyFile, Refused
from agent.formats.signatures.openpgp import MAX_RUNS, read_openpgp
from agent.host.gpgv import Gpgv

DATA = b"what was signed\n" * 10_000
LIST = b"0123  a.raw\n- 4567  b.raw  \n-----dashes\n"


def judge(signature, keys, data=DATA, now=None, **more):
    """The findings in the end: by us, and by gpgv where we have none."""
    files = [each if isinstance(each, KeyFile) else KeyFile("key", each) for each in keys]
    claims = read_openpgp(signature, files, time.time() if now is None else now, **more)
    evidence = {}
    for number, packet in enumerate(claims.signatures):
        gpgv = Gpgv(claims.keyring, packet)
        gpgv.feed(memoryview(data))
        evidence[str(number)] = gpgv.finish()
    return claims.check(evidence)


def fault_of(*arguments, **more):
    (finding,) = judge(*arguments, **more)
    return finding.about, finding.fault


@pytest.mark.parametrize("how", [(), ("--armor",)])
@pytest.mark.parametrize("armoured", [True, False])
@pytest.mark.parametrize("name", ["alice", "rsa"])
def test_a_detached_signature_is_good(gpg, name, armoured, how):
    before = time.time() - 1
    (finding,) = judge(gpg.sign(DATA, name, more=how), [gpg.public(name, armoured=armoured)])
    assert (finding.fault, finding.name) == (None, "key")
    assert finding.user == f"{name} <{name}@example.net>"
    assert finding.signed_at >= int(before)
    assert len(finding.key) == 40
    # Which digest goes with a curve is up to the version of gpg.
    assert finding.algorithm in ("EdDSA, SHA256", "EdDSA, SHA512", "RSA 2048, SHA512")


def test_other_bytes_are_told(gpg):
    about, fault = fault_of(gpg.sign(DATA, "alice"), [gpg.public("alice")], DATA[:-1])
    assert (about, fault) == ("signature", "its key did not sign these bytes, but others")


def test_nothing_at_all_can_be_signed(gpg):
    assert fault_of(gpg.sign(b"", "alice"), [gpg.public("alice")], b"") == ("signature", None)


def test_an_unknown_key_is_told_with_the_known_ones(gpg):
    about, fault = fault_of(gpg.sign(DATA, "alice"), [KeyFile("debian", gpg.public("bob"))])
    assert (about, fault) == ("key", "its key is unknown here; the trusted key debian is another")


def test_a_key_that_the_job_does_not_name_is_told_by_its_name(gpg):
    keys = [KeyFile("a", gpg.public("alice"), allowed=False), KeyFile("b", gpg.public("bob"))]
    assert fault_of(gpg.sign(DATA, "alice"), keys) == (
        "key",
        "the trusted key a made it, but the job names others",
    )


def test_of_several_signatures_each_is_judged(gpg):
    findings = judge(gpg.sign(DATA, "alice", "rsa", "short"), [gpg.public("rsa"), gpg.public("short")])
    assert {finding.user: finding.fault and finding.fault[:26] for finding in findings} == {
        None: "its key is unknown here; t",
        "rsa <rsa@example.net>": None,
        "short <short@example.net>": "its key has 1024 bits of R",
    }


def test_a_good_one_behind_a_bad_one_is_found(gpg):
    both = gpg.sign(b"other", "alice") + gpg.sign(DATA, "rsa")
    findings = judge(both, [gpg.public("alice", "rsa")])
    assert [finding.fault is None for finding in findings] == [False, True]


def test_no_more_than_a_few_are_checked(gpg):
    findings = judge(gpg.sign(DATA, "alice") * (MAX_RUNS + 1), [gpg.public("alice")])
    assert [finding.fault is None for finding in findings] == [True] * MAX_RUNS + [False]
    with pytest.raises(Refused, match="more than 16 signatures"):
        judge(gpg.sign(DATA, "alice") * 17, [gpg.public("alice")])


def test_weak_digests_and_short_keys_count_for_nothing(gpg):
    weak = gpg.sign(DATA, "rsa", more=("--digest-algo", "SHA1"))
    assert fault_of(weak, [gpg.public("rsa")]) == (
        "signature",
        "it is made with SHA1, which is too weak to count",
    )
    about, fault = fault_of(gpg.sign(DATA, "short"), [gpg.public("short")])
    assert (about, fault) == ("key", "its key has 1024 bits of RSA, fewer than 2048: too short to count")


def test_gpgv_itself_refuses_sha1(gpg):
    weak = gpg.sign(DATA, "rsa", more=("--digest-algo", "SHA1"))
    gpgv = Gpgv(gpg.public("rsa", armoured=False), weak)
    gpgv.feed(memoryview(DATA))
    status = gpgv.finish()
    assert b"ERRSIG" in status
    assert b"GOODSIG" not in status


def test_an_expired_key_is_told_before_and_by_gpgv(gpg):
    signature, keys = gpg.sign(DATA, "expired", now="20200601T000000"), [gpg.public("expired")]
    about, fault = fault_of(signature, keys)
    assert about == "key"
    assert fault.startswith("its key expired on 2020-12-31; by the clock of this server it is 20")
    # Were our clock in 2020, gpgv would still say so by its own.
    assert fault_of(signature, keys, now=1_591_000_000) == ("key", "its key expired on 2020-12-31")


def test_a_revoked_key_is_told_before_and_by_gpgv(gpg):
    signature = gpg.sign(DATA, "revoked")
    assert fault_of(signature, [gpg.public("revoked")]) == ("signature", None)
    gpg.revoke("revoked")
    assert fault_of(signature, [gpg.public("revoked")]) == ("key", "its key was revoked")
    gpgv = Gpgv(gpg.public("revoked", armoured=False), signature)
    gpgv.feed(memoryview(DATA))
    assert b"REVKEYSIG" in gpgv.finish()


def test_an_expired_signature_is_told(gpg):
    signature, keys = (
        gpg.sign(DATA, "alice", more=("--default-sig-expire", "seconds=1")),
        [gpg.public("alice")],
    )
    about, fault = fault_of(signature, keys, now=time.time() + 100)
    assert about == "signature"
    assert fault.startswith("it expired on ")


def test_a_clock_in_1970_is_told_as_that(gpg):
    about, fault = fault_of(gpg.sign(DATA, "alice"), [gpg.public("alice")], now=3600.0)
    assert about == "signature"
    assert fault.endswith(
        "but by the clock of this server it is only 1970-01-01T01:00:00Z: the clock is wrong"
    )


def test_a_key_of_the_future_is_the_clock_s_fault(gpg):
    signature = gpg.sign(DATA, "future", now="20500601T000000")
    _, fault = fault_of(signature, [gpg.public("future")])
    assert fault.startswith("its key was made on 2050-01-01, but by the clock of this server it is only 20")


def test_a_clock_years_ahead_is_told_with_the_key_that_expired(gpg):
    signature, keys = gpg.sign(DATA, "expired", now="20200601T000000"), [gpg.public("expired")]
    (finding,) = read_openpgp(signature, [KeyFile("k", keys[0])], 4_000_000_000.0).findings
    assert "by the clock of this server it is 2096-10-02" in finding.fault
    assert "clock" in finding.hint


def test_a_text_signature_is_for_texts_alone(gpg):
    signature, keys = gpg.sign(LIST, "alice", more=("--textmode",)), [gpg.public("alice")]
    assert fault_of(signature, keys, LIST) == ("signature", None)
    about, fault = fault_of(signature, keys, LIST, detached_text=False)
    assert about == "signature"
    assert fault.startswith("it is of a text")


@pytest.mark.parametrize(
    "text",
    [
        LIST,
        b"no line end",
        b"",
        b"\n\n",
        b"\r\nx \t\r\n",
        b"- - -\n-\n",
        "gr\u00fc\u00df\n".encode("latin-1"),
    ],
)
def test_a_clear_signed_text_is_good(gpg, text):
    parts = split_clear_signed(gpg.sign(text, "alice", how="--clear-sign"))
    assert fault_of(parts.signature, [gpg.public("alice")], parts.signed, text=True) == ("signature", None)
    assert [line.rstrip() for line in parts.lines] == [
        line.rstrip() for line in text.removesuffix(b"\n").split(b"\n")
    ]


def test_a_clear_signed_text_that_was_changed_is_bad(gpg):
    signed = gpg.sign(LIST, "alice", how="--clear-sign").replace(b"0123", b"0124")
    parts = split_clear_signed(signed)
    assert fault_of(parts.signature, [gpg.public("alice")], parts.signed, text=True)[1] is not None


def test_what_stands_around_a_clear_signed_text_is_not_signed(gpg):
    signed = b"9999  a.raw\n" + gpg.sign(LIST, "alice", how="--clear-sign") + b"8888  a.raw\n"
    parts = split_clear_signed(signed)
    assert fault_of(parts.signature, [gpg.public("alice")], parts.signed, text=True) == ("signature", None)
    assert b"9999" not in parts.signed
    assert b"8888" not in parts.signed


def test_a_binary_signature_in_a_clear_signed_text_counts_for_nothing(gpg):
    detached = gpg.sign(b"a\r\nb", "alice", more=("--armor",))
    about, fault = fault_of(detached, [gpg.public("alice")], b"a\r\nb", text=True)
    assert (about, fault) == ("signature", "it is a signature of another kind (0x00), not of a file")


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (("--sign",), "whole message|does not say how long|compressed"),
        (("--armor", "--sign"), "a whole message"),
        (("--armor", "--export"), "no PGP signature"),
        (("--export",), "it holds a packet of type 6"),
    ],
)
def test_what_is_no_detached_signature_is_refused(gpg, how, words):
    made = gpg.gpg(*how, *(["alice@example.net"] if "--export" in how else []), data=DATA)
    with pytest.raises(Refused, match=words):
        judge(made, [gpg.public("alice")])


def test_a_private_key_is_told_as_that(gpg):
    for armour in ((), ("--armor",)):
        secret = gpg.gpg(*armour, "--export-secret-keys", "alice@example.net")
        with pytest.raises(Refused, match="private key") as refused:
            judge(gpg.sign(DATA, "alice"), [secret])
        assert refused.value.about == "key"


def test_a_subkey_signs_for_its_certificate(gpg):
    gpg.make("parent")
    listed = gpg.gpg("--with-colons", "--list-keys", "parent@example.net").decode()
    fingerprint = next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr:"))
    gpg.gpg("--quick-add-key", fingerprint, "rsa2048", "sign", "never")
    (finding,) = judge(gpg.sign(DATA, "parent"), [gpg.public("parent")])
    assert (finding.fault, finding.algorithm) == (None, "RSA 2048, SHA512")
    assert finding.key != fingerprint


def test_a_key_as_base64_of_packets_is_not_armour(gpg):
    with pytest.raises(Refused, match="holds no PGP public key block"):
        judge(gpg.sign(DATA, "alice"), [base64.b64encode(gpg.public("alice", armoured=False))])
