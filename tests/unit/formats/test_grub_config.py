"""How a grub.cfg names the root: as distributions write it."""

import pytest

from agent.formats.grub_config import root_names

UUID = "2f8b3f0c-6f4e-4d61-9c0d-7a5e1c3b9d84"
DEBIAN_ESP = f"""search.fs_uuid {UUID} root hd0,gpt1
set prefix=($root)'/boot/grub'
configfile $prefix/grub.cfg
"""
FEDORA_ESP = f"""search --no-floppy --root-dev-only --fs-uuid --set=dev {UUID}
set prefix=($dev)/boot/grub2
export $prefix
configfile $prefix/grub.cfg
"""


def entry(root: str) -> str:
    """A menu entry as grub-mkconfig writes it."""
    return f"""set root='hd0,gpt1'
if [ x$feature_platform_search_hint = xy ]; then
  search --no-floppy --file --set=root /boot/vmlinuz
fi
menuentry 'Linux' {{
\tlinux\t/boot/vmlinuz-6.1.0-13-amd64 root={root} ro console=ttyS0
\tinitrd\t/boot/initrd.img-6.1.0-13-amd64
}}
"""


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (DEBIAN_ESP, f"search.fs_uuid {UUID} root hd0,gpt1"),
        (FEDORA_ESP, f"search --no-floppy --root-dev-only --fs-uuid --set=dev {UUID}"),
        ("search -l --set=root rootfs", "search -l --set=root rootfs"),
        (entry(f"UUID={UUID}"), f"root=UUID={UUID}"),
        (entry("LABEL=cloudimg-rootfs"), "root=LABEL=cloudimg-rootfs"),
        (entry(f"/dev/disk/by-uuid/{UUID}"), f"root=/dev/disk/by-uuid/{UUID}"),
        (entry("/dev/md127"), "root=/dev/md127"),
        (f'set kernelopts="root=UUID={UUID} ro"\nlinux /vmlinuz root=UUID={UUID} ro', f"root=UUID={UUID}"),
    ],
)
def test_a_root_by_its_filesystem(config, told):
    names = root_names(config.encode())
    assert (names.of_filesystem, names.of_partition) == ((told,), ())


@pytest.mark.parametrize(
    "root",
    [
        f"PARTUUID={UUID}",
        "PARTLABEL=root",
        "/dev/sda1",
        "/dev/vda1",
        "/dev/xvda1",
        "/dev/nvme0n1p2",
        "/dev/mmcblk0p2",
        f"/dev/disk/by-partuuid/{UUID}",
        "/dev/disk/by-id/wwn-0x5002538c00000001-part1",
    ],
)
def test_a_root_by_a_partition_is_told_whatever_else_is_there(root):
    names = root_names((entry(root) + entry(f"UUID={UUID}")).encode())
    assert names.of_partition == (f"root={root}",)


@pytest.mark.parametrize(
    "config",
    [
        "",
        "set root='hd0,gpt1'",
        "set root=/dev/sda1",
        "# linux /vmlinuz root=/dev/sda1",
        "search --no-floppy --file --set=root /.disk/info",
        entry("$root"),
        entry("/dev/mapper/vg-root"),
        "\0\xff" * 512,
    ],
)
def test_what_says_nothing_of_it(config):
    names = root_names(config.encode("latin-1"))
    assert (names.of_filesystem, names.of_partition) == ((), ())


def test_what_is_no_text_is_read_all_the_same():
    assert root_names(b"\xff\xfe linux root=/dev/sda1\n").of_partition == ("root=/dev/sda1",)
