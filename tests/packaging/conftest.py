"""The packages of both releases, built once for all tests, and systems to install them into."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.packaging.room import Room

ROOT = Path(__file__).parents[2]
SUITES = ("bookworm", "trixie")


def script(path: str, *arguments: str, **environment: str) -> Path:
    """Run a script of this checkout that prints a path as its last line."""
    done = subprocess.run(
        ["sh", str(ROOT / path), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )
    if done.returncode != 0:
        pytest.fail(f"{path} failed:\n{done.stderr}", pytrace=False)
    return Path(done.stdout.splitlines()[-1])


@pytest.fixture(scope="session", params=SUITES)
def suite(request) -> str:
    """A release of Debian that there is a package for."""
    codename: str = request.param
    return codename


@pytest.fixture(scope="session")
def package(suite) -> Path:
    return script("packaging/deb/build", "--suite", suite)


@pytest.fixture(scope="session")
def next_package(suite) -> Path:
    """The same as a later version."""
    return script("packaging/deb/build", "--suite", suite, "--suffix", "+later")


@pytest.fixture(scope="session")
def package_tree(package, tmp_path_factory) -> Path:
    """What the package puts on a disk, unpacked."""
    tree: Path = tmp_path_factory.mktemp("package")
    subprocess.run(["dpkg-deb", "--extract", str(package), str(tree)], check=True)
    return tree


@pytest.fixture
def room(suite, package, tmp_path_factory) -> Iterator[Room]:
    """A plain Debian that knows nothing of the package yet. Removed afterwards, however the test ended."""
    base = script("tests/packaging/base-system", suite, str(package))
    root = tmp_path_factory.mktemp("room")
    root.chmod(0o755)
    subprocess.run(
        ["tar", "--extract", "--numeric-owner", "--file", str(base), "--directory", str(root)], check=True
    )
    # A room is thrown away: nothing in there has to survive a power cut.
    (root / "etc/dpkg/dpkg.cfg.d/unsafe-io").write_text("force-unsafe-io\n")
    yield Room(root)
    subprocess.run(["rm", "-rf", "--one-file-system", str(root)], check=True)


@pytest.fixture
def small_image(tmp_path) -> Callable[[], Path]:
    """A function that makes a raw image of 16 MiB: GPT, one FAT partition with data that does not compress."""

    def make() -> Path:
        image: Path = tmp_path / "image.raw"
        partition = tmp_path / "partition"
        with partition.open("wb") as file:
            file.truncate(14 << 20)
        subprocess.run(["mkfs.vfat", "-n", "DATA", str(partition)], check=True, stdout=subprocess.DEVNULL)
        (tmp_path / "noise").write_bytes(os.urandom(8 << 20))
        subprocess.run(["mcopy", "-i", str(partition), str(tmp_path / "noise"), "::NOISE"], check=True)
        with image.open("wb") as file:
            file.truncate(16 << 20)
        table = "label: gpt\nstart=2048, size=28672, type=L, name=data\n"
        subprocess.run(["sfdisk", "--quiet", str(image)], input=table, text=True, check=True)
        with image.open("r+b") as file:
            file.seek(1 << 20)
            file.write(partition.read_bytes())
        return image

    return make
