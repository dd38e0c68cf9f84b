"""What does not compare stands apart, under a heading that says the difference."""

import pytest

from sdtt.report.blocks import blocks, of_draw, of_draw_and_settings, sampler_words
from sdtt.report.cells import read_cells


def perplexity_blocks(records):
    return blocks(read_cells(records), of_draw_and_settings)


def test_records_that_compare_are_one_block_without_a_heading(made):
    (block,) = perplexity_blocks([*made.temperatures(), made.student(0.2), *made.levels()])
    assert (block.heading, len(block.cells)) == ("", 6)


@pytest.mark.parametrize(
    ("settings", "draw", "heading"),
    [
        ({"judge": "llama"}, {}, "judge llama"),
        ({"window": 32}, {}, "window 32"),
        ({}, {"draw_dtype": "float32"}, "draws in float32"),
        ({}, {"length": 1024}, "1024 tokens a sample"),
        ({}, {"prompts": "webtext"}, "prompts webtext"),
    ],
)
def test_records_that_do_not_compare_are_parted_and_the_heading_says_why(
    made, settings, draw, heading
):
    other = made.perplexity(settings=made.judge | settings, draw=made.draw_of(**draw))
    found = perplexity_blocks([made.perplexity(), other])
    assert [block.heading for block in found][1] == heading
    assert [len(block.cells) for block in found] == [1, 1]


def test_real_text_stands_beside_every_precision_but_under_its_own_judge_only(made):
    single = made.perplexity(draw=made.draw_of(draw_dtype="float32"))
    judged = made.perplexity(settings={"judge": "llama"})
    found = perplexity_blocks([*made.levels(), made.perplexity(), single, judged])
    texts = [any(cell.model == "real text" for cell in block.cells) for block in found]
    assert texts == [True, True, False]


def test_somebodys_samples_of_unknown_precision_stand_apart(made):
    theirs = made.record("diversity", "theirs", {"entropy": 4.0}, kind="samples")
    ours = made.record("diversity", "ours", {"entropy": 4.0}, made.draw_of())
    found = blocks(read_cells([ours, theirs]), of_draw)
    assert "draws in an unknown precision" in found[1].heading


def test_a_sampler_is_named_with_the_settings_that_are_its_own(made):
    draw = made.draw_of("first_hitting", entropy_bound=0.5, banned=[], compile=False)
    (cell,) = read_cells([made.perplexity(draw=draw)])
    assert sampler_words(cell) == "first hitting, entropy bound 0.5"
