"""An Ironic behind TLS, whose certificate is of a CA that no system knows."""

import ssl
import time

import pytest
import trustme

from agent.aio import run_blocking
from agent.cli.console import footer_lines
from agent.cli.report import read_report
from agent.cli.words import describe
from tests.integration.service.ironic.conftest import NODE, fake_ironic


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(params=["127.0.0.1"])
def name(request):
    """For whom Ironic's certificate is."""
    return request.param


@pytest.fixture
async def ironic(authority, name):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    await run_blocking(authority.issue_cert(name).configure_cert, context)
    async with fake_ironic(context) as fake:
        yield fake


@pytest.fixture
def ca_file(authority, tmp_path):
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture
def other_ca_file(tmp_path):
    path = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(path))
    return path


def kernel_words(ironic, *words):
    return {"url": None, "cmdline": " ".join(("quiet", f"ipa-api-url={ironic.url}", *words))}


async def refused(agent, ironic):
    """What clients see of an Ironic that is not trusted: the document, `byoi status`, and the console."""
    await agent.until(lambda document: document["ironic"]["state"] == "failing", "it is told")
    assert ironic.asked == []
    assert agent.document["ironic"]["trouble"] == "certificate"
    report, now = read_report(agent.document), time.time()
    [status] = [line for line in describe(report, now) if line.startswith("ironic:")]
    [console] = [line for line in footer_lines(report, now) if line.startswith("Ironic:")]
    for line in (status, console):
        assert f"{ironic.url} fails: its certificate is not trusted: " in line
        assert "(ironic.ca_file names the CA)" in line
        assert "next try" in line
    return status


async def test_inspection_lookup_heartbeats_and_commands_by_a_ca_of_the_operators(ironic, run_front, ca_file):
    words = kernel_words(
        ironic,
        f"ipa-ca-file={ca_file}",
        f"ipa-inspection-callback-url={ironic.url}/v1/continue_inspection",
    )
    async with run_front(**words) as agent:
        await ironic.until(lambda: ironic.heartbeats)
        assert ironic.asked[:4] == ["/", "/v1/continue_inspection", "/v1/lookup", f"/v1/heartbeat/{NODE}"]
        assert await ironic.commands() == []
        await agent.until(lambda document: document["ironic"]["state"] == "answering", "it answers")


async def test_a_certificate_of_another_ca_is_refused_and_why_is_told(ironic, run_front, other_ca_file):
    async with run_front(**kernel_words(ironic, f"ipa-ca-file={other_ca_file}")) as agent:
        assert "certificate" in await refused(agent, ironic)


async def test_without_a_ca_file_the_systems_decide(ironic, run_front):
    async with run_front(**kernel_words(ironic)) as agent:
        await refused(agent, ironic)


@pytest.mark.parametrize("name", ["ironic.example.net"], indirect=True)
async def test_a_certificate_for_somebody_else_is_refused_and_why_is_told(ironic, run_front, ca_file):
    async with run_front(**kernel_words(ironic, f"ipa-ca-file={ca_file}")) as agent:
        assert "not valid for '127.0.0.1'" in await refused(agent, ironic)


@pytest.mark.parametrize("name", ["ironic.example.net"], indirect=True)
async def test_any_certificate_will_do_where_the_operator_says_so(ironic, run_front, other_ca_file):
    words = kernel_words(ironic, "ipa-insecure=1", f"ipa-ca-file={other_ca_file}")
    async with run_front(**words):
        await ironic.until(lambda: ironic.heartbeats)
        assert await ironic.commands() == []
