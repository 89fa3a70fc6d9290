"""The hardware of this machine, from /sys."""

from pathlib import Path


def mac_addresses() -> list[str]:
    """The MAC addresses of its network interfaces."""
    found = [path.read_text().strip() for path in Path("/sys/class/net").glob("*/address")]
    return [address for address in found if address.strip("0:")]
