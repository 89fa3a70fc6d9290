import pytest

from agent.model.seal import Seal

BEFORE = ("/dev/sda", 2**30, 2**20, "a" * 64, 2**20, "b" * 64, "md5:c", 4096, 2**25, 2**19, "d" * 64)
SEAL = Seal(*BEFORE, image_type="vmdk", image_packing="zip", signature='{"type": "ssh"}')


def test_a_seal_comes_back_as_it_was_written():
    assert Seal.parse(SEAL.document()) == SEAL


def test_a_seal_of_an_agent_that_did_not_tell_the_image_is_read():
    document = SEAL.document()
    del document["image_type"], document["image_packing"], document["signature"]
    assert Seal.parse(document) == Seal(*BEFORE)


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
        {"image_type": None},
        {"signature": None},
        {"signature": "[]"},
        {"signature": "{"},
        {"more": 1},
    ],
)
def test_what_is_no_seal_is_refused(change):
    with pytest.raises(ValueError, match="not a seal"):
        Seal.parse(SEAL.document() | change)
