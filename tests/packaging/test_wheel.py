"""The Python package, as `pip install` and pipx take it: installed without a compiler and without pyparted, and used.

Nothing is fetched: the wheel is built by what this environment has, and its dependencies are this environment's own.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from email.message import Message
from email.parser import BytesParser
from pathlib import Path
from sysconfig import get_path

import pytest

from agent import __version__
from tests.kit.links import relative_links

ROOT = Path(__file__).parents[2]
# What a machine without a compiler lacks of this environment, and this checkout itself.
LEFT_OUT = re.compile(r"_?parted|_ped|pyparted|agent$|byoi_agent|__editable__|__pycache__")


@pytest.fixture(scope="module")
def without_compiler(tmp_path_factory) -> dict[str, str]:
    """An environment in which no compiler is found."""
    tools = tmp_path_factory.mktemp("tools")
    for tool in ("gcc", "cc", "g++", "c++", "clang", "pkg-config"):
        (tools / tool).write_text(f"#!/bin/sh\necho {tool} was called >&2\nexit 1\n")
        (tools / tool).chmod(0o755)
    return {"PATH": f"{tools}:/usr/bin:/bin", "HOME": str(tools), "LC_ALL": "C.UTF-8"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory, without_compiler) -> Path:
    made = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    source = made / "source"  # building leaves files behind
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    for name in os.fsdecode(listed).split("\0"):
        if name and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = [
        "wheel",
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(made),
        str(source),
    ]
    subprocess.run([*pip, *build], check=True, env=without_compiler)
    (wheel,) = made.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory, without_compiler) -> Path:
    """The programs of a virtual environment with the wheel in it; its dependencies are links."""
    venv = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    site = Path(get_path("purelib", vars={"base": str(venv)}))
    for each in Path(get_path("purelib")).iterdir():
        if not LEFT_OUT.match(each.name):
            (site / each.name).symlink_to(each)
    install = ["--python", str(venv / "bin/python"), "install", "--no-index", "--no-deps", str(wheel)]
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *install], check=True, env=without_compiler)
    return venv / "bin"


@pytest.fixture(scope="module")
def metadata(wheel) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        return BytesParser().parsebytes(archive.read(f"byoi_agent-{__version__}.dist-info/METADATA"))


def run(program: Path, *arguments: str, environment: dict[str, str]) -> str:
    done = subprocess.run(
        [str(program), *arguments], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_version_is_the_same_wherever_it_is_asked(wheel, installed, metadata, without_compiler):
    assert wheel.name == f"byoi_agent-{__version__}-py3-none-any.whl"
    assert metadata["Version"] == __version__
    for name in ("byoi", "byoi-agent"):
        assert run(installed / name, "--version", environment=without_compiler) == f"{name} {__version__}\n"


def test_the_licence_is_an_expression_and_its_text_is_inside(wheel, metadata):
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["License"] is None
    assert not [line for line in metadata.get_all("Classifier", []) if line.startswith("License ::")]
    with zipfile.ZipFile(wheel) as archive:
        assert f"byoi_agent-{__version__}.dist-info/licenses/LICENSE" in archive.namelist()


def test_every_link_of_an_installed_document_leads_to_a_file(installed):
    documents = installed.parent / "share/doc/byoi-agent"
    links = [(page, link) for page in documents.rglob("*.md") for link in relative_links(page)]
    assert len(links) > 50
    assert [(page, link) for page, link in links if not (page.parent / link).exists()] == []


def test_the_addresses_of_the_project_are_named(metadata):
    named = {line.partition(",")[0] for line in metadata.get_all("Project-URL", [])}
    assert named == {"Homepage", "Documentation", "Issues", "Changelog"}


def test_pyparted_is_asked_for_by_the_extra_alone(metadata):
    wanted = [line for line in metadata.get_all("Requires-Dist", []) if line.startswith("pyparted")]
    assert len(wanted) == 1
    assert re.search(r"""; extra == ["']parted["']$""", wanted[0])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    plain = {re.split("[<>=]", name)[0] for name in project["dependencies"]}
    pinned = set(
        re.findall(r"^([a-z0-9-]+)==", (ROOT / "packaging/requirements.txt").read_text(), re.MULTILINE)
    )
    assert plain | {"pyparted"} <= pinned


def test_it_deploys_and_says_that_libparted_was_not_asked(installed, without_compiler, small_image, tmp_path):
    image = small_image()
    digest = hashlib.sha256(image.read_bytes()).hexdigest()
    disk = tmp_path / "disk"
    job = ["--url", image.as_uri(), "--type", "raw", "--checksum", f"sha256:{digest}", "--hostname", "plain"]
    to = ["--disk", str(disk), "--size", "64M", "--json"]
    status = json.loads(run(installed / "byoi", "write", *job, *to, environment=without_compiler))
    assert status["status"] == "done"
    assert [note for note in status["notes"] if "pyparted is not installed" in note]
    checked = subprocess.run(["sgdisk", "--verify", disk], capture_output=True, text=True, check=True)
    assert "No problems found" in checked.stdout
