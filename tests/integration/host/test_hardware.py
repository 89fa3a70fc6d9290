"""The inventory of the very machine that the tests run on."""

import os
import socket

from agent.host.hardware import hardware_inventory
from agent.host.interfaces import list_interfaces
from agent.host.inventory import list_disks
from agent.units import KiB, MiB


def test_this_machine_has_one():
    inventory = hardware_inventory(list_disks())
    assert inventory["cpu"]["count"] == os.cpu_count()
    assert inventory["cpu"]["architecture"] == os.uname().machine
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert abs(inventory["memory"]["total"] - pages) <= 64 * KiB
    assert inventory["memory"]["physical_mb"] * MiB > pages // 2
    assert inventory["hostname"] == socket.gethostname()
    assert [interface["mac_address"] for interface in inventory["interfaces"]] == [
        interface.mac for interface in list_interfaces()
    ]
