import itertools

import pytest

from agent.model.stage import (
    ACTIVE,
    EVERY_STAGE,
    STAGES,
    TRANSITIONS,
    UNCOMMITTED,
    Event,
    State,
    advance,
    mermaid,
)


def test_the_way_through_all_stages_ends_in_done():
    state = State.STARTING
    seen = []
    while state is not State.DONE:
        state = advance(state, Event.NEXT)
        seen.append(state)
    assert tuple(seen) == (*STAGES, State.DONE)


def test_where_it_was_asked_for_everything_is_read_back_between_verify_and_finish():
    assert advance(State.VERIFY, Event.READ_BACK) is State.READBACK
    assert advance(State.READBACK, Event.NEXT) is State.FINISH
    assert State.READBACK in UNCOMMITTED
    assert [stage for stage in EVERY_STAGE if stage is not State.READBACK] == list(STAGES)
    for state in set(State) - {State.VERIFY}:
        assert (state, Event.READ_BACK) not in TRANSITIONS


def test_every_active_state_can_fail_and_be_cancelled():
    assert {advance(state, event) for state in ACTIVE for event in (Event.FAIL, Event.CANCEL)} == {
        State.ERROR
    }


def test_an_event_that_the_table_does_not_have_raises():
    illegal = [pair for pair in itertools.product(State, Event) if pair not in TRANSITIONS]
    assert (State.DONE, Event.FAIL) in illegal
    for state, event in illegal:
        with pytest.raises(RuntimeError, match=f"state {state} cannot take the event {event}"):
            advance(state, event)


def test_the_diagram_in_the_docs_is_the_table(request):
    text = (request.config.rootpath / "docs" / "architecture.md").read_text()
    assert mermaid() in text
