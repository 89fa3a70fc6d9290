"""What an agent makes of the job that the one before it has left in the journal, before it carries anything on. Pure.

What takes a look at the disk first, the run of the job does (`agent.service.jobs.lifecycle`).
"""

from dataclasses import replace

from agent.errors import JobCancelled, JobInterrupted
from agent.model.disk_state import DiskState
from agent.model.job import Job
from agent.service.jobs.entry import JobEntry, Phase
from agent.service.jobs.outcomes import failed
from agent.service.jobs.phases import (
    DiskChanged,
    HandedOver,
    RebootState,
    Restart,
    advance,
    after_restart,
)
from agent.service.jobs.reboot import reboot_document


def taken_up(entry: JobEntry, job: Job, server_name: str, *, same_boot: bool) -> JobEntry | None:
    """What is left of a job that the last agent had; None where it was promised that nothing is.

    Args:
        entry: as the journal has it.
        job: its job, read.
        server_name: for its status.
        same_boot: whether the server has not been booted since.
    """
    match after_restart(entry, same_boot=same_boot):
        case Restart.ERASE:
            return None
        case Restart.CANCELLED:
            entry = advance(entry, failed(entry, job, server_name, JobCancelled()))
        case Restart.CALLED_OFF:
            entry = advance(entry, HandedOver(reboot_document(RebootState.CALLED_OFF)))
        case Restart.REBOOTED:
            entry = advance(entry, HandedOver())
        case Restart.BEGIN_AGAIN | Restart.COMPARE if entry.origin == "ironic" and not same_boot:
            # Its conductor has powered the server on for something else, and orders anew what it still wants.
            if entry.phase is Phase.SEALED:  # the commit may be complete on the disk
                entry = advance(entry, DiskChanged(DiskState.UNKNOWN))
            error = JobInterrupted(reason="the server was rebooted, and Ironic orders anew what it wants")
            entry = advance(entry, failed(entry, job, server_name, error))
        case _:
            pass
    # An older agent kept the secrets of a job that is over.
    return replace(entry, job=job.without_secrets()) if entry.is_over else entry
