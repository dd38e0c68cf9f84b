import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from sdtt.data.packing import load_blocks
from sdtt.data.stream_state import StreamSettings
from sdtt.data.streaming import stream_blocks
from sdtt.training.pretrain import MDLMTrainer
from sdtt.training.stream import Stream

BATCH = 4


def tokenizer():
    words = {"[END]": 0} | {f"w{n}": n for n in range(1, 19)} | {"[MASK]": 19}
    backend = Tokenizer(models.WordLevel(words, unk_token="w1"))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, mask_token="[MASK]", bos_token="[END]", eos_token="[END]"
    )


def write(file, shift=0):
    """Forty documents of token ids, of many lengths."""
    documents = [[1 + (shift + n * k) % 18 for k in range(1, 3 + n * n % 11)] for n in range(1, 41)]
    file.write_text("".join(json.dumps({"input_ids": each}) + "\n" for each in documents))
    return file


@pytest.fixture
def corpus(tmp_path):
    return write(tmp_path / "corpus.jsonl")


def streamed(corpus, lanes=BATCH):
    settings = StreamSettings(length=8, lanes=lanes, buffer=7, validation_fraction=0.1)
    return stream_blocks(corpus, tokenizer(), settings).train


def encoded(corpus, cache):
    return load_blocks(corpus, tokenizer(), 8, cache_dir=cache, validation_fraction=0.1).train


def losses(output):
    records = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if "loss" in record]


# What an update began with


def run_of(corpus):
    return Stream(streamed(corpus), updates=20, batch=BATCH, seed=0)


def ask(stream, updates):
    for update in updates:
        stream.__getitems__(list(range(BATCH * update, BATCH * update + BATCH)))


def texts_at(corpus, state, update):
    again = run_of(corpus)
    again.go_on_from(state)
    return [again[place]["input_ids"].tolist() for place in range(BATCH * update, BATCH * 20)]


def test_the_state_of_an_update_is_that_at_its_beginning_however_far_was_read(corpus):
    stream = run_of(corpus)
    expected = texts_at(corpus, None, 0)
    for update in range(10):
        ask(stream, [update])
        assert texts_at(corpus, stream.state_at(update), update) == expected[BATCH * update :]
        after = expected[BATCH * (update + 1) :]
        assert texts_at(corpus, stream.state_at(update + 1), update + 1) == after


def test_a_micro_batch_amid_an_update_does_not_move_its_beginning(corpus):
    whole, half = run_of(corpus), run_of(corpus)
    ask(whole, [0, 1])
    ask(half, [0])
    half.__getitems__([4, 5])
    half.__getitems__([6, 7])
    assert texts_at(corpus, half.state_at(1), 1) == texts_at(corpus, whole.state_at(1), 1)


def test_the_state_of_an_update_long_past_is_refused(corpus):
    stream = run_of(corpus)
    ask(stream, range(4))
    with pytest.raises(ValueError, match="at update 3, its state at 1 is forgotten"):
        stream.state_at(1)


# Through the Trainer


def trained(runs, output, corpus, seed=0, resume=None, callbacks=(), **settings):
    """Ten updates on a stream, two micro-batches each; with what a restart could lose."""
    default = {"max_steps": 10, "per_device_train_batch_size": 2, "ema_decay": 0.9}
    default |= {"gradient_accumulation_steps": 2}
    trainer = runs.pretrainer(
        MDLMTrainer,
        output,
        runs.masked_model(seed),
        streamed(corpus),
        callbacks=callbacks,
        **default | settings,
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


@pytest.fixture
def stopped(tmp_path, runs, corpus):
    """A run on a stream that has crashed after its checkpoint at update 5."""
    with pytest.raises(runs.Crashed):
        trained(runs, tmp_path / "run", corpus, save_steps=5.0, callbacks=(runs.CrashAfter(7),))
    return tmp_path / "run"


def test_a_run_on_a_stream_taken_up_again_ends_as_one_that_was_never_stopped(
    tmp_path, runs, corpus, stopped
):
    trained(runs, tmp_path / "whole", corpus, save_steps=5.0)
    trained(runs, stopped, corpus, seed=1, resume=True, save_steps=5.0)
    whole, again = (runs.contents(d / "checkpoint-10") for d in (tmp_path / "whole", stopped))
    assert any(name.startswith("data-0.safetensors/") for name in whole)
    assert runs.differences(whole, again) == []
    assert losses(stopped) == losses(tmp_path / "whole")


def test_a_run_trained_twice_begins_the_stream_anew(tmp_path, runs, corpus):
    trainer = trained(runs, tmp_path, corpus, max_steps=3)
    first = losses(tmp_path)
    trainer.model.load_state_dict(runs.masked_model().state_dict())
    trainer.optimizer = trainer.lr_scheduler = None
    trainer.train()
    assert losses(tmp_path) == first


def test_the_stream_of_a_checkpoint_is_in_its_manifest(stopped):
    manifest = json.loads((stopped / "checkpoint-5" / "manifest.json").read_text())
    assert {"data.json", "data-0.safetensors"} <= manifest.keys()


def test_workers_are_refused_for_a_stream(tmp_path, runs, corpus):
    with pytest.raises(ValueError, match="dataloader_num_workers must be 0, got 2"):
        trained(runs, tmp_path, corpus, dataloader_num_workers=2)


def test_a_run_on_a_stream_is_not_taken_up_on_other_files(runs, corpus, stopped):
    corpus.write_text(corpus.read_text() + '{"input_ids": [1]}\n')
    with pytest.raises(ValueError, match=r"the data .* was .* now"):
        trained(runs, stopped, corpus, resume=True)


def test_a_run_on_a_stream_is_not_taken_up_without_one(tmp_path, runs, corpus, stopped):
    blocks = encoded(corpus, tmp_path)
    trainer = runs.pretrainer(MDLMTrainer, stopped, data=blocks, max_steps=10)
    with pytest.raises(ValueError, match="begun with --stream, and this is one without it"):
        trainer.train(resume_from_checkpoint=True)


def test_a_run_without_a_stream_is_not_taken_up_on_one(tmp_path, runs, corpus):
    runs.pretrainer(MDLMTrainer, tmp_path / "run", data=torch.ones(9, 8, dtype=torch.int64)).train()
    with pytest.raises(ValueError, match="begun without --stream, and this is one with it"):
        trained(runs, tmp_path / "run", corpus, resume=True)


CHILD = """
import runpy, sys
from pathlib import Path
runs, own = runpy.run_path(sys.argv[1]), runpy.run_path(sys.argv[2])
runs["pretrainer"](
    own["MDLMTrainer"],
    Path(sys.argv[3]),
    data=own["streamed"](Path(sys.argv[4])),
    max_steps=10,
    per_device_train_batch_size=2,
    save_steps=5.0,
    callbacks=(runs["CrashAfter"](7),),
    ddp_backend="gloo",
).train()
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
def test_a_run_of_two_processes_on_a_stream_is_taken_up_by_one(tmp_path, runs, corpus):
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    files = [Path(__file__).with_name("conftest.py"), Path(__file__), tmp_path / "run", corpus]
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, *map(str, files)],
            env=os.environ | where | {"RANK": rank, "LOCAL_RANK": rank},
            stderr=subprocess.PIPE,
        )
        for rank in "01"
    ]
    errors = [child.communicate(timeout=120)[1].decode() for child in children]
    assert ["Crashed" in error for error in errors] == [True, True], errors
    checkpoint = tmp_path / "run" / "checkpoint-5"
    assert len(list(checkpoint.glob("data-*.safetensors"))) == 2
    trained(runs, tmp_path / "run", corpus, ema_decay=0.0, resume=True)
    trained(runs, tmp_path / "whole", corpus, ema_decay=0.0)
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "whole"), rel=1e-5)


# Encoded data


@pytest.fixture
def finished(tmp_path, runs, corpus):
    runs.pretrainer(MDLMTrainer, tmp_path / "run", data=encoded(corpus, tmp_path)).train()
    return tmp_path / "run"


def test_a_run_is_not_taken_up_on_other_text_of_the_same_size(tmp_path, runs, finished):
    blocks = encoded(write(tmp_path / "other.jsonl", shift=1), tmp_path)
    trainer = runs.pretrainer(MDLMTrainer, finished, data=blocks)
    with pytest.raises(ValueError, match=r"checkpoint-6: its run was begun on other text"):
        trainer.train(resume_from_checkpoint=True)


def test_a_run_is_taken_up_on_the_same_text_in_another_place(tmp_path, runs, corpus, finished):
    (tmp_path / "elsewhere").mkdir()
    copy = shutil.copy(corpus, tmp_path / "elsewhere" / "renamed.jsonl")
    start = runs.BeganAt()
    blocks = encoded(copy, tmp_path / "elsewhere")
    runs.pretrainer(MDLMTrainer, finished, data=blocks, callbacks=(start,)).train(True)
    assert start.step == 6
