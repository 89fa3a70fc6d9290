"""Which URLs are taken, and what is shown of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model.url import (
    MAX_URL_LENGTH,
    Origin,
    check_url,
    file_path,
    origin_of,
    redact_url,
    redirect_target,
    userinfo_of,
    without_userinfo,
)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/image.qcow2",
        "https://example.org",
        "HTTPS://Example.ORG:8443/a?b=c&d#e",
        "https://user:p%40ss@example.org/",
        "http://[2001:db8::1]:8080/image",
        "http://192.0.2.1/image",
        "https://bücher.example/image",
        "file:///srv/image.raw",
        "file:/srv/image.raw",
        "file://localhost/srv/image%20two.raw",
    ],
)
def test_usable_urls(url):
    assert check_url(url) is None


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("", "must begin with"),
        ("example.org/image", "must begin with"),
        ("ftp://example.org/image", "must begin with"),
        ("javascript:alert(1)", "must begin with"),
        ("http:///image", "names no host"),
        ("http:example.org", "names no host"),
        ("https://user@/image", "names no host"),
        ("http://example.org:99999/", "malformed"),
        ("http://example.org:0/", "malformed"),
        ("http://example.org:http/", "malformed"),
        ("http://[::1/", "malformed"),
        ("http://good.example\\@evil.example/", "malformed"),
        ("http://exa mple.org/", "white space"),
        ("http://example.org/a\r\nX: y", "control"),
        ("http://example.org/\x00", "control"),
        (" http://example.org/", "white space"),
        ("http://example.org/\u2028", "control"),
        ("file://server/srv/image", "local file"),
        ("file:srv/image", "absolute"),
        ("file:///srv/image?x", "neither query nor fragment"),
        ("file:///srv/image%00", "control"),
        ("http://example.org/" + "a" * MAX_URL_LENGTH, "more than 8192"),
    ],
)
def test_urls_that_are_refused(url, fault):
    assert fault in check_url(url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://example.org:8443/a/b.raw", "https://example.org:8443/a/b.raw"),
        ("https://u:p@example.org/a", "https://example.org/a"),
        ("https://u:p@q@example.org/a#f", "https://example.org/a"),
        (
            "https://example.org/a?X-Sig=abc&Expires=12&token",
            "https://example.org/a?X-Sig=***&Expires=***&***",
        ),
        ("https://example.org/a?dG9rZW4==", "https://example.org/a?***"),
        ("https://example.org/a?dG9rZW4=", "https://example.org/a?***"),
        ("https://example.org/a?dG9rZW4&x=1", "https://example.org/a?***&x=***"),
        ("https://example.org/a?a/b+c==&x==1=", "https://example.org/a?***&x=***"),
        ("https://example.org/a?" + "k" * 41 + "=1", "https://example.org/a?***"),
        ("http://[::1]:80/a", "http://[::1]:80/a"),
        ("file:///srv/a%20b", "file:///srv/a%20b"),
        ("file:/srv/a", "file:///srv/a"),
        ("http:u:p@example.org", "http:***"),
        ("https://u:p@ss:word@host:x/", "https:***"),
        ("no url at all", "***"),
        ("https://example.org/\x1b[31m", "https://example.org/?[31m"),
    ],
)
def test_redaction(url, shown):
    assert redact_url(url) == shown


@given(st.text(max_size=60))
def test_any_text_can_be_redacted_to_something_printable(text):
    assert redact_url(text).isprintable()
    assert redact_url("https://" + text).isprintable()


SECRET = st.text("abcdefgh", min_size=1).map(lambda text: "geheim" + text)


@given(SECRET, SECRET, SECRET)
def test_redaction_never_shows_userinfo_query_or_fragment(password, value, fragment):
    shown = redact_url(f"https://user:{password}@example.org/path?key={value}&{value}#{fragment}")
    assert "geheim" not in shown
    assert "user" not in shown


def test_a_url_beyond_the_bound_shows_its_scheme_only():
    assert redact_url("https://user:" + "p" * MAX_URL_LENGTH + "@example.org/") == "https:***"


def test_origin_has_the_default_port_and_a_lower_case_host():
    assert origin_of("https://u@Example.ORG/a") == Origin("https", "example.org", 443)
    assert origin_of("http://example.org:8080") != origin_of("http://example.org")
    assert str(origin_of("https://example.org:443/")) == "https://example.org"
    assert str(origin_of("http://[::1]:81/")) == "http://[::1]:81"


def test_userinfo_is_taken_apart_and_off():
    url = "https://al%40ice:p%3Aw@example.org:1/a?b#c"
    assert userinfo_of(url) == ("al@ice", "p:w")
    assert userinfo_of("https://alice@example.org") == ("alice", "")
    assert userinfo_of("https://example.org") is None
    assert without_userinfo(url) == "https://example.org:1/a?b"


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/other", "https://example.org/other"),
        ("other", "https://example.org/dir/other"),
        ("?q=1", "https://example.org/dir/image?q=1"),
        ("//mirror.example/x", "https://mirror.example/x"),
        ("https://u:p@mirror.example/x#f", "https://mirror.example/x"),
    ],
)
def test_redirect_targets(location, target):
    assert redirect_target("https://example.org/dir/image", location) == target


@pytest.mark.parametrize(
    "location", ["http://example.org/", "file:///etc/passwd", "ftp://x/", "https://a b/", "https://[x"]
)
def test_redirects_that_are_refused(location):
    with pytest.raises(ValueError, match="the server redirects"):
        redirect_target("https://example.org/dir/image", location)


def test_file_path_is_decoded():
    assert file_path("file:///srv/image%20two%3F.raw") == "/srv/image two?.raw"
