"""Small files that belong to an image: whole, bounded in size and time, and without its secrets."""

import dataclasses

import pytest

from agent.transfer.fetch import Fetcher, FetchFailed, FetchTooLarge
from agent.transfer.http.limits import HttpLimits
from agent.transfer.http.options import HttpOptions

SECRET = [("X-Token", "geheim")]
QUICK = HttpLimits(backoff_base=0.01, attempts=3)


@pytest.fixture
def fetcher():
    return Fetcher(image_url="https://images.example/i", options=HttpOptions(headers=SECRET, limits=QUICK))


def with_options(fetcher: Fetcher, **options) -> Fetcher:
    return dataclasses.replace(fetcher, options=dataclasses.replace(fetcher.options, **options))


async def test_a_file_comes_whole_across_cuts(serve, fetcher, content):
    for ranges in (True, False):
        server = serve(
            lambda ex, ranges=ranges: ex.file(
                content, upto=100_000 if ex.number == 0 else None, ranges=ranges
            )
        )
        assert await fetcher.fetch(server.url, len(content)) == content


@pytest.mark.parametrize("told", [True, False])
async def test_one_byte_too_many_is_too_many(serve, fetcher, told):
    def answer(ex):
        if told:
            ex.reply(200, bytes(1001))
        else:
            ex.head(200, Connection="close")
            ex.send(bytes(1001))

    with pytest.raises(FetchTooLarge):
        await fetcher.fetch(serve(answer).url, 1000)
    assert await fetcher.fetch(serve(answer).url, 1001) == bytes(1001)


async def test_a_server_that_never_answers_is_given_up(serve, fetcher):
    slow = with_options(fetcher, limits=HttpLimits(small_file_seconds=0.2))
    with pytest.raises(FetchFailed, match=r"it did not come within 0\.2 s") as caught:
        await slow.fetch(serve(lambda ex: ex.hold()).url, 1000)
    assert (caught.value.blame, caught.value.retryable) == ("network", True)


async def test_headers_go_to_the_origin_of_the_image_only(serve, fetcher):
    server = serve(lambda ex: ex.reply(200, b"sums"))
    own = dataclasses.replace(fetcher, image_url=server.at("/image.raw"))
    for one in (fetcher, own):
        assert await one.fetch(server.at("/SUMS"), 1000) == b"sums"
    assert [ex.header("X-Token") for ex in server.requests] == [None, "geheim"]


async def test_what_failed_is_told_without_secrets_and_without_words_about_images(serve, fetcher):
    server = serve(lambda ex: ex.reply(503))
    events = []
    told = with_options(fetcher, on_event=lambda event, details: events.append((event, dict(details))))
    with pytest.raises(FetchFailed, match=r"503 Service Unavailable, .* after 3 attempts") as caught:
        await told.fetch(server.at("/SUMS?sig=abc"), 1000)
    assert [event for event, _ in events] == ["retrying", "retrying"]
    assert "abc" not in f"{caught.value}{caught.value.hint}{events}"
    assert "image" not in f"{caught.value}{caught.value.hint}"
