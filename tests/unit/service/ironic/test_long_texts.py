"""Long texts are taken out of a document and put back; what comes of it is what a parser makes of the whole."""

import json
import tracemalloc

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.model.job_text import TextRefused
from agent.service.ironic.long_texts import LONG, MAX_REST, LongTexts
from agent.service.ironic.messages import Refusal, read_order
from agent.units import KiB, MiB
from tests.kit.fuzz import examples

SHORT = 8
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.sampled_from(
    ['"' * 20, "\\" * 20, '\\"' * 10, "a" * 30, "ä" * 30, "\u0000" * 9]
)
DOCUMENTS = st.recursive(
    st.none() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=8,
)


def taken(data: bytes, piece: int, long: int = SHORT) -> LongTexts:
    texts = LongTexts(long)
    for at in range(0, len(data), piece):
        texts.feed(data[at : at + piece])
    return texts


@settings(max_examples=examples(300), deadline=None)
@given(DOCUMENTS, st.integers(1, 20), st.booleans())
def test_a_document_is_the_same_in_whatever_pieces_it_comes(document, piece, ascii_only):
    texts = taken(json.dumps(document, ensure_ascii=ascii_only).encode(), piece)
    assert texts.document() == document


@settings(max_examples=examples(300), deadline=None)
@given(st.text('{}[]":,\\an1 \n\x01', max_size=60), st.integers(1, 9))
@example('"' + "a" * 20, 3)
@example('"' + "a" * 20 + "\\", 3)
@example('"' + "a" * 20 + '\n"', 50)
@example('"' + "a" * 20 + '\\x"', 50)
def test_what_a_parser_refuses_is_refused_and_nothing_else(text, piece):
    def read(parse):
        try:
            return parse()
        except ValueError:
            return "refused"

    texts = taken(text.encode(), piece)
    whole = read(lambda: json.loads(text))
    assert read(texts.document) == whole


def test_a_long_text_is_kept_once():
    drive = "H4sI" * (MiB // 4)
    body = json.dumps({"name": "a.b", "params": {"one": drive, "two": [drive], "three": {"four": drive}}})
    texts = taken(body.encode(), 64 * KiB, 64 * KiB)
    params = read_order(texts).params
    assert params == {"one": drive, "two": [drive], "three": {"four": drive}}
    assert params["one"] is params["two"][0] is params["three"]["four"]


def test_a_body_takes_twice_its_drive_and_not_nine_times():
    drive = b"H4sI" * MiB
    parts = (
        b'{"name": "a.b", "params": {"one": "',
        drive,
        b'", "two": "',
        drive,
        b'", "three": "',
        drive,
        b'"}}',
    )
    texts = LongTexts()
    tracemalloc.start()
    try:
        for part in parts:
            for at in range(0, len(part), 64 * KiB):
                texts.feed(part[at : at + 64 * KiB])
        read_order(texts)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 2.5 * len(drive)


@pytest.mark.parametrize("inside", [b"\xff", b"\n", b"\\x", b"\\ud8"])
def test_a_long_text_that_is_none_is_refused_as_a_body_is(inside):
    texts = taken(b'{"name": "%b"}' % (b"a" * 100 + inside), 7)
    with pytest.raises(Refusal) as refused:
        read_order(texts)
    assert refused.value.status == 400


def test_beside_its_long_texts_a_document_is_short():
    short = b"a" * (32 * KiB)
    body = b'["' + b'","'.join([short] * (MAX_REST // len(short) + 1)) + b'"]'
    with pytest.raises(TextRefused, match=f"more than {MAX_REST} bytes"):
        taken(body, MiB, LONG).document()
    assert len(taken(body, MiB, len(short)).document()) > MAX_REST // len(short)


def test_control_characters_are_refused_in_words():
    texts = taken(b'"' + b"a" * 100 + b'\n"', 7)
    with pytest.raises(TextRefused, match="control characters"):
        texts.document()
