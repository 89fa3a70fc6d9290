import errno
import subprocess
import sys
from pathlib import Path

from agent.host.disk import make_sparse
from agent.units import MiB


def test_a_write_that_the_filesystem_cuts_short_is_told_with_the_path(tmp_path):
    # A limit on the file's size fails like a full disk does: in the middle of a write.
    script = (
        "import resource, signal, sys\n"
        "from agent.host.disk import TargetDisk\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "disk = TargetDisk(sys.argv[1])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "try:\n"
        "    disk.write(0, bytes(2 << 20))\n"
        "except OSError as error:\n"
        "    print(error.errno, error.filename)\n"
    )
    path = tmp_path / "disk.img"
    make_sparse(str(path), 2 * MiB)
    done = subprocess.run(
        [sys.executable, "-c", script, path],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [str(errno.EFBIG), str(path)]
