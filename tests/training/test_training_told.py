"""Training with the time: score models as teachers, and students that are told t."""

import json

import pytest
import torch

from sdtt.diffusion.elbo import nelbo_sum
from sdtt.diffusion.noise import SCHEDULES
from sdtt.models.mdlm import MDLMForMaskedLM
from sdtt.models.sedd import SEDDConfig, SEDDForMaskedLM
from sdtt.training.pretrain import MDLMTrainer

TOLD = {"conditioning": "time", "cond_dim": 6}
BRIEF = {"steps_per_round": 2, "rounds": 1, "save_steps": 1000.0}


def randomised(model, seed=1):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(float("norm" in name), 0.3, generator=generator)
    return model


def score_model(runs, **settings):
    shape = runs.SHAPE | {"cond_dim": 6} | settings
    return randomised(SEDDForMaskedLM(SEDDConfig(**shape)))


def losses(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [record["loss"] for record in map(json.loads, lines) if "loss" in record]


@pytest.mark.parametrize("scaled", [True, False])
def test_a_score_model_teaches_its_normalised_law(tmp_path, runs, scaled):
    ours, due = {}, {}
    teacher = score_model(runs, scale_by_sigma=scaled)
    for found, source in ((ours, teacher), (due, teacher.as_mdlm())):
        trainer = runs.distiller(tmp_path / type(source).__name__, teacher=source, **BRIEF)
        trainer.train()
        found |= runs.weights(trainer.model)
    torch.testing.assert_close(ours, due)


def test_a_student_may_be_the_score_model_as_an_mdlm(tmp_path, runs):
    source = score_model(runs)
    before = runs.weights(source)
    trainer = runs.distiller(
        tmp_path, source.as_mdlm(), source, teacher_steps=1, **BRIEF | {"steps_per_round": 1}
    )
    trainer.train()
    assert losses(tmp_path) == [pytest.approx(0, abs=1e-5)]  # the law of one step is its own
    changed = runs.differences(before, runs.weights(trainer.model))
    assert "backbone.sigma_map.mlp.0.weight" in changed


def test_a_score_model_as_student_is_refused_by_what_may_be_one(tmp_path, runs):
    with pytest.raises(ValueError, match=r"SEDDForMaskedLM cannot be a student.*as_mdlm\(\)"):
        runs.distiller(tmp_path, score_model(runs), **BRIEF)


@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
def test_a_student_in_pretraining_is_told_its_time(tmp_path, runs, schedule):
    model = randomised(runs.masked_model(**TOLD))
    trainer = runs.pretrainer(MDLMTrainer, tmp_path, model, schedule=schedule)
    x, places = runs.texts(4), [0, 1, 2, 3]
    noise = trainer.noise(places, x.shape[1])
    ours = trainer.loss_sum(model, x, places)
    due = nelbo_sum(model, x, noise.t, noise.u, SCHEDULES[schedule])
    torch.testing.assert_close(ours.double(), due.double(), rtol=1e-5, atol=1e-5)


class Told(MDLMForMaskedLM):
    """Keeps the times that it was told."""

    def hidden(self, z, rows=None, *, attention_mask=None, t=None):
        self.times = [*getattr(self, "times", []), t]
        return super().hidden(z, rows, attention_mask=attention_mask, t=t)


@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
def test_a_student_in_distillation_is_told_the_share_masked_at_its_time(tmp_path, runs, schedule):
    student = Told(runs.masked_model(**TOLD).config)
    trainer = runs.distiller(tmp_path, student, runs.masked_model(1), schedule=schedule, **BRIEF)
    x, places = runs.texts(4), [0, 1, 2, 3]
    trainer.loss_sum(student, x, places)
    due = 1 - SCHEDULES[schedule].alpha(trainer.noise(places, x.shape[1]).t)
    (told,) = student.times
    torch.testing.assert_close(told, due.float())


@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
def test_a_teacher_is_told_the_share_masked_before_each_of_its_steps(tmp_path, runs, schedule):
    teacher = randomised(Told(runs.masked_model(**TOLD).config))
    trainer = runs.distiller(tmp_path, runs.masked_model(), teacher, schedule=schedule, **BRIEF)
    x, places = runs.texts(4), [0, 1, 2, 3]
    trainer.loss_sum(trainer.model, x, places)
    now = trainer.round
    t = trainer.noise(places, x.shape[1]).t
    shares = {
        round((1 - SCHEDULES[schedule].alpha(at)).item(), 5)
        for i in range(now.teacher_steps)
        for at in (t - i * now.dt).clamp_min(0)
    }
    told = [value for times in trainer.teacher.times for value in times.tolist()]
    assert told
    assert {round(value, 5) for value in told} <= shares
