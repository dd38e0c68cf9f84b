"""Claims about what ships: the models load, write, and measure as the table says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

import sdtt
from sdtt.evaluation.suite import Sampling, measure_model
from sdtt.models.checkpoints import load_model
from sdtt.report.pair import read_records, write_pair_report
from sdtt.sampling.settings import SampleSettings

RESULTS = Path(__file__).parents[2] / "results" / "pair"
MB = 10**6


def size_of(name):
    return sum(file.stat().st_size for file in sdtt.shipped(name).iterdir())


def test_the_pair_and_the_judge_are_as_small_as_they_must_be():
    assert size_of("teacher") + size_of("student") < 24 * MB
    assert max(size_of("judge"), size_of("caching")) < 12 * MB


@pytest.mark.parametrize("name", ["teacher", "student", "caching"])
def test_a_shipped_model_loads_by_transformers_own_classes_in_bfloat16(name):
    folder = sdtt.shipped(name)
    model = AutoModelForMaskedLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert isinstance(model, sdtt.MDLMForMaskedLM)
    assert model.dtype == torch.bfloat16
    assert len(tokenizer) == model.config.vocab_size
    assert tokenizer.mask_token_id == model.mask_token_id


def test_a_new_user_gets_text_that_goes_on_from_the_prompt(tmp_path):
    command = [sys.executable, "-m", "sdtt", "generate", "--prompt", "The old man", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    record = json.loads(done.stdout)
    assert record["text"].startswith("The old man")
    assert len(record["ids"]) == 128
    assert record["sampler"] == "dilated"
    config = json.loads((sdtt.shipped("student") / "generation_config.json").read_text())
    assert record["steps"] == config["steps"]
    assert record["temperature"] == config["temperature"]


def test_four_dilated_steps_read_far_better_than_four_random_ones():
    judge = load_model(sdtt.shipped("judge"), causal=True).float()
    teacher = load_model(sdtt.shipped("teacher")).for_inference()
    found = {}
    for sampler in ("dilated", "ancestral"):
        how = Sampling(32, settings=SampleSettings(sampler=sampler))
        found[sampler], _ = measure_model(teacher, 4, judge, how)
    ratio = found["dilated"]["perplexity"] / found["ancestral"]["perplexity"]
    assert ratio < 0.55  # 0.40 over 768 samples
    assert abs(found["dilated"]["entropy"] - found["ancestral"]["entropy"]) < 0.08


def test_the_table_of_the_pair_follows_from_its_records(tmp_path):
    write_pair_report(read_records(RESULTS / "records.jsonl"), tmp_path)
    table = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert table == (RESULTS / "table.md").read_text(encoding="utf-8")
