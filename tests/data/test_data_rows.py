import numpy as np
import pytest
import torch
from datasets import Dataset

from sdtt.data.packing import SplitBlocks
from sdtt.data.rows import IdRows, as_texts

ROWS = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


@pytest.mark.parametrize("kind", [None, "torch"])
def test_the_ids_of_a_data_set_are_texts(kind):
    texts = as_texts(Dataset.from_dict({"input_ids": ROWS, "label": [0, 1, 0]}).with_format(kind))
    assert isinstance(texts, IdRows)
    assert len(texts) == 3
    assert texts[1].tolist() == [4, 5, 6]
    assert texts[1].dtype == torch.int64
    assert texts[1:].tolist() == ROWS[1:]
    assert texts[3:].shape == (0, 3)


def test_texts_stay_as_they_are():
    texts = torch.tensor(ROWS)
    assert as_texts(texts) is texts
    assert as_texts([]) == []


@pytest.mark.parametrize("kind", [list, np.array])
def test_rows_that_are_lists_or_arrays_are_texts(kind):
    texts = as_texts(kind(ROWS))
    assert texts[1:].tolist() == ROWS[1:]


def test_both_sides_of_a_split_are_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"give its \.train"):
        as_texts(object.__new__(SplitBlocks))


def test_rows_without_ids_are_refused_with_what_they_have():
    with pytest.raises(ValueError, match=r"rows .* have text, label and no input_ids"):
        as_texts(Dataset.from_dict({"text": ["a"], "label": [0]}))


def test_a_row_of_another_length_is_refused():
    texts = as_texts([{"input_ids": [1, 2]}, {"input_ids": [1]}])
    with pytest.raises(ValueError, match="row 1 has 1 ids and row 0 has 2"):
        texts[1]


def test_several_data_sets_are_refused():
    with pytest.raises(ValueError, match=r"not several by name \(books, news\)"):
        as_texts({"books": ROWS, "news": ROWS})


def test_rows_that_have_no_places_are_refused():
    streamed = Dataset.from_dict({"input_ids": ROWS}).to_iterable_dataset()
    with pytest.raises(ValueError, match="IterableDataset can only be read from the front"):
        as_texts(streamed)
