"""One repository of a registry: its documents, compared with their digests, and its blobs as sources.

For `registry` and `vouchers` beside it. All that is asked of the registry goes through one `Login`. Source: the OCI
distribution specification 1.1, "Pull" and "Listing Referrers".
"""

from collections.abc import Sequence

from agent.errors import Blame
from agent.formats.oci.manifest import (
    ACCEPT,
    MAX_MANIFEST_BYTES,
    Descriptor,
    ManifestRefused,
    digest_of,
    has_digest,
)
from agent.model.registry import RegistryAuth, read_reference
from agent.model.url import origin_of, redact_url
from agent.transfer.http.client import HttpClient
from agent.transfer.http.document import Document, fetch_document
from agent.transfer.http.faults import FatalFault
from agent.transfer.http.login import Login
from agent.transfer.http.options import HttpOptions
from agent.transfer.http.ramp import Ramp
from agent.transfer.http.slices import Lender
from agent.transfer.http.source import HttpSource

_MISSING_HINT = (
    "Check the repository, the tag or the digest in the URL (skopeo inspect, oras manifest fetch)."
)
_LIES_HINT = "The registry, or a cache before it, is damaged or lies: pull from another one."


class Repository:
    """The repository of a reference.

    Args:
        url: has passed `check_url`, and is a reference.
        options: how it is asked; the headers are for the origin of the registry only.
        auth: the credentials of the job.
    """

    def __init__(self, url: str, options: HttpOptions, auth: RegistryAuth | None) -> None:
        self.reference = read_reference(url)
        self.shown_url = redact_url(url)
        self._options = options
        self._login = Login(
            origin_of(url),
            self.reference.repository,
            auth,
            self._fetch_token,
            fixed=any(name.lower() == "authorization" for name, _ in options.headers),
        )

    async def manifest(self, wanted: str, entry: Descriptor | None = None) -> tuple[str, bytes]:
        """A manifest or an index, and its digest.

        Args:
            wanted: a tag or a digest.
            entry: what an index says of it.

        Raises:
            ManifestRefused: there is none, or it is another than its digest or the index says.
            FatalFault: it cannot be had.
        """
        if entry is not None and entry.size > MAX_MANIFEST_BYTES:
            raise ManifestRefused(
                f"the entry {entry} of its index has {entry.size} bytes, too many for a manifest"
            )
        document = await self.find_document(self.reference.manifest_url(wanted))
        if document is None:
            raise ManifestRefused(f"there is no {wanted}", hint=_MISSING_HINT, blame=Blame.REQUEST)
        data = document.data
        if ":" not in wanted:
            return digest_of(data), data
        _compare(data, wanted, None if entry is None else entry.size)
        return wanted, data

    async def find_document(self, url: str) -> Document | None:
        """A document that has no digest to be compared with; None where there is none."""
        try:
            return await self._fetch(url, {"Accept": ACCEPT}, MAX_MANIFEST_BYTES)
        except FatalFault as fault:
            if fault.status == 404:
                return None
            raise

    async def small_blob(self, blob: Descriptor, limit: int) -> bytes:
        """A blob of at most `limit` bytes.

        Raises:
            ManifestRefused: it is larger, or another than its descriptor says.
            FatalFault: it cannot be had.
        """
        if blob.size > limit:
            raise ManifestRefused(f"the blob {blob} has {blob.size} bytes, more than {limit}")
        data = (await self._fetch(self.reference.blob_url(blob.digest), {}, limit)).data
        _compare(data, blob.digest, blob.size)
        return data

    def blob(
        self,
        blob: Descriptor,
        *,
        mirrors: Sequence[str] = (),
        lender: Lender | None = None,
        ramp: Ramp | None = None,
    ) -> HttpSource:
        """A blob as a source. Whoever reads it to its end compares it with its digest."""
        return HttpSource(
            self.reference.blob_url(blob.digest),
            self._options,
            mirrors=mirrors,
            checksummed=True,
            lender=lender,
            ramp=ramp,
            authorizer=self._login,
            shown_url=self.shown_url,
        )

    async def _fetch(self, url: str, extra: dict[str, str], limit: int) -> Document:
        return await fetch_document(
            self._client(url, self._options.headers, self._login), extra, limit, self._options
        )

    async def _fetch_token(self, url: str, headers: Sequence[tuple[str, str]], limit: int) -> bytes:
        """The answer of a token service, which is whoever the registry says."""
        answer = await fetch_document(self._client(url, headers, None), {}, limit, self._options)
        return answer.data

    def _client(self, url: str, headers: Sequence[tuple[str, str]], login: Login | None) -> HttpClient:
        return HttpClient(
            url,
            headers=headers,
            ca_file=self._options.ca_file,
            limits=self._options.limits,
            on_event=self._options.on_event,
            authorizer=login,
        )


def _compare(data: bytes, digest: str, size: int | None) -> None:
    if not has_digest(data, digest) or size not in (None, len(data)):
        raise ManifestRefused(
            f"what came for {digest} has another digest or length",
            detail=f"{digest_of(data)}, {len(data)} bytes",
            hint=_LIES_HINT,
        )
