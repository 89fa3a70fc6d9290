"""The rescue images of both releases as files; that it boots and deploys is shown in the lab."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from agent.units import MiB
from tests.packaging.conftest import script

ROOT = Path(__file__).parents[2]
GENERATOR = ROOT / "packaging/rescue/tree/usr/lib/systemd/system-generators/byoi-lldp"
SETUP = ROOT / "packaging/rescue/tree/usr/lib/byoi-rescue/setup"
# The largest that docs/rescue.md promises: the initrd is in memory for good, and in memory twice while it is unpacked.
LARGEST_INITRD = 96 * MiB

DRIVERS = (
    "nvme ahci megaraid_sas mpt3sas smartpqi aacraid virtio_blk virtio_scsi sd_mod "
    "igb ixgbe i40e ice mlx5_core bnxt_en tg3 e1000e r8169 virtio_net raid1 dm_mod usbhid xhci_pci"
)

pytestmark = pytest.mark.timeout(900)  # the first test builds it, where packaging/dev/test has not


@pytest.fixture(scope="module")
def rescue(suite) -> Path:
    return script("packaging/rescue/build", "--suite", suite)


@pytest.fixture(scope="module")
def initrd(rescue, tmp_path_factory) -> Path:
    """The content of the initrd."""
    directory: Path = tmp_path_factory.mktemp("initrd")
    with (rescue / "initrd.img").open("rb") as archive:
        command = ["cpio", "--quiet", "--extract", "--make-directories"]
        subprocess.run(command, stdin=archive, cwd=directory, check=True)
    return directory


@pytest.fixture(scope="module")
def system(initrd, tmp_path_factory) -> Path:
    """The root filesystem that the rescue runs from."""
    directory: Path = tmp_path_factory.mktemp("rescue") / "root"
    command = ["unsquashfs", "-quiet", "-no-progress", "-dest", str(directory), str(initrd / "root.squashfs")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return directory


def inside(system: Path, *command: str) -> str:
    """What a command in the root filesystem says. It has /proc, and mounts that end with it."""
    enter = 'mount -t proc proc "$1/proc"; exec chroot "$@"'
    unshare = ["unshare", "--mount", "--propagation", "private", "sh", "-euc", enter, "sh"]
    done = subprocess.run([*unshare, str(system), *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def kernel_release(system: Path) -> str:
    (directory,) = (system / "usr/lib/modules").iterdir()
    return directory.name


def test_it_is_a_kernel_and_an_initrd_of_the_size_that_is_promised(rescue):
    assert {path.name for path in rescue.iterdir()} == {"vmlinuz", "initrd.img"}
    assert (rescue / "initrd.img").stat().st_size <= LARGEST_INITRD
    assert (rescue / "vmlinuz").read_bytes()[0x202:0x206] == b"HdrS"  # Documentation/x86/boot.rst


def test_kernel_and_modules_are_of_one_version(rescue, system):
    release = kernel_release(system)
    content = (rescue / "vmlinuz").read_bytes()
    # Documentation/x86/boot.rst: at 0x20e, less 0x200, is where the version stands.
    start = int.from_bytes(content[0x20E:0x210], "little") + 0x200
    assert content[start : start + 100].split(b" ")[0].decode() == release


@pytest.mark.parametrize("module", DRIVERS.split())
def test_the_drivers_of_servers_are_there(system, module):
    release = kernel_release(system)
    inside(system, "modprobe", "--set-version", release, "--show-depends", module)


@pytest.mark.parametrize("module", ["lpfc", "qla2xxx", "iscsi_tcp"])
def test_disks_of_a_storage_network_are_out_of_reach(system, module):
    assert list(system.glob(f"usr/lib/modules/*/kernel/**/{module}.ko*")) == []


def test_nobody_can_log_in_by_a_password(system):
    for line in (system / "etc/shadow").read_text().splitlines():
        assert line.split(":")[1] in ("*", "!", "!*"), line.split(":")[0]
    assert "passwordauthentication no" in inside(
        system, "sh", "-c", "ssh-keygen -A >&2; mkdir -p /run/sshd; sshd -T"
    )


def test_nothing_is_in_it_that_must_differ_between_servers(initrd):
    listed = subprocess.run(
        ["unsquashfs", "-lls", str(initrd / "root.squashfs")], capture_output=True, text=True, check=True
    ).stdout
    assert "ssh_host_" not in listed
    assert re.search(r" 0 \S+ \S+ squashfs-root/etc/machine-id$", listed, re.MULTILINE), "not empty"


def test_the_agent_and_its_displays_start_and_logins_do_not(system):
    wanted = {path.name for path in (system / "etc/systemd/system/multi-user.target.wants").iterdir()}
    assert {
        "byoi-agent.service",
        "byoi-console@tty1.service",
        "byoi-console@ttyS0.service",
        "byoi-rescue.service",
        "systemd-networkd.service",
    } <= wanted
    assert "ssh.service" not in wanted
    units = (system / "etc/systemd/system").iterdir()
    masked = {path.name for path in units if path.is_symlink() and str(path.readlink()) == "/dev/null"}
    assert {
        "getty.target",
        "systemd-networkd-wait-online.service",
        "mdcheck_start.timer",
        "fstrim.timer",
    } <= masked
    ours = ["byoi-agent.service", "byoi-console@tty1.service", "byoi-rescue.service"]
    assert inside(system, "systemd-analyze", "verify", "--man=no", *ours) == ""


def test_arrays_and_volume_groups_stay_down(system):
    assert "\nAUTO -all\n" in (system / "etc/mdadm/mdadm.conf").read_text()
    answered = inside(
        system,
        "lvmconfig",
        "--typeconfig",
        "full",
        "global/event_activation",
        "activation/auto_activation_volume_list",
    )
    assert answered.split() == ["event_activation=0", "auto_activation_volume_list=[]"]


def test_names_are_asked_of_dns_servers_only(system):
    said = inside(system, "systemd-analyze", "cat-config", "systemd/resolved.conf").splitlines()
    assert {"LLMNR=no", "MulticastDNS=no"} <= set(said)


def test_the_commands_run_in_it(system):
    assert inside(system, "byoi", "--version").startswith("byoi ")
    for tool in (
        "mdadm",
        "dmsetup",
        "lvm",
        "mkfs.vfat",
        "mcopy",
        "udevadm",
        "efibootmgr",
        "sgdisk",
        "nvme",
        "hdparm",
        "ip",
    ):
        inside(system, "sh", "-c", 'command -v "$1"', "sh", tool)


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("quiet byoi_rescue.ssh_key=abc", ["abc"]),
        ('byoi_rescue.ssh_key="ssh-ed25519 AAAA a comment" quiet', ["ssh-ed25519 AAAA a comment"]),
        ('"byoi_rescue.ssh_key=ssh-ed25519 AAAA" quiet', ["ssh-ed25519 AAAA"]),
        ('byoi_rescue.ssh_key="k 1" x byoi_rescue.ssh_key="k 2"', ["k 1", "k 2"]),
        ("byoi_rescue.ssh_key_of_another=abc xbyoi_rescue.ssh_key=abc", []),
        ("byoi_rescue.ssh_key=it's", ["it's"]),
        ("", []),
    ],
)
def test_the_kernel_command_line_is_read_as_the_kernel_does(tmp_path, line, values):
    (tmp_path / "cmdline").write_text(line + "\n")
    said = subprocess.run(
        ["sh", str(SETUP), "--parameter", "byoi_rescue.ssh_key"],
        env=os.environ | {"PROC_CMDLINE": str(tmp_path / "cmdline")},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert said.splitlines() == values


@pytest.mark.parametrize(
    ("line", "is_opened"),
    [
        ("quiet ipa-collect-lldp=1 ipa-api-url=http://i", True),
        ("ipa-collect-lldp", True),
        ("quiet byoi.ironic.collect_lldp=true", True),
        ("quiet ipa-collect-lldp=0", False),
        ("quiet xipa-collect-lldp=1 ipa-collect-lldp-more=1", False),
        ("quiet", False),
    ],
)
def test_raw_sockets_are_for_servers_whose_kernel_was_told_of_lldp(tmp_path, line, is_opened):
    (tmp_path / "cmdline").write_text(line + "\n")
    environment = os.environ | {"PROC_CMDLINE": str(tmp_path / "cmdline")}
    subprocess.run([GENERATOR, tmp_path, tmp_path, tmp_path], env=environment, check=True)
    made = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.conf")]
    assert made == (["byoi-agent.service.d/lldp.conf"] if is_opened else [])
    if is_opened:
        text = (tmp_path / made[0]).read_text().splitlines()
        assert text == ["[Service]", "CapabilityBoundingSet=CAP_NET_RAW", "RestrictAddressFamilies=AF_PACKET"]


def test_the_ipxe_example_names_what_the_build_makes(rescue):
    lines = (ROOT / "packaging/rescue/boot.ipxe").read_text().splitlines()
    assert lines[0] == "#!ipxe"
    fetched = {line.split()[1] for line in lines if line.startswith(("kernel ", "initrd "))}
    assert fetched == {path.name for path in rescue.iterdir()}
