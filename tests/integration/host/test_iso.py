import subprocess

import pytest

from agent.host.iso import build_iso
from tests.unit.host.test_iso import TREE


def xorriso(*arguments) -> str:
    done = subprocess.run(["xorriso", *arguments], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "drive.iso"
    path.write_bytes(build_iso(TREE))
    return path


def test_the_label_is_config_2_in_lower_case(image):
    probed = subprocess.run(
        ["blkid", "-p", "-o", "export", image], capture_output=True, text=True, check=True
    )
    assert {"LABEL=config-2", "TYPE=iso9660"} <= set(probed.stdout.splitlines())


def test_xorriso_finds_the_real_names_and_the_same_bytes(image, tmp_path):
    target = tmp_path / "out"
    xorriso("-osirrox", "on", "-indev", image, "-extract", "/", target)
    subprocess.run(["chmod", "-R", "u+rwX", target], check=True)
    found = {str(p.relative_to(target)): p.read_bytes() for p in target.rglob("*") if p.is_file()}
    assert found == TREE
