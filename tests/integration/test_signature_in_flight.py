"""A signature that is checked while the image flows: begun again with the transfer, and ended with it."""

import asyncio
import base64
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from agent.aio import run_blocking
from agent.errors import Blame, SignatureInvalid
from agent.stages.signature import prepare_signature, verify_signature
from agent.units import MiB
from tests.kit.signing import Minisign, OpenSsl
from tests.unit.stages.memory import DISK_BYTES, IMAGE, MemorySource, Stages, gpt_disk


@pytest.fixture
def sign(gpg, tmp_path):
    """The member `signature` of a job: sign(type, data)."""

    def make(kind: str, data: bytes) -> dict[str, str]:
        if kind == "openpgp":
            made, key = base64.b64encode(gpg.sign(data, "alice")), gpg.public("alice")
        else:
            (tmp_path / "image").write_bytes(data)
            signer = Minisign(tmp_path, "k")
            made, key = signer.sign(tmp_path / "image"), signer.public
        return {"type": kind, "data": made.decode(), "publicKey": key.decode()}

    return make


async def checkers() -> list[int]:
    """The processes of gpgv that are ours."""
    return await run_blocking(_checkers)


def _wait_for_checkers() -> None:
    """For a moment it is still what sets its limits."""
    while not _checkers():
        time.sleep(0.01)


def _checkers() -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            pid, _, rest = path.read_text().partition(" (gpgv) ")
            found += [int(pid)] if rest.split()[1:2] == [str(os.getpid())] else []
    return found


@pytest.mark.parametrize("kind", ["openpgp", "minisign"])
async def test_a_transfer_that_begins_again_is_checked_from_its_first_byte(sign, kind):
    source = MemorySource(gpt_disk(DISK_BYTES))
    stages = Stages(source, signature=sign(kind, source.data))
    await prepare_signature(stages.ctx)
    await stages.claimed()
    source.restarts_at = [source.position, 12 * MiB]
    await stages.write()
    assert stages.restarts == 2
    await run_blocking(verify_signature, stages.ctx)
    assert stages.ctx.vouched["signatures"][0]["accepted"]
    await run_blocking(stages.ctx.signature.close)
    assert await checkers() == []


@pytest.mark.parametrize("kind", ["openpgp", "minisign"])
async def test_another_file_after_a_restart_is_not_accepted(sign, kind):
    source = MemorySource(gpt_disk(DISK_BYTES))
    stages = Stages(source, signature=sign(kind, source.data))
    other = source.data[:-1] + b"x"

    def change() -> None:
        if not source.restarts_at:
            source.data = other

    await prepare_signature(stages.ctx)
    await stages.claimed()
    source.restarts_at, source.before_fill = [12 * MiB], change
    await stages.write()
    with pytest.raises(SignatureInvalid, match="these bytes"):
        await run_blocking(verify_signature, stages.ctx)


@pytest.fixture
async def checked(sign):
    """A claimed disk, and a checker that runs."""
    source = MemorySource(gpt_disk(DISK_BYTES))
    stages = Stages(source, signature=sign("openpgp", source.data))
    await prepare_signature(stages.ctx)
    await stages.claimed()
    await run_blocking(stages.ctx.observers[1].update, memoryview(b"x"))
    await run_blocking(_wait_for_checkers)
    yield stages
    await run_blocking(stages.ctx.signature.close)
    assert await checkers() == []


async def test_a_checker_that_is_killed_ends_the_transfer(checked):
    for pid in await checkers():
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(SignatureInvalid) as failed:
        await checked.write()
    error = failed.value
    assert (error.blame, error.retryable) == (Blame.AGENT, True)
    assert "it could not be checked, because gpgv failed" in error.message


async def test_a_transfer_is_cancelled_while_its_checker_hangs(checked):
    """It takes no more bytes than its pipe does."""
    for pid in await checkers():
        os.kill(pid, signal.SIGSTOP)
    asked = asyncio.Event()
    checked.source.before_fill = asked.set
    async with asyncio.TaskGroup() as tasks:
        writing = tasks.create_task(checked.write())
        await asked.wait()
        writing.cancel()
    assert writing.cancelled()


async def test_nothing_is_started_for_an_image_that_never_comes(sign):
    stages = Stages(signature=sign("openpgp", IMAGE))
    await prepare_signature(stages.ctx)
    assert await checkers() == []
    await run_blocking(stages.ctx.signature.close)


async def test_the_job_s_own_digest_serves_the_signature_too(sign, gpg, tmp_path):
    signature = sign("minisign", IMAGE)
    stages = Stages(signature=signature)
    await prepare_signature(stages.ctx)
    assert [observer.algorithm for observer in stages.ctx.observers] == ["sha256", "blake2b"]
    key = OpenSsl(tmp_path, "c")
    made = base64.b64encode(key.sign(tmp_path / "image")).decode()
    stages = Stages(signature={"type": "cosign", "data": made, "publicKey": key.public.decode()})
    await prepare_signature(stages.ctx)
    assert [observer.algorithm for observer in stages.ctx.observers] == ["sha256"]
    await stages.written()
    await run_blocking(verify_signature, stages.ctx)
    assert stages.ctx.vouched["signatures"][0]["accepted"]


async def test_a_clock_that_is_wrong_is_told(sign):
    stages = Stages(signature=sign("openpgp", IMAGE))
    stages.ctx.clock = lambda: 60.0
    with pytest.raises(SignatureInvalid, match="only 1970-01-01T00:01:00Z: the clock is wrong") as refused:
        await prepare_signature(stages.ctx)
    assert "date -s" in refused.value.hint
    assert time.time() > 60
