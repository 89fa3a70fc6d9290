"""The limits that docs/api.md names are those of the code."""

import re
from pathlib import Path

import pytest

from agent.model.job_text import MAX_DEPTH, MAX_JOB_BYTES, MAX_VALUES
from agent.service.api.app import MAX_WAIT_SECONDS
from agent.service.http.limits import Limits
from agent.service.http.request_body import BODY_SECONDS, LARGE_BODIES, SMALL_BODY
from agent.units import KiB, MiB

PAGE = Path(__file__).parents[4] / "docs" / "api.md"
QUOTAS = (
    ("connections", Limits().connections, Limits().per_address),
    ("streams of events and long polls among them", Limits().long_waits, ""),
)


def documented() -> dict[str, str]:
    """The rows of the table of limits: what is bounded, and by how much."""
    section = PAGE.read_text().partition("\n## Limits\n")[2]
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| [^|]+ \|$", section, re.MULTILINE)
    return {name: value for name, value in rows if set(value) != {"-"} and name != "of"}


def test_each_limit_is_documented_as_it_is():
    limits = Limits()
    assert limits.request_seconds == BODY_SECONDS
    assert documented() == {
        "a body": f"{MAX_JOB_BYTES // MiB} MiB",
        "its JSON": f"{MAX_DEPTH} levels, {MAX_VALUES:,} values",
        f"bodies of more than {SMALL_BODY // KiB} KiB at once": str(LARGE_BODIES),
        "a head": f"{limits.head_bytes // KiB} KiB",
        "a line of it": f"{limits.line_bytes} bytes",
        "a request, until it is complete": f"{limits.request_seconds:g} s",
        "an answer, until it is taken": f"{limits.answer_seconds:g} s",
        "the time between two requests": f"{limits.idle_seconds:g} s",
        "a long poll": f"{MAX_WAIT_SECONDS:g} s",
    }


@pytest.mark.parametrize(("name", "quotas", "per_address"), QUOTAS, ids=["connections", "streams"])
def test_each_caller_has_the_quotas_that_are_documented(name, quotas, per_address):
    row = f"| {name} | {quotas.network} | {per_address} | {quotas.local} | {quotas.root} |"
    assert row in PAGE.read_text()
