"""The job's signature: fetched and judged before the image is opened, checked once the signed bytes are known.

One over the checksum file is checked at once, in memory. One over the image is checked as the image flows: where a
digest tells all, it is taken beside that of the checksum; OpenPGP's are checked by gpgv, which is fed by the thread
that takes the digest; a bundle of Sigstore is checked before, and only its digest compared. Nothing is read twice, and
nothing is kept. One in a registry is over the manifest, which has the digest of the image: it is checked at once.
"""

import binascii
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from agent.aio import run_blocking
from agent.errors import Blame, DeployError, SignatureInvalid, SignatureKey, SignatureMissing
from agent.formats.oci.vouchers import Voucher, Vouchers
from agent.formats.signatures.armour import split_clear_signed
from agent.formats.signatures.findings import WHOLE, Claims, Finding, KeyFile, Refused
from agent.host.gpgv import TOOL, Gpgv, require_gpgv
from agent.host.process import ProcessFailed
from agent.host.sigstore import check_bundle
from agent.host.trusted_keys import SUFFIXES, read_trusted
from agent.model.signature import IMAGE, MAX_SIGNATURE_BYTES, Signature
from agent.model.url import redact_url
from agent.stages.context import Context, SignatureCheck
from agent.text import printable
from agent.transfer.digest import Digest, Observer
from agent.transfer.fetch import FetchFailed, FetchTooLarge
from agent.units import format_size

if TYPE_CHECKING:
    from agent.formats.signatures.sigstore import Sigstore

_LISTED = 8
_SHOWN_DIGEST = 140
"""Characters of what a signature says that it is of: a digest of sha512 has as many."""


async def prepare_signature(ctx: Context) -> None:
    """Get the signature over the image and the keys, and make what will check it; the copy then feeds that.

    Raises:
        SignatureMissing: it cannot be had.
        SignatureInvalid, SignatureKey: it can be seen by now that it does not count.
        ToolMissing: there is no gpgv.
    """
    signature = ctx.job.signature
    if signature is None or signature.over != IMAGE:
        return
    what = redact_url(ctx.job.url)
    if signature.is_in_registry:
        await _check_registry(ctx, signature, what)
        return
    data = await _signature_file(ctx, signature, what)
    ctx.signature = await run_blocking(_make_check, ctx, signature, data, what)


async def check_list(ctx: Context, data: bytes, shown: str) -> bytes:
    """The part of the checksum file that is signed by somebody who is trusted: all, where the job names no signature.

    Args:
        ctx: what the stages share.
        data: the checksum file.
        shown: its URL without secrets.

    Raises:
        SignatureMissing: there is no signature, or it cannot be had.
        SignatureInvalid, SignatureKey: it does not count.
        ToolMissing: there is no gpgv.
    """
    signature = ctx.job.signature
    if signature is None or signature.over == IMAGE:
        return data
    if signature.url is None and signature.data is None:
        found = await run_blocking(_split, data, signature.type, shown)
    else:
        found = await _signature_file(ctx, signature, shown), data
    blob, signed = found

    def check() -> Sequence[Finding]:
        made = _make_check(ctx, signature, blob, shown, signed)
        try:
            for observer in made.observers:
                observer.update(memoryview(signed))
            return made.conclude()
        finally:
            made.close()

    _conclude(ctx, signature, await run_blocking(check), shown)
    return signed


async def _check_registry(ctx: Context, signature: Signature, what: str) -> None:
    """Check the signatures that the registry has of the image's manifest, which has the digest of its bytes.

    Raises:
        SignatureMissing, SignatureInvalid, SignatureKey: none is good and by a trusted key.
        RegistryDenied, RegistryManifest, ImageDownload: the registry cannot be asked.
    """
    if ctx.registry is None or ctx.resolved is None:
        raise RuntimeError("a signature is looked for in a registry that was not asked")
    vouchers = await ctx.registry.vouchers()
    if not vouchers.found:
        raise SignatureMissing(
            what=what,
            reason=f"the registry has none of {ctx.resolved.manifest}",
            detail="; ".join(vouchers.faults[:_LISTED]),
            hint="Sign it (cosign sign --key cosign.key HOST/REPOSITORY@sha256:HEX), or give the signature in the job.",
        )
    images = {ctx.resolved.named, ctx.resolved.manifest}
    _conclude(ctx, signature, await run_blocking(_findings, ctx, signature, vouchers, images, what), what)


def _findings(
    ctx: Context, signature: Signature, vouchers: Vouchers, images: set[str], what: str
) -> list[Finding]:
    """What is found of each signature in a registry."""
    from agent.formats.signatures.read import read_claims  # noqa: PLC0415 - see `_make_check`

    files, found = _key_files(ctx, signature, what), list[Finding]()
    for voucher in vouchers.found:
        try:
            claims = read_claims(signature.type, voucher.signature, files, ctx.clock(), image=False)
        except Refused as refusal:
            if refusal.about == "key":
                raise _error(refusal.about, what, str(refusal), refusal.hint) from None
            found.append(Finding("", "unknown", fault=str(refusal)))
            continue
        evidence = {
            name: hashlib.new(name, voucher.message).digest() for name in claims.wanted if name != WHOLE
        }
        for finding in claims.check(evidence | {WHOLE: voucher.message}):
            is_other = finding.fault is None and not voucher.digests & images
            found.append(replace(finding, fault=_other_image(voucher)) if is_other else finding)
    return found


def _other_image(voucher: Voucher) -> str:
    named = ", ".join(printable(digest, _SHOWN_DIGEST) for digest in sorted(voucher.digests)[:_LISTED])
    return f"it is of another image in the registry ({named or 'it names none'})"


def verify_signature(ctx: Context) -> None:
    """Check the signature over the image, all of which has come. Blocking.

    Raises:
        SignatureInvalid, SignatureKey: none that is trusted is good.
    """
    if ctx.signature is not None and ctx.job.signature is not None:
        _conclude(ctx, ctx.job.signature, ctx.signature.conclude(), redact_url(ctx.job.url))


def _conclude(ctx: Context, signature: Signature, findings: Sequence[Finding], what: str) -> None:
    _require_one(findings, what)
    ctx.vouched = {
        "type": signature.type,
        "over": signature.over,
        "signatures": [finding.document() for finding in findings],
    }
    for finding in findings:
        if finding.fault is None:
            ctx.note(f"{what} is signed by {_who(finding)}")


def _who(finding: Finding) -> str:
    document = finding.document()
    words = (document["user"], document["key"], f"({document['algorithm']})")
    when = f"on {document['signedAt']}" if document["signedAt"] else None
    key = f"by the trusted key {finding.name}" if finding.name else "by the job's publicKey"
    return ", ".join([" ".join(word for word in (*words, when) if word), key])


# -- getting it -----------------------------------------------------------------------------------------------


async def _signature_file(ctx: Context, signature: Signature, what: str) -> bytes:
    if signature.url is None:
        return _decoded(signature.data or "", signature.type)
    shown = redact_url(signature.url)
    try:
        return await ctx.fetcher.fetch(signature.url, MAX_SIGNATURE_BYTES)
    except FetchTooLarge:
        reason = f"{shown} is larger than {format_size(MAX_SIGNATURE_BYTES)}"
        raise SignatureInvalid(
            what=what, reason=reason, hint="Check that signature.url is not the URL of the image itself."
        ) from None
    except FetchFailed as failure:
        raise SignatureMissing(
            what=what,
            reason=f"{shown} cannot be fetched",
            detail=str(failure),
            hint=failure.hint
            or "Check that signature.url can be fetched from the server's network (curl -I).",
            blame=failure.blame,
            retryable=failure.retryable and failure.blame is Blame.NETWORK,
        ) from failure


def _decoded(text: str, kind: str) -> bytes:
    """A signature or a key of the job: text, but OpenPGP's may be plain packets, as base64."""
    data = text.encode()
    if kind == "openpgp" and b"-----BEGIN" not in data:
        try:
            return binascii.a2b_base64(b"".join(data.split()), strict_mode=True)
        except ValueError:
            pass  # told as what it is, by whoever reads it
    return data


def _split(data: bytes, kind: str, shown: str) -> tuple[bytes, bytes]:
    """The signature that stands in a checksum file, and what it is of."""
    if kind == "openpgp":
        try:
            parts = split_clear_signed(data)
        except Refused as refusal:
            raise SignatureInvalid(what=shown, reason=f"the clear-signed text was cut: {refusal}") from None
        if parts is not None:
            return parts.signature, parts.signed
        how = "clear-signed"
    else:
        from agent.formats.signatures.minisign import split_embedded  # noqa: PLC0415 - see `_make_check`

        if (found := split_embedded(data)) is not None:
            return found
        how = "a file that begins with its signature (signify -e)"
    raise SignatureMissing(what=shown, reason=f"it is not {how}, and the job names no signature beside it")


def _key_files(ctx: Context, signature: Signature, what: str) -> list[KeyFile]:
    if signature.public_key is not None:
        return [KeyFile(None, _decoded(signature.public_key, signature.type))]
    where = f"{ctx.trusted_keys} (NAME{' or NAME'.join(SUFFIXES[signature.type])})"
    try:
        files = read_trusted(ctx.trusted_keys, signature.type)
    except (OSError, ValueError) as error:
        reason = f"the keys in {where} cannot be read: {error}"
        raise SignatureKey(what=what, reason=reason, blame=Blame.AGENT) from None
    missing = [name for name in signature.keys if name not in files]
    if missing or not files:
        sought = (
            f"there is no key {missing[0]}" if missing else f"there is no key of the type {signature.type}"
        )
        known = ", ".join([*files][:_LISTED]) or "none"
        raise SignatureKey(what=what, reason=f"{sought} in {where}", detail=f"there are: {known}")
    return [
        KeyFile(name, data, allowed=not signature.keys or name in signature.keys)
        for name, data in files.items()
    ]


# -- checking it ----------------------------------------------------------------------------------------------


def _make_check(
    ctx: Context, signature: Signature, data: bytes, what: str, message: bytes | None = None
) -> SignatureCheck:
    """What checks a signature over the image, or over a message in memory. Raises what can be told by now."""
    from agent.formats.signatures.openpgp import OpenPgp  # noqa: PLC0415 - `cryptography` is not light
    from agent.formats.signatures.read import read_claims  # noqa: PLC0415
    from agent.formats.signatures.sigstore import Sigstore  # noqa: PLC0415

    files = _key_files(ctx, signature, what)
    clear_signed = message is not None and signature.url is None and signature.data is None
    try:
        claims = read_claims(
            signature.type, data, files, ctx.clock(), clear_signed=clear_signed, image=message is None
        )
    except Refused as refusal:
        raise _error(refusal.about, what, str(refusal), refusal.hint) from None
    if isinstance(claims, Sigstore):
        _ask_library(claims, what)
    _require_one(claims.findings, what)
    if isinstance(claims, OpenPgp):
        require_gpgv()
        return _GpgvCheck(claims, [_Fed(Gpgv(claims.keyring, each), what) for each in claims.signatures])
    if message is None and WHOLE in claims.wanted:
        raise SignatureInvalid(
            what=what,
            reason="it is over the file itself and not over its digest, so it cannot be checked while the image flows",
            hint="Sign the image again (minisign -S; with cosign by a key of ECDSA), or sign its checksum file and set "
            "signature.over to checkSum.",
        )
    return _DigestCheck(claims, ctx.digest if message is None else None, message)


def _ask_library(claims: "Sigstore", what: str) -> None:
    """Have all that a bundle claims checked, but for the digest of the signed bytes."""
    if claims.question is None:
        return
    try:
        answer = check_bundle(claims.question)
    except OSError as error:
        raise _failed(what, "sigstore", error) from error
    claims.answered(answer.fault, is_root=answer.is_root)


def _failed(what: str, tool: str, error: OSError) -> DeployError:
    said = error.what if isinstance(error, ProcessFailed) else error.strerror
    return SignatureInvalid(
        what=what,
        reason=f"it could not be checked, because {tool} failed",
        detail=f"{tool}: {said}",
        hint="Look at the kernel's log for what ended it (memory), then deploy again.",
        blame=Blame.AGENT,
        retryable=True,
    )


class _DigestCheck:
    """Checks by digests, one of which may be the job's own."""

    def __init__(self, claims: Claims, own: Digest | None, message: bytes | None) -> None:
        wanted = [name for name in claims.wanted if name != WHOLE]
        shared = {own.algorithm: own} if own is not None and own.algorithm in wanted else {}
        self._claims = claims
        self._message = message
        self._digests = {name: shared.get(name) or Digest(name) for name in wanted}
        self.observers: Sequence[Observer] = [
            digest for name, digest in self._digests.items() if name not in shared
        ]

    def conclude(self) -> Sequence[Finding]:
        """See `SignatureCheck.conclude`."""
        evidence = {name: digest.digest() for name, digest in self._digests.items()}
        return self._claims.check(evidence | ({} if self._message is None else {WHOLE: self._message}))

    def close(self) -> None:
        """Nothing to do."""


class _GpgvCheck:
    """Checks by one gpgv for each signature."""

    def __init__(self, claims: Claims, fed: Sequence["_Fed"]) -> None:
        self._claims = claims
        self._fed = fed
        self.observers: Sequence[Observer] = fed

    def conclude(self) -> Sequence[Finding]:
        """See `SignatureCheck.conclude`."""
        return self._claims.check({str(number): each.status() for number, each in enumerate(self._fed)})

    def close(self) -> None:
        """End the processes."""
        for each in self._fed:
            each.reset()


class _Fed:
    """Feeds a gpgv with what flows by."""

    def __init__(self, gpgv: Gpgv, what: str) -> None:
        self._gpgv = gpgv
        self._what = what

    def reset(self) -> None:
        """End the process; another begins with the next bytes."""
        self._gpgv.close()

    def update(self, data: memoryview) -> None:
        """Hand the next bytes to it."""
        try:
            self._gpgv.feed(data)
        except OSError as error:
            raise _failed(self._what, TOOL, error) from error

    def stop(self) -> None:
        """Wait no longer for it."""
        self._gpgv.stop()

    def status(self) -> bytes:
        """What it says of the signature."""
        try:
            return self._gpgv.finish()
        except OSError as error:
            raise _failed(self._what, TOOL, error) from error


def _require_one(findings: Sequence[Finding], what: str) -> None:
    """Raise what is wrong, unless one finding has no fault: one that is trusted suffices."""
    if any(finding.fault is None for finding in findings):
        return
    # A bad signature by a trusted key says more than one by a key that nobody knows.
    worst = next((finding for finding in findings if finding.about == "signature"), findings[0])
    listed = "; ".join(str(finding) for finding in findings)
    raise _error(worst.about, what, str(worst.fault), worst.hint, listed)


def _error(about: str, what: str, reason: str, hint: str = "", detail: str = "") -> DeployError:
    error = SignatureKey if about == "key" else SignatureInvalid
    return error(what=what, reason=reason, hint=hint, detail=detail)
