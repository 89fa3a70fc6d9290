"""The benchmark: each command of its table once, with small images."""

import json
import subprocess
import sys

import pytest

from tests.kit.commands import ROOT


@pytest.mark.timeout(
    400
)  # with an empty cache, ironic-python-agent is fetched first; a peer that hangs is run again
def test_every_row_runs_and_leaves_the_image_on_the_disk(tmp_path):
    results = tmp_path / "results.json"
    ran = subprocess.run(
        [
            sys.executable,
            ROOT / "tests/bench/comparison.py",
            "--smoke",
            "--dir",
            tmp_path,
            "--results",
            results,
        ],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "PYTHONPATH": str(ROOT)},
    )
    assert ran.returncode == 0, ran.stderr
    rows = json.loads(results.read_text())["rows"]
    assert {"raw", "https", "zst", "qcow2", "ova", "connections", "fragments-64k"} <= set(rows)
    for row in rows.values():
        assert all(command["samples"] for command in row["commands"])
        assert f"**{row['title']}**" in ran.stdout or row["x"] is not None
