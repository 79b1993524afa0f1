from __future__ import annotations

from array import array

from hotswap.serving.engine.pages import PagePool


def taken(pool: PagePool, num_pages: int) -> array[int]:
    pages = pool.take(num_pages)
    assert pages is not None
    return pages


def kept(pool: PagePool, *keys: str) -> array[int]:
    """Pages that were filled, kept under `keys` and given back."""
    pages = taken(pool, len(keys))
    for page, key in zip(pages, keys, strict=True):
        pool.keep(page, key)
    pool.give_back(pages)
    return pages


def test_pages_that_are_given_back_are_free_again() -> None:
    pool = PagePool(3)
    pages = taken(pool, 3)
    assert pool.take(1) is None
    pool.give_back(pages)
    assert pool.num_free == 3
    assert sorted(taken(pool, 3)) == [0, 1, 2]


def test_a_kept_page_is_found_until_its_place_is_needed() -> None:
    pool = PagePool(2)
    pages = kept(pool, "a", "b")
    assert (pool.num_free, pool.num_idle) == (0, 2)
    assert pool.find(["a", "b", "c"]) == list(pages)
    taken(pool, 1)
    assert pool.find(["a", "b"]) == [pages[0]]  # the last of a prompt goes first
    assert pool.num_evicted == 1


def test_only_the_first_of_the_pages_that_are_there_are_found() -> None:
    pool = PagePool(2)
    kept(pool, "b")
    assert pool.find(["a", "b"]) == []


def test_the_page_unused_for_longest_is_evicted() -> None:
    pool = PagePool(3)
    for key in ("old", "used again", "new"):
        kept(pool, key)
    pool.give_back(pool.share(pool.find(["used again"])))
    taken(pool, 1)
    assert pool.find(["old"]) == []
    taken(pool, 1)
    assert pool.find(["new"]) == []
    assert pool.find(["used again"])


def test_a_page_somebody_uses_is_not_evicted() -> None:
    pool = PagePool(2)
    kept(pool, "a")
    first, second = pool.share(pool.find(["a"])), pool.share(pool.find(["a"]))
    pool.give_back(first)
    assert pool.take(2) is None
    assert second[0] not in taken(pool, 1)
    pool.give_back(second)
    assert pool.num_idle == 1


def test_pages_that_are_found_do_not_count_as_room_for_others() -> None:
    pool = PagePool(3)
    kept(pool, "a", "b")
    assert pool.num_available() == 3
    assert pool.num_available(pool.find(["a"])) == 2


def test_of_two_pages_with_the_same_in_them_one_is_kept() -> None:
    pool = PagePool(2)
    pages = taken(pool, 2)
    for page in pages:
        pool.keep(page, "same")
    pool.give_back(pages)
    assert (pool.num_free, pool.num_idle) == (1, 1)
    assert pool.find(["same"]) == [pages[0]]
