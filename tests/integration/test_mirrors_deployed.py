"""A job with mirrors, from the command to the disk."""

import json

import pytest

from agent.units import MiB
from tests.kit.deployments import job

SIZE = 64 * MiB


def test_a_server_that_dies_in_the_midst_is_replaced_and_both_are_told(
    byoi, gpt_image, serving_elsewhere, tmp_path
):
    cut = 20 * MiB

    def dies(request):
        if request.number == 0:
            request.file(gpt_image.path, upto=cut)
        else:
            request.reply(404)

    first, mirror = serving_elsewhere(dies), serving_elsewhere(lambda request: request.file(gpt_image.path))
    document = job(
        f"{first.url}?sig=abc",
        gpt_image.sha256,
        mirrors=[mirror.at("/i?sig=def")],
        httpHeader=[{"key": "X-Token", "value": "geheim"}],
    )
    disk = tmp_path / "disk.img"
    outcome = byoi(
        "write", "-", "--disk", disk, "--size", "64M", "--json", stdin=json.dumps(document).encode()
    )
    assert (outcome.status, outcome.document["checksum"]) == (0, f"sha256:{gpt_image.sha256}")
    assert mirror.ranges == [f"bytes={cut}-"]
    assert mirror.requests[0].header("X-Token") is None
    notes = outcome.document["notes"]
    assert f"going on with {mirror.at('/i')}?sig=***: the server answered 404 Not Found" in notes
    assert f"resumed at byte {cut}" in notes
    assert outcome.document["job"]["mirrors"] == [f"{mirror.at('/i')}?sig=***"]
    assert "geheim" not in json.dumps(outcome.document)


def test_the_option_may_be_given_again(byoi, gpt_image, web, tmp_path):
    urls = [web.publish(b"", f"gone{number}", status=404) for number in range(2)]
    good = web.publish(gpt_image.path)
    arguments = ["--url", urls[0], "--mirror", urls[1], "--mirror", good]
    outcome = byoi("write", *arguments, "--disk", tmp_path / "disk.img", "--size", "64M", "--json")
    assert outcome.status == 0
    assert [request.target for request in web.requests] == ["/gone0", "/gone1", "/image.raw"]
    plan = byoi("write", *arguments, "--disk", tmp_path / "disk.img", "--dry-run")
    assert "(or one of 2 mirrors)" in plan.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--url", "https://h/i", "--mirror", "ftp://h/i"), "--mirror: the URL must begin with http"),
        (("--url", "file:///i", "--mirror", "https://h/i"), "--mirror: stand beside a file: URL"),
        (
            ("--url", "https://h/i", *("--mirror", "https://h/i") * 17),
            "--mirror: must be an array of strings, at most 16",
        ),
    ],
)
def test_wrong_mirrors_are_faults_of_the_option(byoi, tmp_path, arguments, words):
    outcome = byoi("write", *arguments, "--disk", tmp_path / "disk.img")
    assert outcome.status == 2
    assert words in outcome.err
