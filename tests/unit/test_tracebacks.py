import gc
import weakref

import pytest

from agent.tracebacks import raise_first, without_traceback


class Window:
    """Something large in the frame of a function that fails."""


@pytest.fixture(autouse=True)
def _no_collector():
    gc.disable()
    yield
    gc.enable()


def failing(refs: list) -> Exception:
    """An exception whose traceback holds a window."""
    window = Window()
    refs.append(weakref.ref(window))
    try:
        raise ValueError("first")
    except ValueError as error:
        return error


def test_a_kept_failure_that_is_raised_keeps_nothing_alive():
    refs: list = []
    with pytest.raises(ValueError, match="first") as caught:
        raise_first([failing(refs), KeyError("second")])
    assert refs[0]() is not None
    del caught
    assert refs[0]() is None


def test_the_list_of_failures_does_not_keep_them():
    failures = [ValueError("first")]
    with pytest.raises(ValueError, match="first"):
        raise_first(failures)
    assert failures == []


def test_without_a_failure_nothing_is_raised():
    raise_first([])


def test_an_error_that_is_kept_holds_no_frames():
    refs: list = []
    kept = without_traceback(failing(refs))
    assert str(kept) == "first"
    assert refs[0]() is None


def test_neither_does_it_hold_what_it_came_from():
    refs: list = []
    try:
        raise RuntimeError("told") from failing(refs)
    except RuntimeError as error:
        kept = without_traceback(error)
    assert refs[0]() is None
    assert str(kept) == "told"
