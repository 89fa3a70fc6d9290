import pytest

from agent.formats.advice import hint_for
from agent.formats.detect import is_dmg, is_vhd


@pytest.mark.parametrize(
    ("content", "words"),
    [
        *((kind, f"Set type to {kind},") for kind in ("qcow2", "raw", "ova", "vmdk", "vhd", "vhdx", "vdi")),
        *((kind, "qemu-img convert -O qcow2") for kind in ("qcow", "qed", "dmg", "parallels")),
        *((kind, "Unpack it") for kind in ("7z", "rar", "lzma", "lzip")),
        *((kind, "Decompress it") for kind in ("gzip", "xz", "zstd", "bzip2", "lz4")),
        *((kind, "one tar or zip may stay") for kind in ("tar", "zip")),
        ("html", "check the URL"),
        ("nothing", "upload"),
        ("ext4", "whole disk"),
        ("unknown data", "whole disk"),
    ],
)  # fmt: skip
def test_the_hint_names_the_way_out(content, words):
    assert words in hint_for(content)


def test_an_apple_image_is_known_by_its_end():
    assert is_dmg(b"koly".ljust(512, b"\0"))
    assert not is_dmg(b"koly")
    assert not is_dmg(bytes(512))


def test_a_fixed_vhd_is_known_by_its_end():
    assert is_vhd(b"conectix".ljust(512, b"\0"))
    assert not is_vhd(b"conectix")
    assert not is_vhd(bytes(512))
