"""Archives by GNU tar and by Python, in every format and chunking, and archives that nobody should unpack."""

import subprocess

import pytest

from agent.errors import ImageUnsafe
from tests.unit.formats.archives.test_tar import plain, read


@pytest.mark.parametrize("kind", ["ustar", "gnu", "oldgnu", "pax", "posix"])
def test_gnu_tars_archives(tmp_path, kind):
    names = [
        "box.ovf",
        "späte Datei.vmdk",
        "n" * 90 + ".vmdk",
        "d/" + "m" * 120 if kind != "ustar" else "d/m",
    ]
    (tmp_path / "d").mkdir()
    for name in names:
        (tmp_path / name).write_bytes(name.encode() * 50)
    done = subprocess.run(
        ["tar", "-cf", "-", f"--format={kind}", *names],
        cwd=tmp_path,
        capture_output=True,
        check=True,
        timeout=30,
    )
    for step in (511, None):
        assert read(done.stdout, step) == plain({name: name.encode() * 50 for name in names})


def test_a_directory_that_was_packed_as_a_whole(tmp_path):
    (tmp_path / "box.ovf").write_bytes(b"content")
    done = subprocess.run(["tar", "-cf", "-", "."], cwd=tmp_path, capture_output=True, check=True, timeout=30)
    assert read(done.stdout) == [("", "directory", b""), ("box.ovf", "file", b"content")]


def test_a_sparse_member_is_refused(tmp_path):
    with (tmp_path / "holes").open("wb") as file:
        file.truncate(1 << 20)
        file.seek(500_000)
        file.write(b"data")
    for kind in ("gnu", "pax"):
        argv = ["tar", "-cSf", "-", f"--format={kind}", "holes"]
        done = subprocess.run(argv, cwd=tmp_path, capture_output=True, check=True, timeout=30)
        with pytest.raises(ImageUnsafe, match="ova_member"):
            read(done.stdout)
