"""Manifests and indexes are read strictly, whoever wrote them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.formats.oci.manifest import (
    MAX_ENTRIES,
    MAX_LAYERS,
    MAX_MANIFEST_BYTES,
    Index,
    Manifest,
    ManifestRefused,
    digest_of,
    has_digest,
    read_manifest,
)

DIGEST = "sha256:" + "a" * 64
LAYER = {"mediaType": "application/x", "digest": DIGEST, "size": 1000}


def text(**members) -> bytes:
    return json.dumps({"schemaVersion": 2, **members}).encode()


def test_a_manifest_and_an_index():
    annotated = LAYER | {"annotations": {"org.opencontainers.image.title": "web.qcow2"}}
    manifest = read_manifest(text(layers=[annotated], config={"whatever": 1}, artifactType="x"))
    assert isinstance(manifest, Manifest)
    assert str(manifest.layers[0]) == "'web.qcow2' (sha256:aaaaaaaaaaaa...)"
    assert (manifest.layers[0].size, manifest.layers[0].algorithm) == (1000, "sha256")
    index = read_manifest(text(manifests=[LAYER | {"platform": {"architecture": "arm64", "os": "linux"}}]))
    assert isinstance(index, Index)
    assert index.entries[0].architecture == "arm64"


def test_a_digest_of_sha512_is_read():
    digest = "sha512:" + "b" * 128
    manifest = read_manifest(text(layers=[LAYER | {"digest": digest}]))
    assert isinstance(manifest, Manifest)
    assert manifest.layers[0].algorithm == "sha512"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"<html>log in</html>", "is not JSON, as a page of a proxy"),
        (b"\xff\xfe{}", "is not JSON in UTF-8"),
        (b"[]", "no JSON object"),
        (b"[" * 100 + b"]" * 100, "nested more than"),
        (b'{"schemaVersion": 2, "layers": [], "layers": []}', "a member twice"),
        (b" " * (MAX_MANIFEST_BYTES + 1), "bytes, at most"),
        (text(layers=[], manifests=[]), "manifests and layers"),
        (text(), "neither layers nor manifests"),
        (text(blobs=[LAYER]), "it has blobs"),
        (text(layers=[], schemaVersion=1), "schemaVersion is 1"),
        (text(layers=[], schemaVersion=True), "schemaVersion is"),
        (text(fsLayers=[], schemaVersion=1), "schemaVersion is 1"),
        (text(layers={}), "layers are no list"),
        (text(layers=[LAYER] * (MAX_LAYERS + 1)), f"no list of at most {MAX_LAYERS}"),
        (text(manifests=[LAYER] * (MAX_ENTRIES + 1)), f"no list of at most {MAX_ENTRIES}"),
        (text(layers=[1]), "layers[0] is no object"),
        (text(layers=[LAYER, LAYER | {"digest": "md5:" + "a" * 32}]), "layers[1] has no digest"),
        (text(layers=[LAYER | {"digest": DIGEST.upper()}]), "layers[0] has no digest"),
        (text(layers=[LAYER | {"digest": "sha256:../../" + "a" * 58}]), "layers[0] has no digest"),
        (text(layers=[LAYER | {"size": -1}]), "no size"),
        (text(layers=[LAYER | {"size": 2**63}]), "no size"),
        (text(layers=[LAYER | {"size": True}]), "no size"),
        (text(layers=[LAYER | {"size": "1"}]), "no size"),
        (text(manifests=[LAYER | {"platform": []}]), "platform that is no object"),
        (text(manifests=[LAYER | {"platform": {"architecture": 1}}]), "architecture is no text"),
        (text(layers=[LAYER | {"annotations": {"a": 1}}]), "annotation that is no text"),
        (text(layers=[LAYER | {"annotations": []}]), "annotations that are no object"),
        (text(layers=[LAYER | {"mediaType": 1}]), "mediaType is no text"),
    ],
)
def test_what_is_no_manifest_is_refused(data, words):
    with pytest.raises(ManifestRefused) as caught:
        read_manifest(data)
    assert words in str(caught.value)


def test_a_list_that_has_too_many_values_is_refused_before_it_is_parsed():
    with pytest.raises(ManifestRefused, match="holds more than"):
        read_manifest(text(layers=[], annotations=[0] * 60_000))


def test_digests():
    data = b"whatever"
    assert has_digest(data, digest_of(data))
    assert not has_digest(data + b" ", digest_of(data))
    assert has_digest(b"", "sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e")  # fmt: skip  # noqa: E501


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just(DIGEST),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "schemaVersion",
                    "layers",
                    "manifests",
                    "digest",
                    "size",
                    "platform",
                    "architecture",
                    "annotations",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(JSON)
def test_whatever_a_registry_answers_is_read_or_refused(document):
    try:
        read = read_manifest(json.dumps(document).encode())
    except ManifestRefused:
        return
    assert isinstance(read, Index | Manifest)


@given(st.binary(max_size=200))
def test_bytes_of_any_kind_are_refused(data):
    with pytest.raises(ManifestRefused):
        read_manifest(data)
