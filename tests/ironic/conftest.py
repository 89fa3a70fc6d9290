"""What the tests with a real Ironic share: one conductor and one network for all, a server for each."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.kit.commands import run
from tests.kit.disks import make_disk
from tests.kit.images import Image, make_image
from tests.kit.ironic.conductor import Conductor, conductor, ironic_environment
from tests.kit.ironic.machine import Machine, machine
from tests.kit.ironic.network import Network, network
from tests.kit.pages import Web, publishing

MakeMachine = Callable[..., Machine]


@pytest.fixture(scope="session")
def environment() -> Path:
    return ironic_environment()


@pytest.fixture(scope="session")
def wires() -> Iterator[Network]:
    """The network that everything here is plugged into."""
    with network() as one:
        yield one


@pytest.fixture(scope="session")
def shared_conductor(
    environment: Path, wires: Network, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Conductor]:
    """As an operator has it: agents have to have TLS, which is the default. Nobody ends it."""
    with conductor(environment, tmp_path_factory.mktemp("ironic"), wires.address) as one:
        yield one


@pytest.fixture
def web(wires: Network) -> Iterator[Web]:
    """Where images are."""
    with publishing(wires.address) as one:
        yield one


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return make_image(tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="session")
def qcow2(image: Image) -> Image:
    """The same system as qcow2."""
    path = image.path.with_suffix(".qcow2")
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", image.path, path)
    return Image(path)


@pytest.fixture
def make_machine(shared_conductor: Conductor, wires: Network, tmp_path: Path) -> Iterator[MakeMachine]:
    """A function `make(**options)`: a server that is available, and off. Gone with the test.

    `by` is another conductor; with `enrolled_only` it is not even available; the rest are options of `machine`.
    """
    with ExitStack() as stack:
        made: list[Machine] = []

        def make(by: Conductor = shared_conductor, *, enrolled_only: bool = False, **options: Any) -> Machine:
            disk = make_disk(tmp_path / f"disk-{len(made)}.img")
            one = stack.enter_context(machine(wires, by.url, disk, **options))
            made.append(one)
            if not enrolled_only:
                one.node.make_available()
            return one

        yield make
