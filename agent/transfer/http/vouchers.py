"""Finds the signatures of an image in its registry: under cosign's tag, and among what refers to the image."""

from collections.abc import Iterable

from agent.formats.oci.manifest import Descriptor, Index, Manifest, ManifestRefused, read_manifest
from agent.formats.oci.vouchers import (
    MAX_VOUCHER_BYTES,
    MAX_VOUCHERS,
    Voucher,
    Vouchers,
    may_be_voucher,
    read_voucher,
    referrers_tag,
    signature_entries,
    signature_tag,
)
from agent.transfer.http.faults import FatalFault
from agent.transfer.http.repository import Repository

_MAX_ARTIFACTS = 16
_NO_API = (400, 404, 405, 501)
"""How registries answer that do not know the list of referrers."""


async def find_vouchers(repository: Repository, digests: Iterable[str]) -> Vouchers:
    """The signatures of the documents with these digests; at most `MAX_VOUCHERS`, of 16 artifacts.

    Raises:
        FatalFault: the registry cannot be asked.
        ManifestRefused: what it has is no list of referrers.
    """
    found: list[Voucher] = []
    faults: list[str] = []
    seen = 0
    for digest in dict.fromkeys(digests):
        for artifact in await _artifacts(repository, digest):
            seen += 1
            if seen > _MAX_ARTIFACTS:
                faults.append(f"there are more than {_MAX_ARTIFACTS} artifacts with signatures")
                return Vouchers(tuple(found), tuple(faults))
            await _read_artifact(repository, artifact, found, faults)
    return Vouchers(tuple(found), tuple(faults))


async def _artifacts(repository: Repository, digest: str) -> list[Descriptor | str]:
    """The artifacts with signatures of one document: a tag, and entries of the list of referrers."""
    entries = signature_entries(await _referrers(repository, digest))
    tag = signature_tag(digest)
    return [tag, *entries]


async def _referrers(repository: Repository, digest: str) -> Index:
    try:
        data = await repository.find_document(repository.reference.referrers_url(digest))
    except FatalFault as fault:
        if fault.status not in _NO_API:
            raise
        data = None
    if data is None:
        data = await repository.find_document(repository.reference.manifest_url(referrers_tag(digest)))
    document = Index(()) if data is None else read_manifest(data)
    return document if isinstance(document, Index) else Index(())


async def _read_artifact(
    repository: Repository, artifact: Descriptor | str, found: list[Voucher], faults: list[str]
) -> None:
    """Read the signatures of one artifact. One that is damaged says nothing of the others."""
    try:
        if isinstance(artifact, str):
            data = await repository.find_document(repository.reference.manifest_url(artifact))
        else:
            _, data = await repository.manifest(artifact.digest, artifact)
        document = Manifest(()) if data is None else read_manifest(data)
        layers = filter(may_be_voucher, document.layers if isinstance(document, Manifest) else ())
        for layer in layers:
            if len(found) == MAX_VOUCHERS:
                faults.append(f"there are more than {MAX_VOUCHERS} signatures")
                return
            voucher = read_voucher(layer, await repository.small_blob(layer, MAX_VOUCHER_BYTES))
            if voucher is not None:
                found.append(voucher)
    except ManifestRefused as refusal:
        faults.append(f"{artifact}: {refusal}")
