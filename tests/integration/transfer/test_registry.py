"""From a reference to the bytes of its layer: registries that are as they should be, and such as lie, loop and lure."""

import base64
import json
import random
import threading
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

import pytest

from agent.errors import Blame, DeployError, ImageDownload, RegistryDenied, RegistryManifest
from agent.formats.oci.manifest import MAX_MANIFEST_BYTES
from agent.model.registry import RegistryAuth
from agent.transfer.http.limits import HttpLimits
from agent.transfer.http.options import HttpOptions
from agent.transfer.http.ramp import Ramp, Sample
from agent.transfer.http.registry import RegistrySource
from agent.transfer.http.slices import SLICE
from agent.transfer.pool import BufferPool
from agent.units import MiB
from tests.kit.registry import INDEX, Shelf, descriptor, entry, index, manifest, sha256

PATIENT = HttpLimits(connect_seconds=10, head_seconds=10, stall_seconds=10, window_seconds=10, attempts=3)
AUTH = RegistryAuth("puller", "s3cret-canary")
BASIC = "Basic " + base64.b64encode(b"puller:s3cret-canary").decode()
DISK = b"QFI\xfb\0\0\0\3" + random.Random(4).randbytes(200_000)


@dataclass
class Pulling:
    """A source, with what it told and how long it waited."""

    source: RegistrySource
    sleeps: list[float] = field(default_factory=list)
    events: list[str] = field(default_factory=list)

    async def read(self) -> bytes:
        info = await self.source.open()
        buffer = bytearray((info.size or 0) + 1)
        count = await self.source.fill(memoryview(buffer))
        return bytes(buffer[:count])

    async def fault(self, kind: type[DeployError]) -> DeployError:
        with pytest.raises(kind) as caught:
            await self.read()
        return caught.value


@pytest.fixture
async def pull():
    made: list[Pulling] = []

    def make(
        server, reference: str = "team/web:1", *, headers=(), ca_file: str | None = None, **more
    ) -> Pulling:
        scheme = "oci+http" if server.tls is None else "oci"
        url = f"{scheme}://{server.host}:{server.port}/{reference}"
        sleeps: list[float] = []
        events: list[str] = []

        async def sleep(seconds: float) -> None:
            sleeps.append(seconds)

        options = HttpOptions(
            headers=headers,
            ca_file=ca_file,
            limits=PATIENT,
            sleep=sleep,
            on_event=lambda event, details: events.append(event),
            rng=random.Random(7),
        )
        source = RegistrySource(url, "x86_64", options, **more)
        made.append(Pulling(source, sleeps, events))
        return made[-1]

    yield make
    for one in made:
        await one.source.close()


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


def targets(server) -> list[str]:
    return [request.target for request in server.requests]


# -- as it should be ---------------------------------------------------------------------------------------------


async def test_a_disk_by_its_tag_over_tls(serve, tls, ca_file, shelf, pull):
    digest = shelf.put_disk(DISK)
    pulling = pull(serve(shelf.answer, tls=tls), ca_file=ca_file)
    assert await pulling.read() == DISK
    resolved = await pulling.source.resolve()
    assert resolved.document() == {"index": None, "manifest": digest, "layer": sha256(DISK)}
    assert (await pulling.source.open()).digest == sha256(DISK)


async def test_a_disk_by_its_digest_whatever_the_tag_is(serve, shelf, pull):
    digest = shelf.put_disk(DISK, tag=None)
    server = serve(shelf.answer)
    assert await pull(server, f"team/web:other@{digest}").read() == DISK
    assert targets(server)[0] == f"/v2/team/web/manifests/{digest}"


async def test_what_is_accepted_is_said_to_the_registry(serve, shelf, pull):
    shelf.put_disk(DISK)
    server = serve(shelf.answer)
    await pull(server).read()
    assert "vnd.oci.image.index.v1+json" in (server.requests[0].header("Accept") or "")


async def test_an_index_leads_to_the_image_for_this_machine(serve, shelf, pull):
    other = shelf.put_blob(b"QFI\xfb" + bytes(1000))
    documents = [manifest(descriptor(shelf.put_blob(DISK))), manifest(descriptor(other))]
    for document in documents:
        shelf.put(document)
    inner = index(entry(documents[1], "arm64"), entry(documents[0], "amd64"))
    shelf.put(inner)
    top = shelf.put(index(entry(inner, media_type=INDEX)), "1")
    pulling = pull(serve(shelf.answer))
    assert await pulling.read() == DISK
    assert (await pulling.source.resolve()).document()["index"] == top


async def test_the_layer_with_the_disk_is_found_among_others(serve, shelf, pull):
    others = [b"SHA256 (disk) = 00\n" * 100, b"{" + b" " * 1000 + b"}"]
    layers = [descriptor(shelf.put_blob(data)) for data in (others[0], DISK, others[1])]
    shelf.put(manifest(*layers), "1")
    server = serve(shelf.answer)
    assert await pull(server).read() == DISK


async def test_a_cut_is_resumed_by_a_range_without_an_etag(serve, shelf, pull):
    shelf.put_disk(DISK)

    def answer(request):
        if "/blobs/" in request.target:
            request.file(DISK, etag="", upto=70_000 if request.span is None else None)
        else:
            shelf.answer(request)

    server = serve(answer)
    assert await pull(server).read() == DISK
    assert server.ranges[-1] == "bytes=70000-"


async def test_a_mirror_goes_on_with_the_layer(serve, shelf, pull):
    shelf.put_disk(DISK)
    mirror = serve(lambda request: request.file(DISK))

    def answer(request):
        if "/blobs/" in request.target:
            request.reply(410)
        else:
            shelf.answer(request)

    assert await pull(serve(answer), mirrors=[mirror.url]).read() == DISK
    assert mirror.requests[0].header("Authorization") is None


async def test_rate_limits_are_waited_for(serve, shelf, pull):
    shelf.put_disk(DISK)

    def answer(request):
        if request.number in (0, 2):
            request.reply(429, Retry_After=40)
        else:
            shelf.answer(request)

    pulling = pull(serve(answer))
    assert await pulling.read() == DISK
    assert pulling.sleeps == [40.0, 40.0]


# -- who may come in ---------------------------------------------------------------------------------------------


def challenging(shelf: Shelf, challenge: str, wanted: str):
    """A registry that lets in who sends the Authorization `wanted`."""

    def answer(request):
        if request.header("Authorization") == wanted:
            shelf.answer(request)
        else:
            request.reply(401, WWW_Authenticate=challenge)

    return answer


async def test_a_name_and_a_password(serve, shelf, pull):
    shelf.put_disk(DISK)
    server = serve(challenging(shelf, 'Basic realm="x"', BASIC))
    assert await pull(server, auth=AUTH).read() == DISK
    # Who is asked once says it from then on.
    assert [request.header("Authorization") for request in server.requests] == [None, BASIC, BASIC]


async def test_a_token_of_a_service_elsewhere_behind_https(serve, tls, ca_file, shelf, pull):
    shelf.put_disk(DISK)
    service = serve(lambda request: request.reply(200, b'{"access_token": "t.0-k"}'), tls=tls)
    challenge = f'Bearer realm="{service.at("/token?x=1")}",service="reg",scope="repository:team/web:pull"'
    server = serve(challenging(shelf, challenge, "Bearer t.0-k"), tls=tls)
    assert await pull(server, auth=AUTH, ca_file=ca_file).read() == DISK
    (asked,) = service.requests
    assert asked.target == "/token?x=1&service=reg&scope=repository%3Ateam%2Fweb%3Apull"
    assert asked.header("Authorization") == BASIC
    assert BASIC not in [request.header("Authorization") for request in server.requests]


async def test_a_token_for_nobody_in_particular(serve, tls, ca_file, shelf, pull):
    shelf.put_disk(DISK)
    service = serve(lambda request: request.reply(200, b'{"token": "anon"}'), tls=tls)
    server = serve(challenging(shelf, f'Bearer realm="{service.at("/")}"', "Bearer anon"), tls=tls)
    assert await pull(server, ca_file=ca_file).read() == DISK
    assert service.requests[0].header("Authorization") is None
    assert "scope=repository%3Ateam%2Fweb%3Apull" in service.requests[0].target


@pytest.mark.parametrize(
    ("scope", "asked"),
    [
        ("aws", "aws"),
        ("repository:team/web:pull,push", "repository:team/web:pull"),
        ("repository:other/secret:pull", "repository:team/web:pull"),
        ("x repository:other/secret:*", "repository:team/web:pull"),
        ("", "repository:team/web:pull"),
    ],
)
async def test_a_token_is_for_this_repository_and_for_pulling(serve, shelf, pull, scope, asked):
    shelf.put_disk(DISK)

    def answer(request):
        if request.target.startswith("/token"):
            request.reply(200, b'{"token": "t"}')
        elif request.header("Authorization") == "Bearer t":
            shelf.answer(request)
        else:
            challenge = f'Bearer realm="{request.server.at("/token")}",scope="{scope}"'
            request.reply(401, WWW_Authenticate=challenge)

    server = serve(answer)
    assert await pull(server, auth=AUTH).read() == DISK
    (target,) = [target for target in targets(server) if target.startswith("/token")]
    assert parse_qs(urlsplit(target).query) == {"scope": [asked]}


async def test_a_token_that_expires_within_the_transfer_is_renewed(serve, shelf, pull):
    shelf.put_disk(DISK)
    tokens = ["first", "second"]

    def answer(request):
        if request.target.startswith("/token"):
            request.reply(200, json.dumps({"token": tokens[min(len(given), 1)]}).encode())
            given.append(request.number)
        elif request.header("Authorization") != f"Bearer {tokens[1 if given and cut else 0]}":
            request.reply(401, WWW_Authenticate=f'Bearer realm="{request.server.at("/token")}"')
        elif "/blobs/" in request.target and not cut:
            cut.append(request.number)
            request.file(DISK, etag=f'"{sha256(DISK)}"', upto=70_000)
        else:
            shelf.answer(request)

    given: list[int] = []
    cut: list[int] = []
    server = serve(answer)
    assert await pull(server, auth=AUTH).read() == DISK
    assert len(given) == 2
    assert server.requests[-1].header("Range") == "bytes=70000-"


async def test_credentials_that_are_not_taken(serve, shelf, pull, show_all):
    server = serve(challenging(shelf, 'Basic realm="x"', "Basic other"))
    fault = await pull(server, auth=AUTH).fault(RegistryDenied)
    assert "it answered 401 to the user of registryAuth" in fault.message
    assert "canary" not in show_all(fault)
    assert BASIC.split()[1] not in show_all(fault)
    assert len(server.requests) == 2
    fault = await pull(server).fault(RegistryDenied)
    assert (fault.blame, fault.retryable) == (Blame.REQUEST, False)
    assert "wants a user name and a password" in fault.message
    assert "registryAuth" in fault.hint


async def test_a_registry_that_forbids(serve, shelf, pull):
    fault = await pull(serve(lambda request: request.reply(403))).fault(RegistryDenied)
    assert "it answered 403 to a request without credentials" in fault.message


async def test_a_service_that_gives_no_token(serve, shelf, pull):
    def answer(request):
        if request.target.startswith("/token"):
            request.reply(401)
        else:
            request.reply(401, WWW_Authenticate=f'Bearer realm="{request.server.at("/token")}"')

    fault = await pull(serve(answer), auth=AUTH).fault(RegistryDenied)
    assert "gives no token (401)" in fault.message


@pytest.mark.parametrize(
    "body",
    [b"{}", b'{"token": ""}', b'{"token": "a\\r\\nX: y"}', b"<html>", b'{"token": 1}', b"x" * 70_000],
)
async def test_a_service_whose_answer_is_none(serve, pull, body):
    def answer(request):
        if request.target.startswith("/token"):
            request.reply(200, body)
        else:
            request.reply(401, WWW_Authenticate=f'Bearer realm="{request.server.at("/token")}"')

    fault = await pull(serve(answer)).fault(ImageDownload)
    assert "token service" in fault.detail


async def test_a_way_in_that_nobody_knows(serve, pull):
    server = serve(lambda request: request.reply(401, WWW_Authenticate="Negotiate"))
    fault = await pull(server, auth=AUTH).fault(RegistryDenied)
    assert "but negotiate" in fault.message


async def test_an_authorization_of_the_job_is_sent_and_nothing_else_tried(serve, shelf, pull):
    shelf.put_disk(DISK)
    server = serve(challenging(shelf, 'Basic realm="x"', "Bearer own"))
    assert await pull(server, headers=[("authorization", "Bearer own")]).read() == DISK
    fault = await pull(server, headers=[("Authorization", "Bearer old")]).fault(RegistryDenied)
    assert "the Authorization of httpHeader" in fault.message


# -- where secrets may not go ------------------------------------------------------------------------------------


async def test_a_token_service_by_plain_http_is_not_asked_for_a_registry_behind_https(
    serve, tls, ca_file, pull
):
    service = serve(lambda request: request.reply(200, b'{"token": "t"}'))
    challenge = f'Bearer realm="{service.at("/token")}"'
    server = serve(lambda request: request.reply(401, WWW_Authenticate=challenge), tls=tls)
    for auth in (AUTH, None):
        fault = await pull(server, auth=auth, ca_file=ca_file).fault(RegistryDenied)
        assert "token service by plain http" in fault.message
    assert service.requests == []


async def test_a_token_service_elsewhere_by_plain_http_gets_no_credentials(serve, shelf, pull):
    shelf.put_disk(DISK)
    service = serve(lambda request: request.reply(200, b'{"token": "t"}'))
    server = serve(challenging(shelf, f'Bearer realm="{service.at("/token")}"', "Bearer t"))
    fault = await pull(server, auth=AUTH).fault(RegistryDenied)
    assert "sent to another host by plain http" in fault.message
    assert service.requests == []
    assert await pull(server).read() == DISK  # who says nothing of himself may ask


@pytest.mark.parametrize(
    "realm",
    ["file:///etc/passwd", "ftp://h/", "https://u:p@h/", "https://h/#x", "//h/t", "", "oci://h/a:1"],
)
async def test_a_token_service_that_is_none(serve, pull, realm):
    server = serve(lambda request: request.reply(401, WWW_Authenticate=f'Bearer realm="{realm}"'))
    fault = await pull(server, auth=AUTH).fault(RegistryDenied)
    assert "token service that cannot be asked" in fault.message
    assert len(server.requests) == 1


async def test_blobs_elsewhere_are_fetched_without_credentials(serve, shelf, pull):
    shelf.put_disk(DISK)
    storage = serve(lambda request: request.file(DISK))

    def answer(request):
        if request.header("Authorization") != BASIC:
            request.reply(401, WWW_Authenticate='Basic realm="x"')
        elif "/blobs/" in request.target:
            request.reply(307, Location=storage.at("/signed?sig=s3cret-canary"))
        else:
            shelf.answer(request)

    pulling = pull(serve(answer), auth=AUTH, headers=[("X-Own", "s3cret-canary")])
    assert await pulling.read() == DISK
    assert "redirected" in pulling.events
    for request in storage.requests:
        assert request.header("Authorization") is None
        assert request.header("X-Own") is None


async def test_a_storage_that_refuses_is_not_taken_for_the_registry(serve, shelf, pull):
    shelf.put_disk(DISK)
    storage = serve(lambda request: request.reply(401, WWW_Authenticate='Basic realm="x"'))

    def answer(request):
        if "/blobs/" in request.target:
            request.reply(307, Location=storage.at("/blob"))
        else:
            shelf.answer(request)

    fault = await pull(serve(answer), auth=AUTH).fault(ImageDownload)
    assert "401" in fault.detail
    assert [request.header("Authorization") for request in storage.requests] == [None]


@pytest.mark.parametrize("location", ["file:///etc/passwd", "oci://127.0.0.1/a:1", "//", "ftp://h/x"])
@pytest.mark.parametrize("kind", ["/manifests/", "/blobs/"])
async def test_redirects_to_where_nobody_goes(serve, shelf, pull, location, kind):
    shelf.put_disk(DISK)

    def answer(request):
        if kind in request.target:
            request.reply(302, Location=location)
        else:
            shelf.answer(request)

    fault = await pull(serve(answer)).fault(ImageDownload)
    assert "the server redirects" in fault.detail


async def test_a_redirect_from_https_to_plain_http_is_refused(serve, tls, ca_file, shelf, pull):
    shelf.put_disk(DISK)
    storage = serve(lambda request: request.file(DISK))

    def answer(request):
        if "/blobs/" in request.target:
            request.reply(302, Location=storage.at("/blob"))
        else:
            shelf.answer(request)

    fault = await pull(serve(answer, tls=tls), ca_file=ca_file).fault(ImageDownload)
    assert "from https to plain http" in fault.detail
    assert storage.requests == []


async def test_a_registry_behind_a_certificate_of_nobody(serve, tls, shelf, pull):
    fault = await pull(serve(shelf.answer, tls=tls)).fault(ImageDownload)
    assert "certificate" in fault.detail


# -- what lies ---------------------------------------------------------------------------------------------------


async def test_there_is_no_such_tag(serve, shelf, pull):
    fault = await pull(serve(shelf.answer), "team/web:2").fault(RegistryManifest)
    assert (fault.blame, fault.message.endswith("there is no 2.")) == (Blame.REQUEST, True)


async def test_a_manifest_that_is_another_than_the_digest_says(serve, shelf, pull):
    digest = sha256(b"another")
    shelf.put_disk(DISK)
    shelf.manifests[digest] = shelf.manifests["1"]
    fault = await pull(serve(shelf.answer), f"team/web@{digest}").fault(RegistryManifest)
    assert "another digest or length" in fault.message


async def test_an_entry_that_is_another_than_its_index_says(serve, shelf, pull):
    document = manifest(descriptor(shelf.put_blob(DISK)))
    shelf.put(index(entry(document, "amd64")), "1")
    shelf.manifests[sha256(document)] = document + b" "
    fault = await pull(serve(shelf.answer)).fault(RegistryManifest)
    assert "another digest or length" in fault.message


@pytest.mark.parametrize("size", [1, MAX_MANIFEST_BYTES + 1, 2**62])
async def test_an_entry_that_has_another_size(serve, shelf, pull, size):
    document = manifest(descriptor(shelf.put_blob(DISK)))
    shelf.put(document)
    shelf.put(index(entry(document, "amd64") | {"size": size}), "1")
    await pull(serve(shelf.answer)).fault(RegistryManifest)


async def test_an_index_that_names_itself_ends(serve, pull):
    """A digest cannot be in what it is of: the registry has to give other bytes for it."""
    claimed = sha256(b"itself")
    loop = index({"mediaType": INDEX, "digest": claimed, "size": 10})
    server = serve(lambda request: request.reply(200, loop))
    fault = await pull(server).fault(RegistryManifest)
    assert "another digest or length" in fault.message
    assert len(server.requests) == 2


async def test_indexes_in_indexes_without_end(serve, shelf, pull):
    document = manifest(descriptor(shelf.put_blob(DISK)))
    shelf.put(document)
    for _ in range(20):
        outer = index(entry(document, media_type=INDEX))
        shelf.put(outer, "1")
        document = outer
    server = serve(shelf.answer)
    fault = await pull(server).fault(RegistryManifest)
    assert "index of indexes" in fault.message
    assert len(server.requests) == 3


@pytest.mark.parametrize("told", [True, False])
async def test_a_huge_manifest_is_not_read(serve, pull, told):
    def answer(request):
        more = {"Content_Length": 2**40} if told else {"Connection": "close"}
        request.head(200, **more)
        for _ in range(20):
            request.send(b" " * 1024 * 1024)
        request.over = True

    server = serve(answer)
    fault = await pull(server).fault(ImageDownload)
    assert "larger than 4.0 MiB" in fault.detail
    assert len(server.requests) == 1


@pytest.mark.parametrize("body", [b"<html>log in</html>", b"", b'{"schemaVersion": 1, "fsLayers": []}'])
async def test_what_is_no_manifest(serve, pull, body):
    await pull(serve(lambda request: request.reply(200, body))).fault(RegistryManifest)


async def test_several_disks_are_listed(serve, shelf, pull):
    second = b"QFI\xfb\0\0\0\3" + bytes(2000)
    layers = [
        descriptor(shelf.put_blob(data), annotations={"org.opencontainers.image.title": name})
        for name, data in (("a.qcow2", DISK), ("b.qcow2", second))
    ]
    shelf.put(manifest(*layers), "1")
    fault = await pull(serve(shelf.answer)).fault(RegistryManifest)
    assert "2 disk images" in fault.message
    assert "'a.qcow2'" in fault.detail
    assert "'b.qcow2'" in fault.detail


async def test_a_layer_of_another_length_is_refused_at_once(serve, shelf, pull):
    shelf.put(manifest(descriptor(shelf.put_blob(DISK)) | {"size": 1000}), "1")
    fault = await pull(serve(shelf.answer)).fault(RegistryManifest)
    assert f"has 1000 bytes by its manifest, and {len(DISK)} by the server" in fault.message


async def test_a_layer_that_is_gone(serve, shelf, pull):
    shelf.put(manifest(descriptor(DISK)), "1")
    fault = await pull(serve(shelf.answer)).fault(ImageDownload)
    assert "404" in fault.detail
    assert fault.message.endswith("/team/web:1")


async def test_urls_of_a_layer_elsewhere_are_not_followed(serve, shelf, pull):
    elsewhere = serve(lambda request: request.file(DISK))
    layer = descriptor(shelf.put_blob(DISK)) | {"urls": [elsewhere.url]}
    shelf.put(manifest(layer), "1")
    assert await pull(serve(shelf.answer)).read() == DISK
    assert elsewhere.requests == []


# -- several connections -----------------------------------------------------------------------------------------


class Eager(Ramp):
    """Wants as many as may be from the first look on."""

    worth = SLICE

    def observe(self, sample: Sample) -> None:
        self.count = self.most


@pytest.mark.parametrize("good_for", [3, 10])
async def test_several_connections_whose_tokens_expire(serve, shelf, pull, good_for):
    image = b"QFI\xfb\0\0\0\3" + random.Random(5).randbytes(28 * MiB)
    shelf.put_disk(image)
    lock = threading.Lock()
    uses: list[int] = [0]

    def answer(request):
        if request.target.startswith("/token"):
            with lock:
                uses.append(0)
                token = len(uses) - 1
            request.reply(200, json.dumps({"token": f"t{token}"}).encode())
            return
        with lock:
            is_good = request.header("Authorization") == f"Bearer t{len(uses) - 1}" and uses[-1] < good_for
            uses[-1] += is_good
        if is_good:
            shelf.answer(request)
        else:
            request.reply(401, WWW_Authenticate=f'Bearer realm="{request.server.at("/token")}"')

    server = serve(answer, keep=True)
    pool = BufferPool()
    pulling = pull(server, lender=pool, ramp=Eager(4))
    source = pulling.source
    await source.open()
    data, most = bytearray(), 0
    piece = memoryview(bytearray(4 * MiB))
    while count := await source.fill(piece):
        data += piece[:count]
        most = max(most, source.connections)
    assert bytes(data) == image
    assert most > 1
    assert len(uses) > 2
    pool.close()
