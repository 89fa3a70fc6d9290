"""How the slot refuses what is asked of it."""


class SlotTaken(Exception):
    """A job runs, a reboot is pending, or something else is done to the disks. The text says which, and what helps."""

    def __init__(self, what: str, way_out: str) -> None:
        super().__init__(f"{what}: {way_out}.")


class SlotClosing(Exception):
    """The daemon stops and takes nothing any more."""


class RebootOrdered(Exception):
    """The reboot command has been run, or is about to be: nothing calls the reboot off any more."""


class StillCancelling(Exception):
    """The deployment was told to stop and has not yet; the text says what it waits for."""
