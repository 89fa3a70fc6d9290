"""The header Link, as registries write it and as nobody should."""

import pytest

from agent.formats.oci.manifest import ManifestRefused
from agent.formats.oci.pages import is_filtered, next_page


@pytest.mark.parametrize(
    "links",
    [
        ['<next>; rel="next"'],
        ["<next>;rel=next"],
        ['<next> ; REL = "Next"'],
        ['<next>; title="a, b; rel=last"; rel="prefetch next"'],
        ['<other>; rel="last", <next>; rel="next"'],
        ['<other>; rel="last"', '<next>; rel="next"', '<third>; rel="next"'],
        ["<other>; rel=last; rel=next, <next>; rel=next"],
        [r'<other>; title="\"<a>; rel=next"; rel=last, <next>; rel=next'],
    ],
)
def test_a_next_page(links):
    assert next_page(links) == "next"


@pytest.mark.parametrize(
    "links",
    [
        [],
        [""],
        ["next; rel=next"],
        ["<next>"],
        ["<next>; rel=nextpage"],
        ["<next; rel=next"],
        ['<next>; x="rel=next'],
        ["<a>, rel=next"],
    ],
)
def test_no_next_page(links):
    assert next_page(links) is None


def test_a_comma_in_a_target_is_of_the_target():
    assert next_page(["<?last=a,b;c>; rel=next"]) == "?last=a,b;c"


def test_a_header_that_is_too_long():
    with pytest.raises(ManifestRefused, match="9000 characters"):
        next_page(["<" * 9000])


@pytest.mark.parametrize(
    ("applied", "expected"),
    [
        ([], False),
        (["artifactType"], True),
        (["name, artifactType"], True),
        (["name", "artifactType"], True),
        (["artifact"], False),
    ],
)
def test_what_was_filtered(applied, expected):
    assert is_filtered(applied) == expected
