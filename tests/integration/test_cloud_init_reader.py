"""cloud-init's own reader on drives of both filesystems: what was asked for is what the first boot sees.

The reader is Debian's package `cloud-init`, run by the interpreter it is packaged for. The drives are taken
apart by xorriso and mtools, so that no code of ours stands between the image and the reader.
"""

import base64
import json
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.formats.configdrive import DriveContent, build_tree
from agent.host.drive import build_drive

PYTHON = "/usr/bin/python3"
SEED = bytes(range(256)) * 2
MAC = "52:54:00:12:34:56"
NETWORK_DATA = {
    "links": [{"id": "eth0", "type": "phy", "ethernet_mac_address": MAC, "mtu": 1500}],
    "networks": [
        {
            "id": "net0",
            "link": "eth0",
            "type": "ipv4",
            "ip_address": "192.0.2.7",
            "netmask": "255.255.255.0",
            "routes": [{"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "192.0.2.1"}],
        }
    ],
    "services": [{"type": "dns", "address": "192.0.2.53"}],
}
VENDOR_DATA = {"cloud-init": "#cloud-config\nlocale: de_DE.UTF-8\n"}
# What gets lost on such a way: CRLF, NUL, no UTF-8, a backslash before an n, no line end at the end.
USER_DATA = b"#!/bin/sh\r\nprintf 'a\\nb\\\\n'\n\0\xff\xfe\xc3\n\n \t#"
KEYS = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 root@a", 'no-pty,command="x y" ssh-rsa AAAAB3NzaC1yc2E= Jörg # 1']

# Answers one line of JSON for each line with a directory.
READER = """
import base64, copy, json, sys
from cloudinit import sources
from cloudinit.sources.DataSourceConfigDrive import read_config_drive
from cloudinit.sources.helpers import openstack

def plain(value):
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    raise TypeError(type(value))

for line in sys.stdin:
    found = read_config_drive(line.rstrip("\\n"))
    found["authorized"] = sources.normalize_pubkey_data(found["metadata"].get("public_keys"))
    found["vendor"] = sources.convert_vendordata(found.get("vendordata"))
    if found.get("networkdata"):
        macs = {link["ethernet_mac_address"]: "eth9" for link in found["networkdata"]["links"]}
        found["network"] = openstack.convert_net_json(copy.deepcopy(found["networkdata"]), known_macs=macs)
    print(json.dumps(found, default=plain), flush=True)
"""


@pytest.fixture(scope="module")
def cloud_init():
    """A function from the directory of a drive to what cloud-init makes of it."""
    if subprocess.run([PYTHON, "-c", "import cloudinit"], capture_output=True, check=False).returncode:
        pytest.fail("Debian's package cloud-init is not installed: packaging/dev/setup does it")
    argv = [PYTHON, "-c", READER]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin
        assert child.stdout

        def read(directory: Path) -> dict:
            print(directory, file=child.stdin, flush=True)
            return json.loads(child.stdout.readline())

        yield read
        child.stdin.close()
        child.wait(30)


def unpack(image: Path, sector_size: int, target: Path) -> None:
    if sector_size == 512:
        argv = ["xorriso", "-osirrox", "on", "-indev", image, "-extract", "/openstack", target / "openstack"]
    else:
        argv = ["mcopy", "-s", "-i", image, "::/openstack", target]
    subprocess.run(argv, check=True, capture_output=True, timeout=60)
    subprocess.run(["chmod", "-R", "u+rwX", target], check=True)


@pytest.fixture(scope="module", params=[512, 4096], ids=["iso", "fat"])
def first_boot(request, cloud_init):
    """A function from the content of a drive to what cloud-init reads from it."""

    def boot(**fields) -> dict:
        content = DriveContent(instance_uuid="5f2d7a0e-0000-4000-8000-1", random_seed=SEED, **fields)
        with tempfile.TemporaryDirectory() as directory:
            image, target = Path(directory, "image"), Path(directory, "drive")
            target.mkdir()
            image.write_bytes(build_drive(build_tree(content), request.param).image)
            unpack(image, request.param, target)
            return cloud_init(target)

    return boot


def raw(value: dict) -> bytes:
    return base64.b64decode(value["base64"])


def test_all_that_was_asked_for_is_read(first_boot):
    found = first_boot(
        hostname="db1.example.net",
        ssh_keys="# two\r\n" + "\r\n\r\n".join(KEYS),
        user_data=USER_DATA,
        vendor_data=VENDOR_DATA,
        network_data=NETWORK_DATA,
        metadata={"role": "db", "note": "Grüße", "nothing": None},
    )
    metadata = found["metadata"]
    assert found["version"] == 2
    assert metadata["uuid"] == metadata["instance-id"] == "5f2d7a0e-0000-4000-8000-1"
    assert metadata["hostname"] == metadata["local-hostname"] == "db1.example.net"
    assert metadata["meta"] == {"role": "db", "note": "Grüße", "nothing": ""}
    assert raw(metadata["random_seed"]) == SEED
    assert found["authorized"] == KEYS
    assert raw(found["userdata"]) == USER_DATA
    assert found["vendordata"] == VENDOR_DATA
    assert found["vendor"] == VENDOR_DATA["cloud-init"]
    assert found["networkdata"] == NETWORK_DATA


def test_the_network_data_are_understood(first_boot):
    network = first_boot(network_data=NETWORK_DATA)["network"]
    interface = network["config"][0]
    assert (interface["name"], interface["mac_address"]) == ("eth9", MAC)
    assert interface["subnets"][0]["address"] == "192.0.2.7"


def test_nothing_asked_for_is_a_drive_that_can_still_be_read(first_boot):
    found = first_boot()
    assert found["metadata"]["instance-id"] == "5f2d7a0e-0000-4000-8000-1"
    assert "local-hostname" not in found["metadata"]
    assert found["authorized"] == []
    assert found["userdata"] == ""
    assert found.keys().isdisjoint({"vendordata", "networkdata", "network_config"})


def test_vendor_data_may_be_a_string(first_boot):
    found = first_boot(vendor_data="#cloud-config\n{}\n")
    assert found["vendordata"] == found["vendor"] == "#cloud-config\n{}\n"


def test_large_user_data_is_read_whole(first_boot):
    user_data = bytes(range(256)) * 4096 * 3 + b"\r\n"
    assert raw(first_boot(user_data=user_data)["userdata"]) == user_data


# No line ends inside a key, no margins, no comment: those belong to the text around the keys.
key_lines = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp", "Zs"]), min_size=1).filter(
    lambda line: not line.startswith("#")
)


@settings(max_examples=15)
@given(user_data=st.binary(max_size=9000), keys=st.lists(key_lines, max_size=5))
def test_any_user_data_and_any_keys_arrive_unchanged(first_boot, user_data, keys):
    found = first_boot(user_data=user_data, ssh_keys="\n".join(keys))
    assert raw(found["userdata"]) == user_data
    assert found["authorized"] == keys
