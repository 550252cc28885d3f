"""Reading ahead: every item, in order, and errors where they belong."""

import threading
import time

import pytest

from saekit.activations.ahead import Ahead


def test_all_items_come_once_in_order_whoever_is_slow():
    def slow():
        for i in range(30):
            time.sleep(0.001 * (i % 3))
            yield i

    out = []
    for i in Ahead(slow(), depth=2):
        time.sleep(0.001 * (i % 2))
        out.append(i)
    assert out == list(range(30))


def test_no_more_is_read_than_the_depth():
    read = []

    def source():
        for i in range(10):
            read.append(i)
            yield i

    ahead = Ahead(source(), depth=2)
    assert next(ahead) == 0
    time.sleep(0.2)
    assert len(read) == 4  # one given, two held, one that waits for its place
    ahead.close()


def test_an_error_comes_after_the_items_before_it():
    def source():
        yield 1
        yield 2
        raise ValueError("the third")

    ahead = Ahead(source())
    assert [next(ahead), next(ahead)] == [1, 2]
    for _ in range(2):  # and stays
        with pytest.raises(ValueError, match="the third"):
            next(ahead)


def test_closing_ends_the_thread():
    before = threading.active_count()
    ahead = Ahead(iter(range(1000)))
    assert next(ahead) == 0
    ahead.close()
    assert threading.active_count() == before
