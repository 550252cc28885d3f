"""Held values stay within their bytes, and those not used for longest go first."""

from concurrent.futures import ThreadPoolExecutor

from saekit.core.held import Held


def test_what_was_not_used_for_longest_goes_first():
    held = Held(10)
    for key in "abc":
        held.put(key, key.upper(), 3)
    assert held.get("a") == "A" and held.n_bytes == 9
    held.put("d", "D", 3)
    assert [held.get(key) for key in "abcd"] == ["A", None, "C", "D"]
    assert held.n_bytes == 9 and len(held) == 3


def test_a_value_in_the_place_of_another_is_counted_once():
    held = Held(10)
    held.put("a", 1, 4)
    held.put("b", 2, 4)
    held.put("a", 3, 6)
    assert (held.get("a"), held.get("b"), held.n_bytes) == (3, 2, 10)


def test_one_that_is_larger_than_all_stays_alone():
    held = Held(10)
    held.put("a", 1, 4)
    held.put("b", 2, 50)
    assert (held.get("a"), held.get("b"), held.n_bytes, len(held)) == (None, 2, 50, 1)


def test_threads_leave_the_count_right():
    held = Held(50)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: held.put(i % 40, i, 1 + i % 7), range(4000)))
    assert held.n_bytes == sum(size for _, size in held._values.values()) <= 50
