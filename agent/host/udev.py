"""Waits for udev after the partition table changed, if a udev daemon runs."""

from pathlib import Path

from agent.host import process

CONTROL_SOCKET = Path("/run/udev/control")
SETTLE_SECONDS = 10


def settle() -> None:
    """Wait until udev has processed its events, at most 10 s; a timeout is ignored, the agent needs no udev node."""
    if not CONTROL_SOCKET.exists():
        return
    try:
        process.run(("udevadm", "settle", f"--timeout={SETTLE_SECONDS}"), timeout=SETTLE_SECONDS + 5)
    except process.ProcessFailed:
        return
