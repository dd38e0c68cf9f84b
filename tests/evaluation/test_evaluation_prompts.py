import pytest
import torch

from sdtt.data.held import HeldBlocks
from sdtt.evaluation.prompts import prompts_of

ROWS = [[1, 2, 3, 4, 5], [6, 7], [8, 9, 10, 11]]


def test_a_prompt_is_the_beginning_of_a_text_and_people_went_on_as_it_does():
    found = prompts_of(ROWS, prompt_tokens=2, max_tokens=4)
    assert found.prompts == ((1, 2), (8, 9))
    assert found.whole == ((1, 2, 3, 4), (8, 9, 10, 11))


def test_only_as_many_prompts_are_made_as_are_asked_for():
    assert prompts_of(ROWS, prompt_tokens=1, max_tokens=2, count=2).prompts == ((1,), (6,))


def test_blocks_of_held_out_text_make_prompts_of_plain_ids():
    blocks = HeldBlocks(torch.arange(12).view(3, 4), None)
    found = prompts_of(blocks, prompt_tokens=1, max_tokens=3)
    assert found.whole == ((0, 1, 2), (4, 5, 6), (8, 9, 10))
    assert type(found.prompts[0][0]) is int


def test_too_little_text_is_refused_with_what_there_is():
    with pytest.raises(ValueError, match="has 2 rows of 4 tokens or more, 3 prompts"):
        prompts_of(ROWS, prompt_tokens=2, max_tokens=4, count=3)


@pytest.mark.parametrize("prompt_tokens", [0, 4])
def test_a_prompt_that_is_empty_or_leaves_nothing_to_write_is_refused(prompt_tokens):
    with pytest.raises(ValueError, match=f"less than max_tokens, got {prompt_tokens} and 4"):
        prompts_of(ROWS, prompt_tokens=prompt_tokens, max_tokens=4)
