"""An image in an OCI registry as a source: from the reference to the blob, which then comes as any file does.

For the copy loop, through the `Source` protocol. The manifest, and the index before it, are fetched and compared with
the digests by which they are named; which entry and which layer are meant is decided by `agent.formats.oci`. The layer
is left to `HttpSource`, with its ranges, resumptions, several connections and mirrors: whoever copies compares it with
the digest in `SourceInfo`, so bytes of several places may stand beside each other. Credentials go where `login` says.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from agent.aio import run_blocking
from agent.errors import ImageDownload, RegistryDenied, RegistryManifest
from agent.formats.oci.choose import candidates, choose_entry, choose_layer
from agent.formats.oci.look import LOOK_BYTES, Look, look_at
from agent.formats.oci.manifest import Descriptor, Manifest, ManifestRefused, Resolved, read_manifest
from agent.formats.oci.vouchers import Vouchers
from agent.model.registry import RegistryAuth
from agent.transfer.http.faults import DeniedFault, FatalFault
from agent.transfer.http.options import HttpOptions
from agent.transfer.http.ramp import Ramp
from agent.transfer.http.repository import Repository
from agent.transfer.http.slices import Lender
from agent.transfer.http.source import HttpSource
from agent.transfer.http.vouchers import find_vouchers
from agent.transfer.source import SourceInfo, TransferRestart

MAX_DEPTH = 3
"""Documents from the reference to the manifest: an index may be in an index."""


class RegistrySource:
    """The disk image that a reference names.

    Args:
        url: has passed `check_url`, and is a reference.
        machine: the architecture that is wanted of an index, as `uname -m` has it.
        options: how it is asked, and how the layer comes.
        auth: the credentials of the job.
        mirrors: URLs of the same bytes as the layer has.
        lender, ramp: see `HttpSource`.
    """

    def __init__(
        self,
        url: str,
        machine: str,
        options: HttpOptions | None = None,
        *,
        auth: RegistryAuth | None = None,
        mirrors: Sequence[str] = (),
        lender: Lender | None = None,
        ramp: Ramp | None = None,
    ) -> None:
        self._repository = Repository(url, options or HttpOptions(), auth)
        self._machine = machine
        self._mirrors, self._lender, self._ramp = mirrors, lender, ramp
        self._resolved: Resolved | None = None
        self._source: HttpSource | None = None

    async def resolve(self) -> Resolved:
        """Find the layer that is meant; asked again, the same. See `RegistryImage.resolve`."""
        if self._resolved is None:
            with self._reported():
                self._resolved = await self._resolve()
        return self._resolved

    async def vouchers(self) -> Vouchers:
        """The signatures that the registry has of the image; see `RegistryImage.vouchers`."""
        resolved = await self.resolve()
        with self._reported():
            return await find_vouchers(self._repository, (resolved.named, resolved.manifest))

    async def open(self) -> SourceInfo:
        """Find the layer and connect; see `Source.open`."""
        layer = (await self.resolve()).layer
        if self._source is None:
            self._source = self._repository.blob(
                layer, mirrors=self._mirrors, lender=self._lender, ramp=self._ramp
            )
        info = await self._source.open()
        if info.size not in (None, layer.size):
            with self._reported():
                raise ManifestRefused(
                    f"the layer {layer} has {layer.size} bytes by its manifest, and {info.size} by the server"
                )
        return replace(
            info,
            url=self._repository.shown_url,
            size=layer.size,
            length_checked=True,
            digest=layer.digest,
        )

    async def fill(self, buffer: memoryview) -> int:
        """Fill the buffer from the current position; see `Source.fill`."""
        return await self._opened().fill(buffer)

    async def read_at(self, offset: int, length: int) -> bytes | None:
        """Read a range; see `Source.read_at`."""
        return await self._opened().read_at(offset, length)

    @property
    def connections(self) -> int:
        """See `Source.connections`."""
        return 0 if self._source is None else self._source.connections

    async def close(self) -> None:
        """Drop the connection; see `Source.close`."""
        if self._source is not None:
            await self._source.close()

    async def _resolve(self) -> Resolved:
        entry: Descriptor | None = None
        named = self._repository.reference.digest
        for _ in range(MAX_DEPTH):
            wanted = self._repository.reference.wanted if entry is None else entry.digest
            digest, data = await self._repository.manifest(wanted, entry)
            named = named or digest
            document = read_manifest(data)
            if isinstance(document, Manifest):
                return Resolved(named, digest, await self._layer(document))
            entry = choose_entry(document, self._machine)
        raise ManifestRefused(f"it is an index of indexes, and {MAX_DEPTH} deep there is no manifest yet")

    async def _layer(self, manifest: Manifest) -> Descriptor:
        layers = candidates(manifest)
        if len(layers) == 1:
            return layers[0]  # preflight looks into it
        return choose_layer(layers, [await self._look(layer) for layer in layers])

    async def _look(self, layer: Descriptor) -> Look:
        source = self._repository.blob(layer)
        head = bytearray(min(LOOK_BYTES, layer.size))
        try:
            await source.open()
            count = await _fill(source, head)
        finally:
            await source.close()
        return await run_blocking(look_at, bytes(head[:count]))

    def _opened(self) -> HttpSource:
        if self._source is None:
            raise RuntimeError("the image is read before it was opened")
        return self._source

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """Turn what cannot be mended into the errors that the rest of the agent knows."""
        shown = self._repository.shown_url
        try:
            yield
        except ManifestRefused as refusal:
            raise RegistryManifest(
                url=shown,
                reason=str(refusal),
                detail=refusal.detail,
                hint=refusal.hint,
                blame=refusal.blame,
            ) from None
        except DeniedFault as fault:
            raise RegistryDenied(url=shown, reason=str(fault), hint=fault.hint) from fault
        except FatalFault as fault:
            raise ImageDownload(
                url=shown, detail=str(fault), hint=fault.hint, blame=fault.blame, retryable=fault.retryable
            ) from fault


async def _fill(source: HttpSource, head: bytearray) -> int:
    """The first bytes of a file; returns how many there are."""
    while True:
        try:
            return await source.fill(memoryview(head))
        except TransferRestart:
            pass  # it is at byte 0 again
