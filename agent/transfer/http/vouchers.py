"""Finds the signatures of an image in its registry: under cosign's tag, and among what refers to the image."""

from collections.abc import AsyncIterator, Iterable

from agent.formats.oci.manifest import Descriptor, Index, Manifest, ManifestRefused, read_manifest
from agent.formats.oci.pages import is_filtered, next_page
from agent.formats.oci.vouchers import (
    ARTIFACT_TYPES,
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
from agent.model.url import origin_of, redirect_target
from agent.transfer.http.document import Document
from agent.transfer.http.faults import FatalFault
from agent.transfer.http.repository import Repository

_MAX_ARTIFACTS = 16
_MAX_PAGES = 16
"""Of the list of what refers to one document, whatever the registry makes of the filter."""
_NO_API = (400, 404, 405, 501)
"""How registries answer that do not know the list of referrers."""
_FILTERS = "OCI-Filters-Applied"


class _NoApi(Exception):
    """The registry has no lists of referrers."""


class _Astray(Exception):
    """The pages of a list lead to where nobody follows. The text is a predicate."""


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
        artifacts: list[Descriptor | str] = [signature_tag(digest)]
        artifacts += await _referrers(repository, digest, faults)
        for artifact in artifacts:
            seen += 1
            if seen > _MAX_ARTIFACTS:
                faults.append(f"there are more than {_MAX_ARTIFACTS} artifacts with signatures")
                return Vouchers(tuple(found), tuple(faults))
            await _read_artifact(repository, artifact, found, faults)
    return Vouchers(tuple(found), tuple(faults))


async def _referrers(repository: Repository, digest: str, faults: list[str]) -> list[Descriptor]:
    """The entries of the list of referrers that are signatures."""
    found: dict[str, Descriptor] = {}
    pages: set[str] = set()
    for kind in ARTIFACT_TYPES:
        first = repository.reference.referrers_url(digest, kind)
        filtered = False
        try:
            async for page in _pages(repository, first, pages):
                filtered = filtered or is_filtered(page.headers.getall(_FILTERS, ()))
                found |= {entry.digest: entry for entry in signature_entries(_read_index(page))}
                if len(found) > _MAX_ARTIFACTS:
                    return list(found.values())
        except _NoApi:
            return [*found.values(), *await _tagged(repository, digest)]
        except _Astray as fault:
            faults.append(f"the list of what refers to {digest} {fault}")
        if not filtered:
            break  # it is of all kinds
    return list(found.values())


async def _pages(repository: Repository, first: str, seen: set[str]) -> AsyncIterator[Document]:
    """The pages of a list, the first one and those to which each leads.

    Raises:
        _NoApi: the registry does not know such lists.
        _Astray: the rest of them cannot be had.
    """
    url: str | None = first
    while url is not None:
        if url in seen:
            raise _Astray("leads back to a page that was read")
        if len(seen) == _MAX_PAGES:
            raise _Astray(f"has more than {_MAX_PAGES} pages")
        seen.add(url)
        page = await _ask(repository, url)
        if page is None:
            raise _NoApi if url == first else _Astray("leads to a page that is not there")
        yield page
        target = next_page(page.headers.getall("Link", ()))
        url = None if target is None else _followed(url, target)


async def _ask(repository: Repository, url: str) -> Document | None:
    try:
        return await repository.find_document(url)
    except FatalFault as fault:
        if fault.status not in _NO_API:
            raise
        return None


def _followed(url: str, target: str) -> str:
    """Where a link of a page leads: to the registry, which has our credentials, or nowhere."""
    try:
        followed = redirect_target(url, target)
    except ValueError:
        followed = None
    if followed is None or origin_of(followed) != origin_of(url):
        raise _Astray("goes on elsewhere than at the registry, where nobody follows")
    return followed


async def _tagged(repository: Repository, digest: str) -> list[Descriptor]:
    """Those of the list that stands under a tag, in a registry without the API."""
    document = await repository.find_document(repository.reference.manifest_url(referrers_tag(digest)))
    return [] if document is None else list(signature_entries(_read_index(document)))


def _read_index(page: Document) -> Index:
    document = read_manifest(page.data)
    return document if isinstance(document, Index) else Index(())


async def _read_artifact(
    repository: Repository, artifact: Descriptor | str, found: list[Voucher], faults: list[str]
) -> None:
    """Read the signatures of one artifact. One that is damaged says nothing of the others."""
    try:
        if isinstance(artifact, str):
            tagged = await repository.find_document(repository.reference.manifest_url(artifact))
            data = None if tagged is None else tagged.data
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
