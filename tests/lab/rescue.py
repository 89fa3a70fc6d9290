"""Machines that run the rescue, with the daemon in it as systemd starts it.

The machine is started by kernel and initrd, as the loader of a network boot would do it, or goes on from a saved state:
a rescue that has started once, without disks, gets those of the next case while it runs. That takes seconds.
"""

import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from agent.aio import run_blocking
from tests.kit.commands import run
from tests.lab.api import Api
from tests.lab.disks import Disk
from tests.lab.images import CACHE, ROOT
from tests.lab.machine import Kernel, Machine, Spec, machine
from tests.lab.serial import KernelPanic
from tests.lab.site import API_PORT, SERVICE_NAME, site
from tests.lab.ssh import Ssh, make_key

START_SECONDS = 600
STATE_SECONDS = 86400
MEMORY_MIB = 1024
WAITS = rf"waiting for a deployment \({SERVICE_NAME}\)"
"""What stands on the console of a rescue that has no job."""
FIRST_WORD = r"^\d\d:\d\d:\d\d "
"""What the userland says first: the console that the agent is shown on."""
# Under software emulation on a busy host the ticks that the kernel counts to try its timer come late, and it gives up.
KERNEL_WORDS = "no_timer_check"
# The kernel 6.12 of Debian 13 has died in its timer interrupt when QEMU 7.2 emulated two cores in two threads.
CORES = {"trixie": 1}
# Words that a kernel dies with because of what it was given to start: no emulator is to blame.
_NOT_THE_EMULATOR = re.compile(r"not syncing: (Attempted to kill init|VFS|No working init)")

second_starts: list[str] = []
"""The panics after which a machine was started once more; for whoever tells of a test, and begins the list anew."""


@functools.cache
def rescue_directory(suite: str) -> Path:
    """The rescue: vmlinuz and initrd.img, with the lab's site in it. Built if need be.

    Args:
        suite: the release of Debian that it is made of; empty: what packaging/rescue/build takes by itself.
    """
    ready = "" if suite else os.environ.get("BYOI_RESCUE")
    of = ("--suite", suite) if suite else ()
    build = ("sh", ROOT / "packaging/rescue/build", *of, "--overlay", site().overlay)
    return Path(ready or run(*build).splitlines()[-1])


@functools.cache
def _key() -> Path:
    """The key that opens rescues; kept, as saved states know it."""
    CACHE.mkdir(parents=True, exist_ok=True)
    path = CACHE / "rescue-key"
    if not path.exists():
        scratch = CACHE / f"key-{os.getpid()}"
        scratch.mkdir()
        key = make_key(scratch)
        key.with_suffix(".pub").rename(path.with_suffix(".pub"))
        key.rename(path)
        scratch.rmdir()
    return path


@dataclass(frozen=True)
class Rescue:
    """A machine in rescue, and the ways into it."""

    server: Machine
    api: Api
    ssh: Ssh


SwitchOn = Callable[[], AbstractAsyncContextManager[Rescue]]
"""Switches a machine on; what it gives switches it off."""


def _spec(
    firmware: str,
    disks: tuple[Disk, ...],
    machine_type: str,
    words: str = "",
    initrd: Path | None = None,
    suite: str = "",
) -> Spec:
    directory = rescue_directory(suite)
    arguments = (
        f"console=tty0 console=ttyS0,115200 quiet {KERNEL_WORDS} byoi.service_name={SERVICE_NAME} {words}"
    )
    kernel = Kernel(
        kernel=directory / "vmlinuz",
        initrd=initrd or directory / "initrd.img",
        arguments=arguments.rstrip(),
    )
    return Spec(
        firmware=firmware,
        disks=disks,
        memory_mib=MEMORY_MIB,
        cores=CORES.get(suite, 2),
        kernel=kernel,
        forwards=(22, API_PORT),
        machine_type=machine_type,
    )


@asynccontextmanager
async def _entered(spec: Spec, token: str = "") -> AsyncIterator[Rescue]:
    """A machine that is switched on; its API is asked with the token, or with the one that the rescue's image holds."""
    async with machine(spec) as server:
        where = await run_blocking(site)
        api = Api(await server.port(API_PORT), where, token or where.secret("api.token"))
        try:
            yield Rescue(server, api, Ssh(await server.port(22), await run_blocking(_key), "root"))
        finally:
            api.close()


@asynccontextmanager
async def awake(switch_on: SwitchOn) -> AsyncIterator[Rescue]:
    """A machine that is switched on, and whose userland has spoken.

    A kernel that dies before that has met nothing of ours, only the emulator: the machine is switched on once more, and
    `second_starts` tells it.

    Raises:
        KernelPanic: it died of what it was given to start, or again.
    """
    async with AsyncExitStack() as running:
        try:
            async with AsyncExitStack() as trial:
                rescue = await trial.enter_async_context(switch_on())
                await rescue.server.serial.wait_for(FIRST_WORD, START_SECONDS)
                running.push_async_exit(trial.pop_all())
        except KernelPanic as panic:
            if _NOT_THE_EMULATOR.search(str(panic)):
                raise
            second_starts.append(str(panic))
            rescue = await running.enter_async_context(switch_on())
            await rescue.server.serial.wait_for(FIRST_WORD, START_SECONDS)
        yield rescue


@asynccontextmanager
async def started(
    firmware: str,
    *disks: Disk,
    words: str = "",
    credentials: Mapping[str, str] | None = None,
    api_token: str = "",
    suite: str = "",
    same_ports: tuple[int, ...] = (),
) -> AsyncIterator[Rescue]:
    """A machine that starts the rescue, with its disks, as an operator would have it: nobody can log in.

    Args:
        firmware: bios or uefi.
        disks: what is attached.
        words: for the kernel command line.
        credentials: secrets by their names, in a second initrd as docs/rescue.md tells.
        api_token: a secret that the firmware hands over, as docs/rescue.md tells; it wins over the image's.
        suite: the release of Debian that the rescue is made of, as rescue_directory has it.
        same_ports: ports of the machine that are the same ones on the host.
    """
    with tempfile.TemporaryDirectory(prefix="byoi-lab-initrd-") as scratch:
        initrd = await run_blocking(_with_credentials, suite, Path(scratch), credentials or {})
        spec = await run_blocking(_spec, firmware, disks, "q35", words, initrd, suite)
        spec = replace(spec, same_ports=same_ports)
        if api_token:
            spec = replace(spec, oem_strings=(f"io.systemd.credential:api.token={api_token}",))
        async with awake(lambda: _entered(spec, api_token)) as rescue:
            yield rescue


def _with_credentials(suite: str, scratch: Path, credentials: Mapping[str, str]) -> Path:
    """The initrd and behind it a second one: to the kernel that is what a loader makes of two."""
    folder, both = scratch / "second" / "credentials", scratch / "initrd.img"
    folder.mkdir(parents=True)
    for name, secret in credentials.items():
        (folder / name).write_text(secret)
    names = "".join(f"credentials/{name}\n" for name in credentials)
    shutil.copyfile(rescue_directory(suite) / "initrd.img", both)
    with both.open("ab") as file:
        file.write(bytes(-file.tell() % 4))  # each archive begins at a multiple of four bytes
        command = ["cpio", "--quiet", "--create", "--format=newc", "--owner=0:0"]
        file.write(
            subprocess.run(
                command, cwd=folder.parent, input=names.encode(), capture_output=True, check=True
            ).stdout
        )
    return both


@asynccontextmanager
async def restored(firmware: str, *disks: Disk) -> AsyncIterator[Rescue]:
    """A machine that goes on from the saved state, with disks that are plugged in then (no SATA), and the daemon
    has found. It lets us in by ssh."""
    async with _entered(await save(firmware)) as rescue:
        for disk in disks:
            await rescue.server.plug(disk)
        await rescue.api.wait_disks(len(disks), START_SECONDS)
        yield rescue


def _drop_old_states() -> None:
    """Half a GiB each, and every change of the agent makes a new one."""
    for path in CACHE.glob("*.state"):
        if path.stat().st_mtime < time.time() - STATE_SECONDS:
            path.unlink(missing_ok=True)


async def save(firmware: str) -> Spec:
    """The specification of a machine that goes on from a saved state, which is made once for each rescue and QEMU."""
    public_key = (await run_blocking(_key)).with_suffix(".pub").read_text().strip()
    spec = await run_blocking(_spec, firmware, (), "pc", f'byoi_rescue.ssh_key="{public_key}"')
    version = await run_blocking(run, "qemu-system-x86_64", "--version")
    key = hashlib.sha256(f"{version} {spec}".encode()).hexdigest()[:16]
    name = (await run_blocking(rescue_directory, "")).name
    state = CACHE / f"{name}-{key}.state"
    if not state.exists():
        await run_blocking(_drop_old_states)
        scratch = state.with_suffix(f".{os.getpid()}")
        async with awake(lambda: _entered(spec)) as rescue:
            await rescue.server.serial.wait_for(WAITS, START_SECONDS)
            await rescue.api.wait(START_SECONDS)
            await rescue.ssh.wait(START_SECONDS)
            await rescue.server.save(scratch)
        scratch.rename(state)
    os.utime(state)
    return replace(spec, incoming=state)
