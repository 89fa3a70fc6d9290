"""What the operator allows of a job. Pure; asked when a job is posted or polled, and again for the plan."""

from dataclasses import dataclass

from agent.errors import Fault
from agent.model.job import Job
from agent.model.url import origin_of


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator allows, whatever a job asks for."""

    require_checksum: bool = False
    allow_http: bool = True
    allow_file: bool = False
    """Whether a job that comes over the network may name a file of the server itself."""


def policy_faults(job: Job, policy: Policy, *, remote: bool) -> list[Fault]:
    """What the operator does not allow of a job, whatever its disk and its image are.

    Args:
        job: the job.
        policy: the operator's.
        remote: the job came over the network. Whoever is root on the server may read its files anyway; for others
            they are neither to be deployed nor to be probed for.
    """
    faults = []
    if policy.require_checksum and job.checksum is None:
        faults.append(Fault("checkSum", "is required by this server's policy"))
    if not policy.allow_http and job.url.lower().startswith("http:"):
        faults.append(Fault("URL", "must be https by this server's policy"))
    if remote and not policy.allow_file and origin_of(job.url).scheme == "file":
        message = "names a file of the server itself, which this server's policy (allow_file) refuses over the network"
        faults.append(Fault("URL", message))
    return faults
