import json
import math

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from sdtt.models.causal import CausalConfig, CausalLM
from sdtt.models.mdlm import MDLMConfig, MDLMForMaskedLM
from sdtt.training.pretrain import CausalTrainer, MDLMTrainer, PretrainConfig, initialise_from
from sdtt.training.stream import noise_of


def wordlevel(size, mask):
    """A tokenizer of ``size`` ids whose MASK is ``mask``."""
    words = {f"w{index}" if index != mask else "[MASK]": index for index in range(size)}
    backend = Tokenizer(models.WordLevel(words, unk_token="w0"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, mask_token="[MASK]", unk_token="w0")


def first_loss(trainer, output):
    """The loss of the first update, as a user reads it."""
    trainer.train()
    return json.loads((output / "metrics.jsonl").read_text().splitlines()[0])["loss"]


def first_texts(trainer):
    return torch.stack([trainer.stream[place]["input_ids"] for place in range(4)])


# Losses, written out


@pytest.mark.parametrize(
    ("schedule", "masked_share", "weight"),
    [
        ("log_linear", lambda t: t, lambda t: 1 / t),
        (
            "cosine",
            lambda t: 1 - math.cos(math.pi / 2 * t),
            lambda t: math.pi / 2 * math.sin(math.pi / 2 * t) / (1 - math.cos(math.pi / 2 * t)),
        ),
    ],
)
def test_the_masked_loss_is_the_weighted_cross_entropy_a_token(
    tmp_path, runs, schedule, masked_share, weight
):
    model = runs.masked_model()
    trainer = runs.pretrainer(MDLMTrainer, tmp_path, model, max_steps=1, schedule=schedule)
    x = first_texts(trainer)
    noise = noise_of(list(range(4)), length=8, batch=4, seed=0, smallest_time=1e-3)
    expected = 0.0
    for text, t, u in zip(x, noise.t.tolist(), noise.u, strict=True):
        masked = u < masked_share(t)
        z = torch.where(masked, 19, text)
        with torch.no_grad():
            law = model(input_ids=z[None]).logits[0].double().softmax(-1)
        for i in masked.nonzero().flatten().tolist():
            expected -= weight(t) * math.log(law[i, text[i]]) / (4 * 8)
    assert first_loss(trainer, tmp_path) == pytest.approx(expected, rel=1e-5)


def test_the_times_of_the_masked_loss_begin_at_a_thousandth(tmp_path, runs):
    trainer = runs.pretrainer(MDLMTrainer, tmp_path, max_steps=400)
    t = trainer.noise(list(range(1600)), 1).t
    assert 1e-3 <= t.min() < 2e-3


def test_the_causal_loss_is_the_cross_entropy_of_every_token_behind_bos(tmp_path, runs):
    model = runs.causal_model()
    trainer = runs.pretrainer(CausalTrainer, tmp_path, model, max_steps=1)
    x = first_texts(trainer)
    with torch.no_grad():
        logits = model(input_ids=torch.cat([torch.zeros(4, 1, dtype=torch.int64), x], 1)).logits
    expected = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), x.flatten()).item()
    assert first_loss(trainer, tmp_path) == pytest.approx(expected, rel=1e-5)


def test_the_causal_loss_falls_to_the_entropy_of_the_first_token_on_texts_that_it_decides(
    tmp_path, runs
):
    data = torch.tensor([[1, 2, 1, 2], [3, 4, 3, 4]])
    trainer = runs.pretrainer(
        CausalTrainer, tmp_path, runs.causal_model(), data=data, max_steps=60, learning_rate=3e-2
    )
    trainer.train()
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-2])["loss"]
    assert last == pytest.approx(math.log(2) / 4, abs=0.02)


# Accumulation


@pytest.mark.parametrize("kind", ["masked", "causal"])
def test_eight_micro_batches_of_one_are_one_batch_of_eight(tmp_path, runs, kind):
    def trained(micro, accumulation):
        build = {"masked": (MDLMTrainer, runs.masked_model), "causal": (CausalTrainer,)}[kind]
        model = runs.causal_model() if kind == "causal" else runs.masked_model()
        trainer = runs.pretrainer(
            build[0],
            tmp_path / f"{micro}",
            model.double(),
            max_steps=3,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=accumulation,
            optim="sgd",
            learning_rate=0.3,
            decay_share=0.0,
            loss_dtype="float64",
        )
        before = runs.weights(model)
        trainer.train()
        return before, runs.weights(model)

    before, one = trained(8, 1)
    _, eight = trained(1, 8)
    assert max((one[name] - before[name]).abs().max() for name in one) > 1e-2
    for name in one:
        torch.testing.assert_close(one[name], eight[name], rtol=0, atol=1e-9)


# Restart


@pytest.mark.parametrize("kind", ["masked", "causal"])
def test_a_pretraining_taken_up_again_ends_as_one_that_was_never_stopped(tmp_path, runs, kind):
    def trainer(output, seed, *callbacks):
        make = runs.masked_model if kind == "masked" else runs.causal_model
        return runs.pretrainer(
            MDLMTrainer if kind == "masked" else CausalTrainer,
            output,
            make(seed, dropout=0.1),
            callbacks=callbacks,
            save_steps=3.0,
            ema_decay=0.9,
        )

    trainer(tmp_path / "whole", 0).train()
    with pytest.raises(runs.Crashed):
        trainer(tmp_path / "cut", 0, runs.CrashAfter(4)).train()
    trainer(tmp_path / "cut", 1).train(resume_from_checkpoint=True)
    whole, cut = (runs.contents(tmp_path / name / "checkpoint-6") for name in ("whole", "cut"))
    assert runs.differences(whole, cut) == []


# The learning rate


def test_the_learning_rate_warms_up_stays_and_falls_to_zero(tmp_path, runs):
    settings = {"max_steps": 9, "warmup_steps": 3.0, "decay_share": 1 / 3, "learning_rate": 1.0}
    runs.pretrainer(MDLMTrainer, tmp_path, **settings, optim="sgd", max_grad_norm=1e-9).train()
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    rates = [record["learning_rate"] for record in records if "learning_rate" in record]
    assert rates == pytest.approx([0, 1 / 3, 2 / 3, 1, 1, 1, 1, 2 / 3, 1 / 3])


# Initialisation and vocabulary


def test_a_masked_model_takes_over_every_weight_of_a_causal_one(runs):
    source, model = runs.causal_model(seed=1), runs.masked_model(seed=0)
    initialise_from(model, source)
    assert runs.differences(runs.weights(source), runs.weights(model)) == []


def test_a_model_initialised_from_another_shares_no_memory_with_it(runs):
    source, model = runs.causal_model(seed=1), runs.masked_model(seed=0)
    initialise_from(model, source)
    with torch.no_grad():
        model.head.weight.zero_()
    assert source.head.weight.abs().sum() > 0


def test_initialising_from_a_model_of_another_width_is_refused_by_the_weights_name(runs):
    with pytest.raises(ValueError, match=r"CausalLM: .* is \(20, 32\) there and \(20, 16\) here"):
        initialise_from(runs.masked_model(), runs.causal_model(hidden_dim=32))


def test_initialising_from_a_shallower_model_is_refused_by_the_missing_weights_name(runs):
    with pytest.raises(ValueError, match=r"CausalLM: it has no backbone\.blocks\.1\."):
        initialise_from(runs.masked_model(n_blocks=2), runs.causal_model())


def test_a_refused_initialisation_changes_nothing(runs):
    model = runs.masked_model(n_blocks=2)
    before = runs.weights(model)
    with pytest.raises(ValueError, match="cannot initialise"):
        initialise_from(model, runs.causal_model(seed=1))
    assert runs.differences(before, runs.weights(model)) == []


@pytest.mark.parametrize(("size", "mask"), [(21, 19), (19, 18), (20, 3)])
def test_a_tokenizer_of_another_vocabulary_is_refused(tmp_path, runs, size, mask):
    with pytest.raises(ValueError, match=rf"20 ids with MASK 19, the tokenizer's {size} .* {mask}"):
        runs.pretrainer(MDLMTrainer, tmp_path, tokenizer=wordlevel(size, mask))


def test_the_models_own_tokenizer_is_saved_with_it(tmp_path, runs):
    tokenizer = wordlevel(20, 19)
    trainer = runs.pretrainer(MDLMTrainer, tmp_path, tokenizer=tokenizer)
    trainer.save_to(tmp_path / "model")
    saved = PreTrainedTokenizerFast.from_pretrained(tmp_path / "model")
    assert saved.get_vocab() == tokenizer.get_vocab()


# Configs


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "linear"}, "unknown schedule 'linear'; there are log_linear, cosine"),
        ({"loss_dtype": "float16"}, "loss_dtype must be .* got 'float16'"),
        ({"ema_decay": 1.0}, "ema_decay must lie in .* got 1.0"),
        ({"ema_decay": -0.1}, "ema_decay must lie in .* got -0.1"),
        ({"decay_share": 1.5}, "decay_share must lie in .* got 1.5"),
        ({"max_steps": 10, "warmup_steps": 11.0}, "warmup_steps=11 is more than max_steps=10"),
        ({"save_steps": 0.0}, "save_steps must be above 0, got 0"),
        (
            {"max_steps": 10, "warmup_steps": 1.0, "lr_scheduler_kwargs": {"num_decay_steps": 20}},
            "a warm-up of 1 and a decay of 20 updates are more than the 10",
        ),
        (
            {
                "max_steps": 10,
                "warmup_steps": 1.0,
                "lr_scheduler_kwargs": {"num_stable_steps": 2, "num_decay_steps": 2},
            },
            "the plan has 10 updates, but its learning rate ends after 5",
        ),
    ],
)
def test_a_config_that_cannot_be_is_refused_in_words(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        PretrainConfig(str(tmp_path), use_cpu=True, **settings)


def test_a_run_of_no_update_is_refused(tmp_path, runs):
    with pytest.raises(ValueError, match="max_steps must be at least 1, got 0"):
        runs.pretrainer(MDLMTrainer, tmp_path, max_steps=0, warmup_steps=0.0)


SMALL = {"vocab_size": 20, "model_length": 8, "hidden_dim": 16, "n_blocks": 1, "n_heads": 2}


def test_a_source_with_weights_that_have_no_place_is_refused():
    source = MDLMForMaskedLM(MDLMConfig(**SMALL, conditioning="constant", cond_dim=4))
    with pytest.raises(ValueError, match="has no place"):
        initialise_from(MDLMForMaskedLM(MDLMConfig(**SMALL)), source)


def test_a_causal_model_has_no_order_of_its_noise(tmp_path, runs):
    with pytest.raises(ValueError, match=r"noise_order='dilated' is for masked models"):
        runs.pretrainer(CausalTrainer, tmp_path, runs.causal_model(), noise_order="dilated")


def test_a_run_that_gets_longer_needs_no_word_on_its_decay(tmp_path, runs):
    settings = {"save_steps": 2.0, "max_steps": 4}
    runs.pretrainer(MDLMTrainer, tmp_path, **settings).train()
    longer = {**settings, "max_steps": 8}
    with pytest.raises(ValueError, match=r"override_on_resume=max_steps \(--override"):
        runs.pretrainer(MDLMTrainer, tmp_path, **longer).train(True)
    trainer = runs.pretrainer(MDLMTrainer, tmp_path, override_on_resume=["max_steps"], **longer)
    trainer.train(True)
    assert trainer.state.global_step == 8


def test_a_causal_model_without_a_first_token_is_refused(tmp_path):
    model = CausalLM(CausalConfig(**SMALL))
    blocks = torch.zeros(4, 8, dtype=torch.int64)
    with pytest.raises(ValueError, match="bos_token_id"):
        CausalTrainer(model, PretrainConfig(output_dir=str(tmp_path)), blocks)
