"""Claims about the arithmetic of an update, against torch's own counter and by simulation."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sdtt.diffusion.noise import SCHEDULES, teacher_times
from sdtt.diffusion.rollout import rollout
from sdtt.training.flops import (
    distillation_flops,
    expected_passes,
    forward_flops,
    masked_share,
    shape_of,
    training_flops,
    whole_order_flops,
)
from sdtt.training.stream import noise_of

TEXTS, LENGTH = 3, 8
ROWS = torch.tensor([0, 5, 7, 9, 20])


def counted(work):
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def passed(model):
    """The loss of some rows, by explicit attention, whose products torch counts."""
    model.set_attn_implementation("eager")
    ids = torch.randint(19, (TEXTS, LENGTH), generator=torch.Generator().manual_seed(0))
    return model(input_ids=ids, rows=ROWS, objective=lambda h, head: head.scores(h).sum()).loss


@pytest.mark.parametrize("shape", [{}, {"n_blocks": 3, "hidden_dim": 32, "tie_word_embeddings": 1}])
def test_a_pass_and_its_backward_pass_take_what_torch_counts(runs, shape):
    model = runs.masked_model(**shape)
    expected = training_flops(shape_of(model), texts=TEXTS, length=LENGTH, rows=len(ROWS))
    assert counted(lambda: passed(model).backward()) == expected.total


def test_a_forward_pass_takes_what_torch_counts(runs):
    model = runs.masked_model(n_blocks=2)
    expected = forward_flops(shape_of(model), texts=TEXTS, length=LENGTH, rows=len(ROWS))
    assert counted(lambda: passed(model)) == expected.total


def test_frozen_weights_need_no_gradient_of_their_own(runs):
    model = runs.masked_model(n_blocks=2)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("mlp" not in name)
    expected = training_flops(shape_of(model), texts=TEXTS, length=LENGTH, rows=len(ROWS))
    assert counted(lambda: passed(model).backward()) == expected.total


def test_whole_orders_take_what_torch_counts_but_for_pairs_that_do_not_see_each_other(runs):
    model = runs.masked_model(attention="reveal_causal")
    model.set_attn_implementation("eager")
    x = torch.randint(19, (TEXTS, LENGTH), generator=torch.Generator().manual_seed(0))
    revealed = torch.arange(LENGTH).expand(TEXTS, -1)
    expected = whole_order_flops(shape_of(model), texts=TEXTS, length=LENGTH)

    def passed():
        hidden = model.hidden_in_order(x, revealed)
        model.head.scores(hidden).sum().backward()

    # of the (2 L)^2 pairs that torch multiplies about L^2 see each other
    assert counted(passed) == expected.body + 4 * expected.attention + expected.head


def test_a_constant_condition_is_no_work_of_a_token(runs):
    conditioned = runs.masked_model(conditioning="constant", cond_dim=4)
    assert shape_of(conditioned).body == shape_of(runs.masked_model()).body


def test_causal_attention_needs_half_the_pairs(runs):
    masked, causal = shape_of(runs.masked_model()), shape_of(runs.causal_model())
    one, other = (
        forward_flops(each, texts=TEXTS, length=LENGTH, rows=0) for each in (masked, causal)
    )
    assert (other.attention, other.body) == (one.attention / 2, one.body)


def test_a_network_can_be_counted_without_its_weights(runs):
    with torch.device("meta"):
        outline = runs.masked_model()
    assert shape_of(outline) == shape_of(runs.masked_model())


def test_the_expected_share_of_masked_positions_is_that_of_the_schedule():
    assert masked_share(SCHEDULES["log_linear"], 1e-3) == pytest.approx((1 + 1e-3) / 2)
    assert masked_share(SCHEDULES["cosine"]) == pytest.approx(1 - 2 / math.pi, rel=1e-6)


@pytest.mark.parametrize("schedule", ["log_linear", "cosine"])
@pytest.mark.parametrize(("k", "dt"), [(1, 1 / 4), (2, 1 / 16), (3, 1 / 4)])
def test_teacher_steps_ask_for_the_expected_passes_and_draws(runs, schedule, k, dt):
    law, denoiser, count, masked = SCHEDULES[schedule], runs.Counting(), 4096, 0
    for first in range(0, count, 512):
        places = list(range(first, first + 512))
        noise = noise_of(places, length=LENGTH, batch=512, seed=0, smallest_time=0.0)
        z = torch.where(noise.masked(law), 19, 0)
        masked += int((z == 19).sum())
        rollout(denoiser, z, noise.u, noise.v, teacher_times(noise.t, dt, k), law)
    expected = expected_passes(law, dt, k, LENGTH)
    # three standard errors of a share of texts, and of a share of tokens
    assert denoiser.texts / count == pytest.approx(expected.passes, abs=3 * 0.5 * k / count**0.5)
    tolerance = 3 * 0.5 / count**0.5
    assert denoiser.rows / count / LENGTH == pytest.approx(expected.drawn, abs=tolerance)
    assert masked / count / LENGTH == pytest.approx(expected.masked, abs=tolerance)


def test_an_update_of_sdtt_adds_the_teachers_passes_to_the_students(runs):
    student, teacher = (shape_of(runs.masked_model(n_blocks=n)) for n in (1, 2))
    passes = expected_passes(SCHEDULES["log_linear"], 1 / 8, 2, LENGTH)
    update = distillation_flops(student, teacher, passes, texts=TEXTS, length=LENGTH)
    tokens = TEXTS * LENGTH
    of_blocks = 6 * student.body + 2 * passes.passes * teacher.body
    of_rows = 6 * student.head * passes.masked + 2 * teacher.head * (passes.masked + passes.drawn)
    assert update.body == pytest.approx(tokens * of_blocks)
    assert update.head == pytest.approx(tokens * of_rows)
