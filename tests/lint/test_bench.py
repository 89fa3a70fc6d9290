"""The figures of the documents are those of a file of results."""

import subprocess
import sys

from tests.kit.commands import ROOT


def test_the_pages_and_plots_are_what_the_results_give():
    checked = subprocess.run(
        [sys.executable, ROOT / "tests/bench/publish.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
