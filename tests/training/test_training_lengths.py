"""Texts cut to random lengths: padding that nothing sees, counts or learns from."""

import json
from types import SimpleNamespace

import pytest
import torch
from transformers import TrainerCallback

from sdtt.diffusion.noise import SCHEDULES, mask, teacher_times
from sdtt.diffusion.rollout import rollout
from sdtt.training import trainer as trainer_module
from sdtt.training.pretrain import CausalTrainer, MDLMTrainer
from sdtt.training.stream import is_real, lengths_of, noise_of

NAMED = {"batch": 8, "seed": 0}


def lengths(places, share=0.5, length=16, **named):
    return lengths_of(list(places), length=length, share=share, **NAMED | named)


def records(output, key):
    lines = (output / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if key in record]


# Lengths


def test_a_length_is_a_function_of_the_place_and_not_of_the_micro_batch():
    cut = torch.cat([lengths([place]) for place in range(32)])
    assert torch.equal(lengths(range(32)), cut)


def test_another_seed_cuts_other_texts():
    assert not torch.equal(lengths(range(64)), lengths(range(64), seed=1))


def test_without_a_share_every_text_is_whole():
    assert set(lengths(range(64), share=0).tolist()) == {16}


def test_so_large_a_share_of_the_texts_is_drawn_to_be_cut():
    count = (lengths(range(8_000), share=0.25, length=1_000_000) < 1_000_000).sum().item()
    assert abs(count - 2_000) < 4 * (8_000 * 0.25 * 0.75) ** 0.5


def test_a_cut_text_is_uniformly_long_from_one_token_to_all():
    counts = torch.bincount(lengths(range(16_000), share=1), minlength=17)
    assert counts[0] == 0
    chi_square = ((counts[1:] - 1_000.0) ** 2 / 1_000).sum()
    assert chi_square < 37.7  # 15 degrees of freedom: exceeded once in a thousand


def test_padding_is_never_masked():
    noise = noise_of(list(range(64)), length=16, smallest_time=0.0, variable_length=1, **NAMED)
    assert not (noise.masked(SCHEDULES["log_linear"]) & ~noise.real).any()


def test_a_cut_text_has_the_noise_of_the_whole_one():
    settings = {"length": 16, "smallest_time": 0.0, **NAMED}
    whole, cut = (noise_of(list(range(8)), variable_length=s, **settings) for s in (0, 1))
    assert torch.equal(whole.u, cut.u)
    assert torch.equal(whole.t, cut.t)


def test_where_no_text_is_cut_there_is_no_attention_mask():
    noise = noise_of(list(range(8)), length=16, smallest_time=0.0, **NAMED)
    assert noise.attention_mask(torch.device("cpu")) is None


# The rollout


def test_a_padded_text_has_the_targets_that_it_has_alone(runs):
    teacher = runs.masked_model(n_blocks=2).double().eval()
    schedule, generator = SCHEDULES["log_linear"], torch.Generator().manual_seed(0)
    u, v = torch.rand(2, 3, 8, generator=generator, dtype=torch.float64)
    t = torch.full((3,), 0.8, dtype=torch.float64)
    u[:, 0] = 0.0
    real = is_real(torch.tensor([8, 5, 2]), 8)
    z = mask(runs.texts(3), (u < 0.8) & real, 19)
    times = teacher_times(t, 0.3, 2)
    together = rollout(teacher, z, u, v, times, schedule, real)
    alone = [
        rollout(teacher, *(a[b : b + 1, :n] for a in (z, u, v)), times[b : b + 1], schedule)
        for b, n in enumerate((8, 5, 2))
    ]
    torch.testing.assert_close(together.hidden, torch.cat([one.hidden for one in alone]))
    assert together.decided.tolist() == [i for one in alone for i in one.decided.tolist()]


# Training


KINDS = {"masked": MDLMTrainer, "causal": CausalTrainer, "distilled": None}


def trainer_of(runs, kind, output, **settings):
    default = {"loss_dtype": "float64", "learning_rate": 0.3, "optim": "sgd"}
    settings = default | {"variable_length": 0.7} | settings
    if kind == "distilled":
        student, teacher = runs.masked_model(0).double(), runs.masked_model(1).double()
        return runs.distiller(output, student, teacher, **settings)
    model = (runs.causal_model() if kind == "causal" else runs.masked_model()).double()
    return runs.pretrainer(KINDS[kind], output, model, decay_share=0.0, **settings)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_text_has_the_loss_in_a_batch_that_it_has_alone(tmp_path, runs, kind, attention):
    trainer = trainer_of(runs, kind, tmp_path, attn_implementation=attention)
    trainer.model.eval()
    places = list(range(4))
    x = torch.stack([trainer.stream[place]["input_ids"] for place in places])
    kept = trainer.lengths(places, 8).tolist()
    assert min(kept) < 8
    with torch.no_grad():
        together = trainer.loss_sum(trainer.model, x, places)
        whole = trainer.args.variable_length
        trainer.args.variable_length = 0.0  # the same texts, cut by hand
        alone = sum(
            trainer.loss_sum(trainer.model, x[i : i + 1, :n], [place])
            for i, (place, n) in enumerate(zip(places, kept, strict=True))
        )
        trainer.args.variable_length = whole
    assert together.item() == pytest.approx(alone.item(), rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_in_the_padding_changes_no_loss(tmp_path, runs, kind):
    trainer = trainer_of(runs, kind, tmp_path)
    trainer.model.eval()
    places = list(range(4))
    x = torch.stack([trainer.stream[place]["input_ids"] for place in places])
    other = torch.where(is_real(trainer.lengths(places, 8), 8), x, 3)
    assert not torch.equal(x, other)
    with torch.no_grad():
        losses = [trainer.loss_sum(trainer.model, each, places).item() for each in (x, other)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("kind", KINDS)
def test_eight_micro_batches_of_one_cut_text_are_one_batch_of_eight(tmp_path, runs, kind):
    def trained(micro, accumulation):
        settings = {
            "per_device_train_batch_size": micro,
            "gradient_accumulation_steps": accumulation,
        }
        own = {"rounds": 1, "steps_per_round": 3} if kind == "distilled" else {"max_steps": 3}
        trainer = trainer_of(runs, kind, tmp_path / f"{micro}", **settings | own)
        before = runs.weights(trainer.model)
        trainer.train()
        return before, runs.weights(trainer.model)

    before, one = trained(8, 1)
    _, eight = trained(1, 8)
    assert max((one[name] - before[name]).abs().max() for name in one) > 1e-3
    for name in one:
        torch.testing.assert_close(one[name], eight[name], rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["masked", "distilled"])
def test_the_noise_of_a_micro_batch_is_drawn_once(tmp_path, runs, kind, monkeypatch):
    drawn, draw = [], trainer_module.noise_of

    def counted(places, **settings):
        drawn.append(tuple(places))
        return draw(places, **settings)

    monkeypatch.setattr(trainer_module, "noise_of", counted)
    own = {"rounds": 2, "steps_per_round": 2} if kind == "distilled" else {"max_steps": 4}
    size = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    trainer_of(runs, kind, tmp_path, **own, **size).train()
    assert drawn == [(first, first + 1) for first in range(0, 16, 2)]


@pytest.mark.parametrize("kind", ["masked", "causal"])
def test_the_loss_of_cut_texts_is_the_mean_over_their_tokens(tmp_path, runs, kind):
    trainer = trainer_of(runs, kind, tmp_path)
    x = torch.zeros(4, 8, dtype=torch.int64)
    assert trainer.items(x, [0, 1, 2, 3]) == trainer.lengths([0, 1, 2, 3], 8).sum()


def test_the_speed_counts_no_padding(tmp_path, runs, monkeypatch):
    now = [0.0]
    clock = SimpleNamespace(perf_counter=lambda: now[0], time=lambda: now[0])
    monkeypatch.setattr(trainer_module, "time", clock)

    class Tick(TrainerCallback):
        def on_step_end(self, *_, **__):
            now[0] += 1

    trainer = trainer_of(runs, "masked", tmp_path, max_steps=3)
    trainer.add_callback(Tick())
    kept = trainer.lengths(range(12), 8).view(3, 4).sum(1).tolist()
    trainer.train()
    assert [each["tokens_per_second"] for each in records(tmp_path, "loss")] == kept
    assert max(kept) < 4 * 8


def test_the_mean_of_the_tokens_of_an_update_is_what_lengths_average_to(tmp_path, runs):
    trainer = trainer_of(runs, "masked", tmp_path)
    counted = trainer.tokens_of(range(4 * 2_000), 8) / 2_000
    assert counted == pytest.approx(trainer.mean_tokens_per_update, rel=0.02)
