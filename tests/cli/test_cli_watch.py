"""The replay of a text: what each frame holds, and how it reaches a terminal and a file."""

import io

import pytest
from rich.console import Console

from sdtt.cli.watch import HIDDEN, STYLES, frames, picture, replay

MASK = 9
CANVAS = [5, MASK, MASK, 6, MASK]
STEPS = [{2: 1}, {}, {1: 2, 4: 3}]


class Words:
    """A tokenizer of one letter an id."""

    def decode(self, ids):
        return "".join("abcdefgh"[token] for token in ids)


def shown():
    return list(frames("sample 1", CANVAS, STEPS, MASK))


def text_of(console):
    return console.file.getvalue()


def console(**settings):
    return Console(file=io.StringIO(), width=60, **settings)


def test_there_is_a_frame_before_the_first_step_and_one_after_each():
    assert [frame.title for frame in shown()] == [
        "sample 1, before the first step",
        "sample 1, step 1 of 3",
        "sample 1, step 2 of 3",
        "sample 1, step 3 of 3",
    ]


def test_frames_hold_the_text_as_it_stands():
    assert [frame.ids for frame in shown()] == [
        (5, MASK, MASK, 6, MASK),
        (5, MASK, 1, 6, MASK),
        (5, MASK, 1, 6, MASK),
        (5, 2, 1, 6, 3),
    ]


def test_a_token_is_new_for_one_frame_and_old_from_then_on():
    assert [frame.state for frame in shown()] == [
        ("prompt", "masked", "masked", "prompt", "masked"),
        ("prompt", "masked", "new", "prompt", "masked"),
        ("prompt", "masked", "old", "prompt", "masked"),
        ("prompt", "new", "old", "prompt", "new"),
    ]


def test_frames_leave_the_canvas_as_it_is():
    canvas = list(CANVAS)
    list(frames("x", canvas, STEPS, MASK))
    assert canvas == CANVAS


def test_a_text_without_steps_has_one_frame():
    assert [frame.ids for frame in frames("x", [1, 2], [], MASK)] == [(1, 2)]


def test_a_picture_hides_what_is_masked_and_colours_what_is_new():
    drawn = picture(shown()[1], Words())
    assert drawn.plain == f"f{HIDDEN}bg{HIDDEN}"
    styles = {drawn.plain[span.start : span.end]: span.style for span in drawn.spans}
    assert styles["b"] == STYLES["new"]
    assert styles["f"] == styles["g"] == STYLES["prompt"]
    assert styles[HIDDEN] == STYLES["masked"]


def test_tokens_of_one_state_are_decoded_together():
    class Pairs(Words):
        def decode(self, ids):
            return f"<{len(ids)}>"

    whole = list(frames("x", [MASK] * 4, [{0: 1, 1: 2}, {2: 3, 3: 4}], MASK))
    assert picture(whole[1], Pairs()).plain == "<2>" + 2 * HIDDEN
    assert picture(whole[2], Pairs()).plain == "<2><2>"


def test_a_file_gets_every_frame_below_the_other_without_waiting():
    file, waits = console(), []
    replay(iter(shown()), Words(), seconds=5.0, console=file, sleep=waits.append)
    lines = text_of(file)
    assert [lines.count(frame.title) for frame in shown()] == [1, 1, 1, 1]
    assert lines.index("before the first step") < lines.index("step 1") < lines.index("step 3")
    assert "fcbgd" in lines
    assert "\x1b" not in lines
    assert waits == []


def test_a_terminal_gets_each_frame_in_the_place_of_the_other_for_so_many_seconds():
    terminal, waits = console(force_terminal=True), []
    replay(iter(shown()), Words(), seconds=0.25, console=terminal, sleep=waits.append)
    drawn = text_of(terminal)
    assert waits == [0.25] * 4
    assert "\x1b[" in drawn
    assert all(frame.title in drawn for frame in shown())


def test_text_that_looks_like_markup_is_shown_as_it_is():
    class Markup:
        def decode(self, ids):
            return "[bold]" * len(ids)

    file = console()
    replay(frames("x", [1], [], MASK), Markup(), seconds=0.0, console=file)
    assert "[bold]" in text_of(file)


@pytest.mark.parametrize("force_terminal", [True, False])
def test_no_frame_is_nothing_to_wait_for(force_terminal):
    waits = []
    replay(
        iter(()), Words(), seconds=1.0,
        console=console(force_terminal=force_terminal), sleep=waits.append,
    )  # fmt: skip
    assert waits == []
