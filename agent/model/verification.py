"""How much of what was written is read back from the disk before it becomes bootable. Pure."""

COMMIT, READBACK = "commit", "readback"
VERIFY = (COMMIT, READBACK)
"""What `verify` of a job and of the policy may be: both ends and the config drive, or everything that was written."""


def reads_back(asked: str | None, policy: str) -> bool:
    """Whether everything is read back: the job asks for it, or the operator does."""
    return READBACK in (asked, policy)
