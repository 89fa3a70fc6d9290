"""A stdout that takes nothing: one line on stderr, a status of its own, and never a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.commands import ROOT

BYOI = (sys.executable, "-m", "agent.cli")
GOOD = 'PYTHONPATH="$ROOT" exec "$PYTHON" -m "$MODULE" "$@"'
WAYS = {"closed": ">&-", "full": ">/dev/full", "without a reader": "> >(:)"}


def ended(way: str, *arguments: object, module: str = "agent.cli") -> tuple[int, list[str]]:
    """How `byoi` ended with stdout like that: the exit status, and the lines on stderr."""
    wait = "sleep 0.2; " if way == "without a reader" else ""
    environment = {"PATH": os.environ["PATH"], "ROOT": str(ROOT), "PYTHON": sys.executable, "MODULE": module}
    done = subprocess.run(
        ["bash", "-c", f"exec {WAYS[way]}; {wait}{GOOD}", "byoi", *map(str, arguments)],
        stderr=subprocess.PIPE, text=True, check=False, env=environment,
    )  # fmt: skip
    return done.returncode, done.stderr.splitlines()


@pytest.mark.parametrize("way", WAYS)
def test_a_deployment_that_went_well(gpt_image, make_job, tmp_path, way):
    disk = tmp_path / "disk.img"
    for more in (("--json",), ("--json", "--dry-run"), ("--dry-run",)):
        status, lines = ended(
            way, "write", make_job(gpt_image), "--disk", disk, "--size", "64M", "--quiet", *more
        )
        assert status == 3, lines
        assert len(lines) == 1
        assert lines[0].startswith("error: the output could not be written to stdout: ")


@pytest.mark.parametrize("way", WAYS)
def test_a_failure_keeps_its_own_status(gpt_image, make_job, tmp_path, way):
    small = tmp_path / "small.img"
    arguments = ("write", make_job(gpt_image), "--disk", small, "--size", "8M", "--quiet", "--json")
    status, lines = ended(way, *arguments)
    assert (status, lines[0][:6]) == (1, "error:")
    assert lines[-2].startswith("error: the output could not be written")
    assert lines[-1] == f"{small} is removed again: --size had made it"
    status, lines = ended(way, "status", "--socket", tmp_path / "none", "--json")
    assert (status, lines[0]) == (1, f"error: byoi-agent is not running: there is no socket {tmp_path}/none")
    assert "Traceback" not in "".join(lines)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "arguments", [("help",), ("disks",), ("disks", "--json"), ("--help",), ("--version",)]
)
def test_every_command_that_prints(way, arguments):
    status, lines = ended(way, *arguments)
    assert status == 3
    assert [line for line in lines if not line.startswith("note: ")] == lines[-1:]
    assert lines[-1].startswith("error: the output could not be written")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("arguments", ["--help", "--version", "--check --json --config FILE"])
def test_every_output_of_the_daemons_command(way, arguments, tmp_path):
    faulty = "--check" in arguments  # it names no server
    config = tmp_path / "agent.toml"
    config.touch()
    status, lines = ended(way, *arguments.replace("FILE", str(config)).split(), module="agent.service.daemon")
    assert status == (2 if faulty else 3)
    lost = [
        line for line in lines if line.startswith("byoi-agent: the output could not be written to stdout: ")
    ]
    assert len(lost) == 1
    assert [line for line in lines if line not in lost and "service_name" not in line] == []


@pytest.mark.parametrize("way", WAYS)
def test_a_deployment_goes_on_when_nobody_takes_its_progress(gpt_image, make_job, tmp_path, way):
    disk = tmp_path / "disk.img"
    arguments = ("write", make_job(gpt_image), "--disk", disk, "--size", "64M")
    environment = {
        "PATH": os.environ["PATH"],
        "ROOT": str(ROOT),
        "PYTHON": sys.executable,
        "MODULE": "agent.cli",
    }
    command = f"exec 2{WAYS[way]}; {GOOD}"
    done = subprocess.run(["bash", "-c", command, "byoi", *map(str, arguments)], check=False, env=environment)
    assert done.returncode == 0
    assert disk.read_bytes()[:3] == gpt_image.read(0, 3)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("agent.cli", "--nonsense"),
        ("agent.service.daemon", "--nonsense"),
        ("agent.service.daemon", "--check --config /nonexistent"),
        ("agent.service.daemon", "--config /nonexistent"),
    ],
)
def test_a_fault_that_nobody_can_be_told_keeps_its_status(way, module, arguments):
    wait = "sleep 0.2; " if way == "without a reader" else ""
    environment = {"PATH": os.environ["PATH"], "ROOT": str(ROOT), "PYTHON": sys.executable, "MODULE": module}
    command = f"exec 2{WAYS[way]}; {wait}{GOOD}"
    done = subprocess.run(
        ["bash", "-c", command, "byoi", *arguments.split()],
        stdout=subprocess.DEVNULL, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 2


def test_a_disk_never_gets_the_number_of_a_closed_stream(gpt_image, make_job, tmp_path):
    disk = tmp_path / "disk.img"
    job = make_job(gpt_image)
    command = f"exec 0<&- 1>&- 2>&-; {GOOD}"
    environment = {
        "PATH": os.environ["PATH"],
        "ROOT": str(ROOT),
        "PYTHON": sys.executable,
        "MODULE": "agent.cli",
    }
    arguments = ("write", str(job), "--disk", str(disk), "--size", "64M")
    done = subprocess.run(["bash", "-c", command, "byoi", *arguments], check=False, env=environment)
    assert done.returncode == 0
    assert disk.read_bytes()[:3] == gpt_image.read(0, 3)


def test_an_interrupt_while_the_command_still_loads(tmp_path):
    """A module that sends the signal stands where the first one of the command's own would be loaded."""
    module = tmp_path / "sitecustomize.py"
    module.write_text(
        "import builtins, os, signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # in the background it is ignored
        "load = builtins.__import__\n"
        "def loading(name, *rest, **more):\n"
        "    if name == 'agent.cli.main':\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "    return load(name, *rest, **more)\n"
        "builtins.__import__ = loading\n"
    )
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run(
        [*BYOI, "--version"], capture_output=True, text=True, check=False, env=environment, cwd=Path("/")
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
