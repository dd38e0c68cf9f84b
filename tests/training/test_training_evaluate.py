"""Trainers as those of transformers are used: data sets of rows, `evaluate`, quiet resuming."""

import json

import pytest
import torch
from transformers.utils import logging

from sdtt.data.rows import IdRows
from sdtt.evaluation.judge import judge_perplexity
from sdtt.evaluation.nelbo import validation_nelbo
from sdtt.training.pretrain import CausalTrainer, MDLMTrainer


def rows_of(texts):
    return [{"input_ids": text.tolist()} for text in texts]


def test_a_data_set_of_rows_trains_as_its_texts_do(tmp_path, runs):
    trained = []
    for name, data in (("texts", runs.texts()), ("rows", rows_of(runs.texts()))):
        trainer = runs.pretrainer(MDLMTrainer, tmp_path / name, data=data)
        trainer.train()
        trained.append(torch.cat([weight.flatten() for weight in trainer.model.parameters()]))
    assert torch.equal(*trained)


def test_evaluating_gives_the_bound_of_held_out_texts_and_records_it(tmp_path, runs):
    trainer = runs.pretrainer(MDLMTrainer, tmp_path, seed=3)
    trainer.train()
    found = trainer.evaluate(rows_of(runs.texts()))
    assert found == trainer.evaluate(list(runs.texts()))
    bound = validation_nelbo(trainer.model, runs.texts(), seed=3)
    assert found.keys() == {"eval_nelbo"}  # one batch tells no error
    assert found["eval_nelbo"] == bound.nats_per_token
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["eval_nelbo"] == bound.nats_per_token


def test_evaluating_a_causal_model_gives_its_likelihood(tmp_path, runs):
    trainer = runs.pretrainer(CausalTrainer, tmp_path, runs.causal_model())
    found = trainer.evaluate(runs.texts(), metric_key_prefix="held")
    judged = judge_perplexity(trainer.model, runs.texts().tolist())
    assert found == {"held_nll": judged.nll, "held_nll_se": judged.nll_se}


def test_a_trainer_evaluates_on_its_own_schedule(tmp_path, runs):
    trainer = runs.pretrainer(MDLMTrainer, tmp_path, eval_strategy="no")
    trainer.eval_dataset, trainer.args.eval_strategy = runs.texts(), "steps"
    trainer.args.eval_steps = trainer.state.eval_steps = 3
    trainer.train()
    records = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert [record["step"] for record in records if "eval_nelbo" in record] == [3, 6]


def test_evaluating_on_nothing_is_refused(tmp_path, runs):
    with pytest.raises(ValueError, match="give an eval_dataset"):
        runs.pretrainer(MDLMTrainer, tmp_path).evaluate()
    with pytest.raises(ValueError, match="the eval_dataset is empty"):
        runs.pretrainer(MDLMTrainer, tmp_path).evaluate([])


def test_an_early_stop_reads_rows_too(tmp_path, runs):
    settings = {"early_stop_interval": 2, "early_stop_texts": 4}
    trainer = runs.distiller(tmp_path, eval_dataset=rows_of(runs.texts()), **settings)
    assert isinstance(trainer.eval_dataset, IdRows)
    trainer.train()


def test_resuming_a_tied_model_says_nothing_of_a_missing_head(tmp_path, runs, caplog):
    settings = {"max_steps": 4, "save_steps": 2.0}
    tied = {"tie_word_embeddings": True}
    runs.pretrainer(MDLMTrainer, tmp_path, runs.masked_model(**tied), **settings).train()
    logging.enable_propagation()
    trainer = runs.pretrainer(MDLMTrainer, tmp_path, runs.masked_model(1, **tied), **settings)
    trainer.train(str(tmp_path / "checkpoint-2"))
    logging.disable_propagation()
    assert "missing keys" not in caplog.text
    head = trainer.model.backbone.output_layer.linear.weight
    assert head is trainer.model.backbone.vocab_embed.embedding
