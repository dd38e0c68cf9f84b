import math

import pytest
import torch

from sdtt.diffusion.noise import (
    SCHEDULES,
    TIME_GRIDS,
    is_masked,
    mask,
    nested_times,
    released_grid,
    released_teacher_times,
    teacher_times,
)
from sdtt.diffusion.rollout import rollout
from sdtt.models.exact import TableDenoiser

F64 = torch.float64
LOG_LINEAR = SCHEDULES["log_linear"]


def times(*values):
    return torch.tensor(values, dtype=F64)


# The grid of the released code


def test_the_released_grid_visits_three_quarters_and_one_quarter_from_a_half():
    visited = released_grid(times(0.5), 1 / 1024, 2)
    assert [round(each, 3) for each in visited[0].tolist()] == [0.749, 0.249]


def test_the_released_grid_is_the_faulty_interpolation_written_out():
    for t in (0.05, 0.3, 0.97):
        for k, dt in ((2, 1 / 64), (4, 1 / 32)):
            step = dt * (1 - 1e-3)
            by_hand = [(1 - i / (k - 1)) * t + (1 - t) * (t - k * step) for i in range(k)]
            expected = times(*[max(each, 1e-3) for each in by_hand])
            torch.testing.assert_close(released_grid(times(t), dt, k)[0], expected)


def test_one_released_step_starts_at_the_end_of_its_weights_where_the_weight_is_1():
    step = (1 - 1e-3) / 8
    expected = times(0.4 + 0.6 * (0.4 - step))
    torch.testing.assert_close(released_grid(times(0.4), 1 / 8, 1)[0], expected)


def test_no_released_time_lies_below_a_thousandth():
    assert released_grid(times(0.0, 0.01, 0.1), 1 / 8, 2).min() == 1e-3


# The nested times of steps that leave gaps


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_contiguous_steps_are_their_own_nested_times(name):
    grid = teacher_times(times(0.9, 0.6), 0.1, 3)
    nested = nested_times(grid[:, 0], grid[:, :-1], grid[:, 1:], SCHEDULES[name])
    torch.testing.assert_close(nested, grid, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_nested_times_fall_and_never_pass_below_zero(name):
    t = torch.linspace(0, 1, 201, dtype=F64)
    for k, steps in ((1, 4), (2, 1024), (2, 4), (4, 8)):
        nested = released_teacher_times(t, 1 / steps, k, SCHEDULES[name])
        assert torch.equal(nested[:, 0], t)
        assert (nested.diff(dim=1) <= 1e-15).all()
        assert (nested >= 0).all()


def test_a_step_as_long_as_its_start_reveals_everything():
    nested = released_teacher_times(times(0.05), 1 / 4, 2, LOG_LINEAR)
    assert nested[0].tolist() == [0.05, 0.0, 0.0]


@pytest.mark.parametrize(("k", "steps", "t"), [(2, 8, 0.5), (4, 16, 0.6), (1, 4, 0.7)])
def test_the_released_grid_decides_positions_with_the_chances_of_its_steps(blind, k, steps, t):
    count, length, step = 2_000, 8, (1 - 1e-3) / steps
    u = torch.rand(count, length, generator=torch.Generator().manual_seed(0), dtype=F64)
    start = times(t).expand(count)
    z = mask(torch.zeros(count, length).long(), is_masked(u, start, LOG_LINEAR), 2)
    grid = TIME_GRIDS["released"](start, 1 / steps, k, LOG_LINEAR)
    result = rollout(blind([0.5, 0.5]), z, u, torch.rand_like(u), grid, LOG_LINEAR)
    visited = released_grid(times(t), 1 / steps, k)[0].tolist()
    chances, masked = [], 1.0
    for each in visited:
        chances.append(masked * step / each)
        masked *= 1 - step / each
    chances[-1] += masked  # what is still masked is decided by the last pass
    due = times(*chances) * len(result.decided)
    counts = torch.bincount(result.decided, minlength=k)
    if k == 1:
        assert counts.tolist() == [len(result.decided)]
        return
    chi_square = ((counts - due) ** 2 / due).sum() / 2
    assert torch.special.gammaincc(times((k - 1) / 2)[0], chi_square) > 5e-4


def test_a_step_decides_independently_of_the_steps_before_it():
    """Of what the first step leaves masked, the second reveals the share that is its chance."""
    n = 40_000  # midpoints in place of draws
    u = ((torch.arange(n, dtype=F64) + 0.5) / n)[None]
    t, dt = times(0.5), 1 / 8
    nested = released_teacher_times(t, dt, 2, LOG_LINEAR)
    left = [is_masked(u, s, LOG_LINEAR).sum().item() for s in nested.unbind(1)]
    step, (first, second) = dt * (1 - 1e-3), released_grid(t, dt, 2)[0].tolist()
    assert left[1] / left[0] == pytest.approx(1 - step / first, abs=2 / n * 4)
    assert left[2] / left[1] == pytest.approx(1 - step / second, abs=2 / n * 4)


def test_a_rollout_on_the_released_grid_is_a_function_of_its_uniforms():
    law = torch.rand(3, 3, 3, 3, generator=torch.Generator().manual_seed(0), dtype=F64) + 0.01
    teacher = TableDenoiser(law / law.sum())
    generator = torch.Generator().manual_seed(1)
    u, v = torch.rand(2, 20, 4, generator=generator, dtype=F64)
    t = times(0.8).expand(20)
    z = mask(torch.zeros(20, 4).long(), is_masked(u, t, LOG_LINEAR), 3)
    grid = released_teacher_times(t, 1 / 4, 2, LOG_LINEAR)
    one, other = (rollout(teacher, z, u, v, grid, LOG_LINEAR) for _ in range(2))
    assert torch.equal(one.hidden, other.hidden)
    assert set(one.decided.tolist()) == {0, 1}


def test_the_papers_grid_by_name_is_the_contiguous_one():
    t = times(0.5, 0.1)
    assert torch.equal(TIME_GRIDS["paper"](t, 0.125, 3, LOG_LINEAR), teacher_times(t, 0.125, 3))


def test_the_first_released_time_lies_above_t_and_meant_was_t():
    assert released_grid(times(0.5), 1 / 1024, 2)[0, 0] > 0.5
    assert teacher_times(times(0.5), 1 / 1024, 2)[0, 0] == 0.5
    assert math.isclose(teacher_times(times(0.5), 1 / 1024, 2)[0, 1], 0.5 - 1 / 1024)
