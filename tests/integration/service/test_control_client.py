"""The two requests to a control plane, against a real one: which answers take a status, and which ids are taken."""

import ssl

import aiohttp
import pytest

from agent.service.config.model import ControlPlane
from agent.service.control.client import Action, ControlFault, ControlPlaneApi
from tests.control_plane import CANCEL, control_plane
from tests.integration.harness import serving

NAME = "ns1.example.net"


@pytest.fixture
def plane():
    with control_plane() as server:
        yield server


@pytest.fixture
async def make_api():
    async with aiohttp.ClientSession() as session:
        context = ssl.create_default_context()  # not needed: no TLS here
        yield lambda url: ControlPlaneApi(ControlPlane(url), NAME, session, context)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 205, 299])
async def test_every_2xx_takes_a_status(plane, make_api, status):
    plane.taking = status
    record = plane.give(NAME, {}, "job-1")
    assert await make_api(plane.url).report("job-1", {"status": "done"}) is Action.CONTINUE
    assert record.last == {"status": "done"}


@pytest.mark.parametrize("status", [200, 202])
async def test_every_2xx_may_cancel(plane, make_api, status):
    plane.taking = status
    plane.give(NAME, {}, "job-1").action = CANCEL
    assert await make_api(plane.url).report("job-1", {"status": "doing"}) is Action.CANCEL


@pytest.mark.parametrize("body", [b"OK", b"[]", b"\xff\xfe", b"{" * 2000, b'{"action": 7}', b" " * 100_000])
async def test_a_2xx_takes_a_status_whatever_else_it_says(make_api, body):
    def answer(request, _number):
        request.head(200, Content_Length=len(body))
        request.wfile.write(body)

    with serving(answer) as server:
        server.RequestHandlerClass.do_PUT = server.RequestHandlerClass.do_GET
        try:
            assert await make_api(server.url).report("job-1", {"status": "done"}) is Action.CONTINUE
        finally:
            del server.RequestHandlerClass.do_PUT


@pytest.mark.parametrize(
    ("status", "is_final"),
    [
        *((status, True) for status in (400, 409, 413, 422)),
        *((status, False) for status in (302, 401, 403, 408, 429, 500, 503)),
    ],
)
async def test_an_answer_that_may_be_another_one_later_is_told_from_one_that_will_not(
    plane, make_api, status, is_final
):
    plane.refusing = status
    plane.give(NAME, {}, "job-1")
    with pytest.raises(ControlFault) as caught:
        await make_api(plane.url).report("job-1", {"status": "done"})
    assert caught.value.is_final is is_final
    assert str(status) in str(caught.value)


@pytest.mark.parametrize("status", [404, 410])
async def test_a_job_that_is_gone_is_told_as_that(plane, make_api, status):
    plane.refusing = status
    plane.give(NAME, {}, "job-1")
    assert await make_api(plane.url).report("job-1", {"status": "done"}) is Action.GONE


@pytest.mark.parametrize("job_id", ["1", "job-1", "a.b_c~d", "...", "urn:uuid:0f9c", "x" * 128])
async def test_an_id_is_given_back_in_the_url_as_it_came(plane, make_api, job_id):
    record = plane.give(NAME, {"URL": "x"}, job_id)
    api = make_api(plane.url)
    offer = await api.ask(0)
    assert offer is not None
    assert offer.id == job_id
    await api.report(offer.id, {"status": "doing"})
    assert record.last == {"status": "doing"}


@pytest.mark.parametrize(
    "job_id",
    [
        *(".", "..", "a/b", "../../other/job", "%2e%2e", "%2F", "a?b", "a#b", "a;b", "a\\b", "a b", " ", "ä"),
        *("x" * 129, "a\n", "\x00", "a\x7f"),
    ],
)
async def test_an_id_that_could_lead_to_another_url_is_refused_and_never_sent(plane, make_api, job_id):
    plane.give(NAME, {"URL": "x"}, job_id)
    api = make_api(plane.url)
    with pytest.raises(ControlFault, match="an id of"):
        await api.ask(0)
    with pytest.raises(ControlFault, match="an id of") as caught:
        await api.report(job_id, {"status": "done"})  # of a journal that an older agent wrote
    assert caught.value.is_final
    assert plane.jobs[NAME][job_id].statuses == []
