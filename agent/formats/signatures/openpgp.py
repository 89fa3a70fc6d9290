"""OpenPGP signatures: judged before the signed bytes are there, and by what gpgv tells once they were. Pure.

What is handed to gpgv is made here: the signatures that may count, as plain packets, and the certificates of their
keys. So it sees nothing that was not looked at: no compressed data, no message instead of a signature.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from agent.formats.signatures.armour import PUBLIC_KEY, SIGNATURE, dearmour
from agent.formats.signatures.findings import (
    CLOCK_HINT,
    EXPIRED_HINT,
    MAX_SIGNATURES,
    MIN_RSA_BITS,
    Finding,
    KeyFile,
    Refused,
    clock_fault,
    day,
    expired_fault,
    judged,
    same_bytes_fault,
)
from agent.formats.signatures.openpgp_parts import (
    BINARY,
    TEXT,
    WEAK_HASHES,
    Certificate,
    Key,
    OtherVersion,
    SignaturePacket,
    needed,
    read_certificates,
    read_signature,
)
from agent.formats.signatures.packets import SIGNATURE as SIGNATURE_TAG
from agent.formats.signatures.packets import read_packets

MAX_RUNS = 4
"""Signatures of one file that are checked: each takes a process of its own. Distributors make one or two."""
# What ERRSIG gives as its reason (doc/DETAILS of GnuPG).
_REASONS = {
    "4": "gpgv does not know its algorithm",
    "5": "gpgv refuses its digest",
    "9": "gpgv has no such key",
}


class OpenPgp:
    """The signatures of a file, and what gpgv is given to check them."""

    wanted: Sequence[str] = ()

    def __init__(self, findings: Sequence[Finding], signatures: Sequence[bytes], keyring: bytes) -> None:
        self.findings: Sequence[Finding] = tuple(findings)
        self.signatures = tuple(signatures)
        """Those that may count, each as a packet. At the first bad one gpgv ends: each needs a run of its own."""
        self.keyring = keyring
        """The certificates that they need, as packets."""

    def check(self, evidence: Mapping[str, bytes]) -> Sequence[Finding]:
        """The findings by gpgv's status lines, which are in `evidence` under the number of the signature."""
        counting = [index for index, finding in enumerate(self.findings) if finding.fault is None]
        numbers = {index: number for number, index in enumerate(counting)}

        def judge(index: int) -> Finding:
            status = evidence[str(numbers[index])].decode("utf-8", "replace")
            return _judge_status(self.findings[index], _status_lines(status))

        return judged(self.findings, judge)


def read_openpgp(
    data: bytes, files: Sequence[KeyFile], now: float, *, text: bool = False, detached_text: bool = True
) -> OpenPgp:
    """Read a signature file.

    Args:
        data: armoured or not.
        files: the key files.
        now: seconds since the epoch, by this machine's clock.
        text: it was taken from a clear-signed text.
        detached_text: whether a detached signature may be one of a text, in which line ends do not count.

    Raises:
        Refused: it is no signature file, or one of the key files is none.
    """
    certificates = tuple(certificate for file in files for certificate in read_keys(file))
    kinds = (TEXT,) if text else (BINARY, TEXT) if detached_text else (BINARY,)
    findings, counting = list[Finding](), list[SignaturePacket]()
    for signature in _signatures(data):
        if isinstance(signature, OtherVersion):
            findings.append(Finding("", "unknown", fault=str(signature)))
            continue
        finding = _judge(signature, certificates, kinds, now)
        if finding.fault is None and len(counting) == MAX_RUNS:
            finding = replace(
                finding, fault=f"it was not looked at: {MAX_RUNS} before it are by trusted keys"
            )
        findings.append(finding)
        counting += [signature] if finding.fault is None else []
    used = [
        certificate
        for certificate in certificates
        if certificate.file.allowed and any(certificate.find(signature) for signature in counting)
    ]
    return OpenPgp(findings, [signature.raw for signature in counting], needed(used))


def read_keys(file: KeyFile) -> tuple[Certificate, ...]:
    """The certificates of a key file.

    Raises:
        Refused: it is none; the text names the file.
    """
    try:
        certificates = tuple(read_certificates(dearmour(file.data, PUBLIC_KEY), file))
        if not certificates:
            raise Refused("it holds no key that is understood (version 4 is)")
    except Refused as refusal:
        raise Refused(f"{file} cannot be used: {refusal}", about="key") from None
    return certificates


def _signatures(data: bytes) -> Iterator[SignaturePacket | OtherVersion]:
    count = 0
    for packet in read_packets(dearmour(data, SIGNATURE)):
        if packet.tag != SIGNATURE_TAG:
            raise Refused(f"it holds {packet}")
        count += 1
        if count > MAX_SIGNATURES:
            raise Refused(f"it holds more than {MAX_SIGNATURES} signatures")
        try:
            yield read_signature(packet)
        except OtherVersion as other:
            yield other
    if not count:
        raise Refused("it holds no signature")


def _judge(
    signature: SignaturePacket, certificates: Sequence[Certificate], kinds: Sequence[int], now: float
) -> Finding:
    """What a signature and its key say of themselves; a fault is final, the lack of one is not."""
    found = [(each, key) for each in certificates if (key := each.find(signature)) is not None]
    found.sort(key=lambda pair: not pair[0].file.allowed)  # the same key may be in several files
    certificate, key = found[0] if found else (None, None)
    finding = Finding(
        key=signature.issuer if key is None else key.fingerprint,
        algorithm=f"{'unknown' if key is None else key.algorithm_name}, {signature.hash_name}",
        name=None if certificate is None else certificate.file.name,
        user=None if certificate is None else certificate.user,
        signed_at=float(signature.created),
    )
    fault = _signature_fault(signature, kinds)
    if fault is not None:
        return replace(finding, fault=fault)
    if certificate is None or key is None:
        return replace(finding, fault=_unknown_fault(certificates), about="key")
    if not certificate.file.allowed:
        return replace(finding, fault=f"{certificate.file} made it, but the job names others", about="key")
    return _judge_times(_judge_key(finding, certificate, key), signature, certificate.keys[0], key, now)


def _signature_fault(signature: SignaturePacket, kinds: Sequence[int]) -> str | None:
    if signature.kind == TEXT and signature.kind not in kinds:
        return "it is of a text, and lets line ends be changed; an image needs one that is not (gpg without --textmode)"
    if signature.kind not in kinds:
        return f"it is a signature of another kind (0x{signature.kind:02x}), not of a file"
    if signature.hash in WEAK_HASHES:
        return f"it is made with {signature.hash_name}, which is too weak to count"
    return None


def _unknown_fault(certificates: Sequence[Certificate]) -> str:
    names = dict.fromkeys(str(certificate.file) for certificate in certificates if certificate.file.allowed)
    listed = ", ".join(list(names)[:8])
    return f"its key is unknown here; {listed} is another" if len(names) == 1 else (
        f"its key is unknown here; it is in none of {listed or 'no files at all'}"
    )  # fmt: skip


def _judge_key(finding: Finding, certificate: Certificate, key: Key) -> Finding:
    if certificate.keys[0].revoked or key.revoked:
        return replace(finding, fault="its key was revoked", about="key")
    for each in {id(key): key, id(certificate.keys[0]): certificate.keys[0]}.values():
        if each.bits is not None and each.bits < MIN_RSA_BITS:
            fault = (
                f"its key has {each.bits} bits of {each.algorithm_name.split()[0]}, fewer than {MIN_RSA_BITS}"
            )
            return replace(finding, fault=f"{fault}: too short to count", about="key")
    return finding


def _judge_times(finding: Finding, signature: SignaturePacket, primary: Key, key: Key, now: float) -> Finding:
    if finding.fault is not None:
        return finding
    for what, made in (("its key", key.created), ("it", signature.created)):
        if (fault := clock_fault(made, now, what)) is not None:
            return replace(finding, fault=fault, hint=CLOCK_HINT)
    for each in (primary, key):
        if each.expires is not None and (fault := expired_fault(each.expires, now, "its key")) is not None:
            return replace(finding, fault=fault, about="key", hint=EXPIRED_HINT)
    if signature.expires is not None and (fault := expired_fault(signature.expires, now, "it")) is not None:
        return replace(finding, fault=fault, hint=EXPIRED_HINT)
    return finding


def _status_lines(text: str) -> dict[str, list[str]]:
    """The status lines of gpgv about one signature: the arguments by their keyword, the first of each."""
    found = dict[str, list[str]]()
    for line in text.splitlines():
        prefix, _, rest = line.partition(" ")
        keyword, _, arguments = rest.partition(" ")
        if prefix == "[GNUPG:]":
            found.setdefault(keyword, arguments.split(" "))
    return found


def _judge_status(finding: Finding, lines: Mapping[str, Sequence[str]]) -> Finding:
    """One signature by gpgv's lines about it. Nothing but GOODSIG with VALIDSIG of the very key is good."""
    if "EXPKEYSIG" in lines:
        until = (lines.get("KEYEXPIRED") or ("0",))[0]
        when = f" on {day(float(until))}" if until.isdigit() and until != "0" else ""
        return replace(finding, fault=f"its key expired{when}", about="key", hint=EXPIRED_HINT)
    if "REVKEYSIG" in lines:
        return replace(finding, fault="its key was revoked", about="key")
    if "EXPSIG" in lines:
        return replace(finding, fault="it has expired", hint=EXPIRED_HINT)
    if "BADSIG" in lines:
        return replace(finding, fault=same_bytes_fault("its key"))
    if "ERRSIG" in lines:
        number = (*lines["ERRSIG"], "", "", "", "", "", "")[5]
        return replace(finding, fault=_REASONS.get(number, f"gpgv cannot check it (reason {number})"))
    if "GOODSIG" in lines and "VALIDSIG" in lines:
        made_by = lines["VALIDSIG"][0]
        if finding.key == made_by:
            return finding
        # Which key it is, a signature may say outside of what is signed: another one of the certificate may be short.
        return replace(
            finding, fault=f"it says another key than the one that made it, {made_by}", about="key"
        )
    return replace(finding, fault="gpgv does not say that it is good")
