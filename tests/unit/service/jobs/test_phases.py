"""The table of a job's life: every event in every phase, every crash in every state that can be reached."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import get_args

import pytest

from agent.model.disk_state import DiskState
from agent.model.seal import KeptOut, Seal, SealedDisk
from agent.service.jobs.entry import JobEntry, Phase
from agent.service.jobs.phases import (
    MAX_ATTEMPTS,
    OVER,
    REBOOT_TRANSITIONS,
    TRANSITIONS,
    UNDECIDED,
    BegunAgain,
    Committed,
    DiskChanged,
    EndRequested,
    Event,
    Failed,
    HandedOver,
    NoteAdded,
    OutcomeAcknowledged,
    OutcomeSeen,
    PercentPromised,
    RebootEvent,
    RebootMarked,
    RebootState,
    ReceiptIssued,
    Restart,
    Sealed,
    advance,
    advance_reboot,
    after_restart,
    may_be_replaced,
    mermaid,
)

ARCHITECTURE = Path(__file__).parents[4] / "docs/architecture.md"
SEAL = Seal((SealedDisk("/dev/sda", 100, 1, "0" * 64, 1, "0" * 64),), f"sha256:{'1' * 64}")
NEW = JobEntry(id="1", origin="api", job={"secret": "s"}, accepted_at=1.0)
SPENT = {"secret": None}
DONE = Committed({"status": "done", "notes": []}, SPENT, {"payload": "of the outcome"})
FAILED = Failed({"status": "error", "notes": []}, SPENT)
EVENTS: tuple[Event, ...] = (
    BegunAgain(),
    DiskChanged(DiskState.UNKNOWN),
    DiskChanged(DiskState.EMPTY),
    PercentPromised(50.0),
    PercentPromised(5.0),
    Sealed(SEAL),
    DONE,
    FAILED,
    EndRequested("cancel"),
    EndRequested("erase"),
    OutcomeSeen(),
    OutcomeAcknowledged(),
    NoteAdded("a note"),
    ReceiptIssued({"payload": "made later"}),
    RebootMarked(2.0),
    RebootMarked(None),
    HandedOver({"state": "failed"}),
    HandedOver(),
)


# What changes one member that decides nothing is left out of the walk, which would only be longer.
WALKED = [
    event for event in EVENTS if not isinstance(event, DiskChanged | NoteAdded | OutcomeSeen | ReceiptIssued)
]


def may_follow(entry: JobEntry) -> Iterator[tuple[Event, JobEntry]]:
    for event in WALKED:
        if (entry.phase, type(event)) in TRANSITIONS and not _is_beyond(entry, event):
            yield event, advance(entry, event)


def _is_beyond(entry: JobEntry, event: Event) -> bool:
    """An agent asks `after_restart` before it begins a job again."""
    return isinstance(event, BegunAgain) and entry.attempt >= MAX_ATTEMPTS


@pytest.fixture(scope="module")
def entries() -> list[JobEntry]:
    """Every entry that any order of events can lead to."""
    found, todo = {repr(NEW): NEW}, [NEW]
    while todo:
        for _, entry in may_follow(todo.pop()):
            key = f"{entry!r}{entry.status}"
            if key not in found:
                found[key] = entry
                todo.append(entry)
    assert {entry.phase for entry in found.values()} == set(Phase)
    return list(found.values())


def test_the_events_of_the_tests_are_all_there_are():
    assert {type(event) for event in EVENTS} == set(get_args(Event))


def test_the_diagram_in_the_documentation_is_the_table():
    assert mermaid() in ARCHITECTURE.read_text()


def test_what_the_table_does_not_have_raises():
    status = {Phase.FAILED: FAILED.status, Phase.DONE: DONE.status, Phase.CLOSED: DONE.status}
    refused = 0
    for phase, event in product(Phase, EVENTS):
        entry = replace(NEW, phase=phase, status=status.get(phase), seal=SEAL)
        if (phase, type(event)) not in TRANSITIONS:
            refused += 1
            with pytest.raises(RuntimeError, match=f"a job that is {phase} cannot take the event"):
                advance(entry, event)
    assert refused > 30


def test_an_entry_that_can_be_reached_is_read_again_as_it_was(entries):
    for entry in entries:
        assert JobEntry.parse(entry.document()) == entry


def test_a_receipt_that_was_issued_is_not_replaced_and_one_that_is_missing_is_made_later():
    failed = advance(NEW, FAILED)
    assert failed.receipt is None
    issued = advance(failed, ReceiptIssued({"payload": "made later"}))
    assert issued.receipt == {"payload": "made later"}
    done = advance(advance(NEW, Sealed(SEAL)), DONE)
    assert advance(done, ReceiptIssued({"payload": "made later"})).receipt == {"payload": "of the outcome"}
    assert JobEntry.parse(issued.document()) == issued
    older = {key: value for key, value in issued.document().items() if key != "receipt"}
    assert JobEntry.parse(older).receipt is None


def test_the_first_outcome_counts_and_the_secrets_are_gone_with_it(entries):
    for entry in entries:
        assert entry.is_over == (entry.phase in OVER)
        if entry.status is None:
            continue
        assert entry.job == SPENT
        for _, after in may_follow(entry):
            assert after.status is not None
            assert after.status["status"] == entry.status["status"]
            assert after.phase in OVER


def test_a_promised_end_is_never_taken_back_and_an_erasure_outranks_a_cancellation(entries):
    for entry in entries:
        for _, after in may_follow(entry):
            if entry.requested_end == "erase":
                assert after.requested_end == "erase"
            if entry.requested_end == "cancel":
                assert after.requested_end in ("cancel", "erase")


def test_what_clients_know_never_goes_back(entries):
    for entry in entries:
        for event, after in may_follow(entry):
            assert after.percent >= entry.percent
            assert (after.outcome_seen, after.acknowledged) >= (entry.outcome_seen, entry.acknowledged)
            assert after.attempt == entry.attempt + isinstance(event, BegunAgain)


def test_only_a_sealed_job_is_committed_and_only_one_that_is_done_is_rebooted(entries):
    for entry in entries:
        if entry.phase in (Phase.DONE, Phase.CLOSED):
            assert entry.seal is not None
        if entry.ordered_at is not None:
            assert entry.phase in (Phase.DONE, Phase.CLOSED)


# -- a death of the agent in each of these states --------------------------------------------------------------


def every_restart(entries):
    for entry, same_boot, is_committed in product(entries, (True, False), (None, True, False)):
        if is_committed is None or entry.phase is Phase.SEALED:
            yield (
                entry,
                same_boot,
                is_committed,
                after_restart(entry, same_boot=same_boot, is_committed=is_committed),
            )


def test_where_a_disk_fails_in_the_commit_the_later_seal_counts():
    sealed = advance(NEW, Sealed(SEAL))
    later = replace(SEAL, kept_out=(KeptOut("/dev/sdb", 1, "it is worn"),))
    again = advance(sealed, Sealed(later))
    assert (again.phase, again.seal) == (Phase.SEALED, later)


def test_a_sealed_job_is_compared_with_its_disk_before_anything_is_made_of_it(entries):
    for entry, _, is_committed, found in every_restart(entries):
        assert (found is Restart.COMPARE) == (entry.phase is Phase.SEALED and is_committed is None)


def test_no_later_agent_begins_a_job_that_somebody_was_promised_the_end_of(entries):
    for entry, _, is_committed, found in every_restart(entries):
        if entry.requested_end == "erase":
            assert found in (Restart.ERASE, Restart.COMPARE)
        elif entry.requested_end == "cancel":
            assert found not in (Restart.BEGIN_AGAIN, Restart.HAND_OVER, Restart.GIVE_UP, Restart.ERASE)
            if entry.phase in UNDECIDED and not is_committed:
                assert found in (Restart.CANCELLED, Restart.COMPARE)


def test_a_disk_that_was_committed_is_never_told_as_cancelled(entries):
    for entry, _, is_committed, found in every_restart(entries):
        if is_committed or entry.phase in (Phase.DONE, Phase.CLOSED):
            assert found not in (Restart.CANCELLED, Restart.BEGIN_AGAIN, Restart.GIVE_UP)


def test_what_is_over_is_not_begun_again_and_what_is_not_is_begun_again_some_times(entries):
    begun = set()
    for entry, _, is_committed, found in every_restart(entries):
        if found is Restart.BEGIN_AGAIN:
            assert entry.phase in UNDECIDED
            begun.add(entry.attempt)
        if entry.phase in UNDECIDED and not entry.requested_end and not is_committed:
            assert found in (Restart.BEGIN_AGAIN, Restart.GIVE_UP, Restart.COMPARE)
            assert (found is Restart.GIVE_UP) == (
                entry.attempt >= MAX_ATTEMPTS and found is not Restart.COMPARE
            )
    assert begun == set(range(1, MAX_ATTEMPTS))


def test_a_reboot_comes_in_the_boot_of_its_deployment_only(entries):
    for entry, same_boot, _, found in every_restart(entries):
        if found is Restart.HAND_OVER:
            assert entry.phase is Phase.DONE
            assert same_boot
        if entry.phase in (Phase.FAILED, Phase.CLOSED) and entry.requested_end != "erase":
            assert found is Restart.ANSWER


# -- the next job ----------------------------------------------------------------------------------------------


def test_a_job_is_replaced_only_when_nothing_of_it_can_be_lost(entries):
    reboots = (None, *RebootState)
    for entry, reboot, is_recorded, has_ended in product(entries, reboots, (True, False), (True, False)):
        may = may_be_replaced(entry, reboot, is_recorded=is_recorded, has_ended=has_ended)
        if entry.is_over and not is_recorded:
            assert not may, "the next agent would begin it again"
        if reboot in (RebootState.WAITING, RebootState.ORDERED):
            assert not may, "a reboot is to come"
        if entry.phase in UNDECIDED and not has_ended and reboot is None:
            assert not may, "it runs"
        if entry.phase is Phase.FAILED and is_recorded and reboot is None:
            assert may
    assert may_be_replaced(None, None, is_recorded=True, has_ended=True)


# -- the reboot ------------------------------------------------------------------------------------------------


def test_a_reboot_that_was_ordered_cannot_be_called_off_and_one_that_was_called_off_is_not_ordered():
    assert (RebootState.ORDERED, RebootEvent.CALL_OFF) not in REBOOT_TRANSITIONS
    for state, event in product(RebootState, RebootEvent):
        if (state, event) in REBOOT_TRANSITIONS:
            assert not state.is_settled
            assert advance_reboot(state, event) is REBOOT_TRANSITIONS[state, event]
        else:
            with pytest.raises(RuntimeError, match=f"a reboot that is {state} cannot take the event"):
                advance_reboot(state, event)
