"""A server that Ironic deploys with the rescue as its ramdisk, whole: looked up, written, powered off, and started.

Ironic's conductor is real and runs on the host. Its BMC is not: the test switches the machine on where the conductor
believes to have done so.
"""

from pathlib import Path

from agent.aio import run_blocking
from tests.kit.ironic.machine import source
from tests.kit.ironic.rest import Ironic, Node
from tests.lab import images, rescue
from tests.lab.disks import Disk, make_dirty
from tests.lab.ironic import IronicSite, free_port, ironic_site
from tests.lab.machine import MAC, Spec, machine
from tests.lab.matrix import Case
from tests.lab.ssh import Ssh, make_key
from tests.lab.test_cloud_init import (
    BOOT_SECONDS,
    FINISHED,
    HOSTNAME,
    USER_DATA,
    assert_is_as_ordered,
    assert_root_has_grown,
    look_inside,
)

CASE = Case(firmware="uefi", form="qcow2", system="cloud")
DEPLOYED_SECONDS = 900
OFF_SECONDS = 300
UUID = "5b0c5e9b-1d6a-4d4e-9a3d-7f0d3d9b3c11"


def _ordered(site: IronicSite, public_key: str) -> Node:
    """A node, and the order to deploy it."""
    image = images.image("cloud", CASE.table, CASE.sector_size, CASE.form, esp=True)
    node = Ironic(site.url).enroll(MAC, {"capabilities": "boot_mode:uefi"})
    node.make_available()
    url = site.web.publish(image.path, image.path.name)
    node.set(instance_info=source(url, image.sha256, image.type))
    drive = {
        "meta_data": {"uuid": UUID, "hostname": HOSTNAME, "public_keys": {"lab": public_key}},
        "user_data": USER_DATA,
    }
    node.provision("active", configdrive=drive)
    node.wait("wait call-back")
    return node


async def test_a_conductor_deploys_a_server_that_boots_with_its_config_drive(
    disk_file: Path, tmp_path: Path, record
) -> None:
    key = await run_blocking(make_key, tmp_path)
    public_key = key.with_suffix(".pub").read_text().strip()
    await run_blocking(make_dirty, disk_file, CASE.size)
    disk = Disk(path=disk_file, bus=CASE.bus, sector_size=CASE.disk_sector_size)
    async with ironic_site(tmp_path / "ironic") as site:
        node = await run_blocking(_ordered, site, public_key)
        port = free_port()
        words = f"ipa-api-url={site.url} ipa-advertise-host=127.0.0.1 ipa-listen-port={port}"
        with record.timing("deploy"):
            async with rescue.started(CASE.firmware, disk, words=words, same_ports=(port,)) as ramdisk:
                # Before the node is active the conductor has the agent power the machine off.
                assert await ramdisk.server.wait_off(DEPLOYED_SECONDS) == "guest-shutdown"
            await run_blocking(lambda: node.wait("active", seconds=OFF_SECONDS))
        assert "write: begins" in ramdisk.server.serial.text

    spec = Spec(
        firmware=CASE.firmware,
        disks=(Disk(path=disk_file, bus=CASE.bus, sector_size=CASE.sector_size, boots=True),),
        memory_mib=1024,
        forwards=(22,),
        isolated=True,
        exit_on_reset=False,
    )
    async with machine(spec) as server:
        with record.timing("boot"):
            await server.serial.wait_for(FINISHED, BOOT_SECONDS)
        ssh = Ssh(await server.port(22), key)
        await ssh.wait(BOOT_SECONDS)
        said = await look_inside(ssh)
        assert_is_as_ordered(said, CASE, public_key)
        assert said["instance_id"] == UUID
        assert_root_has_grown(said, CASE)
