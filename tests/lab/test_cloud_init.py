"""The whole way of a server: deployed, started, cloud-init run to its end, and started once more."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from agent.aio import run_blocking
from agent.units import MiB
from tests.lab.deploy import Deployed
from tests.lab.disks import Disk, make_dirty
from tests.lab.machine import Spec, machine
from tests.lab.matrix import Case
from tests.lab.ssh import Ssh, make_key

BOOT_SECONDS = 900
FINISHED = r"Cloud-init v\. \S+ finished at .* Datasource DataSourceConfigDrive"
HOSTNAME = "web1.example.net"
RUNS = "/var/lib/user-data-runs"
# A backslash before an n, CRLF, blanks at both ends of a line, no line end at the end: each has cost somebody a server.
USER_DATA = f"#!/bin/sh\nprintf 'ran\\n' >>{RUNS}\n: 'a\\\\b'\r\n\t: grüß  \n\n# no line end at the end"


async def look_inside(ssh: Ssh) -> dict[str, Any]:
    """What the machine says of itself, in one call: each costs a second of emulated cryptography."""
    script = rf"""
        set -e
        drive=$(sudo blkid -L config-2)
        sudo mount -o ro "$drive" /mnt
        root=$(findmnt -no SOURCE /)
        disk=/dev/$(lsblk -no PKNAME "$root")
        say() {{ printf '%s\t%s\n' "$1" "$2"; }}
        say hostname "$(hostname)"
        say keys "$(base64 -w 0 ~/.ssh/authorized_keys)"
        say runs "$(sudo cat {RUNS})"
        say user_data "$(sudo sha256sum /var/lib/cloud/instance/user-data.txt | cut -d ' ' -f 1)"
        say instance_id "$(cat /var/lib/cloud/data/instance-id)"
        say meta_data "$(base64 -w 0 /mnt/openstack/latest/meta_data.json)"
        say table "$(sudo sfdisk --json "$disk" | base64 -w 0)"
        say check "$({{ sudo sgdisk -v "$disk"; sudo sfdisk --verify "$disk"; }} 2>&1 | base64 -w 0)"
        say root "$root"
        say drive "$drive"
        say root_bytes "$(findmnt -bno SIZE /)"
        say disk_bytes "$(sudo blockdev --getsize64 "$disk")"
        say sector_size "$(sudo blockdev --getss "$disk")"
        say result "$(base64 -w 0 /run/cloud-init/result.json)"
        say firmware "$([ -d /sys/firmware/efi ] && echo uefi || echo bios)"
        sudo umount /mnt
    """
    output = await ssh.run(script, seconds=300)
    return dict(line.split("\t", 1) for line in output.splitlines())


def partitions(said: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Start and end in bytes of each partition, by its node."""
    unit = int(said["sector_size"])
    table = json.loads(decode(said["table"]))["partitiontable"]
    return {p["node"]: (p["start"] * unit, (p["start"] + p["size"]) * unit) for p in table["partitions"]}


def decode(text: str) -> str:
    return base64.b64decode(text).decode()


def assert_is_as_ordered(said: dict[str, Any], case: Case, public_key: str) -> None:
    assert said["firmware"] == case.firmware
    # Debian's cloud-init makes the first label of a full name the host name.
    assert said["hostname"] == HOSTNAME.partition(".")[0]
    assert public_key in decode(said["keys"]).splitlines()
    assert said["runs"] == "ran"
    assert said["user_data"] == hashlib.sha256(USER_DATA.encode()).hexdigest()
    assert said["instance_id"] == json.loads(decode(said["meta_data"]))["uuid"]
    assert json.loads(decode(said["result"]))["v1"]["errors"] == []
    checked = decode(said["check"])
    assert case.table != "gpt" or "No problems found" in checked, checked
    assert "No errors detected" in checked, checked


def assert_root_has_grown(said: dict[str, Any], case: Case) -> None:
    """The root goes on up to the config drive, which is the last thing on the disk, and its filesystem with it."""
    assert int(said["disk_bytes"]) == case.size
    places = partitions(said)
    root, drive = places[said["root"]], places[said["drive"]]
    assert case.size - 2 * MiB <= drive[1] <= case.size
    assert drive[0] - 2 * MiB <= root[1] <= drive[0]
    # The filesystem's own tables are not counted in its size.
    assert int(said["root_bytes"]) > 0.9 * (root[1] - root[0])


async def test_cloud_init_finds_what_the_job_said(
    cloud_case: Case, deployer, job_for, disk_file: Path, tmp_path: Path, record
) -> None:
    case = cloud_case
    key = await run_blocking(make_key, tmp_path)
    public_key = key.with_suffix(".pub").read_text().strip()
    drive = {"hostname": HOSTNAME, "sshKey": public_key, "userData": USER_DATA}
    job = await run_blocking(job_for, case, drive)
    await run_blocking(make_dirty, disk_file, case.size)
    with record.timing("deploy"):
        deployed: Deployed = await deployer(case, job, disk_file)
    assert deployed.error_code == "", deployed.status

    disk = Disk(path=disk_file, bus=case.bus, sector_size=case.sector_size, boots=True)
    spec = Spec(
        firmware=case.firmware,
        disks=(disk,),
        memory_mib=1024,
        forwards=(22,),
        isolated=True,
        exit_on_reset=False,
    )
    async with machine(spec) as server:
        with record.timing("boot"):
            await server.serial.wait_for(FINISHED, BOOT_SECONDS)
        ssh = Ssh(await server.port(22), key)
        first_boot = await ssh.wait(BOOT_SECONDS)
        said = await look_inside(ssh)
        assert_is_as_ordered(said, case, public_key)
        assert_root_has_grown(said, case)

        with record.timing("second boot"):
            # The connection goes down with the machine.
            await ssh.run("sudo sh -c 'sleep 1; systemctl reboot' >/dev/null 2>&1 &")
            while await ssh.wait(BOOT_SECONDS) == first_boot:
                pass
            await ssh.run("sudo cloud-init status --wait", seconds=BOOT_SECONDS)
        again = await look_inside(ssh)
        assert_is_as_ordered(again, case, public_key)
        assert again["instance_id"] == said["instance_id"]
