"""What a denoiser that is told the time is told: 1 - alpha in the process, and else nothing."""

import pytest
import torch
from sampling.laws import OfPlace, OfTime, Watched, random_uniforms, run

from sdtt.diffusion.noise import SCHEDULES

PROCESS = {"ancestral": {"steps": 5}, "analytic": {"steps": 5}, "first_hitting": {}}
NO_PROCESS = {
    "ancestral": {"steps": 5, "counts": "even"},
    "confidence": {"steps": 5},
    "dilated": {"steps": 5},
}


def some_canvas(texts=6, length=12):
    canvas = torch.full((texts, length), 3)
    canvas[:, 0] = 1  # so that no first pass is shared
    return canvas


@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
@pytest.mark.parametrize("sampler", sorted(PROCESS))
def test_a_step_of_the_process_tells_the_share_that_is_masked_at_its_time(sampler, schedule):
    watched, (u, v) = Watched(OfPlace([[0.5, 0.3, 0.2]] * 12)), random_uniforms(6, 12)
    settings = PROCESS[sampler] | {"schedule": schedule}
    _, taken = run(sampler, watched, some_canvas(), u, v, **settings)
    assert len(taken) == len(watched.times) > 1
    for step, told in zip(taken, watched.times, strict=True):
        due = 1 - SCHEDULES[schedule].alpha(step.t)
        torch.testing.assert_close(told, due.float(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("sampler", sorted(PROCESS))
def test_the_share_does_not_hang_on_the_name_of_the_schedule_but_on_who_is_masked(sampler):
    watched, (u, v) = Watched(OfPlace([[0.5, 0.3, 0.2]] * 400)), random_uniforms(1, 400)
    canvas = torch.full((1, 400), 3)
    settings = PROCESS[sampler] | {"schedule": "cosine"}
    settings |= {"tokens_per_pass": 80} if sampler == "first_hitting" else {}
    run(sampler, watched, canvas, u, v, **settings)
    for z, told in list(zip(watched.canvases, watched.times, strict=True))[1:]:
        assert (z == 3).double().mean().item() == pytest.approx(told.item(), abs=0.1)


@pytest.mark.parametrize("sampler", sorted(NO_PROCESS))
def test_a_step_of_no_process_lets_the_denoiser_count(sampler):
    watched, (u, v) = Watched(OfPlace([[0.5, 0.3, 0.2]] * 12)), random_uniforms(6, 12)
    run(sampler, watched, torch.full((6, 12), 3), u, v, **NO_PROCESS[sampler])
    assert set(watched.times) == {None}


def test_a_blank_row_of_a_denoiser_that_is_told_the_time_is_of_its_own_time():
    canvas, (u, v) = torch.full((20, 12), 3), random_uniforms(20, 12)
    watched = Watched(OfTime(), blank_is_uniform=True, is_told_time=True)
    ours, _ = run("first_hitting", watched, canvas, u, v)
    assert torch.equal(ours, run("first_hitting", OfTime(), canvas, u, v)[0])
    assert watched.canvases[0].shape == (20, 1)  # one token for each of twenty times


def test_blank_texts_of_one_time_share_one_token():
    canvas, (u, v) = torch.full((20, 12), 3), random_uniforms(20, 12)
    watched = Watched(OfTime(), blank_is_uniform=True, is_told_time=True)
    run("ancestral", watched, canvas, u, v, steps=1)
    assert [z.shape for z in watched.canvases] == [(1, 1)]
    assert watched.times[0].tolist() == [1]


@pytest.mark.parametrize("promises", [{}, {"is_told_time": True}])
def test_blank_texts_that_are_told_nothing_share_one_token(promises):
    canvas, (u, v) = torch.full((20, 12), 3), random_uniforms(20, 12)
    watched = Watched(OfPlace([[0.5, 0.3, 0.2]] * 12), blank_is_uniform=True, **promises)
    run("dilated", watched, canvas, u, v, steps=1)
    assert [z.shape for z in watched.canvases] == [(1, 1)]
