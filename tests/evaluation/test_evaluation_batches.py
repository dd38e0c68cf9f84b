import pytest
import torch

from sdtt.evaluation.batches import Window, batches_of, padded, windows_of

CASES = [
    (length, window, stride, bos)
    for length in (1, 2, 7, 8, 9, 10, 23)
    for window, stride in ((8, 3), (8, 8), (8, 1), (1, 1))
    for bos in (True, False)
]


def planned(length, window, stride, bos):
    return list(windows_of(0, length, window=window, stride=stride, behind_bos=bos))


@pytest.mark.parametrize(("length", "window", "stride", "bos"), CASES)
def test_every_token_of_a_text_is_scored_exactly_once(length, window, stride, bos):
    scored = [
        token
        for each in planned(length, window, stride, bos)
        for token in range(each.scored, each.end)
    ]
    assert scored == list(range(0 if bos else 1, length))


@pytest.mark.parametrize(("length", "window", "stride", "bos"), CASES)
def test_no_window_takes_more_positions_than_it_may(length, window, stride, bos):
    # the last token is predicted and takes none; a BOS takes one
    taken = [each.width - 1 + bos for each in planned(length, window, stride, bos)]
    assert all(1 <= positions <= window for positions in taken)


@pytest.mark.parametrize(("length", "window", "stride", "bos"), CASES)
def test_a_token_has_window_less_stride_of_context_where_there_is_so_much(
    length, window, stride, bos
):
    for each in planned(length, window, stride, bos):
        for token in range(each.scored, each.end):
            assert token - each.first >= min(token, window - stride)


def test_a_text_that_fits_is_one_window():
    assert planned(9, 8, 3, False) == [Window(0, 0, 1, 9)]
    assert planned(8, 8, 3, True) == [Window(0, 0, 0, 8)]


def test_the_last_window_keeps_all_the_context_it_can():
    assert planned(10, 8, 3, True) == [Window(0, 0, 0, 8), Window(0, 2, 8, 10)]


def test_without_a_limit_a_text_of_any_length_is_one_window():
    whole = list(windows_of(3, 5000, window=None, stride=None, behind_bos=False))
    assert whole == [Window(3, 0, 1, 5000)]


def test_windows_of_like_width_share_a_batch_and_the_widest_go_first():
    windows = [Window(text, 0, 0, width) for text, width in enumerate([2, 9, 3, 8, 2])]
    widths = [[each.width for each in batch] for batch in batches_of(windows, lambda _: 2)]
    assert widths == [[9, 8], [3, 2], [2]]


def test_a_batch_is_as_large_as_its_widest_window_allows():
    windows = [Window(text, 0, 0, width) for text, width in enumerate([10, 2, 2, 2, 2])]
    sizes = [len(batch) for batch in batches_of(windows, lambda width: 10 // width)]
    assert sizes == [1, 4]


def test_padding_lies_behind_a_row_and_is_masked():
    ids, mask = padded([[1, 2, 3], [4]], torch.device("cpu"))
    assert ids[0].tolist() == [1, 2, 3]
    assert ids[1, 0] == 4
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_rows_of_one_length_need_no_mask():
    assert padded([[1, 2], [3, 4]], torch.device("cpu"))[1] is None
