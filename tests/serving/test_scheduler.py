from __future__ import annotations

from hotswap.serving.engine.scheduler import MAX_OVERTAKEN, Admission, Limits, Scheduler
from hotswap.serving.engine.sequence import Batch, Sequence
from tests.serving.sequences import make_sequence
from tests.serving.steps import Server, advance

LIMITS = Limits(max_num_seqs=3, max_num_batched_tokens=20, prefill_chunk=8, num_pages=6)


def admit_all(_: Sequence) -> Admission:
    return Admission.ADMITTED


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
    waits, runs = make_sequence([5], slot=1), make_sequence([5, 5])
    scheduler.add(waits)
    scheduler.add(runs)
    batch = scheduler.schedule(lambda s: Admission.NOT_HERE if s is waits else Admission.ADMITTED)
    assert [work.sequence for work in batch.works] == [runs]
    assert list(scheduler.waiting) == [waits]


def test_a_stack_that_waits_for_one_adapter_does_not_hold_up_requests_for_another() -> None:
    scheduler = Scheduler(LIMITS)
    waits, runs = make_sequence([5], slot=1, stacked=((2, 1.0),)), make_sequence([5, 5], slot=1)
    scheduler.add(waits)
    scheduler.add(runs)
    batch = scheduler.schedule(lambda s: Admission.NOT_HERE if s is waits else Admission.ADMITTED)
    assert [work.sequence for work in batch.works] == [runs]


def test_a_sequence_without_a_slot_is_overtaken_only_so_often() -> None:
    scheduler = Scheduler(LIMITS)
    starved = make_sequence([5], slot=1)
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


def test_a_sequence_gets_pages_as_its_tokens_need_them() -> None:
    scheduler = Scheduler(LIMITS)
    sequence = make_sequence([5] * 8, max_tokens=80)
    scheduler.add(sequence)
    num_pages = []
    for _ in range(26):
        advance(scheduler.schedule(admit_all))
        num_pages.append(len(sequence.pages))
    assert num_pages == [1] * 9 + [2] * 16 + [3]


def small(num_pages: int = 6, **options: bool) -> Server:
    options = {"is_cut_invariant": True, "enable_prefix_caching": True, **options}
    return Server(Limits(3, 20, 8, num_pages, **options))


def test_when_pages_are_short_the_youngest_waits_again_and_all_finish() -> None:
    server = small()
    old, middle, young = (make_sequence([n] * 8, max_tokens=60) for n in (5, 6, 8))
    server.run(old, middle, young)
    assert server.finished_at[old.id] < server.finished_at[middle.id]
    assert server.finished_at[middle.id] < server.finished_at[young.id]
    assert old.num_preempted == 0
    assert young.num_preempted > 0
    assert server.scheduler.num_preemptions == middle.num_preempted + young.num_preempted
    assert len(young.output_ids) == 60


def test_a_sequence_that_needs_the_whole_cache_finishes_beside_others() -> None:
    server = small()
    large = make_sequence([5] * 50, max_tokens=46)
    others = [make_sequence([6 + n] * 20, max_tokens=20) for n in range(8)]
    server.run(*others[:4], large, *others[4:])
    assert large.num_tokens == 6 * 16


def test_an_output_is_kept_when_its_sequence_is_preempted_and_is_computed_in_chunks() -> None:
    server = small(enable_prefix_caching=False)
    server.scheduler.add(make_sequence([6] * 8, max_tokens=80))
    young = make_sequence([5] * 8, max_tokens=60)
    server.scheduler.add(young)
    while not young.num_preempted:
        server.step()
    num_tokens = young.num_tokens
    assert num_tokens > 24
    works = []
    while young.num_tokens == num_tokens:
        works += [w for w in server.step().works if w.sequence is young]
    cuts = [(work.start, work.length) for work in works]
    assert cuts[0] == (0, 8)
    assert sum(length for _, length in cuts) == num_tokens
    assert max(length for _, length in cuts) == 8


def test_where_cuts_matter_an_output_is_computed_again_as_it_was_the_first_time() -> None:
    server = small(is_cut_invariant=False, enable_prefix_caching=False)
    server.scheduler.add(make_sequence([6] * 8, max_tokens=80))
    young = make_sequence([5] * 11, max_tokens=60)
    server.scheduler.add(young)
    cuts: list[tuple[int, int]] = []
    while young.id not in server.finished_at:
        cuts += [(w.start, w.length) for w in server.step().works if w.sequence is young]
    assert young.num_preempted == 1
    assert set(cuts) == {(0, 8), (8, 3), *((at, 1) for at in range(11, 70))}


def test_an_answer_is_not_changed_by_a_prompt_cut_to_what_is_left_of_the_budget() -> None:
    scheduler = Scheduler(Limits(3, 20, 8, 6, is_cut_invariant=True))
    for _ in range(3):
        scheduler.add(make_sequence([5] * 16))
    assert shape(scheduler.schedule(admit_all)) == [(0, 8), (0, 8), (0, 4)]


def test_every_stream_decodes_in_every_step_while_a_long_prompt_runs() -> None:
    """`Server.step` checks it, too; here the steps are counted."""
    limits = Limits(8, 40, 16, 600, is_cut_invariant=True, enable_prefix_caching=True)
    server = Server(limits)
    streams = [make_sequence([n], max_tokens=300) for n in range(5)]
    for stream in streams:
        server.scheduler.add(stream)
    server.step()
    server.run(make_sequence(list(range(4000)), max_tokens=1))
    assert server.num_steps == 1 + 4000 // 16
    assert [len(stream.output_ids) for stream in streams] == [server.num_steps] * 5


def test_a_prompts_late_rows_count_the_keys_they_read_while_streams_wait() -> None:
    limits = Limits(8, 60, 32, 600, is_cut_invariant=True, keys_per_row=100)
    server = Server(limits)
    server.scheduler.add(make_sequence([1], max_tokens=2000))
    server.step()
    prompt = make_sequence(list(range(2000)), max_tokens=1)
    server.scheduler.add(prompt)
    cuts = []
    while prompt.id not in server.finished_at:
        cuts += [(w.start, w.length) for w in server.step().works if w.sequence is prompt]
    costs = [length + sum(range(at, at + length)) / 100 for at, length in cuts]
    assert cuts[0][1] == 32
    assert max(costs) <= 59 < min(costs[5:-1]) + 25  # a stream's row is the sixtieth
    assert cuts[-2][1] == 2


def test_late_rows_are_not_held_back_when_nobody_waits() -> None:
    server = Server(Limits(8, 60, 32, 600, is_cut_invariant=True, keys_per_row=100))
    server.run(make_sequence(list(range(2000)), max_tokens=1))
    assert server.num_steps == -(-2000 // 32)


def test_every_prompt_ends_however_much_its_rows_cost() -> None:
    server = Server(Limits(8, 60, 32, 600, is_cut_invariant=True, keys_per_row=1))
    stream = make_sequence([1], max_tokens=2000)
    server.run(stream, make_sequence(list(range(500)), max_tokens=1))
    assert len(stream.output_ids) == 2000


def test_a_prompt_starts_behind_the_pages_an_earlier_one_began_with() -> None:
    server = small(num_pages=12)
    first = make_sequence(list(range(40)), max_tokens=2)
    server.run(first)
    again = make_sequence([*range(36), 99, 98], max_tokens=2)
    server.scheduler.add(again)
    assert shape(server.step()) == [(32, 6)]
    assert (first.num_cached, again.num_cached) == (0, 32)
    assert server.scheduler.health()["prefix_cache"] == {"prompt_tokens": 78, "hit_tokens": 32}


def test_the_last_token_of_a_prompt_is_computed_even_if_all_is_there() -> None:
    server = small(num_pages=12)
    server.run(make_sequence(list(range(32)), max_tokens=4))
    again = make_sequence(list(range(32)), max_tokens=4)
    server.scheduler.add(again)
    assert shape(server.step()) == [(16, 8)]


def test_an_answer_is_found_when_the_conversation_goes_on() -> None:
    server = small(num_pages=12)
    first = make_sequence(list(range(20)), max_tokens=20)
    server.run(first)
    goes_on = make_sequence([*range(20), *first.output_ids, 8, 9], max_tokens=2)
    server.run(goes_on)
    assert goes_on.num_cached == 32


def test_one_adapters_pages_do_not_answer_for_another_or_for_the_base() -> None:
    server = small(num_pages=40)
    for slot in (0, 1, 2):
        sequence = make_sequence(list(range(40)), slot=slot, max_tokens=2)
        server.run(sequence)
        assert sequence.num_cached == 0
    again = make_sequence(list(range(40)), slot=1, max_tokens=2)
    server.run(again)
    assert again.num_cached == 32


def test_a_page_is_found_only_behind_the_same_beginning() -> None:
    server = small(num_pages=40)
    server.run(make_sequence([*[1] * 16, *[2] * 16, 3], max_tokens=1))
    for beginning, num_cached in (([2] * 16, 0), ([1] * 16, 32), ([1] * 15 + [4], 0)):
        sequence = make_sequence([*beginning, *[2] * 16, 3], max_tokens=1)
        server.run(sequence)
        assert sequence.num_cached == num_cached


def test_a_sequence_that_is_taken_out_frees_its_pages_before_the_next_step() -> None:
    server = small()
    large = make_sequence(list(range(80)), max_tokens=16)
    late = make_sequence(list(range(100, 180)), max_tokens=16)
    server.scheduler.add(large)
    server.scheduler.add(late)
    for _ in range(4):
        assert {w.sequence for w in server.step().works} == {large}
    server.scheduler.remove(large)
    pages = server.scheduler.pages
    assert pages.num_available() == pages.num_pages
    assert {w.sequence for w in server.step().works} == {late}


def test_room_in_the_cache_is_given_to_the_sequence_that_was_first() -> None:
    """A small one behind it does not keep a large one out."""
    server = small()
    server.scheduler.add(make_sequence([5] * 40, max_tokens=30))
    large, tiny = make_sequence([6] * 60), make_sequence([7])
    server.scheduler.add(large)
    server.scheduler.add(tiny)
    server.step()
    assert server.scheduler.waiting == [large, tiny]
