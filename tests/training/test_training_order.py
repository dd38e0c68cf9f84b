import json

import pytest
import torch

from sdtt.diffusion.noise import SCHEDULES, teacher_times
from sdtt.diffusion.rollout import rollout
from sdtt.sampling.dilated import refined_order
from sdtt.training.flops import dilated_passes
from sdtt.training.sdtt_config import SDTTConfig
from sdtt.training.stream import in_dilated_order, noise_of

TEXTS, LENGTH = 4000, 16
LAWS = pytest.mark.parametrize("schedule", ["log_linear", "cosine"])


def process_noise(texts=TEXTS, length=LENGTH, **settings):
    places = list(range(texts))
    return noise_of(places, length=length, batch=texts, seed=0, smallest_time=0.0, **settings)


def residues(masked, modulus):
    """Which residues of a text are masked, where each is masked as a whole or not at all."""
    length = masked.shape[-1]
    classes = [masked[torch.arange(length) % modulus == r] for r in range(modulus)]
    assert all(bool(each.all()) or not bool(each.any()) for each in classes)
    return {r for r, each in enumerate(classes) if bool(each.any())}


@LAWS
def test_what_is_masked_are_whole_residues_of_the_students_steps(schedule):
    law = SCHEDULES[schedule]
    noise = in_dilated_order(process_noise(), 4, 2, law)
    left = [len(residues(masked, 4)) for masked in noise.masked(law)]
    assert left == (noise.t * 4).round().long().tolist()
    assert [left.count(n) for n in (1, 2, 3, 4)] == [TEXTS // 4] * 4  # t is stratified


def test_a_step_of_the_student_is_one_residue_and_its_parts_are_the_finer_ones():
    law = SCHEDULES["log_linear"]
    noise = in_dilated_order(process_noise(400), 4, 2, law)
    now = noise.masked(law)
    halfway = now & (noise.u < (noise.t - 1 / 8)[:, None])
    after = now & (noise.u < (noise.t - 1 / 4)[:, None])
    for first, second, third in zip(now, halfway, after, strict=True):
        before, between, end = residues(first, 8), residues(second, 8), residues(third, 4)
        (one,) = before - between
        (other,) = between - residues(third, 8)
        assert other % 4 == one % 4
        assert end == {r % 4 for r in before} - {one % 4}


def test_every_order_of_steps_and_of_parts_is_as_likely():
    u = process_noise(2_400, 8).u
    free = torch.ones(2_400, 8, dtype=torch.bool)
    when = refined_order(u, free, 3, 2)
    orders = (when[:, :3] // 2 * torch.tensor([9, 3, 1])).sum(1) * 2 + when[:, 0] % 2
    counts = orders.unique(return_counts=True)[1]
    assert len(counts) == 12
    # four standard errors of a count of 200
    assert float((counts - 200).abs().max()) < 4 * (200 * 11 / 12) ** 0.5


def test_padding_takes_no_turn():
    law = SCHEDULES["log_linear"]
    noise = in_dilated_order(process_noise(500, variable_length=1.0), 4, 2, law)
    for masked, length in zip(noise.masked(law), noise.lengths.tolist(), strict=True):
        assert not masked[length:].any()
        residues(masked[:length], min(4, length))


@LAWS
@pytest.mark.parametrize("k", [2, 3])
def test_a_text_of_fewer_tokens_than_steps_has_a_step_for_each(schedule, k):
    law, steps = SCHEDULES[schedule], 64
    noise = in_dilated_order(process_noise(variable_length=0.5), steps, k, law)
    left = noise.masked(law).sum(1)
    assert torch.equal(left, (noise.t * noise.lengths).round().long())
    whole = left[noise.lengths == LENGTH]
    counts = whole.bincount(minlength=LENGTH + 1)[1:]
    assert counts.min() > 0.6 * len(whole) / LENGTH
    after = noise.real & (noise.u < 1 - law.alpha(noise.t - 1 / steps)[:, None])
    assert torch.equal(after.sum(1), left - 1)  # the teacher's steps reveal the next one


@pytest.mark.parametrize(
    ("steps", "k"), [(4, 2), (2, 4), (4, 1), (8, 4), (6, 4), (64, 1), (64, 2), (32, 4), (1, 32)]
)
def test_teacher_steps_ask_for_the_computed_passes_and_draws(runs, steps, k):
    law, denoiser = SCHEDULES["log_linear"], runs.Counting()
    noise = in_dilated_order(process_noise(), steps, k, law)
    z = torch.where(noise.masked(law), 19, 0)
    times = teacher_times(noise.t, 1 / (steps * k), k)
    rollout(denoiser, z, noise.u, noise.v, times, law)
    expected, rel = dilated_passes(steps, k, LENGTH), 1e-9 if steps * k <= LENGTH else 0.02
    assert denoiser.texts == pytest.approx(TEXTS * expected.passes, rel=rel)
    assert denoiser.rows == pytest.approx(TEXTS * LENGTH * expected.drawn, rel=rel)
    assert int((z == 19).sum()) == pytest.approx(TEXTS * LENGTH * expected.masked, rel=rel)


def test_each_round_meets_the_order_of_its_own_students_steps(tmp_path, runs):
    trainer = runs.distiller(tmp_path, noise_order="dilated", rounds=2, start_steps=8)
    law = SCHEDULES["log_linear"]
    for update, steps in ((0, 4), (4, 4), (5, 2), (9, 2)):
        places = list(range(4 * update, 4 * update + 4))
        plain = noise_of(places, length=8, batch=4, seed=0, smallest_time=0.0)
        expected = in_dilated_order(plain, steps, 2, law)
        noise = trainer.noise(places, 8)
        assert torch.equal(noise.t, expected.t)
        assert torch.equal(noise.u, expected.u)


@LAWS
def test_a_model_is_told_the_share_that_a_dilated_order_hides(tmp_path, runs, schedule):
    made = runs.distiller(tmp_path, noise_order="dilated", start_steps=8, schedule=schedule)
    noise = made.noise(list(range(8)), 8)
    share = noise.masked(made.schedule).double().mean(1)
    torch.testing.assert_close(noise.told(made.schedule).double(), share)


def test_a_run_in_dilated_order_counts_the_positions_that_it_masks(tmp_path, runs):
    trainer = runs.distiller(
        tmp_path, noise_order="dilated", rounds=1, start_steps=4, logging_steps=1
    )
    trainer.train()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines if '"loss"' in line]
    assert len(losses) == 5
    # in two steps either all eight positions of a text are masked or four of them
    masked = trainer.noise([0, 1, 2, 3], 8).masked(trainer.schedule).sum(1)
    assert sorted(masked.tolist()) == [4, 4, 8, 8]


def test_an_order_with_the_times_of_the_released_code_is_refused(tmp_path):
    with pytest.raises(ValueError, match="leave out time_grid=released"):
        SDTTConfig(str(tmp_path), noise_order="dilated", time_grid="released")
