"""A log that nobody reads: the daemon goes on, and ends when it is told to."""

import fcntl
import os
import signal
import socket
from contextlib import suppress

import pytest

from agent.units import KiB, MiB
from tests.kit.checks import assert_complete
from tests.kit.deployments import job

PIPE_BYTES = 4 * KiB


def _pipe():
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return reader, writer


def _journal_socket():
    """What systemd gives a service as stderr."""
    reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return reader.detach(), writer.detach()


def fill(descriptor):
    """Fill a pipe or a socket to the last byte."""
    os.set_blocking(descriptor, False)
    with suppress(BlockingIOError):
        while True:
            os.write(descriptor, b"\n" * KiB)
    with suppress(BlockingIOError):
        while True:
            os.write(descriptor, b"\n")
    os.set_blocking(descriptor, True)


@pytest.fixture(params=[_pipe, _journal_socket], ids=["pipe", "journal"])
def unread(request):
    """Both ends of a stderr that is full already."""
    reader, writer = request.param()
    fill(writer)
    yield reader, writer
    for descriptor in (reader, writer):
        os.close(descriptor)


def read_all(reader):
    """What is in it by now."""
    os.set_blocking(reader, False)
    pieces = []
    with suppress(BlockingIOError):
        while piece := os.read(reader, MiB):
            pieces.append(piece)
    return b"".join(pieces).decode()


def test_the_api_a_deployment_and_the_end_do_not_wait_for_a_reader(
    make_agent, web, image, disk, tmp_path, unread
):
    agent = make_agent(stderr=unread[1]).start()
    assert agent.post(job(web.url, image.sha256)).status == 200
    assert agent.wait_for("done", "error")["status"] == "done"
    assert_complete(disk, image, tmp_path)
    assert agent.end(signal.SIGTERM, 20) == 0


def test_a_start_that_fails_does_not_wait_for_a_reader(make_agent, unread):
    first = make_agent().start()
    second = make_agent(stderr=unread[1])  # the same directory
    second.launch()
    assert second.process is not None
    assert second.process.wait(20) == 1
    second.process = None
    assert first.get("/healthz").status == 200


def test_what_was_held_up_is_told_to_a_reader_that_comes_later(make_agent, web, image, unread):
    reader, writer = unread
    agent = make_agent(stderr=writer).start()
    agent.post(job(web.url, image.sha256))
    agent.wait_for("done")
    told = ""

    def ended():
        nonlocal told
        told += read_all(reader)
        return '"event": "finished"' in told

    agent.wait(ended, "the log comes")
    assert '"event": "accepted"' in told
    assert "byoi_log_dropped_lines_total 0.0" in agent.get("/metrics").body.decode()
