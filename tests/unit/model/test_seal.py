import json

import pytest

from agent.model.seal import KeptOut, Seal, SealedDisk

DISK = SealedDisk("/dev/sda", 2**30, 2**20, "a" * 64, 2**20, "b" * 64, 4096, 2**25, 2**19, "d" * 64)
OTHER = SealedDisk("/dev/sdb", 2**31, 2**20, "a" * 64, 2**20, "c" * 64)
TOLD = {
    "image_type": "vmdk",
    "image_packing": "zip",
    "signature": '{"type": "ssh"}',
    "registry": '{"index": null}',
}
SEAL = Seal((DISK,), "md5:c", **TOLD)


@pytest.mark.parametrize("disks", [(DISK,), (DISK, OTHER)])
def test_a_seal_comes_back_as_it_was_written(disks):
    for kept_out in ((), (KeptOut("/dev/sdc", 2**30, "it is worn"),)):
        seal = Seal(disks, "md5:c", **TOLD, kept_out=kept_out)
        assert Seal.parse(json.loads(json.dumps(seal.document()))) == seal


def test_a_seal_of_an_agent_that_knew_one_disk_and_nothing_of_the_image_is_read():
    document = SEAL.document()
    (disk,) = document.pop("disks")
    for name in (*TOLD, "kept_out"):
        del document[name]
    assert Seal.parse(document | disk) == Seal((DISK,), "md5:c")


@pytest.mark.parametrize(
    "change",
    [
        {"disks": []},
        {"disks": None},
        {"disks": {}},
        {"disks": ["/dev/sda"]},
        {"image_type": None},
        {"signature": None},
        {"signature": "[]"},
        {"signature": "{"},
        {"registry": None},
        {"registry": "[]"},
        {"kept_out": None},
        {"kept_out": ["/dev/sdc"]},
        {"kept_out": [{"path": "/dev/sdc", "size": 1, "failed": None}]},
        {"more": 1},
    ],
)
def test_what_is_no_seal_is_refused(change):
    with pytest.raises(ValueError, match="not a seal"):
        Seal.parse(SEAL.document() | change)


@pytest.mark.parametrize(
    "change",
    [
        {"size": "1"},
        {"size": 1},
        {"head_length": 0},
        {"tail_length": 2**31},
        {"drive_length": -1},
        {"drive_length": 2**30},
        {"drive_offset": -1},
        {"drive_offset": True},
        {"drive_sha256": None},
        {"sector_size": 1000},
        {"more": 1},
    ],
)
def test_a_disk_that_is_none_is_refused(change):
    document = SEAL.document()
    document["disks"][0] |= change
    with pytest.raises(ValueError, match="not a seal"):
        Seal.parse(document)
