"""Open virtual appliances, as other products make them."""

import hashlib
import tarfile
from io import BytesIO
from pathlib import Path

from tests.kit.commands import run

OVF = """<?xml version="1.0"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1">
  <References><File ovf:id="file1" ovf:href="disk.vmdk" ovf:size="{size}"/></References>
  <DiskSection><Info>disks</Info>
    <Disk ovf:diskId="vmdisk1" ovf:fileRef="file1" ovf:capacity="{capacity}"
      ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/>
  </DiskSection>
  <VirtualSystem ovf:id="vm"><Info>vm</Info>
    <VirtualHardwareSection><Info>hw</Info>
      <Item xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData">
        <rasd:HostResource>ovf:/disk/vmdisk1</rasd:HostResource>
        <rasd:ResourceType>17</rasd:ResourceType></Item>
    </VirtualHardwareSection></VirtualSystem>
</Envelope>
"""


def convert(raw: Path, path: Path, *options: str) -> Path:
    """Make another format of a raw image by `qemu-img convert`."""
    run("qemu-img", "convert", "-f", "raw", *options, raw, path)
    return path


def make_ova(raw: Path, path: Path, *, manifest: str) -> Path:
    """Pack a raw image into an appliance; with the manifest `wrong` the disk is not what it says."""
    disk = convert(
        raw, path.with_suffix(".vmdk"), "-O", "vmdk", "-o", "subformat=streamOptimized"
    ).read_bytes()
    ovf = OVF.format(size=len(disk), capacity=raw.stat().st_size).encode()
    lines = [
        f"SHA256({name})= {hashlib.sha256(data).hexdigest()}"
        for name, data in (("vm.ovf", ovf), ("disk.vmdk", disk))
    ]
    members = {"vm.ovf": ovf, "disk.vmdk": disk, "vm.mf": ("\n".join(lines) + "\n").encode()}
    if manifest == "wrong":
        members["vm.mf"] = members["vm.mf"].replace(b"disk.vmdk)= ", b"disk.vmdk)= 00")[:-3] + b"\n"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, BytesIO(data))
    return path
