"""Images out of a real registry, deployed by the command: pushed by oras and skopeo, over TLS, also with users."""

import gzip
import json
import ssl
import subprocess
from contextlib import ExitStack

import pytest
import trustme

from agent.units import MiB
from tests.kit.registry import (
    INDEX,
    MANIFEST,
    PASSWORD,
    USER,
    Shelf,
    TokenService,
    container_layer,
    descriptor,
    docker_registry,
    entry,
    image_config,
    index,
    manifest,
    sha256,
    write_layout,
)

SIZE = 64 * MiB
UNTOUCHED = b"\xa5"
TAR_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
CONFIG = "application/vnd.oci.image.config.v1+json"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def start_registry(tmp_path_factory):
    with ExitStack() as stack:
        yield lambda authority, **options: stack.enter_context(
            docker_registry(tmp_path_factory.mktemp("registry"), authority, **options)
        )


@pytest.fixture(scope="module")
def registry(start_registry, authority):
    """One that lets everybody in, over TLS."""
    return start_registry(authority)


@pytest.fixture(scope="module")
def guarded(start_registry, authority):
    """One with users."""
    return start_registry(authority, users=True)


@pytest.fixture
def target(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(UNTOUCHED * SIZE)
    return path


@pytest.fixture
def write(byoi, target):
    def deploy(registry, reference: str, *options: object):
        trust = [] if registry.ca_file is None else ["--ca-file", registry.ca_file]
        url = reference if "://" in reference else registry.url(reference)
        return byoi("write", "--url", url, *trust, "--disk", target, "--json", *options)

    return deploy


@pytest.fixture
def assert_deployed(target, gpt_image):
    def check(outcome) -> dict:
        assert outcome.status == 0, outcome.err
        assert outcome.document["message"] == "The image is deployed and verified."
        with target.open("rb") as file:
            assert file.read(440) == gpt_image.read(0, 440)
            file.seek(10 * MiB)
            assert file.read(30 * MiB) == gpt_image.read(10 * MiB, 30 * MiB)
        assert PASSWORD not in outcome.out + outcome.err
        return outcome.document

    return check


@pytest.fixture
def assert_untouched(target):
    def check(outcome, code: str) -> dict:
        assert outcome.status != 0
        assert outcome.error["code"] == code, outcome.err
        assert target.read_bytes() == UNTOUCHED * SIZE
        assert PASSWORD not in outcome.out + outcome.err
        return outcome.error

    return check


@pytest.fixture(scope="module")
def qcow2(gpt_image, tmp_path_factory):
    path = tmp_path_factory.mktemp("qcow2") / "web.qcow2"
    words = ["qemu-img", "convert", "-O", "qcow2", "-c", gpt_image.path, path]
    subprocess.run(words, check=True)
    return path


@pytest.fixture
def login(tmp_path):
    path = tmp_path / "login"
    path.write_text(f"{USER}:{PASSWORD}\n")
    return path


# -- by oras -----------------------------------------------------------------------------------------------------


def test_a_raw_disk_pushed_by_oras(registry, gpt_image, write, assert_deployed):
    registry.push("images/raw:1", gpt_image.path)
    document = assert_deployed(write(registry, "images/raw:1"))
    assert document["registry"]["layer"] == document["checksum"] == f"sha256:{gpt_image.sha256}"
    assert document["job"]["URL"] == registry.url("images/raw:1")
    pinned = f"images/raw@{document['registry']['manifest']}"
    assert assert_deployed(write(registry, pinned))["registry"] == document["registry"]


@pytest.mark.parametrize("pack", ["none", "zstd", "xz"])
def test_a_packed_disk_beside_other_files(registry, gpt_image, qcow2, write, assert_deployed, tmp_path, pack):
    disk = qcow2
    if pack != "none":
        disk = tmp_path / f"web.raw.{pack}"
        with disk.open("wb") as file:
            subprocess.run([pack, "-1", "-c", gpt_image.path], stdout=file, check=True)
    sums = tmp_path / "SHA256SUMS"
    sums.write_text(f"{'0' * 64}  whatever\n" * 20)
    registry.push(f"images/{pack}:1", sums, disk)
    document = assert_deployed(write(registry, f"images/{pack}:1"))
    assert document["imageType"] == ("qcow2" if pack == "none" else "raw")


def test_several_disks_are_refused_and_listed(registry, gpt_image, qcow2, write, assert_untouched):
    registry.push("images/two:1", gpt_image.path, qcow2)
    error = assert_untouched(write(registry, "images/two:1"), "registry.manifest")
    assert "2 disk images" in error["message"]
    assert "web.qcow2" in error["detail"]


# -- by skopeo ---------------------------------------------------------------------------------------------------


def container_disk(image) -> tuple[bytes, bytes, bytes]:
    """The manifest, the config and the layer of a KubeVirt container disk."""
    layer = container_layer("disk/image.img", image.data)
    config = image_config(layer)
    return manifest(descriptor(layer, TAR_GZIP), config=descriptor(config, CONFIG)), config, layer


@pytest.fixture(scope="module")
def container_layout(gpt_image, tmp_path_factory):
    document, *parts = container_disk(gpt_image)
    return write_layout(tmp_path_factory.mktemp("container") / "layout", document, MANIFEST, *parts)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("oci", ()),
        ("docker", ("--format", "v2s2")),
        ("zstd", ("--dest-compress", "--dest-compress-format", "zstd")),
        ("plain", ("--dest-decompress",)),
    ],
)
def test_a_container_disk_pushed_by_skopeo(registry, container_layout, write, assert_deployed, name, options):
    registry.copy(container_layout, f"kubevirt/{name}:1", *options)
    status = assert_deployed(write(registry, f"kubevirt/{name}:1"))
    assert "tar" in status["imagePacking"]


def put_container(registry, name: str, layer: bytes) -> str:
    config = image_config(layer)
    config_entry = descriptor(config, "application/vnd.oci.image.config.v1+json")
    kind = "application/vnd.oci.image.layer.v1.tar" + ("+gzip" if layer[:2] == b"\x1f\x8b" else "")
    registry.put(f"kubevirt/{name}:1", manifest(descriptor(layer, kind), config=config_entry), config, layer)
    return f"kubevirt/{name}:1"


def test_several_disks_in_a_plain_layer_are_refused_and_listed(registry, gpt_image, write, assert_untouched):
    """However far apart they are: the first one is longer than all that is read before the disk is written to."""
    layer = container_layer(
        "disk/image.img", gpt_image.data, packed=False, data=gpt_image.data, swap=gpt_image.data
    )
    error = assert_untouched(write(registry, put_container(registry, "three", layer)), "registry.manifest")
    assert "has 3 disk images" in error["message"]
    assert error["detail"] == "disk/image.img; disk/data.img; disk/swap.img"


def test_several_disks_at_the_head_of_a_packed_layer_are_refused_and_listed(
    registry, gpt_image, write, assert_untouched
):
    layer = container_layer("disk/image.img", gpt_image.data[: 2 * MiB], data=gpt_image.data[: 2 * MiB])
    error = assert_untouched(write(registry, put_container(registry, "two", layer)), "registry.manifest")
    assert "does not hold one disk image" in error["message"]
    assert "'disk/image.img' and 'disk/data.img'" in error["detail"]


def test_a_second_disk_far_behind_in_a_packed_layer_is_listed_and_nothing_boots(
    registry, gpt_image, write, target
):
    layer = container_layer("disk/image.img", gpt_image.data, data=gpt_image.data)
    outcome = write(registry, put_container(registry, "late", layer))
    assert outcome.error["code"] == "image.unsafe"
    assert "'disk/image.img' and 'disk/data.img'" in outcome.error["detail"]
    assert outcome.error["diskState"] == "empty"
    assert target.read_bytes()[:512] == bytes(512)


def test_a_plain_layer_with_one_disk(registry, gpt_image, write, assert_deployed):
    layer = container_layer("disk/image.img", gpt_image.data, packed=False)
    assert_deployed(write(registry, put_container(registry, "plain", layer)))


def test_an_index_of_several_machines(registry, gpt_image, write, assert_deployed, tmp_path):
    document, *parts = container_disk(gpt_image)
    layer = gzip.compress(b"another machine" * 1000)
    config = image_config(layer)
    other = manifest(descriptor(layer, TAR_GZIP), config=descriptor(config, CONFIG))
    top = index(entry(other, "s390x"), *(entry(document, name) for name in ("amd64", "arm64")))
    layout = write_layout(tmp_path / "layout", top, INDEX, document, *parts, other, config, layer)
    registry.copy(layout, "kubevirt/index:1", "--all")
    found = assert_deployed(write(registry, "kubevirt/index:1"))["registry"]
    assert found == {"index": sha256(top), "manifest": sha256(document), "layer": sha256(parts[1])}


def test_an_index_without_this_machine(registry, write, assert_untouched, tmp_path):
    layer = gzip.compress(b"another machine" * 1000)
    config = image_config(layer)
    other = manifest(descriptor(layer, TAR_GZIP), config=descriptor(config, CONFIG))
    layout = write_layout(tmp_path / "layout", index(entry(other, "s390x")), INDEX, other, config, layer)
    registry.copy(layout, "kubevirt/none:1", "--all")
    error = assert_untouched(write(registry, "kubevirt/none:1"), "registry.manifest")
    assert "there is s390x" in error["message"]


# -- who may come in ---------------------------------------------------------------------------------------------


def test_a_user_and_his_password(guarded, gpt_image, write, assert_deployed, login, tmp_path):
    guarded.push("images/raw:1", gpt_image.path)
    status = assert_deployed(write(guarded, "images/raw:1", "--registry-auth", login))
    assert status["job"]["registryAuth"] == {"username": "***", "password": "***"}
    packed = subprocess.run(
        ["base64", "-w0"], input=login.read_bytes().strip(), capture_output=True, check=True
    )
    docker = tmp_path / "config.json"
    docker.write_text(json.dumps({"auths": {guarded.host: {"auth": packed.stdout.decode()}}}))
    status = assert_deployed(write(guarded, "images/raw:1", "--registry-auth", docker))
    assert status["job"]["registryAuth"] == {"auth": "***"}


def test_nobody_else_is_let_in(guarded, write, assert_untouched, tmp_path):
    error = assert_untouched(write(guarded, "images/raw:1"), "registry.denied")
    assert "wants a user name and a password" in error["message"]
    wrong = tmp_path / "wrong"
    wrong.write_text(f"{USER}:other\n")
    error = assert_untouched(write(guarded, "images/raw:1", "--registry-auth", wrong), "registry.denied")
    assert "401 to the user of registryAuth" in error["message"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no colon", "neither one line USER:PASSWORD nor JSON"),
        ('{"auths": {"elsewhere.example.net": {"auth": "s3cret-canary"}}}', "it has no login for 127.0.0.1"),
        ('{"auths": {"HOST": {}}}', "kept by a helper"),
        ('{"auth": "s3cret-canary"}', "is not base64 of a user name"),
        ("{", "begins as JSON and is none"),
    ],
)
def test_a_file_of_credentials_that_has_none(guarded, write, target, tmp_path, text, words):
    path = tmp_path / "auth"
    path.write_text(text.replace("HOST", guarded.host))
    outcome = write(guarded, "images/raw:1", "--registry-auth", path)
    assert outcome.status == 2
    assert words in outcome.err + outcome.out
    assert "--registry-auth" in outcome.err + outcome.out
    assert PASSWORD not in outcome.err + outcome.out


@pytest.mark.parametrize("anonymous", [True, False])
def test_a_token_service(
    start_registry, serving_elsewhere, authority, container_layout, write, assert_deployed, login, anonymous
):
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    service = TokenService(authority, anonymous=anonymous)
    tokens = serving_elsewhere(service.answer, tls=tls).at("/token")
    registry = start_registry(authority, tokens=tokens)
    registry.copy(container_layout, "images/raw:1")
    service.asked.clear()
    assert_deployed(write(registry, "images/raw:1", *([] if anonymous else ["--registry-auth", login])))
    assert service.asked
    assert all(asked["scope"] == ["repository:images/raw:pull"] for asked in service.asked)


# -- plain http, and a registry that is damaged ------------------------------------------------------------------


def test_plain_http_where_the_url_says_so_and_nowhere_else(
    start_registry, gpt_image, write, assert_deployed, assert_untouched
):
    registry = start_registry(None)
    registry.push("images/raw:1", gpt_image.path)
    assert registry.url("x:1").startswith("oci+http://")
    url = registry.url("images/raw:1").replace("oci+http", "oci")
    assert_untouched(write(registry, url), "image.download")
    assert_deployed(write(registry, "images/raw:1"))


def test_a_blob_that_is_not_what_its_manifest_says_leaves_nothing_bootable(
    start_registry, authority, gpt_image, write, target
):
    registry = start_registry(authority)
    registry.push("images/raw:1", gpt_image.path)
    blob = registry.blobs / gpt_image.sha256[:2] / gpt_image.sha256 / "data"
    damaged = bytearray(blob.read_bytes())
    damaged[20 * MiB] ^= 1
    blob.write_bytes(damaged)
    outcome = write(registry, "images/raw:1")
    assert outcome.error["code"] == "checksum.mismatch"
    assert gpt_image.sha256 in outcome.error["message"]
    assert "manifest in the registry" in outcome.error["detail"]
    assert not any(target.read_bytes()[:MiB])


def test_a_digest_of_another_kind_than_the_jobs_is_compared_too(serving_elsewhere, gpt_image, byoi, target):
    shelf = Shelf()
    shelf.put_disk(gpt_image.data)
    damaged = bytearray(gpt_image.data)
    damaged[20 * MiB] ^= 1
    shelf.blobs[f"sha256:{gpt_image.sha256}"] = bytes(damaged)
    server = serving_elsewhere(shelf.answer)
    url = f"oci+http://{server.host}:{server.port}/team/web:1"
    md5 = subprocess.run(["md5sum"], input=damaged, capture_output=True, check=True).stdout[:32].decode()
    words = ["--checksum", f"md5:{md5}", "--disk", target, "--json"]
    outcome = byoi("write", "--url", url, *words)
    assert outcome.error["code"] == "checksum.mismatch"
    assert outcome.error["message"].startswith("Bad sha256")


def test_a_dry_run_shows_what_was_resolved(registry, gpt_image, write, target):
    registry.push("images/dry:1", gpt_image.path)
    outcome = write(registry, "images/dry:1", "--dry-run")
    assert outcome.status == 0
    verify = next(step for step in outcome.document["steps"] if step["stage"] == "verify")
    assert verify["title"] == "compare the digest in the registry's manifest"
    assert target.read_bytes() == UNTOUCHED * SIZE
