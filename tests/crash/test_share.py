"""Which points of a long table the share of CI takes."""

import pytest

from tests.share import part, points


@pytest.mark.parametrize("n", [1, 4, 153])
def test_shares_of_tables_that_are_alike_make_up_the_whole(n):
    shares = [points(place, every=5)(n) for place in range(5)]
    assert sorted({at for share in shares for at in share}) == list(range(1, n + 1))
    assert all(share[-1] == n and len(share) <= n // 5 + 2 for share in shares)
    assert points(3, every=1)(n) == list(range(1, n + 1))


def test_a_part_is_never_nothing():
    assert [part(4000, every=5), part(3, every=5), part(20, 4, every=10)] == [800, 1, 4]
