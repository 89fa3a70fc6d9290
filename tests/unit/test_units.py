import pytest

from agent.units import GiB, KiB, MiB, TiB, align_down, align_up, format_duration, format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512", 512),
        ("4K", 4 * KiB),
        ("20G", 20 * GiB),
        ("20g", 20 * GiB),
        ("1 MiB", MiB),
        ("3TB", 3 * TiB),
        (" 7M ", 7 * MiB),
    ],
)
def test_sizes_are_binary(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1G", "1.5G", "0", "0K", "12X", "1G2", "ten"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)


def test_sizes_and_durations_for_people():
    assert [format_size(n) for n in (0, 1023, 1024, 3 * GiB, 5 * 1024 * TiB)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "3.0 GiB",
        "5120.0 TiB",
    ]
    assert [format_duration(s) for s in (0.04, 59.9, 60, 185, 7620)] == [
        "0.0 s",
        "59.9 s",
        "1 min 00 s",
        "3 min 05 s",
        "2 h 07 min",
    ]


def test_alignment():
    assert (align_up(1, 512), align_up(512, 512), align_down(1023, 512), align_down(512, 512)) == (
        512,
        512,
        512,
        512,
    )
