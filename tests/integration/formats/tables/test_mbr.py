import subprocess

from agent.formats.tables.mbr import Mbr
from agent.formats.tables.read import read_table
from agent.units import MiB
from tests.unit.formats.tables.test_mbr import logicals_of


def sfdisk(path, script, size=64 * MiB):
    with path.open("wb") as file:
        file.truncate(size)
    subprocess.run(["sfdisk", "--quiet", path], input=f"label: dos\n{script}", text=True, check=True)
    return path.read_bytes()


def test_primaries_of_a_real_table(tmp_path):
    disk = sfdisk(tmp_path / "d", "2048,8192,ef,*\n12288,4096,83\n16384,,83\n")
    table = read_table(disk, None)
    assert isinstance(table, Mbr)
    esp, root, rest = table.partitions
    assert (esp.number, esp.start, esp.size, esp.type, esp.is_esp) == (1, MiB, 4 * MiB, "EF", True)
    assert (root.number, root.start, root.size, root.type, root.is_esp) == (2, 6 * MiB, 2 * MiB, "83", False)
    assert rest.end == 64 * MiB
    assert table.extended is None
    assert table.free_slot == 4


def test_logicals_of_a_real_table(tmp_path):
    disk = sfdisk(tmp_path / "d", "2048,8192,83\n,,5\n,8192,83\n,4096,ef\n,2048,82\n")
    _, logicals = logicals_of(disk)
    assert [(p.number, p.size, p.type) for p in logicals] == [
        (5, 4 * MiB, "83"),
        (6, 2 * MiB, "EF"),
        (7, MiB, "82"),
    ]
    assert logicals[1].is_esp
    assert all(p.ebr < p.start and p.ebr_sector == disk[p.ebr : p.ebr + 512] for p in logicals)


def test_empty_extended_partition(tmp_path):
    disk = sfdisk(tmp_path / "d", "2048,8192,83\n,,5\n")
    assert logicals_of(disk)[1] == ()
    wiped = disk[: 5 * MiB] + bytes(59 * MiB)
    assert logicals_of(wiped)[1] == ()
