"""What is read as the text of a job, and what is refused before it costs anything."""

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import JobInvalid
from agent.model.job import load_job
from agent.model.job_text import (
    MAX_DEPTH,
    MAX_FAULTS,
    MAX_JOB_BYTES,
    MAX_VALUES,
    TextRefused,
    bounded_text,
    read_json,
)
from agent.units import MiB

EMPTY_LISTS = b"[" + b"[]," * (MAX_JOB_BYTES // 3 - 1) + b"0]"


def nested(depth):
    return b'{"a":' * depth + b"1" + b"}" * depth


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"{", "is not JSON: Expecting property name enclosed in double quotes at line 1 column 2"),
        (b"", "is not JSON: Expecting value"),
        (b'{"URL": NaN}', "is not JSON: it holds NaN"),
        (b'{"URL": -Infinity}', "is not JSON: it holds -Infinity"),
        (b"[" * 100_000, "is nested more than 64 levels deep"),
        (b"[]", "must be a JSON object"),
        (b'{"URL": "a", "URL": "b"}', "URL: is given twice"),
        (b"9" * 5000, "holds a number with too many digits"),
        (b'{"a": "\xff"}', "is not JSON in UTF-8"),
        ("{}".encode("utf-16"), "is not JSON in UTF-8"),
        ("{}".encode("utf-16-le"), "is not JSON in UTF-8"),
        ("{}".encode("utf-16-be"), "is not JSON in UTF-8"),
        ("{}".encode("utf-32"), "is not JSON in UTF-8"),
        ("{}".encode("utf-32-be"), "is not JSON in UTF-8"),
        (b" " * (MAX_JOB_BYTES + 1), f"has {MAX_JOB_BYTES + 1} bytes, at most {MAX_JOB_BYTES} are taken"),
    ],
)
def test_what_cannot_be_read_is_told_in_words(text, words):
    with pytest.raises(JobInvalid) as caught:
        load_job(text)
    assert words in str(caught.value)


def test_a_byte_order_mark_is_dropped():
    assert read_json('\ufeff{"a": "\u20ac"}'.encode()) == {"a": "\u20ac"}


def test_the_depth_is_bounded_wherever_it_is():
    assert read_json(nested(MAX_DEPTH)) == json.loads(nested(MAX_DEPTH))
    for text in (nested(MAX_DEPTH + 1), b"[1," + nested(MAX_DEPTH) + b"]", b"[" * 900 + b"]" * 900):
        with pytest.raises(JobInvalid, match="nested more than 64 levels deep"):
            read_json(text)


def test_the_number_of_values_is_bounded():
    most = MAX_VALUES - 1
    for text in (b"[" + b"1," * most + b"1]", b"[" + b'{"a":1},' * (most // 2) + b'{"a":1}]'):
        assert read_json(text) == json.loads(text)
    for text in (
        b"[" + b"1," * MAX_VALUES + b"1]",
        b"[" + b'"",' * MAX_VALUES + b"1]",
        b"[" + b"{}," * MAX_VALUES + b"1]",
        b"{" + b",".join(b'"%d":""' % number for number in range(MAX_VALUES + 1)) + b"}",
        b'"' * 5 * MAX_VALUES,
    ):
        with pytest.raises(JobInvalid, match="holds more than 50000 values"):
            read_json(text)


def test_what_stands_in_strings_is_not_counted():
    script = "if [ -f \"$1\" ]; then echo '{[,]}' \\\\; fi\n" * (2 * MAX_VALUES)
    assert read_json(json.dumps({"userData": script}).encode()) == {"userData": script}


def test_a_bomb_takes_no_memory_beyond_its_own_length():
    tracemalloc.start()
    try:
        with pytest.raises(JobInvalid, match="values"):
            read_json(EMPTY_LISTS)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * MAX_JOB_BYTES  # its objects would be 500 MiB


def test_the_largest_text_of_a_real_kind_takes_three_times_its_length():
    text = json.dumps({"userData": "echo \u00e9\n" * (MAX_JOB_BYTES // 16)}, ensure_ascii=False).encode(
        "utf-8"
    )
    tracemalloc.start()
    try:
        read_json(text)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * len(text) + MiB


def test_many_keys_given_twice_take_no_longer_than_others():
    half = MAX_VALUES // 2
    text = "{" + ",".join(f'"{number % half}": 1' for number in range(2 * half)) + "}"
    with pytest.raises(JobInvalid) as caught:
        read_json(text.encode())
    assert len(caught.value.faults) == MAX_FAULTS


def test_a_long_key_given_twice_is_told_by_its_beginning():
    key = json.dumps("k" * 100_000)
    with pytest.raises(JobInvalid) as caught:
        read_json(f"{{{key}: 1, {key}: 2}}".encode())
    assert len(str(caught.value)) < 200


_HARD = st.text(alphabet='"\\[]{},: \u20ac', max_size=8)
TOO_MUCH = (nested(MAX_DEPTH).decode(), ",".join("1" * MAX_VALUES))
documents = st.recursive(
    _HARD | st.integers() | st.none(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_HARD, inner, max_size=4),
    max_leaves=8,
)


# How long one takes depends on what else the machine does.
@given(documents, st.booleans())
def test_no_value_in_front_hides_a_depth_or_a_number_from_the_count(document, ascii_only):
    front = json.dumps(document, ensure_ascii=ascii_only)
    assert read_json(front.encode()) == document
    for behind in TOO_MUCH:
        with pytest.raises(TextRefused):
            bounded_text(f"[{front},{behind}]".encode())


# Pieces of JSON in any order: what begins well and goes wrong later included.
_PIECES = ["[", "]", "{", "}", ",", ":", '"', "\\", '"a"', "1", " ", '\\"', '"\\\\"']


@given(st.lists(st.sampled_from(_PIECES), max_size=MAX_DEPTH))
def test_what_is_small_is_left_to_the_parser(parts):
    text = "".join(parts)
    assert bounded_text(text.encode()) == text
