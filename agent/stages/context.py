"""What the stages of one deployment share, filled in as they go."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from agent.errors import DeployError, DiskIo, DiskReadback, VerifyFailed
from agent.formats.compressed import MAX_MEMORY
from agent.formats.image import ImageFacts
from agent.formats.oci.manifest import Resolved
from agent.formats.signatures.findings import Finding
from agent.host.drive import Drive
from agent.host.faults import disk_fault
from agent.host.syscalls import return_free_memory
from agent.host.wipe import END_BYTES
from agent.model.job import Job
from agent.stages.machine import LocalMachine, Machine
from agent.stages.targets import Target
from agent.transfer.digest import DEFAULT_ALGORITHM, Digest, Observer
from agent.transfer.fetch import Fetcher
from agent.transfer.meter import Meter
from agent.transfer.pool import Buffer, BufferPool
from agent.transfer.record import Record
from agent.transfer.several import SeveralSinks
from agent.transfer.sink import Sink
from agent.transfer.source import RegistryImage, Source, SourceInfo

# Both ends of the disk stay in memory until the commit; all partition tables and boot code live within them.
HEAD_BYTES = END_BYTES
TAIL_BYTES = END_BYTES


T = TypeVar("T")


class SignatureCheck(Protocol):
    """Checks a signature over bytes that its observers see; made by `agent.stages.signature`."""

    observers: Sequence[Observer]

    def conclude(self) -> Sequence[Finding]:
        """What is found of each signature, once all bytes were seen. Blocking."""

    def close(self) -> None:
        """End what still runs for it; safe to call twice. Blocking."""


@dataclass(slots=True)
class Context:
    """What the stages of one deployment share; each fills in its part. The runner makes and closes it."""

    job: Job
    targets: tuple[Target, ...]
    """The disks that the image goes to, at least one. Their sectors are of the same size."""
    source: Source
    drive: Drive | None
    drive_tree: Mapping[str, bytes]
    """What the drive was built from, to compare with what reads back."""
    note: Callable[[str], None]
    """Keeps something for people to read; may be called in any thread."""
    machine: Machine = field(default_factory=LocalMachine)
    pool: BufferPool = field(default_factory=BufferPool)
    meter: Meter = field(default_factory=Meter)
    digest: Digest = field(default_factory=Digest)
    fetcher: Fetcher = field(default_factory=Fetcher)
    """Fetches what belongs to the image."""
    registry: RegistryImage | None = None
    """The source, where it is an image in a registry."""
    trusted_keys: str = ""
    """The directory of the operator's keys."""
    clock: Callable[[], float] = time.time
    """Seconds since the epoch."""
    signature: SignatureCheck | None = None
    """What checks the signature over the image; None without one."""
    vouched: dict[str, Any] | None = None
    """Who has signed what, for the status; None as long as nobody is known to have."""
    resolved: Resolved | None = None
    """What the reference to an image in a registry has led to."""
    drive_content: bytes | None = field(default=None, repr=False)
    """The ready-made drive that was fetched, until it has been fitted to the image."""
    # From preflight:
    info: SourceInfo | None = None
    image: ImageFacts | None = None
    promised: Digest | None = None
    """Takes the digest of the kind that the manifest of the file has; `digest` itself, where that is of this kind."""
    content: str = ""
    """What the file is: `raw`, `gzip`, ..."""
    container: str = ""
    """What it is without what is around it."""
    packing: str | None = None
    """What is around it: `gzip`, `tar in gzip`; None where nothing is."""
    window_memory: int = MAX_MEMORY
    """Bytes that the windows of compressed files may take together. What preflight takes, write takes too."""
    allow_failed: bool = False
    """Whether a disk that fails once it is written to is kept out, where another one is left."""
    reads_back: bool = False
    """Whether everything that is written is read back: then write makes a record of it."""
    parts_memory: int = 0
    """Bytes that the parts of a compressed file may take together, which write inflates side by side."""
    window: bytes = field(default=b"", repr=False)
    """The guest's first bytes; dropped once the plan is made."""
    head_window: bytes = b""
    """The guest's first MiB as preflight saw it; empty where it comes late in the file."""
    head_buffers: list[Buffer] = field(default_factory=list)
    # From claim:
    sink: Sink | None = None
    """What is written here goes to all targets."""
    # From write:
    guest_size: int = 0
    record: Record | None = None
    """Of what was written; None where it is not to be read back."""
    _keeping_out: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.digest = Digest(self.job.checksum_type or DEFAULT_ALGORITHM)

    @property
    def observers(self) -> Sequence[Observer]:
        """All that have to see the file as it is downloaded."""
        promised = () if self.promised in (None, self.digest) else (self.promised,)
        return (self.digest, *promised, *(() if self.signature is None else self.signature.observers))

    def use_info(self, info: SourceInfo) -> None:
        """Keep what is known of the file, and take the digest that its manifest promises."""
        self.info = info
        if info.digest is not None:
            algorithm = info.digest.partition(":")[0]
            self.promised = self.digest if algorithm == self.digest.algorithm else Digest(algorithm)

    @property
    def live(self) -> tuple[Target, ...]:
        """The targets that are not kept out, at least one."""
        return tuple(target for target in self.targets if target.failed is None)

    def goes_on_without(self, target: Target, error: DeployError) -> bool:
        """Whether the deployment goes on without a disk that has failed. If so it is blanked and kept out from now on.

        Never without the last one, nor without one that may still boot what was on it before. Blocking; any thread.
        """
        if not self.allow_failed or not isinstance(error, (DiskIo, DiskReadback, VerifyFailed)):
            return False
        with self._keeping_out:
            if target.failed is not None:
                return True  # by another thread
            if self.live == (target,):
                return False
            unwiped = target.blank()
            if unwiped is not None and not target.wiped:
                return False
            target.failed = error.message if unwiped is None else f"{error.message} {unwiped}"
        self.note(f"{target.found.path} has failed and is kept out: {target.failed}")
        return True

    @contextmanager
    def using(self, target: Target) -> Iterator[None]:
        """For work on one disk. Where that fails in here, it is kept out, or its fault ends the deployment.

        Raises:
            DiskIo, DiskReadback, VerifyFailed: the deployment does not go on without it.
        """
        try:
            yield
        except OSError as error:
            fault = disk_fault(target.found.path, error)
            if not self.goes_on_without(target, fault):
                raise fault from error
        except (DiskReadback, VerifyFailed) as fault:
            if not self.goes_on_without(target, fault):
                raise

    def from_any(self, look: Callable[[Target], T]) -> T:
        """What is the same on all disks, by the first that can be read. Raises as `using`."""
        while True:
            target = self.live[0]
            with self.using(target):
                return look(target)

    @property
    def room(self) -> int:
        """Bytes of the smallest disk: no image may be larger."""
        return min(target.found.size for target in self.targets)

    @property
    def sector_size(self) -> int:
        """Logical sector size of the disks in bytes."""
        return self.targets[0].found.logical_sector_size

    @property
    def to_file(self) -> bool:
        """Whether a regular file is in a disk's place, which has no sectors of its own."""
        return any(target.found.kind == "file" for target in self.targets)

    @property
    def operations(self) -> int:
        """How many reads, writes and zeroed steps have ended on all disks."""
        return sum(target.disk.operations for target in self.targets if target.disk is not None)

    @property
    def slow_disk(self) -> str | None:
        """The path of the disk for which the others wait; None where there is none."""
        slowest = self.sink.slowest if isinstance(self.sink, SeveralSinks) else None
        return None if slowest is None else self.targets[slowest].found.path

    def open_sink(self) -> None:
        """Make the sink over all targets, which have been claimed."""
        sinks = [target.opened()[1] for target in self.targets]

        def is_out(number: int) -> bool:
            return self.targets[number].failed is not None

        def goes_on_without(number: int, error: OSError) -> bool:
            target = self.targets[number]
            return self.goes_on_without(target, disk_fault(target.found.path, error))

        self.sink = sinks[0] if len(sinks) == 1 else SeveralSinks(sinks, is_out, goes_on_without)

    def written(self) -> Sink:
        """The sink over all targets."""
        if self.sink is None:
            raise RuntimeError("the disks are used before they were claimed")
        return self.sink

    def examined(self) -> tuple[SourceInfo, ImageFacts]:
        """What preflight learned."""
        if self.info is None or self.image is None:
            raise RuntimeError("the image is used before it was examined")
        return self.info, self.image

    def recorded(self) -> Record:
        """The record of what was written."""
        if self.record is None:
            raise RuntimeError("what was written is read back without a record of it")
        return self.record

    def close(self) -> None:
        """Close the disks and let all memory go. No thread may be at work any more. `signature` is closed by others: it
        may take a while.

        A traceback may keep the context itself (see `agent.tracebacks`): not with what is large in it.
        """
        if isinstance(self.sink, SeveralSinks):
            self.sink.close()
        for target in self.targets:
            target.close()
        self.pool.close()
        self.head_buffers = []
        self.window = self.head_window = b""
        self.sink = self.drive = self.record = None
        self.drive_tree = {}
        self.drive_content = None
        return_free_memory()  # a daemon lives on: 6 MiB between what it keeps
