"""LLDP over a real cable: a veth pair in a network namespace of its own."""

import json
import os
import subprocess
import sys

from tests.kit.commands import ROOT

# Runs in the namespace: a switch at `far`, this machine at `near`, and `dark`, which is not up.
IN_NAMESPACE = r"""
import json, socket, subprocess, sys, threading, time
from agent.host.addresses import interface_addresses
from agent.service.config.model import Config, IronicConfig
from agent.service.ironic.machine import Machine
from agent.host.lldp import listen

for command in (
    "link add near type veth peer name far",
    "link add dark type veth peer name fardark",
    "address add 192.0.2.9/24 dev near",
    "link set near up",
    "link set far up",
):
    subprocess.run(["ip", *command.split()], check=True)

def tlv(kind, value):
    return (kind << 9 | len(value)).to_bytes(2, "big") + value

frame = bytes.fromhex("0180c200000e525400000001") + b"\x88\xcc"
frame += tlv(1, b"\x04\x52\x54\0\0\0\1") + tlv(2, b"\x05Eth1/7") + tlv(3, b"\0\x78") + tlv(5, b"switch-3") + tlv(0, b"")
heard = threading.Event()

def switch():
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as port:
        port.bind(("far", 0))
        while not heard.wait(0.05):
            port.send(frame[:12] + b"\x08\x00" + bytes(46))
            port.send(frame)

thread = threading.Thread(target=switch)
thread.start()
found = listen(["near"], 20)
down = listen(["dark", "missing"], 20)
ironic = IronicConfig(url=("http://ironic",), collect_lldp=True, lldp_seconds=2)
inspected = Machine(Config(service_name="n"), ironic).inventory()["inventory"]["interfaces"]
heard.set()
thread.join()
begun = time.monotonic()
silent = listen(["near"], 0.2)
print(json.dumps({
    "near": [[kind, value.hex()] for kind, value in found["near"]],
    "down": {name: len(tlvs) for name, tlvs in down.items()},
    "silent": len(silent["near"]),
    "waited": time.monotonic() - begun >= 0.2,
    "inspected": {entry["name"]: entry["lldp"] for entry in inspected},
    "addresses": interface_addresses().get("near"),
}))
"""


def in_namespace(program: str) -> subprocess.CompletedProcess[str]:
    own = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    # sysfs shows the interfaces of the namespace that it was mounted in.
    inside = ["sh", "-c", 'mount -t sysfs sysfs /sys && exec "$@"', "sh", sys.executable, "-c", program]
    argv = ["unshare", *own, "--net", "--mount", *inside]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=120)


def test_what_a_switch_tells_is_heard_and_nothing_else():
    done = in_namespace(IN_NAMESPACE)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["near"] == [
        [1, "04525400000001"],
        [2, "05457468312f37"],
        [3, "0078"],
        [5, "7377697463682d33"],
    ]
    assert told["down"] == {"dark": 0, "missing": 0}
    assert (told["silent"], told["waited"]) == (0, True)
    # What has no link is not listened to, and all the same in the inventory.
    assert told["inspected"]["near"] == told["near"]
    assert told["inspected"]["dark"] == []
    assert told["addresses"][0] == "192.0.2.9"
