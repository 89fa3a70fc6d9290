"""A disk that erases itself: an NVMe controller formats its namespace, ordered by the agent's code within its unit."""

import json
from pathlib import Path

from agent.aio import run_blocking
from agent.units import MiB
from tests.lab import rescue
from tests.lab.disks import DIRT, Disk
from tests.lab.place import AGENT_PYTHON, run_in_place

SIZE = 64 * MiB
ERASE_SECONDS = 300
# What Ironic's step `erase_devices` does to a disk; one that cannot do it is an error here.
PROGRAM = b"""
import json, sys
from agent.host.erase import erase
from agent.host.inventory import describe_path
disk = describe_path("/dev/nvme0n1")
erased = erase(disk, lambda *_: None, lambda: False, explicit=True, overwrite_after_failure=False)
with open(sys.argv[1], "w") as outcome:
    json.dump(erased.to_json(), outcome)
"""


async def test_an_nvme_disk_is_formatted_and_reads_zeros(disk_file: Path, record) -> None:
    await run_blocking(disk_file.write_bytes, DIRT * (SIZE // len(DIRT)))
    async with rescue.restored("bios", Disk(path=disk_file, bus="nvme")) as machine:
        with record.timing("erase"):
            said = await run_in_place(machine.ssh, PROGRAM, AGENT_PYTHON, seconds=ERASE_SECONDS)
        erased = json.loads(said)
        assert (erased["path"], erased["method"], erased["notes"]) == ("/dev/nvme0n1", "nvme_user_data", [])
        assert erased["command"].startswith("nvme format /dev/nvme0n1 --ses=1 --lbaf=0 --force --timeout=")
        await machine.ssh.run(f"cmp --bytes={SIZE} /dev/nvme0n1 /dev/zero")
        await machine.server.qmp.execute("quit")
        await machine.server.wait_off(60)
    assert not any(await run_blocking(disk_file.read_bytes))
