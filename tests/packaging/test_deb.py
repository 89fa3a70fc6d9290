"""The package as a file: what it holds, what it does not tell, and that anybody can build the same."""

import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tests.kit.links import relative_links
from tests.packaging.conftest import script

pytestmark = pytest.mark.timeout(600)  # the first one builds it, and with an empty cache the room for that

ROOT = Path(__file__).parents[2]
PYTHON = {"bookworm": "python3.11", "trixie": "python3.13"}
LIBPARTED = {"bookworm": "libparted2", "trixie": "libparted2t64"}


@pytest.fixture(scope="session")
def site(suite, package_tree) -> Path:
    """The directory of the package's Python packages."""
    return Path(package_tree, "usr/lib/byoi-agent/dist/lib", PYTHON[suite], "site-packages")


def names(tree: Path) -> list[str]:
    return sorted(str(path.relative_to(tree)) for path in tree.rglob("*"))


# What the lintian of Debian 13 has beyond that of 12: it sees the library in zstandard's modules, which come as their
# authors compiled them, and knows a tag no more that ours overrides for the older one.
LATER_TAGS = "embedded-library,alien-tag"


def test_lintian_finds_nothing(package):
    later = platform.freedesktop_os_release()["VERSION_CODENAME"] != "bookworm"
    suppressed = ["--suppress-tags", LATER_TAGS] if later else []
    done = subprocess.run(
        ["lintian", "--display-info", "--tag-display-limit", "0", *suppressed, str(package)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("", 0)


def test_every_override_of_lintian_is_explained():
    lines = (ROOT / "packaging/deb/lintian-overrides").read_text().splitlines()
    assert lines[0].startswith("#")
    assert not any(line.strip() == "" for line in lines)


def test_the_manual_and_the_completion_are_there(package_tree):
    there = set(names(package_tree))
    assert {
        "usr/share/man/man1/byoi.1.gz",
        "usr/share/man/man8/byoi-agent.8.gz",
        "usr/share/man/man5/agent.toml.5.gz",
        "usr/share/man/man5/byoi-job.5.gz",
        "usr/share/man/man5/job.5.gz",
        "usr/share/bash-completion/completions/byoi",
        "usr/share/bash-completion/completions/byoi-agent",
        "usr/share/fish/vendor_completions.d/byoi.fish",
        "usr/share/fish/vendor_completions.d/byoi-agent.fish",
        "usr/share/zsh/vendor-completions/_byoi",
        "usr/share/zsh/vendor-completions/_byoi-agent",
    } <= there


def test_every_link_of_a_packaged_document_leads_to_a_file(package_tree):
    documents = package_tree / "usr/share/doc/byoi-agent"
    pages = list(documents.rglob("*.md"))
    assert {"README.md", "docs/job.md", "docs/decisions/README.md"} <= {
        str(page.relative_to(documents)) for page in pages
    }
    links = [(page, link) for page in pages for link in relative_links(page)]
    assert len(links) > 50
    # An absolute one is the system's own: base-files has the texts of the licences.
    missing = [
        (page, link)
        for page, link in links
        if not link.startswith("/") and not (page.parent / link).is_file()
    ]
    assert missing == []
    assert {link for _, link in links if link.startswith("/")} == {"/usr/share/common-licenses/Apache-2.0"}


def test_units_and_settings_are_there(package_tree):
    there = set(names(package_tree))
    assert {
        "usr/lib/systemd/system/byoi-agent.service",
        "usr/lib/systemd/system/byoi-console@.service",
        "usr/lib/sysusers.d/byoi-agent.conf",
        "usr/lib/tmpfiles.d/byoi-agent.conf",
        "etc/byoi-agent/agent.toml",
    } <= there


def test_every_pin_is_inside_in_its_version(site):
    pins = re.findall(
        r"^([a-z0-9-]+)==(\S+)", (ROOT / "packaging/requirements.txt").read_text(), re.MULTILINE
    )
    wanted = {f"{name.replace('-', '_')}-{version}.dist-info" for name, version in pins}
    assert {path.name for path in site.glob("*.dist-info")} == wanted


def test_the_bill_of_materials_names_what_is_inside(package, package_tree, site):
    bill = json.loads((package_tree / "usr/share/doc/byoi-agent/sbom.cdx.json").read_text())
    inside = {path.name.removesuffix(".dist-info") for path in site.glob("*.dist-info")}
    named = {f"{each['name'].replace('-', '_')}-{each['version']}".lower() for each in bill["components"]}
    assert named == {name.lower() for name in inside}
    version = subprocess.run(
        ["dpkg-deb", "--field", str(package), "Version"], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert bill["metadata"]["component"]["version"] == version


def test_the_bill_of_materials_is_one_by_its_own_schema(package_tree):
    bill = (package_tree / "usr/share/doc/byoi-agent/sbom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill) is None


def test_the_code_is_that_of_the_checkout(site):
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "--cached", "--others", "--exclude-standard", "agent"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    here = {name: (ROOT / name).read_bytes() for name in listed if (ROOT / name).is_file()}
    packed = {
        str(path.relative_to(site)): path.read_bytes()
        for path in (site / "agent").rglob("*")
        if path.is_file()
    }
    assert packed == here


def test_nothing_tells_where_or_when_it_was_built(package_tree):
    assert not [
        name for name in names(package_tree) if name.endswith((".pyc", "/RECORD", "/direct_url.json"))
    ]
    told = [str(ROOT).encode(), b"byoi-deb.", str(Path.home() / ".cache").encode(), b"/pip-"]
    for path in package_tree.rglob("*"):
        if (
            path.is_file()
            and not path.is_symlink()
            and path.suffix in ("", ".so", ".service", ".conf", ".toml", ".cfg")
        ):
            content = path.read_bytes()
            assert not [word for word in told if word in content], path


def test_what_is_compiled_here_has_debians_flags(site):
    """pyparted is the only one; the first of two builds on Debian 13 had taken it from pip's cache, without them."""
    (module,) = site.glob("_ped.*.so")
    dynamic = subprocess.run(["objdump", "-p", module], capture_output=True, text=True, check=True).stdout
    symbols = subprocess.run(["objdump", "-T", module], capture_output=True, text=True, check=True).stdout
    assert re.search(r"FLAGS_1 +0x0*1$", dynamic, re.MULTILINE), "lazy binding"
    assert {"__stack_chk_fail", "__asprintf_chk"} <= set(symbols.split())


def test_compiled_modules_need_only_what_the_package_depends_on(suite, package, site):
    depends = subprocess.run(
        ["dpkg-deb", "--field", str(package), "Depends"], capture_output=True, text=True, check=True
    ).stdout
    needed = set()
    for module in site.rglob("*.so"):
        shown = subprocess.run(
            ["objdump", "-p", str(module)], capture_output=True, text=True, check=True
        ).stdout
        needed |= set(re.findall(r"NEEDED +(\S+)", shown))
    packages = {
        "libc.so.6": "libc6",
        "libm.so.6": "libc6",
        "libpthread.so.0": "libc6",
        "ld-linux-x86-64.so.2": "libc6",
        "libgcc_s.so.1": "libgcc-s1",
        "libstdc++.so.6": "libstdc++6",
        "libparted.so.2": LIBPARTED[suite],
    }
    assert needed <= packages.keys()
    assert not [packages[name] for name in needed if packages[name] not in depends]


def test_the_example_configuration_sets_nothing_and_would_be_valid_toml(package_tree):
    lines = (package_tree / "etc/byoi-agent/agent.toml").read_text().splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == []
    assert tomllib.loads("\n".join(lines)) == {}
    # A comment begins with "# ", a setting that is commented out with "#" alone.
    settings = [line[1:] for line in lines if line.startswith("#") and not line.startswith(("# ", "#!"))]
    assert "service_name" in tomllib.loads("\n".join(settings))


def test_another_checkout_at_another_place_gives_the_same_bytes(suite, package, tmp_path):
    """From a clean clone, uncommitted files included, as the first build has them, and an empty cache.

    Of another release the room is kept, which takes minutes, and the wheels that were compiled in it: place, time zone,
    locale and umask do not reach into a room. That a compiler gives the same twice is shown by this machine's own
    release; that no wheel tells where it was compiled, by `test_nothing_tells_where_or_when_it_was_built` of each.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "byoi-agent"
    (tmp_path / "cache/byoi-agent").mkdir(parents=True)
    in_room = suite != platform.freedesktop_os_release()["VERSION_CODENAME"]
    wheels = cache.glob("deb-wheels-*") if in_room else ()
    for shared in [*cache.glob(f"room-{suite}-*.tar"), *cache.glob(f"apt-{suite}"), *wheels]:
        subprocess.run(["cp", "-a", str(shared), str(tmp_path / "cache/byoi-agent")], check=True)
    clone = tmp_path / "somewhere else" / "checkout"
    git = ("git", "-c", "safe.directory=*")
    subprocess.run([*git, "clone", "--quiet", f"file://{ROOT}", str(clone)], check=True)
    listed = subprocess.run(
        [*git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    for name in os.fsdecode(listed).split("\0"):
        if name and (ROOT / name).is_file():
            target = clone / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
            target.chmod((ROOT / name).stat().st_mode & 0o700)
    other = {
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "TMPDIR": str(tmp_path),
        "TZ": "Asia/Kathmandu",
        "LC_ALL": "C.UTF-8",
        "DEB_BUILD_OPTIONS": "",
    }
    done = subprocess.run(
        ["sh", "-c", 'umask 077; exec sh "$1"/packaging/deb/build --suite "$2"', "sh", str(clone), suite],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | other,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    again = Path(done.stdout.splitlines()[-1])
    assert again != package
    assert hashlib.sha256(again.read_bytes()).hexdigest() == hashlib.sha256(package.read_bytes()).hexdigest()


def test_a_second_build_of_the_same_state_is_the_first(suite, package):
    assert script("packaging/deb/build", "--suite", suite) == package


@pytest.mark.parametrize(
    ("said", "idle"),
    [
        ({"status": None, "message": None, "revision": 0}, True),
        ({"status": "error", "reboot": None}, True),
        ({"status": "done", "reboot": {"state": "disabled", "at": None}}, True),
        ({"status": "done", "reboot": {"state": "calledOff", "at": None}}, True),
        ({"status": "doing", "reboot": None}, False),
        ({"status": "done", "reboot": {"state": "waiting", "at": None}}, False),
        ({"status": "done", "reboot": {"state": "due", "at": None}}, False),
        ({"status": "a word of a later version"}, False),
        ({}, False),
        ([], False),
    ],
)
def test_an_upgrade_restarts_only_a_daemon_that_says_it_is_idle(said, idle):
    ended = subprocess.run(
        [sys.executable, str(ROOT / "packaging/deb/is_idle.py")],
        input=json.dumps(said),
        text=True,
        check=False,
    )
    assert (ended.returncode == 0) is idle


def test_silence_counts_as_busy():
    ended = subprocess.run(
        [sys.executable, str(ROOT / "packaging/deb/is_idle.py")], input="", text=True, check=False
    )
    assert ended.returncode == 1
