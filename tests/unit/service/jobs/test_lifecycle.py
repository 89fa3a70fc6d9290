"""What of a run needs no deployment."""

import json

from agent.service.jobs.lifecycle import MAX_NOTES_BYTES, last_notes


def test_few_notes_are_all_kept():
    assert last_notes([]) == []
    assert last_notes(["a", "b"]) == ["a", "b"]


def test_of_many_notes_the_last_ones_are_kept_and_fit_the_room_that_is_reserved():
    notes = [str(number) + "é" * 500 for number in range(100)]
    kept = last_notes(notes)
    assert kept == notes[-len(kept) :]
    assert MAX_NOTES_BYTES - 3100 < len(json.dumps(kept)) <= MAX_NOTES_BYTES
    assert last_notes(["x" * MAX_NOTES_BYTES]) == []
