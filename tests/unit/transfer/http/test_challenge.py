"""The header WWW-Authenticate, as servers write it and as they should not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.transfer.http.challenge import Challenge, read_challenges

DOCKER = 'Bearer realm="https://auth.example.net/token",service="registry",scope="repository:a/b:pull"'


def test_a_bearer_challenge():
    (found,) = read_challenges([DOCKER])
    realm = "https://auth.example.net/token"
    assert found == Challenge(
        "bearer", {"realm": realm, "service": "registry", "scope": "repository:a/b:pull"}
    )


@pytest.mark.parametrize(
    ("headers", "schemes"),
    [
        (['Basic realm="x"'], ["basic"]),
        (["basic"], ["basic"]),
        ([DOCKER, 'Basic realm="x"'], ["bearer", "basic"]),
        ([f'Basic realm="a, b", {DOCKER}'], ["basic", "bearer"]),
        (["Negotiate, Basic realm=x"], ["negotiate", "basic"]),
        ([""], []),
        ([], []),
        (["=, ="], []),
        (["a, " * 100], ["a"] * 8),
    ],
)
def test_which_ways_in_are_offered(headers, schemes):
    assert [challenge.scheme for challenge in read_challenges(headers)] == schemes


def test_quotes_and_their_escapes():
    (found,) = read_challenges([r'Bearer realm="a\"b\\c, Basic d=e" , SCOPE = x, scope=y'])
    assert found.parameters == {"realm": r'a"b\c, Basic d=e', "scope": "x"}


def test_what_is_malformed_ends_it():
    found = read_challenges(['Bearer realm="https://h/, service="x"'])
    assert found[0].parameters.get("service") is None


@given(st.lists(st.text(max_size=60), max_size=4))
def test_any_header_can_be_read(headers):
    assert len(read_challenges(headers)) <= 8


def test_a_long_header_takes_no_time():
    read_challenges(['Bearer realm="' + "\\" * 100_000, "a" * 100_000, 'b x="' + 'y" ' * 50_000])
