"""What a command loads, and what it shows of this machine."""

import lzma
import subprocess
import sys

import pytest

from agent.units import MiB
from tests.unit.stages.memory import IMAGE as IMAGE_BYTES

IMAGE = ("--url", "http://127.0.0.1:1/x", "--type", "raw")
DISK = ("--disk", "disk.img")
# What a deployment or the daemon needs.
HEAVY = ("aiohttp", "parted", "pyudev", "pycdlib", "isal", "zstandard", "agent.deploy", "shtab")


def loaded_by(*arguments: str) -> set[str]:
    """The modules that a process has imported once `byoi` has carried a command out."""
    code = (
        "import sys; from agent.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print('loaded:', *(name for name in sys.modules))"
    )
    environment = {"BYOI_SOCKET": "/nonexistent.sock", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, env=environment
    )
    loaded = set(done.stdout.rpartition("loaded:")[2].split())
    assert "agent.cli.main" in loaded
    return loaded


@pytest.mark.parametrize(
    "command", [("--help",), ("status",), ("status", "--watch"), ("deploy", "--url", "x"), ("cancel",)]
)
def test_commands_that_only_ask_start_light(command):
    """A person at a console waits for each of these modules, at every call."""
    assert loaded_by(*command) & {*HEAVY, "structlog"} == set()


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param((*IMAGE, "--checksum", "x", *DISK), id="bad job"),
        pytest.param(("--url", "ftp://a.example/x", "--type", "raw", *DISK), id="unknown scheme"),
        pytest.param(IMAGE, id="no disk named"),
    ],
)
def test_a_job_with_faults_is_refused_before_what_deploys_is_loaded(arguments):
    assert loaded_by("write", *arguments) & set(HEAVY) == set()


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x", "file:///x"])
def test_a_disk_that_is_not_there_is_found_before_http_is_loaded(url):
    loaded = loaded_by("write", "--url", url, "--type", "raw", "--disk", "/nonexistent/disk")
    assert "agent.deploy.runner" in loaded
    assert "aiohttp" not in loaded


# What decodes the images that this one is not. (bz2 is loaded by Python's own shutil.)
OF_OTHERS = (
    "isal",
    "lz4",
    "zstandard",
    "xml.etree.ElementTree",
    "agent.formats.bzip2",
    "agent.formats.archives.zip",
)
OTHER_FORMATS = ("qcow2", "ova", "vmdk", "vhd", "vhdx", "vdi")


def test_a_deployment_loads_what_decodes_its_own_image(tmp_path):
    """All of it together is 2 MiB, which a long window has not to spare."""
    (tmp_path / "image.xz").write_bytes(lzma.compress(IMAGE_BYTES))
    disk = tmp_path / "disk.img"
    of_disk = ("--disk", str(disk), "--size", "64MiB")
    loaded = loaded_by("write", "--url", f"file://{tmp_path}/image.xz", "--type", "raw", "--quiet", *of_disk)
    assert "agent.formats.xz" in loaded
    assert disk.stat().st_size == 64 * MiB
    assert loaded & set(OF_OTHERS) == set()
    assert {name for name in loaded if name.startswith("agent.formats.")}.isdisjoint(
        f"agent.formats.{name}" for name in OTHER_FORMATS
    )


def test_disks_lists_the_machine(byoi):
    outcome = byoi("disks", "--json", fresh=True)
    assert outcome.status == 0
    for disk in outcome.document["disks"]:
        assert disk["path"].startswith("/dev/")
        assert disk["eligible"] == (disk["reasons"] == [])
    outcome = byoi("disks")
    assert outcome.status == 0
    assert outcome.out.split()[:3] == ["disk", "size", "model"]


def lasting(lines):
    """Without loop devices: other tests attach and detach them meanwhile."""
    return [line for line in lines if not line.startswith("/dev/loop")]


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_disk_is_one_line_on_a_terminal_and_whole_in_a_pipe(on_terminal, byoi, tmp_path, columns):
    """Of disks with long names, as those of /dev/disk/by-id are."""
    paths = [tmp_path / f"{'disk' * 20}-{number}.img" for number in range(2)]
    groups = [f'[[disk_group]]\nid = {number}\ndisks = ["{path}"]\n' for number, path in enumerate(paths, 1)]
    (tmp_path / "agent.toml").write_text("".join(groups))
    for path in paths:
        path.write_bytes(bytes(4096))
    command = ("disks", "--config", tmp_path / "agent.toml")
    outcome = byoi(*command)
    rows = lasting(outcome.out.splitlines()[1:])
    assert [line.split()[0] for line in rows[-2:]] == list(map(str, paths))
    running = on_terminal(*command, columns=columns, output=True, TERM="xterm")
    assert running.finish() == 0
    plain = running.text.replace("\x1b[1m", "").replace("\x1b[0m", "")
    heading, *lines = [line for line in plain.splitlines() if not line.startswith("note: ")]
    assert heading.split()[:2] == ["disk", "size"]
    assert len(lasting(lines)) == len(rows)
    assert max(map(len, lines)) <= columns
