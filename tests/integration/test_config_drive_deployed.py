"""From the job to the first boot: what cloud-init's own reader finds on the deployed disk.

The reader is Debian's package `cloud-init`, run by the interpreter it is packaged for; sfdisk says where the drive is
and xorriso takes it apart, so that no code of ours stands between the disk and the reader.
"""

import base64
import json
import subprocess
from pathlib import Path

import pytest

from agent.units import MiB
from tests.kit.commands import run
from tests.kit.deployments import SSH_KEYS
from tests.kit.images import Image

PYTHON = "/usr/bin/python3"
READER = """
import base64, json, sys
from cloudinit import sources
from cloudinit.sources.DataSourceConfigDrive import read_config_drive
from cloudinit.sources.helpers import openstack
found = read_config_drive(sys.argv[1])
found["authorized"] = sources.normalize_pubkey_data(found["metadata"].get("public_keys"))
if found.get("networkdata"):
    macs = {link["ethernet_mac_address"]: "eth9" for link in found["networkdata"]["links"]}
    found["network"] = openstack.convert_net_json(found["networkdata"], known_macs=macs)
found["vendor"] = sources.convert_vendordata(found.get("vendordata"))
print(json.dumps(found, default=lambda value: {"base64": base64.b64encode(value).decode()}))
"""
MAC = "52:54:00:12:34:56"
NETWORK_DATA = {
    "links": [{"id": "eth0", "type": "phy", "ethernet_mac_address": MAC}],
    "networks": [{"id": "net0", "link": "eth0", "type": "ipv4_dhcp"}],
    "services": [],
}
# Each has cost somebody a server: a backslash before an n, CRLF, no line end, a BOM, a NUL, blanks at the ends.
USER_DATA = [
    "#!/bin/sh\nprintf 'a\\nb\\\\n'\n",
    "#cloud-config\r\nhostname: x\r\n",
    "#!/bin/bash\necho no line end",
    "\ufeff#ps1_sysnative\r\nWrite-Host 'ünïcödé \u2028 \U0001f680'\r\n",
    "\n\n  leading and trailing \t \n\n",
    'Content-Type: multipart/mixed; boundary="=x="\nMIME-Version: 1.0\n\n--=x=\n\0\x01\x7f\n--=x=--\n',
]


@pytest.fixture(scope="module", autouse=True)
def _reader_is_installed():
    if subprocess.run([PYTHON, "-c", "import cloudinit"], capture_output=True, check=False).returncode:
        pytest.fail("Debian's package cloud-init is not installed")


@pytest.fixture
def first_boot(tmp_path):
    """What cloud-init makes of a deployed disk."""

    def read(disk: Path) -> dict:
        table = json.loads(run("sfdisk", "--json", disk))["partitiontable"]
        drive = table["partitions"][-1]
        image, directory = tmp_path / "drive.iso", tmp_path / "mounted"
        with disk.open("rb") as file:
            file.seek(drive["start"] * 512)
            image.write_bytes(file.read(drive["size"] * 512))
        run("xorriso", "-osirrox", "on", "-indev", f"stdio:{image}", "-extract", "/", directory)
        return json.loads(run(PYTHON, "-c", READER, directory))

    return read


def content(found: dict, name: str) -> bytes:
    value = found[name]
    return base64.b64decode(value["base64"]) if isinstance(value, dict) else value.encode()


@pytest.mark.parametrize("user_data", USER_DATA, ids=["sh", "crlf", "bash", "bom", "blanks", "mime"])
def test_user_data_arrives_byte_for_byte(gpt_image, deploy, first_boot, tmp_path, user_data):
    disk = tmp_path / "disk.img"
    outcome = deploy(gpt_image, disk, "--size", "64M", configdrive={"enable": True, "userData": user_data})
    assert outcome.status == 0, outcome.err
    assert content(first_boot(disk), "userdata") == user_data.encode()


def test_user_data_of_a_file_arrives_byte_for_byte(gpt_image, byoi, first_boot, tmp_path):
    disk, script = tmp_path / "disk.img", tmp_path / "user-data"
    data = "".join(USER_DATA).encode()
    script.write_bytes(data)
    where = ("--url", gpt_image.path, "--type", "raw", "--disk", disk, "--size", "64M")
    assert byoi("write", *where, "--user-data", script).status == 0
    assert content(first_boot(disk), "userdata") == data


@pytest.mark.parametrize("kind", ["gpt", "mbr"])
def test_all_of_a_drive_arrives(image_maker, deploy, first_boot, tmp_path, kind):
    image: Image = getattr(image_maker, kind)()
    disk = tmp_path / "disk.img"
    drive = {
        "enable": True,
        "hostname": "web1.example.net",
        "sshKey": SSH_KEYS,
        "userMetadatas": [{"key": "rôle", "value": "front"}, {"key": "empty", "value": None}],
        "networkData": NETWORK_DATA,
        "vendorData": {"cloud-init": "#cloud-config\nlocale: de_DE.UTF-8\n"},
    }
    outcome = deploy(image, disk, "--size", str(80 * MiB), configdrive=drive)
    assert outcome.status == 0, outcome.err
    found = first_boot(disk)
    meta = found["metadata"]
    assert found["version"] == 2
    assert meta["local-hostname"] == meta["hostname"] == "web1.example.net"
    assert found["authorized"] == SSH_KEYS.splitlines()
    assert meta["meta"]["rôle"] == "front"
    assert found["networkdata"] == NETWORK_DATA
    assert found["network"]["config"][0]["name"] == "eth9"
    assert found["vendor"] == "#cloud-config\nlocale: de_DE.UTF-8\n"
    assert len(meta["instance-id"]) == 36
