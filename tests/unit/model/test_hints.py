"""Hints of a disk selector, against what Ironic answers.

The third member of each row is what `find_devices_by_hints` of ironic-python-agent 13.0.0 with oslo.utils 10.2.0
answered for a disk with that one property: True, False, or the exception that it ended with. Where we differ, a fourth
has our answer, and docs/disks.md gives the reason.
"""

from typing import Any

import pytest

from agent.model.hints import (
    MAX_HINT,
    OPERATORS,
    HintRefused,
    fits_size,
    fits_texts,
    read_flag,
    read_size_hint,
    read_text_hint,
)
from agent.units import GiB

REFUSED = "refused"
BY_PATH = "/dev/disk/by-path/pci-0000:00:17.0-ata-1"

TEXTS = [
    # hint, name of the disk, Ironic, ours where it differs
    ("SAMSUNG MZ7KM240", "Samsung mz7km240", True),
    ("samsung", "SAMSUNG MZ7KM240", False),
    ("  Z1 ", "z1", True),
    ("Z1", "", False),
    ("WDC  WD40", "WDC WD40", False, True),
    ("s== ZC1A", "zc1a", True),
    ("s==ZC1A", "ZC1A", True),
    ("S== ZC1A", "ZC1A", True),
    ("s== ZC1A", "ZC1B", False),
    ("s== SAMSUNG MZ7", "samsung mz7", True),
    ("s== SAMSUNG%20MZ7", "samsung mz7", False),
    ("SAMSUNG%20MZ7", "samsung mz7", False),
    ("s!= ZC1A", "ZC1A", False),
    ("s!= ZC1A", "ZC1B", True),
    ("s< b", "a", True),
    ("s< b", "B", False),
    ("s<= b", "B", True),
    ("s> b", "c", True),
    ("s> b", "b", False),
    ("s>= b", "b", True),
    ("s>= b", "a", False),
    ("<in> MZ7", "SAMSUNG MZ7KM240", True),
    ("<in>mz7", "SAMSUNG MZ7KM240", True),
    ("<in> SUNG MZ", "SAMSUNG MZ7KM240", True),
    ("<in> PM9", "SAMSUNG MZ7KM240", False),
    ("<in> 2", "SAMSUNG MZ", True, False),  # Ironic finds the 2 of %20 there
    ("<in> ata-1", BY_PATH, True),
    (BY_PATH, BY_PATH, True),
    ("0:0:1:0", "0:0:1:0", True),
    ("0x5000C500A0B1C2D3", "0x5000c500a0b1c2d3", True),
    ("<or> A <or> B", "b", True),
    ("<or> A <or> B", "ab", False),
    ("<or> foo bar <or> x", "foo bar", True),
    ("<or> foo", "FOO", True),
    ("<or> foo <or> bar", "baz", False),
    ("<all-in> MZ7 240", "SAMSUNG MZ7KM240", "SyntaxError", True),
    ("<all-in> MZ7 960", "SAMSUNG MZ7KM240", "SyntaxError", False),
    ("== 12", "12", True),
    ("== 12", "12.0", True),
    ("== 12", "13", False),
    ("!= 12", "13", True),
    ("!= 12", "12", False),
    (">= 12", "13", True),
    (">= 12", "11", False),
    ("<= 12", "12", True),
    ("< 12", "11", True),
    ("> 12", "12", False),
    ("= 12", "13", True),
    ("= 12", "12", True),
    ("= 12", "11", False),
    (">= 12", "Z1", "ValueError", False),
    ("<range-in> [ 10 20 ]", "15", "ValueError", True),
    ("<range-in> ( 10 20 ]", "10", "ValueError", False),
    ("<range-in> [ 10 20 )", "20", "ValueError", False),
    ("== Z1", "Z1", "ValueError", REFUSED),
    ("!= Z1", "Z2", "ValueError", REFUSED),
    ("A <or> B", "a <or> b", True, REFUSED),
    ("A <or> B", "a", False, REFUSED),
    ("s== A <or> B", "a", False, REFUSED),
    ("s== A s== B", "a", True, REFUSED),
    ("s== A s== B", "a s== b", False, REFUSED),
    ("<in> a <in> b", "a", True, REFUSED),
    ("s== >= 5", "5", "ParseException", REFUSED),
    ("s==", "x", "ParseException", REFUSED),
    ("<or>", "x", "ValueError", REFUSED),
    ("", "", "ValueError", REFUSED),
]

SIZES = [
    # hint, bytes of the disk, Ironic, ours where it differs
    (100, 100 * GiB, True),
    ("100", 100 * GiB, True),
    ("== 100", 100 * GiB, True),
    (100, 101 * GiB, False),
    (100, 100 * GiB - 1, False),
    (100, 100 * GiB + 1, False, True),  # hardly a disk has whole GiB
    ("!= 100", 100 * GiB + 1, True, False),
    ("!= 100", 100 * GiB, False),
    ("!= 100", 200 * GiB, True),
    ("= 100", 150 * GiB, True),
    ("= 100", 99 * GiB, False),
    (">= 100", 100 * GiB, True),
    (">=100", 100 * GiB + 1, True),
    (">= 100", 100 * GiB - 1, False),
    ("> 100", 100 * GiB, False),
    ("> 100", 100 * GiB + 1, True),
    ("< 100", 100 * GiB - 1, True),
    ("<= 100", 100 * GiB, True),
    ("<= 100", 100 * GiB + 1, False),
    ("<or> 100 <or> 200", 200 * GiB, False, True),
    ("<range-in> [ 100 200 ]", 150 * GiB, "ValueError", True),
    ("<range-in> [ 100 200 )", 200 * GiB, "ValueError", False),
    ("<range-in> ( 100 200 ]", 100 * GiB, "ValueError", False),
    ("s== 100", 100 * GiB, False, REFUSED),
    ("<in> 100", 100 * GiB, "TypeError", REFUSED),
    ("0", 1, "ValueError", REFUSED),
    ("-1", GiB, "ValueError", REFUSED),
    ("1.5", GiB, "ValueError", REFUSED),
    (1.5, GiB, "ValueError", REFUSED),
    ("abc", GiB, "ValueError", REFUSED),
    (True, GiB, "ValueError", REFUSED),
]


def names(row: tuple[Any, ...]) -> str:
    return f"{row[0]}|{row[1]}"


@pytest.mark.parametrize("row", TEXTS, ids=names)
def test_a_text_is_compared_as_ironic_does_or_as_the_documents_say(row):
    hint, name, expected = row[0], row[1], row[-1]
    if expected == REFUSED:
        with pytest.raises(HintRefused):
            read_text_hint(hint)
    else:
        assert fits_texts(read_text_hint(hint), [name] if name else []) is expected


@pytest.mark.parametrize("row", SIZES, ids=names)
def test_a_size_is_compared_as_ironic_does_or_as_the_documents_say(row):
    hint, size, expected = row[0], row[1], row[-1]
    if expected == REFUSED:
        with pytest.raises(HintRefused):
            read_size_hint(hint)
    else:
        assert fits_size(read_size_hint(hint), size) is expected


@pytest.mark.parametrize("value", [True, "true", "on", "YES", "t", "y", "1", 1, " true "])
def test_what_ironic_takes_for_true(value):
    assert read_flag(value) is True


@pytest.mark.parametrize("value", [False, "FALSE", "off", "no", "f", "n", "0", 0])
def test_what_ironic_takes_for_false(value):
    assert read_flag(value) is False


@pytest.mark.parametrize("value", ["maybe", "", 2, 1.0, [], {}])
def test_what_is_no_truth_value_for_ironic_either(value):
    with pytest.raises(HintRefused):
        read_flag(value)


def test_of_several_names_one_that_fits_is_enough():
    serials = ["S1", "SAMSUNG_S1"]
    assert fits_texts(read_text_hint("samsung_s1"), serials)
    assert fits_texts(read_text_hint("s== S1"), serials)
    assert not fits_texts(read_text_hint("S2"), serials)


def test_what_excludes_a_name_has_to_hold_for_all_of_them():
    # Ironic is content with one here, and takes the very disk that was excluded.
    assert not fits_texts(read_text_hint("s!= S1"), ["S1", "SAMSUNG_S1"])
    assert fits_texts(read_text_hint("s!= S2"), ["S1", "SAMSUNG_S1"])
    assert not fits_texts(read_text_hint("!= 5"), ["5", "6"])


def test_nothing_fits_what_is_not_known():
    for hint in ("s!= S1", "!= 5", "<in> a", "s== a", "<or> a"):
        assert not fits_texts(read_text_hint(hint), [])


@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_needs_something_behind_it(name):
    with pytest.raises(HintRefused, match="behind"):
        read_text_hint(f" {name} ")


@pytest.mark.parametrize(
    ("hint", "message"),
    [
        (12, "must be a string"),
        (None, "must be a string"),
        ("a" * (MAX_HINT + 1), f"has {MAX_HINT + 1} characters"),
        ("\ud83d", "surrogate"),
        ("<range-in> [ 20 10 ]", "a range is expected"),
        ("<range-in> 10 20", "a range is expected"),
        ("<range-in> [ 10 x ]", "a range is expected"),
        ("== 1e999", "no number"),
        ("== nan", "no number"),
    ],
    ids=range(9),
)
def test_what_is_wrong_with_a_text_is_told(hint, message):
    with pytest.raises(HintRefused, match=message):
        read_text_hint(hint)


@pytest.mark.parametrize(
    "hint", [10**5000, "9" * 1000, "1_000", "٣", ">= ", "<or> 1 <or>", [], None], ids=range(8)
)
def test_a_size_that_is_none_is_refused(hint):
    with pytest.raises(HintRefused):
        read_size_hint(hint)
