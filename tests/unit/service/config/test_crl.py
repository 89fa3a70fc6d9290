"""When revocation lists hold, against those of a real CA, and what is none."""

import base64
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
import trustme

from agent.service.config.crl import Span, spans
from tests.kit.revocation import DAY, make_crl


@pytest.fixture(scope="module")
def ca():
    return trustme.CA()


def pem(der: bytes) -> bytes:
    return b"-----BEGIN X509 CRL-----\n" + base64.encodebytes(der) + b"-----END X509 CRL-----\n"


def test_the_times_of_each_list_are_read_in_both_of_their_forms(ca):
    leaf = ca.issue_cert("ops@example.net")
    far = timedelta(days=365 * 30)  # beyond 2049 times are written with four digits of the year
    found = spans(b"a comment\n" + make_crl(ca, leaf) + make_crl(trustme.CA(), until=far))
    now = datetime.now(UTC)
    assert [round((span.since - now) / DAY) for span in found] == [-1, -1]
    assert [round((span.until - now) / DAY) for span in found if span.until] == [1, 365 * 30]


def test_a_list_of_version_1_without_an_end_is_read():
    # tbsCertList: signature, issuer, thisUpdate, revokedCertificates
    signed = bytes.fromhex("3000 3000") + b"\x17\x0d260102030405Z" + bytes.fromhex("3000")
    inner = bytes([0x30, len(signed)]) + signed + bytes.fromhex("3000 030100")
    assert spans(pem(bytes([0x30, len(inner)]) + inner)) == [
        Span(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), None)
    ]


@pytest.mark.parametrize("content", [b"", b"-----BEGIN X509 CRL-----\n", b"-----BEGIN CERTIFICATE-----\n"])
def test_a_file_without_a_list_is_told_as_that(content):
    with pytest.raises(ValueError, match="holds no revocation list in PEM"):
        spans(content)


def test_whatever_else_is_in_it_is_told_as_unreadable(ca):
    der = base64.b64decode(b"".join(make_crl(ca).splitlines()[1:-1]))
    for bad in (
        b"",
        b"\x30",
        b"\x30\x84\xff\xff\xff\xff",
        b"\x30\x80",
        der[:40],
        bytes(100),
        b"\x30\x02\x30\x00",
    ):
        with pytest.raises(ValueError, match="holds a revocation list that cannot be read"):
            spans(pem(bad))


def test_no_byte_of_a_list_makes_another_fault_than_that(ca):
    der = base64.b64decode(b"".join(make_crl(ca).splitlines()[1:-1]))
    unread = set()
    for at in range(len(der)):
        with suppress(ValueError):
            spans(pem(der[:at] + bytes([der[at] ^ 0xFF]) + der[at + 1 :]))
            continue
        unread.add(at)
    assert 0 < len(unread) < len(der)
