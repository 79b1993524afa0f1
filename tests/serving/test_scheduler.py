from __future__ import annotations

from serving.scheduler import MAX_OVERTAKEN, Admission, Limits, Scheduler
from serving.sequence import Batch, NextToken, Sequence
from tests.serving.sequences import make_sequence

LIMITS = Limits(max_num_seqs=3, max_num_batched_tokens=20, prefill_chunk=8, num_pages=6)


def admit_all(_: Sequence) -> Admission:
    return Admission.ADMITTED


def advance(batch: Batch) -> None:
    """What the engine does after a step, with token 7 for every sequence that samples."""
    for work in batch.works:
        work.advance([NextToken(7)] if work.samples else [])


def shape(batch: Batch) -> list[tuple[int, int]]:
    return [(work.start, work.length) for work in batch.works]


def test_a_long_prompt_is_cut_at_multiples_of_the_chunk_from_its_own_start() -> None:
    scheduler = Scheduler(LIMITS)
    scheduler.add(make_sequence([5] * 19))
    shapes = []
    for _ in range(4):
        batch = scheduler.schedule(admit_all)
        shapes += shape(batch)
        advance(batch)
    assert shapes == [(0, 8), (8, 8), (16, 3), (19, 1)]


def test_chunks_do_not_shrink_to_fit_what_others_leave_of_the_budget() -> None:
    scheduler = Scheduler(LIMITS)
    for _ in range(3):
        scheduler.add(make_sequence([5] * 16))
    first = scheduler.schedule(admit_all)
    assert shape(first) == [(0, 8), (0, 8)]  # 4 tokens of budget are left over, and stay so


def test_every_running_sequence_decodes_beside_a_prompt_that_arrives() -> None:
    scheduler = Scheduler(LIMITS)
    scheduler.add(make_sequence([5] * 4))
    advance(scheduler.schedule(admit_all))
    scheduler.add(make_sequence([5] * 6))
    assert shape(scheduler.schedule(admit_all)) == [(4, 1), (0, 6)]


def test_a_sequence_whose_adapter_is_not_here_is_passed_over_and_keeps_its_place() -> None:
    scheduler = Scheduler(LIMITS)
    waits, runs = make_sequence([5]), make_sequence([5, 5])
    scheduler.add(waits)
    scheduler.add(runs)
    batch = scheduler.schedule(lambda s: Admission.NOT_HERE if s is waits else Admission.ADMITTED)
    assert [work.sequence for work in batch.works] == [runs]
    assert list(scheduler.waiting) == [waits]


def test_a_sequence_without_a_slot_is_overtaken_only_so_often() -> None:
    scheduler = Scheduler(LIMITS)
    starved = make_sequence([5])
    scheduler.add(starved)
    num_overtaking = 0
    for _ in range(3 * MAX_OVERTAKEN):
        scheduler.add(make_sequence([5]))
        batch = scheduler.schedule(
            lambda s: Admission.NO_SLOT if s is starved else Admission.ADMITTED
        )
        for work in batch.works:
            num_overtaking += 1
            scheduler.remove(work.sequence)
    assert num_overtaking == MAX_OVERTAKEN


def test_no_more_sequences_run_than_the_limit() -> None:
    scheduler = Scheduler(LIMITS)
    for _ in range(5):
        scheduler.add(make_sequence([5]))
    assert len(scheduler.schedule(admit_all).works) == LIMITS.max_num_seqs


def test_room_in_the_cache_is_reserved_whole_and_given_back_at_the_end() -> None:
    scheduler = Scheduler(LIMITS)
    large = make_sequence([5] * 8, max_tokens=80)
    late = make_sequence([5] * 8, max_tokens=8)
    scheduler.add(large)
    scheduler.add(late)
    assert [w.sequence for w in scheduler.schedule(admit_all).works] == [large]
    assert scheduler.remove(large)
    assert [w.sequence for w in scheduler.schedule(admit_all).works] == [late]
