"""Training of networks whose attention follows the order of revelation."""

import itertools
import json
import math

import pytest
import torch

from sdtt.diffusion.noise import SCHEDULES, revealed_in
from sdtt.training.pretrain import CausalTrainer, MDLMTrainer
from sdtt.training.stream import DILATED_STEPS, in_dilated_order, in_dilated_orders, noise_of

MASK = 19
SEED = 3  # of which the texts of one update have visible tokens of several steps
FOLLOWER = {"attention": "reveal_causal", "initializer_range": 0.5, "n_blocks": 3}


def first_loss(output):
    return json.loads((output / "metrics.jsonl").read_text().splitlines()[0])["loss"]


def first_texts(trainer):
    return torch.stack([trainer.stream[place]["input_ids"] for place in range(4)])


def noise_of_first(smallest_time):
    return noise_of(list(range(4)), length=8, batch=4, seed=SEED, smallest_time=smallest_time)


def law(model, text, u, t, revealed):
    """p(. | z) of every position of one text at time t, whose tokens came in these steps."""
    z = torch.where(u < t, MASK, text)
    with torch.no_grad():
        logits = model(input_ids=z[None], revealed=revealed[None]).logits[0, :, :MASK]
    return z == MASK, logits.double().softmax(-1)


def test_the_steps_of_a_text_are_equal_shares_and_the_largest_uniform_comes_first():
    u = torch.tensor([[0.99, 0.76, 0.74, 0.5, 0.26, 0.24, 0.0]])
    assert revealed_in(u, torch.tensor([4])).tolist() == [[0, 0, 1, 2, 2, 3, 3]]


def test_the_masked_loss_is_of_the_law_in_the_order_that_its_noise_says(tmp_path, runs):
    model = runs.masked_model(**FOLLOWER)
    trainer = runs.pretrainer(
        MDLMTrainer, tmp_path, model, max_steps=1, seed=SEED, noise_order="random"
    )
    x, noise, expected = first_texts(trainer), noise_of_first(1e-3), 0.0
    by_time = noise.revealed.gather(1, noise.u.argsort(1, descending=True))
    assert bool((by_time.diff(dim=1) >= 0).all())
    for text, t, u, revealed in zip(x, noise.t, noise.u, noise.revealed, strict=True):
        masked, laws = law(model, text, u, t, revealed)
        for i in masked.nonzero().flatten().tolist():
            expected -= math.log(laws[i, text[i]]) / t.item() / (4 * 8)
    trainer.train()
    assert first_loss(tmp_path) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("lengths", [{}, {"variable_length": 1.0}])
def test_the_loss_of_whole_orders_is_that_of_each_token_in_its_step(tmp_path, runs, lengths):
    model = runs.masked_model(**FOLLOWER)
    trainer = runs.pretrainer(
        MDLMTrainer, tmp_path, model, max_steps=1, seed=SEED, whole_orders=True, **lengths
    )
    x, noise, expected = first_texts(trainer), trainer.noise(list(range(4)), 8), 0.0
    for text, order, size in zip(x, noise.revealed, noise.lengths.tolist(), strict=True):
        for i in range(size):
            z = torch.where(order < order[i], text, MASK)[None, :size]
            with torch.no_grad():
                logits = model(input_ids=z, revealed=order[None, :size]).logits[0, i, :MASK]
            expected -= logits.double().log_softmax(-1)[text[i]].item() / int(noise.lengths.sum())
    trainer.train()
    assert first_loss(tmp_path) == pytest.approx(expected, rel=1e-5)


def test_whole_orders_have_the_mean_of_what_is_left_after_one_of_their_steps(runs):
    model = runs.masked_model(**FOLLOWER, model_length=3)
    text = torch.tensor([4, 9, 2])
    whole, parts = [], []
    for order in itertools.permutations(range(3)):
        revealed = torch.tensor([order])
        with torch.no_grad():
            hidden = model.hidden_in_order(text[None], revealed)
            whole.append(-model.logits(hidden).log_softmax(-1).gather(1, text[:, None]).sum())
            for left in (1, 2, 3):  # of three steps, each as likely; the weight is 1 / t
                z = torch.where(revealed < 3 - left, text, MASK)
                logits = model(input_ids=z, revealed=revealed).logits[0].log_softmax(-1)
                losses = -logits.gather(1, text[:, None]).squeeze(1)[(z == MASK)[0]]
                parts.append(losses.sum() * 3 / left)
    torch.testing.assert_close(torch.stack(whole).mean(), torch.stack(parts).mean())


def test_an_update_of_whole_orders_is_kept_with_each_token_masked(tmp_path, runs):
    model = runs.masked_model(**FOLLOWER)
    trainer = runs.pretrainer(MDLMTrainer, tmp_path, model, seed=SEED, variable_length=0.5)
    batch, noise = trainer.batch_of(1), trainer.noise(list(range(4)), 8)
    assert torch.equal(batch.masks, noise.real)
    assert not bool(batch.masks.all())
    assert batch.t.tolist() == [1.0] * 4
    assert torch.equal(batch.revealed, noise.revealed)


@pytest.mark.parametrize(
    ("attention", "order", "whole"),
    [
        ("reveal_causal", None, True),
        ("reveal_causal", "dilated", True),
        ("reveal_causal", "random", False),
        ("bidirectional", "dilated", False),
    ],
)
def test_dilated_orders_are_learned_whole_where_attention_follows_them(
    tmp_path, runs, attention, order, whole
):
    model = runs.masked_model(**FOLLOWER | {"attention": attention})
    trainer = runs.pretrainer(MDLMTrainer, tmp_path, model, noise_order=order)
    noise = trainer.noise(list(range(4)), 8)
    taught = noise.real if whole else noise.masked(trainer.schedule)
    assert trainer.lessons(first_texts(trainer), list(range(4)), 32) == int(taught.sum())


def test_a_causal_model_has_no_whole_orders(tmp_path, runs):
    with pytest.raises(ValueError, match="whole_orders=True"):
        runs.pretrainer(CausalTrainer, tmp_path, runs.causal_model(), whole_orders=True)


def test_whole_orders_are_for_networks_that_follow_the_order(tmp_path, runs):
    model = runs.masked_model()
    with pytest.raises(ValueError, match=r"whole_orders=True .* attention='reveal_causal'"):
        runs.pretrainer(MDLMTrainer, tmp_path, model, whole_orders=True)


def test_the_numbers_of_steps_are_powers_of_two_up_to_the_length_each_as_likely():
    noise = noise_of(list(range(800)), length=8, batch=800, seed=0, smallest_time=0.0)
    candidates = torch.stack([revealed_in(noise.u, torch.full((800,), 2**k)) for k in range(4)])
    found = (candidates == noise.revealed).all(2)
    assert bool(found.any(0).all())
    for one in found.double().mean(1).tolist():  # few texts fit two of them
        assert 0.18 < one < 0.32


def test_a_bidirectional_teacher_teaches_a_student_that_follows_the_order(tmp_path, runs):
    student, teacher = runs.masked_model(0, **FOLLOWER), runs.masked_model(1, initializer_range=0.5)
    trainer = runs.distiller(
        tmp_path, student, teacher,
        rounds=1, steps_per_round=1, start_steps=2, teacher_steps=1, seed=SEED,
    )  # fmt: skip
    values = []
    noise = noise_of_first(0.0)
    for text, t, u, revealed in zip(
        first_texts(trainer), noise.t, noise.u, noise.revealed, strict=True
    ):
        masked, q = law(student, text, u, t, revealed)
        with torch.no_grad():
            z = torch.where(masked, MASK, text)
            p = teacher(input_ids=z[None]).logits[0, :, :MASK].double().softmax(-1)
        values += (q * (q.log() - p.log())).sum(-1)[masked].tolist()  # reverse KL
    trainer.train()
    assert first_loss(tmp_path) == pytest.approx(sum(values) / len(values), rel=1e-4)


def test_a_student_that_follows_the_order_is_taught_by_itself_in_that_order(tmp_path, runs):
    student = runs.masked_model(0, **FOLLOWER)
    trainer = runs.distiller(
        tmp_path, student,
        rounds=1, steps_per_round=1, start_steps=2, teacher_steps=1,
    )  # fmt: skip
    trainer.train()
    assert first_loss(tmp_path) == pytest.approx(0, abs=1e-9)  # one step of itself


def test_what_a_teacher_draws_is_revealed_after_all_that_was_visible(tmp_path, runs):
    student = runs.masked_model(0, **FOLLOWER)
    trainer = runs.distiller(
        tmp_path, student,
        rounds=1, steps_per_round=1, start_steps=4, teacher_steps=2,
    )  # fmt: skip
    seen = []
    hidden = trainer.acting.hidden

    def watched(z, rows, **told):
        seen.append((z, told["revealed"]))
        return hidden(z, rows, **told)

    trainer.acting.hidden = watched
    trainer.train()
    (_, before), (z, after) = seen[0], seen[1]
    drawn = (z != MASK) & (after >= 8)
    assert drawn.any()
    assert bool((after[drawn] > before.max()).all())


@pytest.mark.parametrize("schedule", ["log_linear", "cosine"])
def test_dilated_orders_are_of_each_number_of_steps_and_keep_its_masks(schedule):
    law = SCHEDULES[schedule]
    process = noise_of(list(range(400)), length=64, batch=400, seed=0, smallest_time=1e-3)
    noise = in_dilated_orders(process, law)
    assert {len(set(order.tolist())) for order in noise.revealed} == set(DILATED_STEPS)
    for masked, order in zip(noise.masked(law), noise.revealed, strict=True):
        steps = len(set(order.tolist()))
        assert all(len(set(order[r::steps].tolist())) == 1 for r in range(steps))
        assert set(order[masked].tolist()).isdisjoint(order[~masked].tolist())


def test_tokens_of_one_step_of_a_student_are_of_one_step_whatever_its_parts():
    process = noise_of([0, 1], length=16, batch=2, seed=0, smallest_time=1e-3)
    for schedule in SCHEDULES.values():
        whole, cut = (in_dilated_order(process, 4, parts, schedule) for parts in (1, 2))
        assert torch.equal(cut.revealed, whole.revealed)
        assert cut.revealed.unique().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("schedule", ["log_linear", "cosine"])
@pytest.mark.parametrize("length", [64, 12])
def test_texts_in_dilated_orders_have_the_weight_of_their_tokens(tmp_path, runs, schedule, length):
    model = runs.masked_model(model_length=64)
    trainer = runs.pretrainer(
        MDLMTrainer, tmp_path, model, noise_order="dilated", schedule=schedule
    )
    noise = trainer.noise(list(range(4000)), length)
    total = trainer.weights(noise) * noise.masked(trainer.schedule).sum(1)
    assert float(total.mean()) == pytest.approx(length, rel=0.01)
    if length == 64:  # which every number of steps divides
        torch.testing.assert_close(total, torch.full_like(total, length))


@pytest.mark.parametrize("order", ["random", "dilated"])
def test_the_loss_of_a_masked_text_has_the_weight_of_its_order(tmp_path, runs, order):
    model = runs.masked_model(initializer_range=0.5)
    trainer = runs.pretrainer(
        *(MDLMTrainer, tmp_path, model), max_steps=1, noise_order=order, schedule="cosine"
    )
    x, noise, expected = first_texts(trainer), trainer.noise(list(range(4)), 8), 0.0
    masks = noise.masked(trainer.schedule)
    for text, masked, t in zip(x, masks, noise.t.tolist(), strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.where(masked, MASK, text)[None]).logits[0, :, :MASK]
        losses = -logits.double().log_softmax(-1).gather(1, text[:, None])[masked]
        slope = math.pi / 2 * math.sin(math.pi / 2 * t) if order == "random" else 1.0
        expected += float(losses.sum()) * slope / (1 - math.cos(math.pi / 2 * t)) / (4 * 8)
    trainer.train()
    assert first_loss(tmp_path) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("attention", "orders"), [("reveal_causal", 1), ("bidirectional", 0)])
def test_a_network_that_follows_the_order_learns_dilated_ones_if_nothing_is_said(
    tmp_path, runs, attention, orders
):
    model = runs.masked_model(**FOLLOWER | {"attention": attention})
    trainer = runs.pretrainer(MDLMTrainer, tmp_path, model, max_steps=1, seed=SEED)
    schedule = SCHEDULES["log_linear"]
    process = noise_of(list(range(4)), length=8, batch=4, seed=SEED, smallest_time=1e-3)
    expected = (process, in_dilated_orders(process, schedule))[orders]
    assert torch.equal(trainer.noise(list(range(4)), 8).u, expected.u)
