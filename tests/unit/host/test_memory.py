"""How much memory may still be taken, by what the kernel shows under /proc and /sys/fs/cgroup."""

import pytest

from agent.host.memory import available_memory, total_memory
from agent.units import KiB, MiB

MEMINFO = "MemTotal:        8000000 kB\nMemFree:  1000 kB\nMemAvailable:    2048000 kB\nHugePages_Total: 0\n"


@pytest.fixture
def machine(tmp_path):
    """Writes the kernel's files; gives what is available by them."""

    def write(files, meminfo=MEMINFO):
        for name, text in {"proc/meminfo": meminfo, **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return available_memory(tmp_path / "proc", tmp_path / "cgroups")

    return write


def group(path, limit, used, cached=0):
    return {
        f"cgroups{path}/memory.max": f"{limit}\n",
        f"cgroups{path}/memory.current": f"{used}\n",
        f"cgroups{path}/memory.stat": f"anon 5\nactive_file {cached}\ninactive_file 0\n",
    }


def test_without_control_groups_it_is_what_the_kernel_says(machine):
    assert machine({}) == 2048000 * KiB
    assert machine({"proc/self/cgroup": "0::/\n"}) == 2048000 * KiB
    assert machine({"proc/self/cgroup": "4:memory:/old\n"}) == 2048000 * KiB


def test_the_limit_of_a_unit_holds_and_its_page_cache_does_not_count(machine):
    files = {"proc/self/cgroup": "0::/system.slice/a.service\n"}
    files |= group("/system.slice", "max", 900 * MiB)
    files |= group("/system.slice/a.service", 768 * MiB, 100 * MiB, 30 * MiB)
    assert machine(files) == 698 * MiB


def test_the_limit_of_a_slice_around_it_holds_too(machine):
    files = {"proc/self/cgroup": "0::/a.slice/b.service\n"}
    files |= group("/a.slice", 300 * MiB, 250 * MiB) | group("/a.slice/b.service", 768 * MiB, MiB)
    assert machine(files) == 50 * MiB
    assert machine(files | group("/a.slice", 300 * MiB, 301 * MiB)) == 0


@pytest.mark.parametrize("meminfo", ["", "MemAvailable: many kB\n", "nonsense"])
def test_what_cannot_be_known_is_nothing(machine, meminfo):
    assert machine({}, meminfo) == 0


def test_what_the_machine_has_is_told_apart(machine, tmp_path):
    machine({})
    assert total_memory(tmp_path / "proc") == 8000000 * KiB
    assert total_memory(tmp_path / "nowhere") == 0


def test_this_machine_has_some():
    assert available_memory() > MiB
    assert total_memory() > available_memory()
