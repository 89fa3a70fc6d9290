"""What the hooks of mmdebstrap may not do: work on the machine that they run on.

Its apt, called from outside, decides by the tree's packages and then calls the machine's own dpkg: `purge perl`
removed Perl from the machine that built the rescue.
"""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCED = '. "$1/packaging/dev/lib.sh"; . "$1/packaging/dev/debian.sh"; shift; tree_apt "$@"'


def tree_apt(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    # lib.sh finds the checkout by the name of the script.
    name = str(ROOT / "packaging/rescue/build")
    return subprocess.run(
        ["sh", "-euc", SOURCED, name, str(ROOT), *command],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )


def test_apt_in_a_hook_has_no_dpkg_to_call():
    said = tree_apt("apt-config", "dump", MMDEBSTRAP_APT_CONFIG="/dev/null")
    assert said.returncode == 0, said.stderr
    assert [line for line in said.stdout.splitlines() if line.startswith("Dir::Bin::dpkg ")] == [
        'Dir::Bin::dpkg "/bin/false";'
    ]


def test_outside_of_a_hook_it_does_nothing():
    said = tree_apt("apt-config", "dump", MMDEBSTRAP_APT_CONFIG="")
    assert (said.returncode, said.stdout) == (1, "")


def test_no_script_uses_that_apt_in_another_way():
    variable = "MMDEBSTRAP_" + "APT_CONFIG"  # in parts: this file is searched too
    places = [ROOT / "packaging", ROOT / "tests"]
    files = [
        path
        for place in places
        for path in place.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    using = {
        (str(path.relative_to(ROOT)), line.strip())
        for path in files
        for line in path.read_bytes().decode("utf-8", "replace").splitlines()
        if f"${variable}" in line
    }
    assert using == {
        (
            "packaging/dev/debian.sh",
            f'APT_CONFIG=${variable} "$program" -o Dir::Bin::dpkg=/bin/false -o APT::Sandbox::User=root "$@"',
        )
    }


def test_the_rescues_hook_refuses_this_machine():
    done = subprocess.run(
        ["sh", str(ROOT / "packaging/rescue/build"), "--customize", "/nonexistent/tree"],
        capture_output=True,
        text=True,
        check=False,
        env={key: value for key, value in os.environ.items() if not key.startswith("MMDEBSTRAP_")},
    )
    assert done.returncode != 0
    assert "--customize is for mmdebstrap" in done.stderr
