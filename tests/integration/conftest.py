"""Deploying as people do: images made by real tools, a web server, `byoi` as a child process.

The rings of block devices and of machines borrow all of it.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.kit.byoi import Outcome, Running
from tests.kit.deployments import DRIVE
from tests.kit.images import Image, ImageMaker
from tests.kit.pages import Web, publishing
from tests.kit.server import Server, serving
from tests.kit.signing import GnuPg, gnupg
from tests.kit.terminal import OnTerminal


@pytest.fixture(scope="session")
def image_maker(tmp_path_factory) -> ImageMaker:
    return ImageMaker(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="session")
def gpt_image(image_maker) -> Image:
    return image_maker.gpt()


@pytest.fixture
def web() -> Iterator[Web]:
    with publishing() as web:
        yield web


@pytest.fixture
def serving_elsewhere() -> Iterator[Callable[..., Server]]:
    """Start servers beside `web`, each of another origin: serving_elsewhere(answer)."""
    with ExitStack() as stack:
        yield lambda answer, **options: stack.enter_context(serving(answer, **options))


@pytest.fixture
def start_byoi() -> Iterator[Callable[..., Running]]:
    """Start the command and go on: start_byoi("write", ...).finish() waits for its end."""
    with ExitStack() as stack:

        def start(*arguments: object, stdin: bytes = b"", fresh: bool = False, **env: str) -> Running:
            running = Running(*arguments, stdin=stdin, fresh=fresh, **env)
            stack.callback(running.kill)
            return running

        yield start


@pytest.fixture
def on_terminal() -> Iterator[Callable[..., OnTerminal]]:
    started: list[OnTerminal] = []

    def start(*arguments: object, **options: Any) -> OnTerminal:
        started.append(OnTerminal(*arguments, **options))
        return started[-1]

    yield start
    for running in started:
        running.process.kill()
        running.finish()


@pytest.fixture
def start_write(start_byoi) -> Callable[..., Running]:
    """Start `byoi write` of a raw image with a config drive: start_write(disk, url, sha256 or None, *options)."""

    def start(disk: Path, url: str, sha256: str | None, *options: object) -> Running:
        checksum = [] if sha256 is None else ["--checksum", f"sha256:{sha256}"]
        image = ["--url", url, "--type", "raw", *checksum, "--hostname", "h1"]
        return start_byoi("write", *image, "--disk", disk, "--json", *options)

    return start


@pytest.fixture
def byoi(start_byoi) -> Callable[..., Outcome]:
    """Run the command to its end; no traceback and no warning may show."""

    def finish(*arguments: object, stdin: bytes = b"", fresh: bool = False, **env: str) -> Outcome:
        return start_byoi(*arguments, stdin=stdin, fresh=fresh, **env).finish()

    return finish


@pytest.fixture(scope="session")
def gpg() -> Iterator[GnuPg]:
    """OpenPGP keys of every kind and condition."""
    with gnupg() as keys:
        for name in ("alice", "bob", "revoked"):
            keys.make(name)
        keys.make("rsa", "rsa2048")
        keys.make("short", "rsa1024")
        keys.make("expired", expires="1y", now="20200101T000000")
        keys.make("future", now="20500101T000000")
        yield keys


@pytest.fixture
def make_job(web, tmp_path):
    """Publish an image and write the job for it: make_job(image, **members) gives the job's path."""

    def make(image: Image, **members: object) -> Path:
        job = {
            "URL": web.publish(image.path, image.path.name),
            "type": "raw",
            "checkSum": image.sha256,
            "checkSumType": "sha256",
            "configdrive": DRIVE,
        }
        path = tmp_path / f"job-{len(list(tmp_path.iterdir()))}.json"
        path.write_text(json.dumps(job | members))
        return path

    return make


@pytest.fixture
def deploy(byoi, make_job):
    """Deploy an image over HTTP: deploy(image, disk, *options, **members of the job)."""

    def finish(image: Image, disk: object, *options: object, **members: object) -> Outcome:
        return byoi("write", make_job(image, **members), "--disk", disk, "--json", *options)

    return finish
