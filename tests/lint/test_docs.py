"""What the documents promise to list in full."""

import re
from pathlib import Path

from agent import errors
from tests.kit.links import relative_links
from tests.storm.frame import SUITES

DOCS = Path(__file__).parents[2] / "docs"
# Codes of single faults of a job, which have no class of their own.
FAULT_CODES = {"checksum.type", "checksum.pair"}


def _codes(kind: type) -> set[str]:
    found = {kind.code} if kind is not errors.DeployError else set()
    return found.union(*(_codes(sub) for sub in kind.__subclasses__()))


def test_the_catalogue_lists_every_code_of_an_error_once_and_no_other():
    rows = re.findall(r"^\| `([a-z_.]+)` \| (.+) \| (.+) \|$", (DOCS / "errors.md").read_text(), re.MULTILINE)
    codes = [code for code, _, _ in rows]
    assert sorted(codes) == sorted(set(codes))
    assert set(codes) == _codes(errors.DeployError) | FAULT_CODES


def test_every_link_between_documents_leads_somewhere():
    for document in [*DOCS.rglob("*.md"), *DOCS.parent.glob("*.md")]:
        for target in relative_links(document):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_nothing_is_installed_with_what_its_packages_recommend():
    """Mdadm recommends a mail server."""
    commands = [
        line
        for page in (*DOCS.rglob("*.md"), *DOCS.parent.glob("*.md"))
        for line in page.read_text().splitlines()
        if re.search(r"\bapt(-get)? .*install\b", line)
    ]
    assert commands
    assert [line for line in commands if "--no-install-recommends" not in line] == []


def test_every_test_that_a_promise_names_exists():
    page = (DOCS / "reliability.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)?(?:::(\w+))?`", page)
    file, missing, count = "", [], 0
    for path, name in named:
        file = path or file
        if not (path or name):
            continue
        count += 1
        text = (DOCS.parent / file).read_text() if (DOCS.parent / file).is_file() else ""
        if not text or (name and f"def {name}(" not in text):
            missing.append(f"{file}::{name}")
    assert count > 40
    assert missing == []


def test_every_promise_names_its_storms_and_every_storm_has_its_promise():
    rows = re.findall(r"^\| (.+) \|$", (DOCS / "reliability.md").read_text(), re.MULTILINE)
    cells = [row.split(" | ") for row in rows if not row.startswith("promise |")]
    assert [row[0] for row in cells if len(row) != 4] == []
    named = [word for row in cells for word in row[3].split(", ")]
    assert set(named) == {*SUITES, "none"}
    proof = (DOCS / "proof.md").read_text()
    assert [suite for suite in SUITES if f"\n| `{suite}` | " not in proof] == []


def test_every_test_that_the_threat_model_names_exists_and_what_has_none_says_so():
    page = (DOCS / "security.md").read_text()
    tests = "\n".join(path.read_text() for path in DOCS.parent.glob("tests/**/test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", page))
    assert len(named) > 50
    assert sorted(named - set(re.findall(r"def (test_\w+)\(", tests))) == []
    rows = [line for line in page.splitlines() if re.match(r"\| (?!cannot|secret|---)", line)]
    assert [row for row in rows if "`test_" not in row and "*no test*" not in row] == []
