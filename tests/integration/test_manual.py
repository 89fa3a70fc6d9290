"""Man pages and completion, as `python -m agent.cli.manual` writes them: read by mandoc, completed by real shells."""

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from agent.cli import job_members
from agent.cli.commands import COMMANDS, SOCKET_VARIABLE
from agent.cli.main import make_parser as make_byoi
from agent.cli.manual import files, main
from agent.model.job import IMAGE_TYPES, parse_job
from agent.model.schema.job import job_schema
from agent.service.config.options import GROUP_TABLE, TABLE
from agent.service.daemon import make_parser as make_agent

PAGES = ("byoi.1", "byoi-agent.8", "agent.toml.5", "byoi-job.5")
LINKS = {"job.5": "byoi-job.5"}
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("manual")
    assert main([str(directory)]) == 0
    return directory


def output(*argv: object, text: str | None = None) -> str:
    """What a tool prints; it must succeed and complain of nothing."""
    done = subprocess.run(
        [str(word) for word in argv], input=text, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


def rendered(page: Path) -> str:
    """A page as it is read, without its line breaks: bold and underlined letters are struck over."""
    text = output("mandoc", "-T", "utf8", "-O", "width=200", page)
    return " ".join(re.sub(".\x08", "", text).split())


def test_all_files_are_made_and_the_date_is_the_only_thing_that_changes(made):
    names = {str(path.relative_to(made)) for path in made.rglob("*") if path.is_file()}
    pages = {f"man/{name}" for name in (*PAGES, *LINKS)}
    commands = ("byoi", "byoi-agent")
    shells = {f"completion/{name}" for x in commands for name in (f"{x}.bash", f"_{x}", f"{x}.fish")}
    assert names == pages | shells
    first, second = files(date="2024-05-01"), files(date="2024-05-01")
    assert first == second
    assert '"2024-05-01"' in first["man/byoi.1"].splitlines()[0]


@pytest.mark.parametrize("page", PAGES)
def test_mandoc_finds_nothing_wrong_with_a_page(made, page):
    assert output("mandoc", "-T", "lint", made / "man" / page) == ""


@pytest.mark.parametrize(("page", "parser"), [("byoi.1", make_byoi()), ("byoi-agent.8", make_agent())])
def test_every_option_is_on_its_page_with_its_help(made, page, parser):
    text = rendered(made / "man" / page)
    commands = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            commands = action.choices
    assert set(commands) == ({command.name for command in COMMANDS} if page == "byoi.1" else set())
    actions = [
        a for p in (parser, *commands.values()) for a in p._actions if a.dest != argparse.SUPPRESS or a.help
    ]
    actions = [action for action in actions if not isinstance(action, argparse._SubParsersAction)]
    options = {option for action in actions for option in action.option_strings}
    helps = [action.help for action in actions]
    for command in commands.values():
        assert command.prog in text
        assert " ".join(command.description.split()) in text
    assert len(options) > 4
    assert [option for option in options if not re.search(rf"(?<![\w-]){option}(?![\w-])", text)] == []
    assert [line for line in helps if not line or " ".join(line.split()) not in text] == []


def test_the_page_of_byoi_has_what_its_readers_look_for(made):
    text = rendered(made / "man/byoi.1")
    assert re.search(r"EXIT STATUS 0 done 1 the deployment failed", text)
    assert "130 cancelled, interrupted (Ctrl-C, SIGTERM) or not agreed to" in text
    assert "/run/byoi-agent/api.sock" in text
    assert r"such as \EFI\debian\grubx64.efi" in text
    assert "byoi write job.json --disk /dev/sda" in text
    assert "SEE ALSO byoi-job(5), byoi-agent(8), agent.toml(5)" in text


def test_a_value_that_may_be_left_out_is_in_brackets(made):
    assert "\\fB\\-\\-config\\-drive\\fR [\\fIFILE|URL\\fR]" in (made / "man/byoi.1").read_text()


def test_every_option_of_the_configuration_is_on_its_page(made):
    text = rendered(made / "man/agent.toml.5")
    for option in (*TABLE, *GROUP_TABLE):
        assert f"{option.name} ({option.kind.name})" in text
        assert " ".join(option.help.split()) in text
    assert "Default: /run/byoi-agent/api.sock" in text.replace('"', "")
    assert "[[disk_group]]" in text.lower()


def described(schema, path=""):
    """Path, kind and description of every member of a job, those of objects within it included."""
    for name, each in schema["properties"].items():
        yield f"{path}{name}", each
        if "properties" in each:
            yield from described(each, f"{path}{name}.")


def test_every_member_of_a_job_is_on_its_page_with_what_it_does(made):
    text = rendered(made / "man/byoi-job.5")
    members = dict(described(job_schema()))
    assert {"URL", "type", "configdrive.userData"} <= members.keys()
    for path, schema in members.items():
        assert schema.get("description"), f"{path} has no description"
        assert " ".join(schema["description"].split()) in text, path
        assert f" {path.rpartition('.')[2]} (" in text, path
    assert "URL (string, required) Where the image is" in text
    assert "One of md5, sha1, sha256, sha512." in text
    assert "MEMBERS OF CONFIGDRIVE" in text.upper()
    assert "httpHeader (array of {key, value})" in text


def test_the_example_of_a_job_is_one_and_the_same_in_the_documents(made):
    example = "".join(job_members.example_lines())
    assert parse_job(json.loads(example)).configdrive.enable
    shown = re.search(r"```json\n(.*?)```", (ROOT / "docs/job.md").read_text(), re.DOTALL)
    assert json.loads(shown[1]) == json.loads(example) == job_members.EXAMPLE
    assert '"checkSumType": "sha256"' in rendered(made / "man/byoi-job.5")


@pytest.mark.parametrize(("name", "page"), LINKS.items())
def test_a_shorter_name_leads_to_a_page(made, name, page):
    assert (made / "man" / name).read_text() == f".so man5/{page}\n"


def test_every_variable_that_the_code_reads_is_on_a_page(made):
    reads = re.compile(r"""(?:environ|environment)(?:\.get\(|\[)"([A-Z_]+)"|"([A-Z_]+)" in os\.environ""")
    names = {
        first or second
        for path in (ROOT / "agent").rglob("*.py")
        for first, second in reads.findall(path.read_text())
    } - {"SOURCE_DATE_EPOCH"}  # read by what makes these pages
    assert {
        "TERM",
        "NO_COLOR",
        "COLUMNS",
        "CREDENTIALS_DIRECTORY",
        "NOTIFY_SOCKET",
        "JOURNAL_STREAM",
    } <= names
    pages = [
        rendered(made / "man" / page).partition(" ENVIRONMENT ")[2] for page in ("byoi.1", "byoi-agent.8")
    ]
    assert [name for name in names if not any(name in page for page in pages)] == []
    for page in pages:
        for name in ("https_proxy", "no_proxy", "SSL_CERT_FILE"):
            assert name in page
    assert SOCKET_VARIABLE in pages[0]


def test_a_line_of_roff_can_hold_anything():
    from agent.cli.roff import Page

    page = Page("x", 1, date="2024-05-01", source="x 1")
    page.heading("NAME")
    page.raw("x \\- y")
    page.heading('A "QUOTED" \\ HEADING')
    words = [".TH", "'br", "\\fB", "-x", "`a'", '"q"', "\\"]
    page.literal([" ".join(words), *words])
    done = subprocess.run(
        ["mandoc", "-T", "utf8"], input=str(page), capture_output=True, text=True, check=True
    )
    lines = [re.sub(".\x08", "", line).strip() for line in done.stdout.splitlines()]
    assert [line for line in [" ".join(words), *words] if line not in lines] == []
    assert 'A "QUOTED" \\ HEADING' in lines


# -- completion --------------------------------------------------------------------------------------------------

BASH = """
source "$1"
shift
complete -p "$1" | grep -q -- "-F" || exit 9
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
function=$(complete -p "$1" | sed 's/.*-F \\([^ ]*\\).*/\\1/')
"$function" "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""

BASH_CASES = {
    ("byoi", ""): {"write", "deploy", "status", "cancel", "receipt", "report", "disks", "help"},
    ("byoi", "st"): {"status"},
    ("byoi", "status", "--"): {"--help", "--watch", "--forever", "--json", "--socket"},
    ("byoi", "write", "--disk-"): {"--disk-group", "--disk-hint"},
    ("byoi", "deploy", "--disk-hint", "wwn"): {"wwn", "wwn_with_extension", "wwn_vendor_extension"},
    ("byoi", "write", "--firmware", ""): {"auto", "uefi", "bios"},
    ("byoi", "write", "--type", ""): set(IMAGE_TYPES),
    ("byoi", "deploy", "--checksum", "sha"): {"sha1", "sha256", "sha512"},
    ("byoi", "help", "st"): {"status"},
    ("byoi-agent", "--c"): {"--config", "--check"},
}


@pytest.mark.parametrize("words", BASH_CASES)
def test_bash_completes(made, words):
    script = made / f"completion/{words[0]}.bash"
    offered = output("bash", "-c", BASH, "bash", script, *words)
    assert set(offered.split()) == BASH_CASES[words]


def test_bash_completes_files_where_one_is_asked_for(made, tmp_path, monkeypatch):
    (tmp_path / "job.json").touch()
    monkeypatch.chdir(tmp_path)
    for words in (
        ("byoi", "deploy", "j"),
        ("byoi", "write", "--user-data", "j"),
        ("byoi-agent", "--config", "j"),
    ):
        assert "job.json" in output("bash", "-c", BASH, "bash", made / f"completion/{words[0]}.bash", *words)


# A shell on a terminal of its own: completion in zsh works nowhere else.
ZSH = """
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell "PROMPT= ; fpath=($1 \\$fpath); autoload -Uz compinit; compinit -u -d $2; print re'a'dy"
zpty -r -m shell line '*ready*'
zpty -w -n shell "$3"$'\\t'
zpty -r -m shell line "*$4*" && print -r -- "$line"
zpty -d shell
"""


@pytest.mark.parametrize("name", ["byoi", "byoi-agent"])
def test_zsh_can_read_its_completion(made, name):
    assert output("zsh", "-n", made / f"completion/_{name}") == ""


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("byoi stat", "byoi status"),
        ("byoi status --for", "--forever"),
        ("byoi write --type qc", "qcow2"),
        ("byoi-agent --chec", "--check"),
    ],
)
def test_zsh_completes(made, tmp_path, typed, wanted):
    done = subprocess.run(
        ["zsh", "-f", "-c", ZSH, "zsh", made / "completion", tmp_path / "dump", typed, wanted],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert wanted in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", done.stdout), done.stdout + done.stderr


FISH_CASES = {
    "byoi ": {"write", "deploy", "status", "cancel", "receipt", "report", "disks", "help"},
    "byoi write --type ": set(IMAGE_TYPES),
    "byoi status --fo": {"--forever"},
    "byoi-agent --ch": {"--check"},
}


@pytest.mark.parametrize("typed", FISH_CASES)
def test_fish_completes(made, tmp_path, typed):
    script = made / f"completion/{typed.split()[0]}.fish"
    command = f"source {script}; complete --do-complete '{typed}'"
    offered = subprocess.run(
        ["fish", "--no-config", "-c", command], capture_output=True, text=True, check=True,
        env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]}, cwd=tmp_path,
    )  # fmt: skip
    words = {line.split("\t")[0] for line in offered.stdout.splitlines()}
    assert {word for word in words if not word.startswith("-") or "--" in typed} == FISH_CASES[typed]


def _disks() -> set[str]:
    return set(output("lsblk", "--nodeps", "--noheadings", "--paths", "--output", "NAME").split())


def test_whole_disks_are_completed_and_no_partitions(made, tmp_path):
    bash = output(
        "bash", "-c", BASH, "bash", made / "completion/byoi.bash", "byoi", "write", "--disk", "/dev/"
    ).split()
    made_of = r"/dev/(loop|ram|zram|sr|md|dm-|mapper/)"
    assert set(bash) == {name for name in _disks() if not re.match(made_of, name)}


def test_the_command_line_of_the_generator(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "agent.cli.manual", str(tmp_path / "new")],
        env={"SOURCE_DATE_EPOCH": "0", "PYTHONPATH": str(Path(__file__).parents[2])},
        check=False,
    )
    assert done.returncode == 0
    assert '"1970-01-01"' in (tmp_path / "new/man/agent.toml.5").read_text()
