"""Deliveries from a thread to real event loops."""

from __future__ import annotations

import asyncio
from functools import partial

from hotswap.serving.requests.deliveries import Deliveries


def test_a_step_wakes_a_loop_once_and_keeps_the_order() -> None:
    deliveries, taken, wakings = Deliveries(), list[int](), list[object]()

    async def wait() -> None:
        loop = asyncio.get_running_loop()
        wake, is_done = loop.call_soon_threadsafe, asyncio.Event()

        def count(call: object, *arguments: object) -> asyncio.Handle:
            wakings.append(call)
            return wake(call, *arguments)  # type: ignore[arg-type]

        loop.call_soon_threadsafe = count  # type: ignore[method-assign, assignment]
        for number in range(5):
            deliveries.add(loop, partial(taken.append, number))
        deliveries.add(loop, is_done.set)
        assert not taken
        await asyncio.to_thread(deliveries.hand_over)
        await is_done.wait()

    asyncio.run(wait())
    assert taken == [0, 1, 2, 3, 4]
    assert sum(getattr(call, "__module__", "") == Deliveries.__module__ for call in wakings) == 1


def test_a_loop_that_is_closed_does_not_stop_the_others() -> None:
    deliveries, taken = Deliveries(), list[int]()
    closed = asyncio.new_event_loop()
    closed.close()
    deliveries.add(closed, partial(taken.append, 0))

    async def wait() -> None:
        is_done = asyncio.Event()
        deliveries.add(asyncio.get_running_loop(), is_done.set)
        await asyncio.to_thread(deliveries.hand_over)
        await is_done.wait()

    asyncio.run(wait())
    assert taken == []
