"""References to images in registries, and credentials for one."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import JobInvalid
from agent.model.job import Job, parse_job
from agent.model.policy import Policy, require_allowed
from agent.model.registry import Reference, is_reference, read_reference
from agent.model.url import (
    Origin,
    check_url,
    check_web_url,
    file_name,
    origin_of,
    redact_url,
    redirect_target,
)

HEX = "0123456789abcdef" * 4
SECRET = "canary-3f9a"


@pytest.mark.parametrize(
    ("url", "reference"),
    [
        ("oci://registry.example.net/web:12", ("https://registry.example.net", "web", "12", None)),
        ("OCI://h:5000/a/b_c/d__e/f-g.h:v1.2-3_x", ("https://h:5000", "a/b_c/d__e/f-g.h", "v1.2-3_x", None)),
        (f"oci://h/web@sha256:{HEX}", ("https://h", "web", None, f"sha256:{HEX}")),
        (f"oci://h/web:1@sha256:{HEX}", ("https://h", "web", "1", f"sha256:{HEX}")),
        ("oci+http://[::1]:5000/web:1", ("http://[::1]:5000", "web", "1", None)),
    ],
)
def test_references(url, reference):
    assert check_url(url) is None
    assert is_reference(url)
    assert read_reference(url) == Reference(*reference)


def test_what_is_asked_for_and_where():
    pinned = read_reference(f"oci://h/team/web:1@sha256:{HEX}")
    assert pinned.wanted == f"sha256:{HEX}"
    assert pinned.manifest_url("1") == "https://h/v2/team/web/manifests/1"
    assert pinned.blob_url("sha256:x") == "https://h/v2/team/web/blobs/sha256:x"
    assert read_reference("oci://h/web:1").wanted == "1"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("oci://h/web", "neither a tag nor a digest"),
        ("oci://h", "names no repository"),
        ("oci://h/", "names no repository"),
        ("oci:///web:1", "names no host"),
        ("oci:h/web:1", "names no host"),
        ("oci://h/Web:1", "names no repository"),
        ("oci://h//web:1", "names no repository"),
        ("oci://h/../web:1", "names no repository"),
        ("oci://h/a%2fb:1", "names no repository"),
        ("oci://h/web/:1", "names no repository"),
        ("oci://h/web:", "the tag in the URL is none"),
        ("oci://h/web:a/b", "the tag in the URL is none"),
        ("oci://h/web:-a", "the tag in the URL is none"),
        (f"oci://h/web:{'a' * 129}", "the tag in the URL is none"),
        ("oci://h/web@sha256:abc", "is not sha256:"),
        (f"oci://h/web@sha256:{HEX.upper()}", "is not sha256:"),
        (f"oci://h/web@md5:{HEX}", "is not sha256:"),
        (f"oci://h/web@sha256:{HEX}@sha256:{HEX}", "is not sha256:"),
        (f"oci://h/{'a' * 255}:1", "names no repository"),
        ("oci://user:pass@h/web:1", "give registryAuth"),
        ("oci://h/web:1?x=y", "neither query nor fragment"),
        ("oci://h/web:1#x", "neither query nor fragment"),
        ("oci://h:99999/web:1", "malformed"),
        ("oci+https://h/web:1", "must begin with"),
        ("oci://h\\@evil/web:1", "malformed"),
    ],
)
def test_what_is_no_reference(url, words):
    assert words in (check_url(url) or "")


def test_the_origin_is_that_of_the_requests():
    assert origin_of("oci://h/web:1") == Origin("https", "h", 443)
    assert origin_of("oci+http://h/web:1") == Origin("http", "h", 80)


def test_a_reference_is_no_web_url_and_nobody_is_redirected_to_one():
    assert "http:// or https://" in (check_web_url("oci://h/web:1") or "")
    with pytest.raises(ValueError, match="redirects to a oci URL"):
        redirect_target("https://h/", "oci://h/web:1")


def test_a_reference_is_shown_as_it_is():
    assert redact_url(f"oci://h/web:1@sha256:{HEX}") == f"oci://h/web:1@sha256:{HEX}"
    assert file_name("oci://h/team/web:1") == "web:1"


@given(st.text(alphabet=st.sampled_from("aA0/:@._-%[]?#\\ sh256é"), max_size=40))
def test_what_passes_makes_urls_of_the_registry_and_of_nobody_else(text):
    url = f"oci://h/{text}"
    if check_url(url) is None:
        reference = read_reference(url)
        for made in (reference.manifest_url(reference.wanted), reference.blob_url("sha256:x")):
            assert check_url(made) is None
            assert origin_of(made) == Origin("https", "h", 443)
            assert ".." not in made
            assert "?" not in made


# -- in a job ----------------------------------------------------------------------------------------------------


def job(**members) -> dict:
    return {"URL": "oci://h/web:1"} | members


def faults(document) -> dict[str, str]:
    with pytest.raises(JobInvalid) as caught:
        parse_job(document)
    assert SECRET not in str(caught.value)
    return {fault.path: fault.message for fault in caught.value.faults}


def packed(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("auth", "shown"),
    [
        ({"username": "u", "password": SECRET}, {"username": "***", "password": "***"}),
        ({"auth": packed(f"u:{SECRET}")}, {"auth": "***"}),
        ({"auth": packed(f"u:{SECRET}\0\0")}, {"auth": "***"}),
    ],
)
def test_credentials_are_read_and_never_shown(auth, shown):
    parsed = parse_job(job(registryAuth=auth))
    assert parsed.registry_auth is not None
    assert (parsed.registry_auth.username, parsed.registry_auth.password) == ("u", SECRET)
    assert parsed.redacted()["registryAuth"] == parsed.summary()["registryAuth"] == shown
    assert SECRET not in repr(parsed)
    kept = parsed.without_secrets()
    assert "registryAuth" not in kept
    assert isinstance(parse_job(kept), Job)


@pytest.mark.parametrize(
    ("auth", "path"),
    [
        ({}, "registryAuth.auth"),
        ({"username": SECRET}, "registryAuth.auth"),
        ({"password": SECRET}, "registryAuth.auth"),
        ({"username": "u", "password": SECRET, "auth": packed("u:p")}, "registryAuth.auth"),
        ({"password": SECRET, "auth": packed("u:p")}, "registryAuth.auth"),
        ({"auth": SECRET}, "registryAuth.auth"),
        ({"auth": packed(SECRET)}, "registryAuth.auth"),
        ({"auth": packed(f":{SECRET}")}, "registryAuth.auth"),
        ({"auth": packed(f"u:{SECRET}\r\nX: y")}, "registryAuth.auth"),
        ({"username": "u:v", "password": SECRET}, "registryAuth.username"),
        ({"username": "u\n", "password": SECRET}, "registryAuth.username"),
        ({"username": "u", "password": [SECRET]}, "registryAuth.password"),
        ({"username": "u", "password": SECRET, "more": 1}, "registryAuth.more"),
    ],
)
def test_credentials_that_are_none(auth, path):
    assert list(faults(job(registryAuth=auth))) == [path]


def test_what_does_not_go_with_a_registry():
    auth = {"username": "u", "password": SECRET}
    assert "oci://" in faults(job(URL="https://h/i", registryAuth=auth))["registryAuth"]
    header = [{"key": "authorization", "value": SECRET}]
    assert "httpHeader" in faults(job(httpHeader=header, registryAuth=auth))["registryAuth"]
    listed = {"checkSum": "https://h/SHA256SUMS", "checkSumType": "sha256"}
    assert "must be a digest" in faults(job(**listed))["checkSum"]
    assert "must begin with" in faults(job(mirrors=["oci://g/web:1"]))["mirrors[0]"]


def test_a_signature_of_cosign_may_be_in_the_registry():
    assert parse_job(job(signature={"type": "cosign"})).signature
    assert "nowhere else" in faults(job(signature={"type": "minisign"}))["signature.url"]
    assert "nowhere else" in faults(job(URL="https://h/i", signature={"type": "cosign"}))["signature.url"]


def test_a_manifest_tells_the_content_but_only_its_digest_is_a_checksum():
    tagged, pinned = parse_job(job()), parse_job(job(URL=f"oci://h/web@sha256:{HEX}"))
    assert (tagged.tells_content, tagged.has_checksum) == (True, False)
    assert (pinned.tells_content, pinned.has_checksum) == (True, True)
    policy = Policy(require_checksum=True)
    require_allowed(pinned, policy, remote=True)
    with pytest.raises(JobInvalid, match="required by this server's policy"):
        require_allowed(tagged, policy, remote=True)


def test_a_registry_by_plain_http_is_plain_http_to_the_policy():
    plain = parse_job(job(URL="oci+http://h/web:1"))
    require_allowed(plain, Policy(), remote=True)
    require_allowed(parse_job(job()), Policy(allow_http=False), remote=True)
    with pytest.raises(JobInvalid, match="must be https"):
        require_allowed(plain, Policy(allow_http=False), remote=True)
    with pytest.raises(JobInvalid, match="over plain http"):
        require_allowed(plain, Policy(require_checksum="http"), remote=True)
