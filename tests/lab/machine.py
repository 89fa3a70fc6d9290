"""A server in QEMU, under software emulation: power, console, network and disks.

A machine is a context: whatever becomes of the block, QEMU is ended and its files are removed. It ends with the test
run too, if that is killed. What the console and QEMU itself said is added to an exception that leaves the block.
"""

import asyncio
import json
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.kit.processes import cpu_seconds
from tests.lab.disks import Disk
from tests.lab.qmp import Qmp, QmpClosed
from tests.lab.serial import Serial

OVMF = Path("/usr/share/OVMF")
MAC = "52:54:00:00:00:01"
HOST = "10.0.2.2"
"""The address at which a machine finds the loopback of the host."""
TAIL_LINES = 60
UEFI_GIVES_UP = r'No bootable option or device was found|starting Boot\w+ "EFI Internal Shell"'
HOTPLUG_PORTS = 4
_FORWARDED = re.compile(r"TCP\[HOST_FORWARD\]\s+\d+\s+\S+\s+(\d+)\s+\S+\s+(\d+)")


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """What the loader of a network boot would have fetched."""

    kernel: Path
    initrd: Path
    arguments: str = ""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What a machine is made of.

    Attributes:
        firmware: bios or uefi.
        kernel: started instead of a disk.
        netboot: URL of an iPXE script, as the machine sees it; the machine starts from the network.
        forwards: TCP ports of the machine that the host wants to reach (see `Machine.port`).
        same_ports: TCP ports of the machine that are the same ones on the host.
        network: it has a network card.
        isolated: the machine reaches nothing, not even the host. Ports are forwarded still.
        incoming: a saved state to go on from, made by a machine with the same specification.
        exit_on_reset: a reset ends QEMU; else it starts the machine anew, as on metal.
        oem_strings: what the firmware's SMBIOS tables hold as structures of type 11.
    """

    firmware: str = "bios"
    disks: tuple[Disk, ...] = ()
    memory_mib: int = 512
    cores: int = 2
    kernel: Kernel | None = None
    netboot: str | None = None
    forwards: tuple[int, ...] = ()
    same_ports: tuple[int, ...] = ()
    network: bool = True
    isolated: bool = False
    incoming: Path | None = None
    exit_on_reset: bool = True
    machine_type: str = "q35"
    oem_strings: tuple[str, ...] = ()

    def command(self, directory: Path) -> list[str]:
        """QEMU's command line; its sockets, its variables of the firmware and its OEM strings are in the directory."""
        # A CPU of few features: SHA-256 is three times as fast as with AVX2, which is slow to emulate.
        words = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-S"]
        words += ["-machine", self.machine_type, "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "qemu64"]
        words += [
            "-smp",
            str(self.cores),
            "-m",
            str(self.memory_mib),
            "-device",
            "VGA",
            "-device",
            "virtio-rng-pci",
        ]
        words += ["-chardev", f"socket,id=serial0,path={directory}/serial,server=on,wait=off"]
        words += ["-serial", "chardev:serial0", "-qmp", f"unix:{directory}/qmp,server=on,wait=off"]
        words += ["-no-reboot"] if self.exit_on_reset else []
        words += [*self._firmware(directory), *self._network(), *self._disks()]
        for path in self.oem_files(directory):
            words += ["-smbios", f"type=11,path={path}"]
        if self.kernel is not None:
            words += ["-kernel", str(self.kernel.kernel), "-initrd", str(self.kernel.initrd)]
            words += ["-append", self.kernel.arguments]
        return words + (["-incoming", f"exec:cat {self.incoming}"] if self.incoming else [])

    def oem_files(self, directory: Path) -> dict[Path, str]:
        """The OEM strings by the files that QEMU reads them from: its command line can be read by everybody."""
        return {directory / f"oem-{number}": text for number, text in enumerate(self.oem_strings)}

    def _firmware(self, directory: Path) -> list[str]:
        if self.firmware == "bios":
            # What the BIOS says is not on the console: whether it found something to boot.
            return [
                "-chardev",
                f"file,id=bios,path={directory}/bios",
                "-device",
                "isa-debugcon,iobase=0x402,chardev=bios",
            ]
        pflash = "if=pflash,format=raw,unit={},file={}"
        return [
            "-drive", pflash.format(0, OVMF / "OVMF_CODE_4M.fd") + ",readonly=on",
            "-drive", pflash.format(1, directory / "vars.fd"),
        ]  # fmt: skip

    def _network(self) -> list[str]:
        if not self.network:
            return []
        netdev = "user,id=net0" + (",restrict=on" if self.isolated else "")
        netdev += f",bootfile={self.netboot}" if self.netboot else ""
        # Port 0: the system chooses one that is free.
        netdev += "".join(f",hostfwd=tcp:127.0.0.1:0-:{port}" for port in self.forwards)
        netdev += "".join(f",hostfwd=tcp:127.0.0.1:{port}-:{port}" for port in self.same_ports)
        device = f"virtio-net-pci,netdev=net0,mac={MAC}"
        return ["-netdev", netdev, "-device", device + (",bootindex=0" if self.netboot else ",romfile=")]

    def _disks(self) -> list[str]:
        words = ["-device", "virtio-scsi-pci,id=scsi0"]
        if self.machine_type == "q35":
            for number in range(HOTPLUG_PORTS):
                words += ["-device", f"pcie-root-port,id=port{number},chassis={number + 1}"]
        for number, disk in enumerate(self.disks):
            words += ["-blockdev", json.dumps(disk.blockdev()), "-device", json.dumps(disk.device(number))]
        return words


class Machine:
    """A machine that is on."""

    def __init__(
        self, spec: Spec, directory: Path, process: asyncio.subprocess.Process, qmp: Qmp, serial: Serial
    ) -> None:
        self.spec = spec
        self.directory = directory
        self.qmp = qmp
        self.serial = serial
        self._process = process
        self._plugged = 0

    async def port(self, guest_port: int) -> int:
        """The port on the host's loopback that leads to a port of the machine."""
        listed = await self.qmp.execute("human-monitor-command", command_line="info usernet")
        return next(int(host) for host, guest in _FORWARDED.findall(listed) if int(guest) == guest_port)

    async def plug(self, disk: Disk) -> None:
        """Put a disk into the running machine."""
        await self.qmp.send("blockdev-add", disk.blockdev())
        bus = f"port{self._plugged}" if self.spec.machine_type == "q35" else None
        await self.qmp.send("device_add", disk.device(len(self.spec.disks) + self._plugged, bus=bus))
        self._plugged += 1

    async def unplug(self, disk: Disk, seconds: float) -> None:
        """Take a disk out of the running machine; it is gone when its kernel has let go of it."""
        device = disk.device(0)["id"]
        await self.qmp.send("device_del", {"id": device})
        async with asyncio.timeout(seconds):
            while (await self.qmp.wait_event("DEVICE_DELETED"))["data"].get("device") != device:
                pass

    async def screenshot(self, path: Path) -> Path:
        """Photograph the screen: a PNG."""
        await self.qmp.execute("screendump", filename=str(path), format="png")
        return path

    async def save(self, path: Path) -> None:
        """Stop the machine and save its state to a file. It must have no disk: those will have changed by then."""
        await self.qmp.execute("stop")
        await self.qmp.execute("migrate-set-parameters", max_bandwidth=2**40)
        await self.qmp.execute("migrate", uri=f"exec:cat > {path}")
        status = "setup"
        while status not in ("completed", "failed"):
            await asyncio.sleep(0.05)
            status = (await self.qmp.execute("query-migrate"))["status"]
        assert status == "completed", status

    async def press_power_button(self) -> None:
        await self.qmp.execute("system_powerdown")

    def cut_power(self) -> None:
        """Kill QEMU. What of its disks was not flushed is lost where the file is qcow2."""
        with suppress(ProcessLookupError):
            self._process.kill()

    async def wait_off(self, seconds: float) -> str:
        """Wait until the machine is off; gives the reason: guest-shutdown, guest-reset, or `killed`."""
        try:
            async with asyncio.timeout(seconds):
                events = await self.qmp.drain()
                await self._process.wait()
        except TimeoutError:
            raise TimeoutError(f"the machine is still on after {seconds} s") from None
        return next((e["data"]["reason"] for e in events if e["event"] == "SHUTDOWN"), "killed")

    @property
    def is_on(self) -> bool:
        return self._process.returncode is None

    @property
    def cpu_seconds(self) -> float:
        """Processor time that it has taken so far; it has to be on."""
        return cpu_seconds([self._process.pid])

    @property
    def off_at(self) -> float:
        """When it went off, by QEMU's word; in seconds since the epoch. It has to be off."""
        event = next(event for event in self.qmp.events if event["event"] == "SHUTDOWN")
        stamp = event["timestamp"]
        return float(stamp["seconds"]) + stamp["microseconds"] / 1e6

    async def wait_unbootable(self, seconds: float) -> None:
        """Wait until the firmware gives up: it found nothing to start from.

        Raises:
            TimeoutError: it has not by then; maybe something did start.
        """
        if self.spec.firmware == "uefi":
            await self.serial.wait_for(UEFI_GIVES_UP, seconds)
            return
        try:
            async with asyncio.timeout(seconds):
                while "No bootable device." not in self.bios_text:  # noqa: ASYNC110 -- QEMU is another process
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise TimeoutError(f"the BIOS has not given up in {seconds} s") from None

    @property
    def bios_text(self) -> str:
        """What the BIOS says of its work; empty with UEFI."""
        path = self.directory / "bios"
        return path.read_text(errors="replace") if path.exists() else ""


@asynccontextmanager
async def machine(spec: Spec) -> AsyncIterator[Machine]:
    """Switch a machine on; see the module for how it ends.

    Raises:
        RuntimeError: QEMU does not start; in its own words.
        KernelPanic: the machine's kernel died while the block waited for something.
    """
    # Sockets need a short path.
    directory = Path(tempfile.mkdtemp(prefix="byoi-lab-"))
    try:
        if spec.firmware == "uefi":
            shutil.copy(OVMF / "OVMF_VARS_4M.fd", directory / "vars.fd")
        for path, text in spec.oem_files(directory).items():
            path.write_text(text)
        async with (
            _qemu(spec.command(directory), directory) as process,
            _connected(directory, process) as (qmp, serial),
        ):
            started = Machine(spec, directory, process, qmp, serial)
            await _go_on(qmp)
            try:
                async with serial.watched():
                    yield started
            except BaseException as error:
                error.add_note("the console, by seconds:\n" + "\n".join(serial.timed()[-TAIL_LINES:]))
                error.add_note(_said(directory))
                raise
    finally:
        shutil.rmtree(directory)


async def _go_on(qmp: Qmp) -> None:
    """Let the processors run: a saved machine was stopped, and is so still when it has been read."""
    while (await qmp.execute("query-status"))["status"] == "inmigrate":  # noqa: ASYNC110 -- QEMU is another process
        await asyncio.sleep(0.05)
    await qmp.execute("cont")


def _said(directory: Path) -> str:
    bios = directory / "bios"
    said = bios.read_text(errors="replace").splitlines()[-10:] if bios.exists() else []
    return "\n".join(["QEMU and the BIOS:", (directory / "stderr").read_text(), *said])


@asynccontextmanager
async def _qemu(command: Sequence[str], directory: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    with (directory / "stderr").open("wb") as stderr:
        # Even a test run that is killed takes its machines along. They come before the tests that run beside: those
        # can wait, while systemd in a machine gives a disk 90 seconds to appear, however slow the machine is.
        process = await asyncio.create_subprocess_exec(
            "setpriv", "--pdeathsig", "KILL", "--", "nice", "-n", "-5", *command,
            stdin=asyncio.subprocess.DEVNULL, stdout=stderr, stderr=stderr,
        )  # fmt: skip
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@asynccontextmanager
async def _connected(
    directory: Path, process: asyncio.subprocess.Process
) -> AsyncIterator[tuple[Qmp, Serial]]:
    """Both connections are there before the first instruction of the machine: it was started stopped."""
    while True:
        try:
            qmp = await Qmp.connect(directory / "qmp")
            break
        except (OSError, QmpClosed):
            if process.returncode is not None:
                raise RuntimeError(f"QEMU did not start: {(directory / 'stderr').read_text()}") from None
            await asyncio.sleep(0.05)
    serial = await Serial.connect(directory / "serial")
    try:
        yield qmp, serial
    finally:
        serial.close()
        await qmp.close()
