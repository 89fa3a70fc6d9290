"""What the operator allows of a job, whatever its disk and its image are. Pure.

Asked once where a job comes in: the API and the control plane's client know where it came from, and refuse it before it
is accepted. The plan asks again, since a job that the journal kept may be older than the policy in force, and one of
the command line came through no such door. Nothing below relies on more than that.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from agent.errors import Fault, JobInvalid, SignatureMissing
from agent.model.job import Job
from agent.model.signature import CHECKSUM
from agent.model.url import origin_of
from agent.model.verification import COMMIT


@dataclass(frozen=True, slots=True)
class SeveralPolicy:
    """What the operator allows of a deployment to several disks."""

    allow_failed: bool = False
    """Whether it goes on without a disk that fails while it is written."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator allows, whatever a job asks for."""

    require_checksum: bool | Literal["http"] = False
    """True: of every job. `http`: of an image that may come by plain http, and then by a way that nobody can change:
    in the job itself, or in a checksum file behind https."""
    allow_http: bool = True
    allow_file: bool = False
    """Whether a job that comes over the network may name a file of the server itself."""
    require_signature: bool = False
    """Whether one of the operator's own keys has to vouch for every image."""
    verify: str = COMMIT
    """How much is read back of every job, whatever that asks for (`agent.model.verification`)."""
    several: SeveralPolicy = SeveralPolicy()


def require_allowed(job: Job, policy: Policy, *, remote: bool) -> None:
    """Refuse what the operator does not allow of a job.

    Args:
        job: the job.
        policy: the operator's.
        remote: the job came over the network. Whoever is root on the server may read its files anyway; for others
            they are neither to be deployed nor to be probed for.

    Raises:
        JobInvalid: with all that is not allowed.
    """
    faults = list(_faults(job, policy, remote=remote))
    if faults:
        raise JobInvalid(faults)


def _faults(job: Job, policy: Policy, *, remote: bool) -> Iterator[Fault]:
    scheme = origin_of(job.url).scheme
    image_is_plain = any(origin_of(url).scheme == "http" for url in (job.url, *job.mirrors))
    list_is_signed = job.signature is not None and job.signature.over == CHECKSUM
    plain = [path for path, url in _urls(job) if origin_of(url).scheme == "http"]
    if policy.require_checksum and not job.has_checksum:
        if policy.require_checksum is True:
            yield Fault("checkSum", "is required by this server's policy")
        elif image_is_plain:
            yield Fault("checkSum", "is required by this server's policy of an image over plain http")
    elif policy.require_checksum == "http" and image_is_plain and "checkSum" in plain and not list_is_signed:
        # Whoever can change the image on its way can change the list of its digests as well.
        yield Fault(
            "checkSum",
            "must be a digest or an https URL by this server's policy: the image is over plain http",
        )
    if not policy.allow_http:
        yield from (Fault(path, "must be https by this server's policy") for path in plain)
    if remote and not policy.allow_file and scheme == "file":
        message = "names a file of the server itself, which this server's policy (allow_file) refuses over the network"
        yield Fault("URL", message)

    if policy.require_signature and job.signature is None:
        yield Fault("signature", "is required by this server's policy", SignatureMissing.code)
    elif policy.require_signature and job.signature is not None and job.signature.public_key is not None:
        message = (
            "counts for nothing by this server's policy (require_signature): name one of the operator's keys"
        )
        yield Fault("signature.publicKey", message, SignatureMissing.code)


def _urls(job: Job) -> Iterator[tuple[str, str]]:
    """All URLs of a job, each with the path of its member."""
    yield "URL", job.url
    yield from ((f"mirrors[{index}]", url) for index, url in enumerate(job.mirrors))
    if job.checksum_url is not None:
        yield "checkSum", job.checksum_url
    if job.signature is not None and job.signature.url is not None:
        yield "signature.url", job.signature.url
    if job.configdrive.content_url is not None:
        yield "configdrive.content", job.configdrive.content_url
