"""A plain Debian to install into: a chroot without a network, with process ids and mounts of its own."""

import subprocess
from pathlib import Path

# Loopback is down in a new network namespace. The second `chroot` line gives the room what every system has.
_ENTER = """
room=$1
shift
ip link set lo up
mount --bind "$room" "$room"
mount -t proc proc "$room/proc"
mount -t tmpfs -o mode=1777 tmpfs "$room/dev/shm"
exec chroot "$room" env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 TERM=dumb \
    DEBIAN_FRONTEND=noninteractive sh -euc "$@"
"""


class Room:
    """The root filesystem at `root`; commands run in there, as root, and see nothing of this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a shell script and return what it said; the processes that it leaves behind are killed."""
        unshare = (
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "--pid",
            "--fork",
            "--kill-child",
            "--net",
        )
        command = [*unshare, "sh", "-euc", _ENTER, "sh", str(self.root), script, "sh", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)

    def must(self, script: str, *arguments: str) -> str:
        """The output of a script that may not fail."""
        done = self.run(script, *arguments)
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        return done.stdout

    def install(self, package: Path) -> None:
        """As an administrator does: by apt, which has the dependencies in its cache and no way to fetch any."""
        (self.root / "root" / package.name).write_bytes(package.read_bytes())
        self.must(f"apt-get --yes --no-install-recommends install /root/{package.name}")

    def files(self) -> set[str]:
        """Every path, but for what dpkg and apt keep about packages, and their logs."""
        left_out = "/proc /var/lib/dpkg /var/lib/apt /var/log /var/cache /root /tmp /dev /run/systemd"
        paths = " -o ".join(f"-path {path}" for path in left_out.split())
        listed = self.must(f"find / -xdev \\( {paths} \\) -prune -o -print")
        return set(listed.splitlines())
