"""What the operator allows of a job, whatever its disk and its image are. Pure.

Asked once where a job comes in: the API and the control plane's client know where it came from, and refuse it before it
is accepted. The plan asks again, since a job that the journal kept may be older than the policy in force, and one of
the command line came through no such door. Nothing below relies on more than that.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from agent.errors import Fault, JobInvalid
from agent.model.job import Job
from agent.model.url import origin_of


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator allows, whatever a job asks for."""

    require_checksum: bool = False
    allow_http: bool = True
    allow_file: bool = False
    """Whether a job that comes over the network may name a file of the server itself."""


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
    if policy.require_checksum and job.checksum is None:
        yield Fault("checkSum", "is required by this server's policy")
    if not policy.allow_http and scheme == "http":
        yield Fault("URL", "must be https by this server's policy")
    if remote and not policy.allow_file and scheme == "file":
        message = "names a file of the server itself, which this server's policy (allow_file) refuses over the network"
        yield Fault("URL", message)
