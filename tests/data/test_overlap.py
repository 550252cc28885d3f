import numpy as np

from saekit.data.overlap import NGrams


def words(begin, end):
    return " ".join(f"w{i}" for i in range(begin, end))


def test_share_with_earlier_documents():
    # 12 words have 5 runs of 8; the last document has the runs from w4 and w5 in common.
    grams = NGrams([words(0, 12), words(100, 112), words(4, 16), words(0, 12)])
    assert grams.seen_before().tolist() == [0.0, 0.0, 1 / 5, 1.0]


def test_case_and_punctuation_do_not_count():
    assert NGrams([words(0, 9), words(0, 9).upper().replace(" ", ", ")]).seen_before()[1] == 1


def test_share_with_other_documents():
    grams = NGrams([words(0, 12), words(4, 16), words(50, 60)])
    asked, others = np.array([False, True, True]), np.array([True, False, False])
    assert grams.in_others(asked, others).tolist() == [0.0, 1 / 5, 0.0]
    assert grams.in_others(~others, np.zeros(3, bool)).tolist() == [0.0, 0.0, 0.0]


def test_word_order_counts():
    assert NGrams([words(0, 8), " ".join(reversed(words(0, 8).split()))]).seen_before()[1] == 0


def test_short_and_empty_documents_share_nothing():
    assert NGrams(["a b c", "", "a b c"]).seen_before().tolist() == [0.0, 0.0, 0.0]
    assert NGrams([]).seen_before().tolist() == []
