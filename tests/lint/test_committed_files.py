"""What no linter looks at: what committed files must not say, and what they must agree on."""

import re
import stat
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import agent

ROOT = Path(__file__).parents[2]
MAX_PYTHON_LINES = 700

# Where packages come from is the machine's own setting. The names are in parts: this file is committed too.
HOSTS = tuple(
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("files", "pythonhosted"),
        ("deb", "debian", "org"),
        ("security", "debian", "org"),
        ("snapshot", "debian", "org"),
        ("archive", "ubuntu", "com"),
        ("npmjs", "org"),
        ("npmjs", "com"),
        ("registry", "yarnpkg"),
        ("crates", "io"),
        ("proxy", "golang"),
    )
)
# Paths of the places where this was written. They mean nothing anywhere else.
PATHS = tuple(
    "/" + "/".join(parts)
    for parts in (("work", "main"), ("work", "shared"), ("opt", "byoi-venv"), ("opt", "wheels"))
)


def committed() -> list[Path]:
    """Every file that is in the repository or would be by `git add --all`."""
    listed = subprocess.run(
        # A checkout may belong to another user than the one who runs the tests.
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    paths = {ROOT / name.decode() for name in listed.stdout.split(b"\0") if name}
    return sorted(path for path in paths if path.is_file() and not path.is_symlink())


def texts() -> Iterator[tuple[Path, str]]:
    for path in committed():
        content = path.read_bytes()
        if b"\0" not in content:
            yield path, content.decode("utf-8", "replace")


def lines_with(needles: tuple[str, ...]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{number}: {needle}"
        for path, text in texts()
        for needle in needles
        if needle in text
        for number, line in enumerate(text.splitlines(), 1)
        if needle in line
    ]


def scripts() -> Iterator[tuple[Path, str]]:
    """Every shell script, with the shell of its first line."""
    for path, text in texts():
        first = re.match(r"#!\s*(?:/usr/bin/env\s+|/bin/|/usr/bin/)(sh|bash)\b", text)
        if first:
            yield path, first[1]
        elif path.suffix == ".sh":
            yield path, "sh"


def test_files_are_found():
    names = {str(path.relative_to(ROOT)) for path in committed()}
    assert {"pyproject.toml", ".ci/run", "packaging/dev/test", "agent/__init__.py"} <= names


def test_no_registry_or_mirror_is_named():
    assert lines_with(HOSTS) == []


def test_no_path_of_a_workplace_is_named():
    here = str(ROOT)
    # A checkout in /src or /build says nothing about where it was written.
    assert lines_with((*PATHS, here) if len(ROOT.parts) > 3 else PATHS) == []


def test_python_files_are_of_a_size_to_read():
    sizes = {
        str(path.relative_to(ROOT)): len(text.splitlines()) for path, text in texts() if path.suffix == ".py"
    }
    assert {name: size for name, size in sizes.items() if size > MAX_PYTHON_LINES} == {}


def test_shell_scripts_parse():
    faults = []
    for path, shell in scripts():
        done = subprocess.run([shell, "-n", str(path)], capture_output=True, text=True, check=False)
        if done.returncode != 0 or done.stderr:
            faults.append(done.stderr)
    assert faults == []


def test_files_with_an_interpreter_line_can_be_executed():
    assert [
        str(path.relative_to(ROOT))
        for path, text in texts()
        if text.startswith("#!") and not path.stat().st_mode & stat.S_IXUSR
    ] == []


def test_the_version_says_whether_this_is_a_release():
    """Of a release the changelog's newest heading is that version; between releases it is Unreleased."""
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    unreleased = headings[0] == "Unreleased"
    newest = headings[1] if unreleased else headings[0]
    here = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)(\.dev0)?", agent.__version__)
    assert here is not None, f"{agent.__version__} is no version of this project"
    assert bool(here[4]) == unreleased, (
        f"{agent.__version__}, and {headings[0]} stands at the top of CHANGELOG.md"
    )
    if unreleased:
        assert tuple(map(int, here.groups()[:3])) > tuple(map(int, newest.split(".")))
    else:
        assert agent.__version__ == newest


def test_the_version_stands_in_one_place():
    assert "version" not in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert [path for path, text in texts() if f'"{agent.__version__}"' in text] == [
        ROOT / "agent/__init__.py"
    ]


def test_every_pin_has_its_hash():
    for name in (
        "requirements-build.txt", "requirements.txt", "requirements-dev.txt", "requirements-ironic.txt",
        "requirements-ipa.txt",
    ):  # fmt: skip
        pins = re.split(r"^(?=[a-z])", (ROOT / "packaging" / name).read_text(), flags=re.MULTILINE)[1:]
        assert pins, name
        assert [pin.split()[0] for pin in pins if "==" not in pin or "--hash=sha256:" not in pin] == []
