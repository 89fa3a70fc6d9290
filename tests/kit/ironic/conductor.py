"""A real Ironic on this machine: a conductor and its API in one process, a database in a file, servers without a BMC.

    with conductor(environment, directory, address) as one:
        ... Ironic(one.url) ... one.kill() ... one.start() ...

The environment is made by packaging/dev/ironic-environment. Several conductors run beside each other, each with a
directory and a port of its own; one that is started again finds its database as it left it.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from configparser import RawConfigParser
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.kit.commands import ROOT, attempt

READY_SECONDS = 90
ERRORS_SHOWN = 12
LAUNCHER = Path(__file__).with_name("launch.py")

Options = Mapping[str, Mapping[str, object]]
"""Of ironic.conf, by section."""

_NONE_OF = ("bios", "console", "firmware", "raid", "rescue", "vendor")
"""Kinds of interface that are switched off; by default some want a BMC's tools."""

_COMMON: Options = {
    "DEFAULT": {
        "auth_strategy": "noauth",
        "rpc_transport": "none",
        "enabled_hardware_types": "fake-hardware",
        "enabled_deploy_interfaces": "direct",
        "enabled_boot_interfaces": "fake",
        "enabled_power_interfaces": "fake",
        # The fake one knows no boot device `disk`, and every deployment would end there.
        "enabled_management_interfaces": "noop",
        "default_management_interface": "noop",
        "enabled_network_interfaces": "noop",
        "default_network_interface": "noop",
        "enabled_inspect_interfaces": "agent,no-inspect",
        "enabled_storage_interfaces": "noop",
        **{f"enabled_{kind}_interfaces": f"no-{kind}" for kind in _NONE_OF},
        "host": "localhost",
    },
    # How often an agent is heard is what tests wait for.
    "api": {"api_workers": 1, "ramdisk_heartbeat_timeout": 6},
    # A fake BMC cannot choose what a server starts from; the agent is there all the same.
    "inspector": {"require_managed_boot": False},
    "dhcp": {"dhcp_provider": "none"},
    # A look at the power, once a minute, forgets a `last_error` that a test has not read yet.
    "conductor": {"automated_clean": False, "sync_power_state_interval": 0},
    "agent": {
        "deploy_logs_collect": "never",
        "image_download_source": "http",
        # A fake server never goes down: six looks at it, five seconds apart, would be half a minute for nothing.
        "post_deploy_get_power_state_retries": 0,
        "post_deploy_get_power_state_retry_interval": 0,
    },
    # Empty: nothing is kept in /var/lib.
    "pxe": {"instance_master_path": ""},
    "deploy": {"iso_master_path": ""},
}


def ironic_environment() -> Path:
    """Where Ironic is installed; it is made where it is not there yet, which takes a minute."""
    done = attempt("sh", ROOT / "packaging/dev/ironic-environment")
    assert done.returncode == 0, f"there is no Ironic:\n{done.stderr}"
    return Path(done.stdout.splitlines()[-1])


def _free_port(address: str) -> int:
    with socket.create_server((address, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@dataclass
class Conductor:
    """One conductor; `start` may be called again after `kill`."""

    environment: Path
    directory: Path
    address: str
    options: Options = field(default_factory=dict)
    """What is another than usual; None takes an option away."""
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.port = _free_port(self.address)
        shutil.copy(self.environment / "ironic.sqlite", self.directory / "ironic.sqlite")

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port}"

    @property
    def log(self) -> str:
        path = self.directory / "ironic.log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def errors(self) -> str:
        """The last errors of its log; the end of the log where there are none."""
        lines = self.log.splitlines()
        return "\n".join(
            [line for line in lines if " ERROR " in line][-ERRORS_SHOWN:] or lines[-ERRORS_SHOWN:]
        )

    def write_config(self) -> Path:
        own: Options = {
            "DEFAULT": {"my_ip": self.address, "tempdir": self.directory},
            "api": {"host_ip": self.address, "port": self.port},
            "service_catalog": {"endpoint_override": self.url},
            "database": {"connection": f"sqlite:///{self.directory / 'ironic.sqlite'}"},
            "agent": {
                "deploy_logs_local_path": self.directory / "deploy-logs",
                "certificates_path": self.directory / "certificates",
            },
        }
        parser = RawConfigParser(default_section="")
        for part in (_COMMON, own, self.options):
            for section, options in part.items():
                if not parser.has_section(section):
                    parser.add_section(section)
                for name, value in options.items():
                    if value is None:
                        parser.remove_option(section, name)
                    else:
                        parser.set(section, name, str(value))
        path = self.directory / "ironic.conf"
        with path.open("w") as file:
            parser.write(file)
        return path

    def start(self) -> "Conductor":
        """Start it, and wait until it has registered: before that its API has no driver, or is not there at all."""
        (self.directory / "certificates").mkdir(exist_ok=True)
        path = self.write_config()
        with (self.directory / "ironic.log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.environment / "bin/python", "-P", LAUNCHER, "--config-file", path],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=self.directory,
                # Nothing of this machine's proxies: an image is at the next address.
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
                # It forks a worker, and is ended with it.
                start_new_session=True,
            )
        deadline = time.monotonic() + READY_SECONDS
        # One that cannot register leaves its first process alive, without an API.
        while not self.ready():
            assert self.process.poll() is None, f"the conductor has died:\n{self.errors}"
            assert time.monotonic() < deadline, f"the conductor does not get ready:\n{self.errors}"
            time.sleep(0.1)
        return self

    def ready(self) -> bool:
        """Whether its API has a conductor behind it."""
        try:
            with urllib.request.urlopen(f"{self.url}/v1/drivers", timeout=10) as answer:
                return any(driver["hosts"] for driver in json.load(answer)["drivers"])
        except OSError:
            return False

    def kill(self) -> None:
        """Both of its processes, at once: what a power cut does."""
        assert self.process is not None
        process, self.process = self.process, None
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def conductor(
    environment: Path, directory: Path, address: str, options: Options | None = None
) -> Iterator[Conductor]:
    """A conductor that runs while the block does."""
    directory.mkdir(exist_ok=True)
    one = Conductor(environment, directory, address, options or {})
    try:
        yield one.start()
    finally:
        if one.process is not None:
            one.kill()
