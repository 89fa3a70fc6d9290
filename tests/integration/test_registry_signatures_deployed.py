"""Images whose signatures are in their registry, as cosign puts them there, with keys and signatures of openssl."""

import json

import pytest
import trustme

from agent.units import KiB, MiB
from tests.kit.registry import (
    BUNDLE,
    SIMPLE,
    Shelf,
    bundle_artifact,
    bundle_signature,
    descriptor,
    docker_registry,
    entry,
    index,
    manifest,
    sha256,
    simple_signature,
)
from tests.kit.signing import OpenSsl

SIZE = 64 * MiB
UNTOUCHED = b"\xa5"
ARTIFACT = "application/vnd.dev.cosign.artifact.sig.v1+json"


class Key(OpenSsl):
    """A key that signs bytes."""

    def __init__(self, directory, name="k", *algorithm):
        super().__init__(directory, name, *algorithm)
        self._scratch = directory / f"{name}.message"
        self.whole = "ed25519" in algorithm

    def __call__(self, message: bytes) -> bytes:
        self._scratch.write_bytes(message)
        return self.sign_whole(self._scratch) if self.whole else self.sign(self._scratch)


@pytest.fixture
def key(tmp_path):
    return Key(tmp_path)


@pytest.fixture
def shelf(gpt_image):
    shelf = Shelf()
    shelf.put_disk(gpt_image.data)
    return shelf


@pytest.fixture
def image(shelf):
    """The digest of the image's manifest."""
    return sha256(shelf.manifests["1"])


@pytest.fixture
def target(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(UNTOUCHED * SIZE)
    return path


@pytest.fixture
def write(byoi, target, tmp_path):
    """byoi write with the signature in the registry, and the key in a file: write(url, key)."""

    def deploy(url: str, key: bytes, *options: object):
        path = tmp_path / "vendor.pub"
        path.write_bytes(key)
        words = ["--signature", "cosign", "--trusted-key", path, "--disk", target, "--json"]
        return byoi("write", "--url", url, *words, *options)

    return deploy


@pytest.fixture
def write_shelf(write, shelf, serving_elsewhere):
    """Deploy what is on the shelf."""

    def deploy(key: bytes):
        server = serving_elsewhere(shelf.answer)
        return write(f"oci+http://{server.host}:{server.port}/team/web:1", key)

    return deploy


def assert_signed(outcome) -> dict:
    assert outcome.status == 0, outcome.err
    document = outcome.document
    assert (document["signature"]["type"], document["signature"]["over"]) == ("cosign", "image")
    assert document["signature"]["signatures"][-1]["accepted"]
    assert any("is signed by" in note for note in document["notes"])
    return document


def refusal(outcome, target, code: str) -> dict:
    assert outcome.status != 0
    assert outcome.error["code"] == code, outcome.err
    assert target.read_bytes() == UNTOUCHED * SIZE
    return outcome.error


def put_simple(shelf: Shelf, image: str, *layers: tuple[dict, bytes]) -> None:
    """Under the tag that cosign uses."""
    for _, payload in layers:
        shelf.put_blob(payload)
    shelf.put(manifest(*(layer for layer, _ in layers)), f"{image.replace(':', '-')}.sig")


def put_bundle(shelf: Shelf, image: str, bundle: bytes, *, api: bool = True) -> None:
    """Among the referrers."""
    artifact = bundle_artifact(shelf.put_blob(bundle), descriptor(shelf.manifests["1"]))
    shelf.put(artifact)
    listed = index(entry(artifact, artifactType=BUNDLE))
    if api:
        shelf.referrers[image] = listed
    else:
        shelf.put(listed, image.replace(":", "-"))


# -- a real registry ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["simple", "bundle"])
def test_in_a_real_registry(gpt_image, key, write, tmp_path, how):
    (tmp_path / "registry").mkdir()
    with docker_registry(tmp_path / "registry", trustme.CA()) as registry:
        registry.push("team/web:1", gpt_image.path)
        pulled = write(registry.url("team/web:1"), key.public, "--ca-file", registry.ca_file)
        assert pulled.error["code"] == "signature.missing"
        image = pulled.document["registry"]["manifest"]
        if how == "simple":
            layer, payload = simple_signature(image, key)
            registry.put(f"team/web:{image.replace(':', '-')}.sig", manifest(layer), payload)
        else:
            bundle = bundle_signature(image, key)
            artifact = bundle_artifact(bundle, {"mediaType": "x", "digest": image, "size": 1})
            registry.put("team/web:signature", artifact, bundle)
            listed = index(entry(artifact, artifactType=BUNDLE))
            registry.put(f"team/web:{image.replace(':', '-')}", listed)
        assert_signed(write(registry.url("team/web:1"), key.public, "--ca-file", registry.ca_file))


# -- as it should be ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "algorithm", [(), ("-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"), ("-algorithm", "ed25519")]
)
def test_keys_of_each_kind(shelf, image, write_shelf, tmp_path, algorithm):
    key = Key(tmp_path, "kind", *algorithm)
    put_simple(shelf, image, simple_signature(image, key))
    assert_signed(write_shelf(key.public))


@pytest.mark.parametrize("api", [True, False])
def test_a_bundle_among_the_referrers(shelf, image, key, write_shelf, api):
    put_bundle(shelf, image, bundle_signature(image, key), api=api)
    assert_signed(write_shelf(key.public))


def test_a_simple_signature_among_the_referrers(shelf, image, key, write_shelf):
    layer, payload = simple_signature(image, key)
    shelf.put_blob(payload)
    artifact = manifest(layer, artifactType=ARTIFACT)
    shelf.put(artifact)
    shelf.referrers[image] = index(entry(artifact, artifactType=ARTIFACT), entry(b"{}", artifactType="sbom"))
    assert_signed(write_shelf(key.public))


def test_one_that_is_trusted_suffices_and_all_are_listed(shelf, image, key, write_shelf, tmp_path):
    other = Key(tmp_path, "other")
    put_simple(shelf, image, simple_signature(image, other), simple_signature(image, key))
    document = assert_signed(write_shelf(key.public))
    assert [one["accepted"] for one in document["signature"]["signatures"]] == [False, True]


def test_who_signs_an_index_signs_the_images_in_it(shelf, image, key, write_shelf):
    document = shelf.manifests["1"]
    top = shelf.put(index(entry(document, "amd64"), entry(document, "arm64")), "1")
    put_simple(shelf, top, simple_signature(top, key))
    assert assert_signed(write_shelf(key.public))["registry"]["index"] == top


def test_who_signs_an_image_in_an_index(shelf, image, key, write_shelf):
    shelf.put(index(entry(shelf.manifests["1"], "amd64")), "1")
    put_simple(shelf, image, simple_signature(image, key))
    assert_signed(write_shelf(key.public))


def test_a_bundle_of_a_signature_beside_a_damaged_one(shelf, image, key, write_shelf):
    put_simple(shelf, image, simple_signature(image, key, type="atomic container signature"))
    put_bundle(shelf, image, bundle_signature(image, key))
    assert_signed(write_shelf(key.public))


# -- and as it should not ----------------------------------------------------------------------------------------


def test_a_signature_of_another_image(shelf, image, key, write_shelf, target):
    other = "sha256:" + "0" * 64
    put_simple(shelf, image, simple_signature(other, key))
    error = refusal(write_shelf(key.public), target, "signature.invalid")
    assert f"it is of another image in the registry ({other})" in error["message"]


def test_a_bundle_of_another_image(shelf, image, key, write_shelf, target):
    put_bundle(shelf, image, bundle_signature("sha256:" + "0" * 64, key))
    refusal(write_shelf(key.public), target, "signature.invalid")


def test_a_signature_by_another_key(shelf, image, key, write_shelf, target, tmp_path):
    put_simple(shelf, image, simple_signature(image, Key(tmp_path, "other")))
    put_bundle(shelf, image, bundle_signature(image, Key(tmp_path, "third")))
    error = refusal(write_shelf(key.public), target, "signature.invalid")
    assert error["detail"].count("none of the keys") == 2


def test_a_payload_that_was_changed(shelf, image, key, write_shelf, target):
    layer, _ = simple_signature("sha256:" + "0" * 64, key)
    _, payload = simple_signature(image, key)
    put_simple(shelf, image, (layer | descriptor(payload, SIMPLE), payload))
    refusal(write_shelf(key.public), target, "signature.invalid")


def test_an_attestation_is_no_signature(shelf, image, key, write_shelf, target):
    put_bundle(shelf, image, bundle_signature(image, key, "https://slsa.dev/provenance/v1"))
    refusal(write_shelf(key.public), target, "signature.missing")


def test_a_key_that_is_none(shelf, image, key, write_shelf, target):
    put_simple(shelf, image, simple_signature(image, key))
    refusal(write_shelf(b"no key"), target, "signature.key")


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"{}",
        b'{"critical": {"image": {"docker-manifest-digest": 1}, "type": "cosign container image signature"}}',
        b'{"critical": []}',
        b"[" * 1000,
        b" " * 300 * KiB,
    ],
)
def test_payloads_that_are_none(shelf, image, key, write_shelf, target, payload):
    layer, _ = simple_signature(image, key)
    put_simple(shelf, image, (layer | descriptor(payload, SIMPLE), payload))
    error = refusal(write_shelf(key.public), target, "signature.missing")
    assert ".sig: " in error["detail"]


def test_bundles_that_are_none(shelf, image, key, write_shelf, target):
    good = json.loads(bundle_signature(image, key))
    envelope = good["dsseEnvelope"]
    bundles = [
        {"mediaType": BUNDLE, "messageSignature": {}},
        good | {"dsseEnvelope": []},
        good | {"dsseEnvelope": envelope | {"signatures": []}},
        good | {"dsseEnvelope": envelope | {"signatures": envelope["signatures"] * 2}},
        good | {"dsseEnvelope": envelope | {"payload": "!"}},
    ]
    artifacts = []
    for bundle in bundles:
        data = shelf.put_blob(json.dumps(bundle).encode())
        artifacts.append(bundle_artifact(data, descriptor(shelf.manifests["1"])))
        shelf.put(artifacts[-1])
    shelf.referrers[image] = index(*(entry(artifact, artifactType=BUNDLE) for artifact in artifacts))
    error = refusal(write_shelf(key.public), target, "signature.missing")
    assert error["detail"].count("; ") == len(bundles) - 1


def test_a_blob_that_is_not_what_the_signatures_manifest_says(shelf, image, key, write_shelf, target):
    layer, payload = simple_signature(image, key)
    put_simple(shelf, image, (layer, payload))
    shelf.blobs[layer["digest"]] = payload + b" "
    error = refusal(write_shelf(key.public), target, "signature.missing")
    assert "another digest or length" in error["detail"]


def test_more_signatures_than_are_looked_at(shelf, image, key, write_shelf, target, tmp_path):
    other = Key(tmp_path, "other")
    layer, payload = simple_signature(image, other)
    good, signed = simple_signature(image, key)
    shelf.put_blob(signed)
    put_simple(shelf, image, *[(layer, payload)] * 16, (good, signed))
    refusal(write_shelf(key.public), target, "signature.invalid")


def test_referrers_that_are_no_list(shelf, image, key, write_shelf, target):
    shelf.referrers[image] = b"<html>"
    refusal(write_shelf(key.public), target, "registry.manifest")


# -- lists of referrers in pages ---------------------------------------------------------------------------------


FILTERED = {"OCI_Filters_Applied": "artifactType"}


def referrers(image: str, kind: str = BUNDLE) -> str:
    """What is asked for first."""
    return f"/v2/team/web/referrers/{image}?artifactType={kind.replace('/', '%2F').replace('+', '%2B')}"


def next_link(target: str) -> dict[str, str]:
    return {"Link": f'<{target}>; rel="next"'}


@pytest.fixture
def signed_entry(shelf, image, key):
    """An entry of a list of referrers that leads to a good signature."""
    artifact = bundle_artifact(shelf.put_blob(bundle_signature(image, key)), descriptor(shelf.manifests["1"]))
    shelf.put(artifact)
    return entry(artifact, artifactType=BUNDLE)


@pytest.fixture
def write_asked(write, shelf, serving_elsewhere, key):
    """Deploy what is on the shelf; returns the outcome, and the lists that were asked for."""

    def deploy():
        server = serving_elsewhere(shelf.answer)
        outcome = write(f"oci+http://{server.host}:{server.port}/team/web:1", key.public)
        return outcome, [ask.target for ask in server.requests if "/referrers/" in ask.target]

    return deploy


@pytest.mark.parametrize("link", ["?page=2", "/v2/team/web/referrers/more", "/elsewhere?last=a%2Cb"])
def test_a_signature_on_the_second_page(shelf, image, signed_entry, write_asked, link):
    first = referrers(image)
    second = first.partition("?")[0] + link if link.startswith("?") else link
    shelf.pages = {
        first: (index(entry(b"{}", artifactType="sbom")), next_link(link)),
        second: (index(signed_entry), {}),
    }
    outcome, asked = write_asked()
    assert_signed(outcome)
    assert asked[0] == first


def test_a_registry_that_filters_is_asked_for_each_kind(shelf, image, key, write_asked):
    layer, payload = simple_signature(image, key)
    shelf.put_blob(payload)
    artifact = manifest(layer, artifactType=ARTIFACT)
    shelf.put(artifact)
    shelf.pages = {
        referrers(image): (index(), FILTERED),
        referrers(image, ARTIFACT): (index(entry(artifact, artifactType=ARTIFACT)), FILTERED),
    }
    outcome, asked = write_asked()
    assert_signed(outcome)
    assert asked == [referrers(image), referrers(image, ARTIFACT)]


def test_a_registry_that_does_not_filter_is_asked_once(shelf, image, signed_entry, write_asked):
    listed = index(entry(b"{}", artifactType="sbom"), signed_entry)
    shelf.pages = {referrers(image): (listed, {"OCI_Filters_Applied": "somethingElse"})}
    outcome, asked = write_asked()
    assert_signed(outcome)
    assert asked == [referrers(image)]


def test_a_filter_that_lets_others_through(shelf, image, signed_entry, write_asked, target):
    other = dict(signed_entry, artifactType="application/spdx+json")
    shelf.pages = {
        referrers(image): (index(other), FILTERED),
        referrers(image, ARTIFACT): (index(), FILTERED),
    }
    refusal(write_asked()[0], target, "signature.missing")


def test_pages_that_lead_in_a_circle(shelf, image, write_asked, target):
    first = referrers(image)
    shelf.pages = {
        first: (index(), next_link("?page=2")),
        first.partition("?")[0] + "?page=2": (index(), next_link(first)),
    }
    outcome, asked = write_asked()
    error = refusal(outcome, target, "signature.missing")
    assert "leads back to a page" in error["detail"]
    assert len(asked) == 2


def test_pages_without_end(shelf, image, write_asked, target):
    first = referrers(image)
    path = first.partition("?")[0]
    shelf.pages = {first: (index(), next_link("?page=1"))} | {
        f"{path}?page={page}": (index(), next_link(f"?page={page + 1}")) for page in range(1, 40)
    }
    outcome, asked = write_asked()
    error = refusal(outcome, target, "signature.missing")
    assert "more than 16 pages" in error["detail"]
    assert len(asked) == 16


def test_a_signature_before_a_page_that_is_not_there(shelf, image, signed_entry, write_asked):
    shelf.pages = {referrers(image): (index(signed_entry), next_link("?page=2"))}
    assert_signed(write_asked()[0])


@pytest.mark.parametrize(
    "link",
    [
        "file:///etc/passwd",
        "http://[",
        "ftp://127.0.0.1/list",
        "//user:secret@",
        "https://127.0.0.1:{port}/list",
    ],
)
def test_pages_that_lead_to_where_nobody_goes(shelf, image, write, serving_elsewhere, key, target, link):
    server = serving_elsewhere(shelf.answer)
    shelf.pages = {referrers(image): (index(), next_link(link.format(port=server.port)))}
    outcome = write(f"oci+http://{server.host}:{server.port}/team/web:1", key.public)
    error = refusal(outcome, target, "signature.missing")
    assert "goes on elsewhere" in error["detail"]


def test_a_page_at_another_server_is_not_asked_for(
    shelf, image, write, serving_elsewhere, key, target, signed_entry, tmp_path
):
    other = serving_elsewhere(lambda request: request.reply(200, index(signed_entry)))
    server = serving_elsewhere(shelf.answer)
    shelf.pages = {referrers(image): (index(), next_link(f"http://{other.host}:{other.port}/list"))}
    login = tmp_path / "login"
    login.write_text("puller:s3cret-canary")
    url = f"oci+http://{server.host}:{server.port}/team/web:1"
    refusal(write(url, key.public, "--registry-auth", login), target, "signature.missing")
    assert other.requests == []
