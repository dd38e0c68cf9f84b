"""Claims about looks at the samples of a model while it trains."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import AutoModelForMaskedLM, PreTrainedTokenizerFast

from sdtt.evaluation.diversity import diversity
from sdtt.evaluation.judge import judge_perplexity
from sdtt.evaluation.suite import Sampling, draw_samples
from sdtt.sampling.settings import SampleSettings
from sdtt.training import looks as looks_module
from sdtt.training.looks import look_steps
from sdtt.training.pretrain import CausalTrainer, MDLMTrainer

LOOKING = {"sample_every": 2, "sample_count": 3, "steps_per_round": 3}


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def looks(output):
    return lines(output / "samples.jsonl")


def wordlevel(prefix="w"):
    """A tokenizer of the twenty ids of the small models; the last is MASK."""
    words = {f"{prefix}{index}": index for index in range(19)} | {"[MASK]": 19}
    backend = Tokenizer(models.WordLevel(words, unk_token=f"{prefix}0"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, mask_token="[MASK]")


@pytest.fixture(scope="module")
def judge(runs, tmp_path_factory):
    """The folder of a causal model and its tokenizer."""
    folder = tmp_path_factory.mktemp("judge")
    runs.causal_model(5).save_pretrained(folder)
    wordlevel().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def looked_at(runs, judge, tmp_path_factory):
    """A distillation of two rounds of three updates, with dropout, looked at and judged."""
    output = tmp_path_factory.mktemp("looked_at")
    settings = LOOKING | {"judge": str(judge), "student_dropout": 0.3, "save_steps": 2.0}
    runs.distiller(output, tokenizer=wordlevel(), **settings).train()
    return output


# ---------------------------------------------------------------- when, and at how many steps


@pytest.mark.parametrize(
    ("own", "length", "steps"),
    [
        (16, 1024, (4, 16, 64)),
        (2, 1024, (1, 2, 8)),
        (16, 32, (4, 16, 32)),
        (512, 1024, (128,)),
        (1, 4, (1, 4)),
        (None, 1024, (8, 32, 128)),
        (None, 64, (4, 16, 64)),
    ],
)
def test_a_look_is_at_the_students_steps_a_quarter_and_four_times_as_many(own, length, steps):
    assert look_steps(own, length) == steps


def test_a_look_is_taken_every_so_often_and_at_the_end_of_each_round(looked_at):
    assert sorted({look["step"] for look in looks(looked_at)}) == [2, 3, 4, 6]


def test_a_look_follows_the_students_steps_from_round_to_round(looked_at):
    steps = {3: [], 6: []}
    for look in looks(looked_at):
        steps.setdefault(look["step"], []).append(look["sampling_steps"])
    assert (steps[3], steps[6]) == ([1, 2, 8], [1, 4])


# ---------------------------------------------------------------- training is not disturbed


def test_looks_change_no_weight(tmp_path, runs, looked_at):
    settings = {"steps_per_round": 3, "student_dropout": 0.3, "save_steps": 2.0}
    runs.distiller(tmp_path, **settings).train()
    blind, seeing = (runs.contents(each / "checkpoint-6") for each in (tmp_path, looked_at))
    assert len(blind) > 30
    assert runs.differences(blind, seeing) == []


def test_a_run_that_is_looked_at_ends_alike_when_it_is_taken_up(tmp_path, runs, looked_at):
    settings = LOOKING | {"student_dropout": 0.3, "save_steps": 2.0}
    crashing = runs.distiller(tmp_path, callbacks=(runs.CrashAfter(3),), **settings)
    with pytest.raises(runs.Crashed):
        crashing.train()
    runs.distiller(tmp_path, runs.masked_model(1), **settings).train(True)
    once, again = (runs.contents(each / "checkpoint-6") for each in (looked_at, tmp_path))
    assert runs.differences(once, again) == []
    seen = [(look["step"], look["ids"]) for look in looks(tmp_path)]
    assert seen == [(look["step"], look["ids"]) for look in looks(looked_at)]


def test_the_record_that_is_due_at_a_look_is_kept(looked_at):
    losses = [each["step"] for each in lines(looked_at / "metrics.jsonl") if "loss" in each]
    assert losses == [1, 2, 3, 4, 5, 6]


def test_the_time_of_a_look_is_no_training_time(tmp_path, runs, monkeypatch):
    now = [0.0]
    clock = SimpleNamespace(perf_counter=lambda: now[0], time=lambda: now[0])
    for module in ("trainer", "looks"):
        monkeypatch.setattr(f"sdtt.training.{module}.time", clock)
    sample = looks_module.draw_samples

    def slowly(*arguments):
        now[0] += 1000
        return sample(*arguments)

    monkeypatch.setattr(looks_module, "draw_samples", slowly)
    trainer = runs.distiller(tmp_path, **LOOKING)
    after_update = trainer.after_update

    def tick():
        now[0] += 1
        after_update()

    trainer.after_update = tick
    trainer.train()
    speeds = [each.get("tokens_per_second") for each in lines(tmp_path / "metrics.jsonl")]
    assert [speed for speed in speeds if speed] == [32] * 6  # four texts of eight in a second


# ---------------------------------------------------------------- what a look says


def test_a_look_shows_what_sampling_the_saved_student_gives(looked_at):
    student = AutoModelForMaskedLM.from_pretrained(looked_at / "students/2").eval()
    drawn = draw_samples(student, 8, Sampling(3, 8, SampleSettings(sampler="dilated"))).tolist()
    (look,) = (x for x in looks(looked_at) if (x["step"], x["sampling_steps"]) == (3, 8))
    assert look["ids"] == drawn[:2]
    assert look["entropy"] == diversity(drawn).entropy
    assert look["texts"] == [" ".join(f"w{token}" for token in text) for text in drawn[:2]]


def test_a_look_says_what_the_judge_says_of_all_its_samples(looked_at, runs):
    student = AutoModelForMaskedLM.from_pretrained(looked_at / "students/2").eval()
    drawn = draw_samples(student, 2, Sampling(3, 8, SampleSettings(sampler="dilated"))).tolist()
    (look,) = (x for x in looks(looked_at) if (x["step"], x["sampling_steps"]) == (3, 2))
    expected = judge_perplexity(runs.causal_model(5).eval(), drawn).perplexity
    assert look["perplexity"] == pytest.approx(expected, rel=1e-5)


def test_the_records_of_the_run_hold_entropy_and_perplexity_by_steps(looked_at):
    (look,) = (x for x in looks(looked_at) if (x["step"], x["sampling_steps"]) == (6, 4))
    (record,) = (
        each
        for each in lines(looked_at / "metrics.jsonl")
        if each["step"] == 6 and "sample_entropy_4" in each
    )
    assert record["sample_entropy_4"] == look["entropy"]
    assert record["sample_perplexity_4"] == look["perplexity"]


def test_a_causal_model_is_looked_at_a_token_a_pass(tmp_path, runs):
    runs.pretrainer(CausalTrainer, tmp_path, runs.causal_model(), sample_every=6).train()
    (look,) = looks(tmp_path)
    assert (look["sampler"], look["sampling_steps"]) == ("autoregressive", 8)
    assert [len(text) for text in look["ids"]] == [8, 8]


def test_steps_that_are_asked_for_go_before_those_of_the_round(tmp_path, runs):
    settings = {"sample_every": 3, "sample_steps": (2, 5), "sample_sampler": "ancestral"}
    runs.pretrainer(MDLMTrainer, tmp_path, **settings).train()
    seen = [(look["step"], look["sampling_steps"], look["sampler"]) for look in looks(tmp_path)]
    assert seen == [(step, k, "ancestral") for step in (3, 6) for k in (2, 5)]


def test_a_look_that_cannot_be_judged_does_not_end_the_run(tmp_path, runs):
    broken = runs.causal_model()
    with torch.no_grad():
        broken.head.weight[3] = math.nan
    broken.save_pretrained(tmp_path / "judge")
    settings = {"sample_every": 6, "sample_steps": (4,), "judge": str(tmp_path / "judge")}
    trainer = runs.pretrainer(MDLMTrainer, tmp_path, **settings)
    trainer.train()
    (look,) = looks(tmp_path)
    assert trainer.state.global_step == 6
    assert "gives sample 0 a loss of nan" in look["error"]
    assert "entropy" in look


# ---------------------------------------------------------------- bad input


def test_a_judge_of_other_tokens_is_refused_before_the_run(tmp_path, runs, judge):
    settings = {"sample_every": 2, "judge": str(judge), "tokenizer": wordlevel("v")}
    with pytest.raises(ValueError, match="another tokenizer than the model"):
        runs.pretrainer(MDLMTrainer, tmp_path, **settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sample_every": -1}, "sample_every must be at least 0, got -1"),
        ({"judge": "a"}, "judge says how samples are looked at: set sample_every too"),
        ({"sample_steps": (4,)}, "set sample_every too"),
        ({"sample_every": 1, "sample_steps": (0,)}, "sample_steps must be at least 1, got 0"),
        ({"sample_every": 1, "sample_steps": (9,)}, "sample_steps=9 is more than the 8 tokens"),
        ({"sample_every": 1, "sample_count": 0}, "sample_count must be at least 1, got 0"),
        ({"peak_tflops": 0.0}, "peak_tflops must be above 0, got 0"),
    ],
)
def test_a_look_that_cannot_be_is_refused(tmp_path, runs, settings, words):
    with pytest.raises(ValueError, match=words):
        runs.pretrainer(MDLMTrainer, tmp_path, **settings)
