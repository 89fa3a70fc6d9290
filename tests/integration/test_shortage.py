"""What the interpreter says where the system has too little of something, and has no number for."""

import subprocess
import sys

import pytest

from tests.kit.commands import ROOT

LOADS_A_LIBRARY = """
import importlib.util, resource, sys
from pathlib import Path
from agent.errors import unforeseen

spec = importlib.util.find_spec("isal.isal_zlib")
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
most = {"AS": used, "NOFILE": 3}[sys.argv[1]]
resource.setrlimit(getattr(resource, "RLIMIT_" + sys.argv[1]), (most, most))
try:
    importlib.util.module_from_spec(spec)
except ImportError as error:
    print(unforeseen(error).code)
"""


@pytest.mark.parametrize(("limit", "code"), [("AS", "agent.memory"), ("NOFILE", "agent.descriptors")])
def test_a_library_that_finds_no_room_is_no_fault_of_the_agent(limit, code):
    """Python has nothing but the loader's words for it."""
    ran = subprocess.run(
        [sys.executable, "-c", LOADS_A_LIBRARY, limit], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ran.stdout.split() == [code]
