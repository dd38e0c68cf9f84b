"""Two processes against one: DDP and FSDP2 through the Trainer, and FSDP2 by hand.

Everything is in float64 but the average, which is kept in float32: what differs is the order in
which gradients are added.
"""

import contextlib
import json
import math
import os
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

import sdtt

HERE = Path(__file__).parent
SOURCE = Path(sdtt.__file__).parents[1]
SECONDS = 240
"""Until all jobs must be done; after that the processes are killed, not waited for."""

FLOAT64, FLOAT32 = 1e-10, 1e-6

JOBS = [
    *("ddp", "ddp_resumed", "ddp_empty", "ddp_causal", "ddp_bf16", "fsdp_masked"),
    *("step", "fsdp", "fsdp_sharded_teacher", "fsdp_resumed", "fsdp_published", "fsdp_tied"),
    *("fsdp_empty", "fsdp_bf16", "fsdp_bf16_blocks", "ddp_evaluated", "fsdp_evaluated", "refused"),
]
TWIN = {
    "ddp": "plain",
    "ddp_resumed": "plain",
    "fsdp": "plain",
    "fsdp_resumed": "published",
    "fsdp_sharded_teacher": "average",
    "fsdp_published": "published",
    "fsdp_tied": "tied",
    "ddp_empty": "empty",
    "fsdp_empty": "empty",
}
"""Of each job, the run of one process that it must equal."""


def losses(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [(r["step"], r["loss"]) for r in map(json.loads, lines) if "loss" in r]


@pytest.fixture(scope="module")
def two():
    return SimpleNamespace(**runpy.run_path(str(HERE / "two_processes.py")))


@pytest.fixture(scope="module")
def alone(runs, two, tmp_path_factory):
    """The runs of one process, by name, each made once."""
    made = {}
    kinds = {
        "plain": {},
        "average": {"teacher_from": "ema"},
        "published": {"model": two.published(runs)},
        "tied": {"model": two.student(runs, tie_word_embeddings=True)},
        "empty": two.EMPTY | {"data": runs.texts(length=1)},
        "bf16": two.BF16 | {"model": runs.masked_model(n_blocks=2)},
    }

    def of(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            trainer = two.distill(runs, folder, **kinds[name])
            made[name] = SimpleNamespace(folder=folder, **two.seen(trainer))
        return made[name]

    return of


def copy_until(source, target, update):
    """A run as it was when it was stopped after an update."""
    shutil.copytree(source, target)
    for checkpoint in target.glob("checkpoint-*"):
        if int(checkpoint.name.split("-")[1]) > update:
            shutil.rmtree(checkpoint)
    shutil.rmtree(target / "students", ignore_errors=True)


def start(folder, processes, device, jobs):
    """Runs jobs in several processes; what they say. After ``SECONDS`` all are killed."""
    words = [str(HERE / "two_processes.py"), str(HERE / "conftest.py"), str(folder)]
    process = subprocess.Popen(
        [sys.executable, "-X", "faulthandler", *words, str(processes), device, *jobs],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SOURCE)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        return process.communicate(timeout=SECONDS)[0].decode()
    except subprocess.TimeoutExpired:
        return f"still at it after {SECONDS} seconds"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def results(folder, output):
    """What a process made of a job."""

    def of(job, rank=0):
        errors = [each.read_text() for each in sorted((folder / job).glob("*.error"))]
        if errors:
            pytest.fail("\n".join([*errors, output[-3000:]]))
        file = folder / job / f"rank-{rank}.pt"
        if not file.exists():
            pytest.fail(f"{job} was not run: {output[-3000:]}")
        return torch.load(file, weights_only=False)

    return SimpleNamespace(of=of, folder=folder)


@pytest.fixture(scope="module")
def pair(alone, tmp_path_factory, request):
    """What two processes made of the jobs that the chosen tests name."""
    chosen = [
        i for i in request.session.items if i.path == request.path and "gpu" not in i.keywords
    ]
    named = {
        value
        for item in chosen
        if hasattr(item, "callspec")
        for value in item.callspec.params.values()
    }
    jobs = [job for job in JOBS if job in named]
    folder = tmp_path_factory.mktemp("pair")
    for job, update in (("ddp_resumed", 2), ("fsdp_resumed", 4)):
        if job in jobs:
            copy_until(alone(TWIN[job]).folder, folder / job, update)
    return results(folder, start(folder, 2, "cpu", jobs))


def farthest(one, other):
    assert one.keys() == other.keys()
    return max((one[name].double() - other[name].double()).abs().max().item() for name in one)


# One run of two processes is the run of one


@pytest.mark.parametrize("job", TWIN)
def test_two_processes_have_the_losses_of_one(pair, alone, job):
    pair.of(job)
    mine, its = losses(pair.folder / job), losses(alone(TWIN[job]).folder)
    assert [step for step, _ in mine] == [1, 2, 3, 4, 5, 6]
    assert [loss for _, loss in mine] == pytest.approx([loss for _, loss in its], rel=1e-6)


@pytest.mark.parametrize("job", TWIN)
@pytest.mark.parametrize("rank", [0, 1])
def test_each_of_two_processes_ends_with_the_weights_of_one(pair, alone, job, rank):
    found, due = pair.of(job, rank), alone(TWIN[job])
    assert farthest(found["model"], due.model) < FLOAT64
    assert farthest(found["teacher"], due.teacher) < FLOAT32


def test_the_weights_of_a_run_move_by_far_more_than_two_processes_differ(runs, two, alone):
    begun = two.whole(two.student(runs))
    assert farthest(begun, alone("plain").model) > 1e-2


@pytest.mark.parametrize("job", [job for job in TWIN if "empty" not in job])
def test_a_checkpoint_does_not_show_how_many_processes_wrote_it(pair, alone, runs, job):
    mine = runs.contents(pair.folder / job / "checkpoint-6")
    its = runs.contents(alone(TWIN[job]).folder / "checkpoint-6")
    tensors = {name for name, value in its.items() if torch.is_tensor(value)}
    assert mine.keys() == its.keys()
    assert len(tensors) > 30
    assert {name: mine[name] for name in mine.keys() - tensors} == {
        name: its[name] for name in its.keys() - tensors
    }
    assert farthest({n: mine[n] for n in tensors}, {n: its[n] for n in tensors}) < FLOAT32


@pytest.mark.parametrize("job", ["ddp", "fsdp", "fsdp_sharded_teacher", "fsdp_tied"])
def test_each_round_leaves_one_student_and_its_average_that_load(pair, alone, job):
    for name in ("2", "1", "2/ema", "1/ema"):
        file = f"students/{name}/model.safetensors"
        mine, its = (load_file(f / file) for f in (pair.folder / job, alone(TWIN[job]).folder))
        assert farthest(mine, its) < FLOAT32
        config = json.loads((pair.folder / job / f"students/{name}/config.json").read_text())
        assert config["architectures"] == ["MDLMForMaskedLM"]
        assert config["sdtt_sampling_steps"] == int(name[0])


@pytest.mark.parametrize("job", ["ddp", "fsdp"])
def test_one_process_goes_on_with_the_run_of_two(pair, alone, runs, two, tmp_path, job):
    pair.of(job)
    copy_until(pair.folder / job, tmp_path / "run", 4)
    trainer = two.distill(runs, tmp_path / "run", resume=True)
    assert farthest(two.whole(trainer.model), alone("plain").model) < FLOAT64
    expected = [loss for _, loss in losses(alone("plain").folder)]
    assert [loss for _, loss in losses(tmp_path / "run")] == pytest.approx(expected, rel=1e-6)


def test_a_run_is_not_gone_on_with_in_updates_of_another_size(alone, runs, two, tmp_path):
    copy_until(alone("plain").folder, tmp_path / "run", 4)
    with pytest.raises(ValueError, match=r"batch: 8 in .*, 4 now; set global_batch_size=8"):
        two.distill(runs, tmp_path / "run", texts=4, resume=True)


def test_most_micro_batches_of_the_run_without_masks_are_empty_in_one_process_only(
    runs, two, tmp_path
):
    trainer = runs.distiller(tmp_path, **two.EXACT, data=runs.texts(length=1))
    shares = [trainer.items(torch.zeros(1, 1), [place]) for place in range(24)]
    pairs = list(zip(shares[::2], shares[1::2], strict=True))
    assert {(0, 1), (1, 0)} <= set(pairs)


@pytest.mark.parametrize("job", ["ddp_causal", "fsdp_masked"])
def test_two_processes_pretrain_as_one_does(pair, runs, two, tmp_path, job):
    from sdtt.training.pretrain import CausalTrainer, MDLMTrainer

    kind, model = {
        "ddp_causal": (CausalTrainer, runs.causal_model()),
        "fsdp_masked": (MDLMTrainer, runs.masked_model(n_blocks=2)),
    }[job]
    due = two.pretrain(runs, tmp_path, kind, model)
    assert farthest(pair.of(job), due) < FLOAT64
    for file in ("model.safetensors", "ema/model.safetensors"):
        mine, its = (load_file(folder / file) for folder in (pair.folder / job, tmp_path))
        assert farthest(mine, its) < FLOAT32


@pytest.mark.parametrize("job", ["ddp_evaluated", "fsdp_evaluated"])
def test_each_of_two_processes_is_told_the_bound_that_one_measures(pair, runs, two, tmp_path, job):
    alone = two.evaluate(runs, tmp_path)["eval_nelbo"]
    for rank in (0, 1):
        assert pair.of(job, rank)["eval_nelbo"] == pytest.approx(alone, rel=1e-9)


def test_without_a_launcher_nothing_is_shared_whatever_accelerate_was_told(
    runs, two, tmp_path, monkeypatch
):
    for name, value in two.FSDP.items():
        monkeypatch.setenv(name, value)
    trainer = two.distill(runs, tmp_path, rounds=1, steps_per_round=1)
    assert two.seen(trainer)["sharded"] == []
    assert losses(tmp_path)


# What lies in parts


@pytest.mark.parametrize(("job", "whole"), [("fsdp", "ddp")])
def test_all_parameters_of_a_sharded_student_are_split(pair, alone, job, whole):
    assert pair.of(job)["sharded"] == sorted(alone("plain").model)
    assert pair.of(whole)["sharded"] == []


@pytest.mark.parametrize(("job", "whole"), [("fsdp_sharded_teacher", "fsdp")])
def test_a_sharded_teacher_keeps_only_its_root_whole(pair, job, whole):
    parts = pair.of(job)["sharded_teacher"]
    assert parts
    assert all(".blocks." in name for name in parts)
    assert pair.of(whole)["sharded_teacher"] == []


@pytest.mark.parametrize("job", ["step"])
@pytest.mark.parametrize("rank", [0, 1])
def test_each_of_two_processes_holds_half_of_the_numbers(pair, job, rank):
    assert pair.of(job, rank)["share"] == 0.5


@pytest.mark.parametrize("job", ["step"])
def test_the_gradient_of_a_sharded_loss_module_is_that_of_a_plain_one(pair, runs, two, job):
    found, model = pair.of(job), two.student(runs)
    loss = two.hand_loss(runs, model, slice(None), inside := {})
    loss.backward()
    assert found["types"] == {"DTensor"}
    assert found["head inside"] == inside["head"]
    assert found["loss"].item() == pytest.approx(loss.item(), rel=1e-12)
    due = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert farthest(found["gradients"], due) < 1e-13


# bfloat16


@pytest.mark.parametrize("job", ["ddp_bf16", "fsdp_bf16"])
def test_two_processes_under_autocast_have_the_losses_of_one(pair, alone, job):
    pair.of(job)
    mine, its = (dict(losses(f)) for f in (pair.folder / job, alone("bf16").folder))
    assert mine == pytest.approx(its, rel=1e-4)


def test_autocast_changes_the_losses_by_more_than_two_processes_do(alone, runs, two, tmp_path):
    settings = two.BF16 | {"bf16": False, "rounds": 1}
    two.distill(runs, tmp_path, runs.masked_model(n_blocks=2), **settings)
    exact, rounded = losses(tmp_path)[0][1], losses(alone("bf16").folder)[0][1]
    assert not math.isclose(exact, rounded, rel_tol=1e-4)


@pytest.mark.parametrize("job", ["fsdp_bf16_blocks"])
def test_blocks_that_travel_in_bfloat16_round_the_norms_and_nothing_else(pair, alone, job):
    pair.of(job)
    mine, its = (dict(losses(f)) for f in (pair.folder / job, alone("bf16").folder))
    assert mine[1] == pytest.approx(its[1], rel=1e-4)  # while the norms are 1
    assert mine == pytest.approx(its, rel=0.05)
    assert mine != pytest.approx(its, rel=1e-4)


# What cannot be


@pytest.mark.parametrize("job", ["refused"])
def test_what_cannot_be_shared_is_refused_in_one_line(pair, job):
    words = pair.of(job)
    expected = [
        "teacher_sharding='sharded' needs FSDP2 on several processes",
        "parallelism_config cannot be set: processes share texts",
        "global_batch_size=1 is less than one text for each of 2 processes; raise it to",
        "gives each of 2 processes 6 texts, no multiple of per_device_train_batch_size=4",
        "fsdp_version must be 2",
        "fsdp_offload_params must be false",
        "fsdp_state_dict_type must be FULL_STATE_DICT",
        "fsdp_cpu_ram_efficient_loading must be false",
        "fsdp_activation_checkpointing must be false",
    ]
    assert [(due in found, "\n" in found) for found, due in zip(words, expected, strict=True)] == [
        (True, False)
    ] * len(expected)


# On GPUs


@pytest.mark.gpu
@pytest.mark.parametrize("job", ["ddp", "fsdp", "fsdp_sharded_teacher", "fsdp_tied", "fsdp_empty"])
def test_as_many_processes_as_there_are_gpus_have_the_weights_of_one_cpu(alone, tmp_path, job):
    processes = min(torch.cuda.device_count(), 4)
    processes -= processes == 3
    found = results(tmp_path, start(tmp_path, processes, "cuda", [job])).of(job)
    assert farthest(found["model"], alone(TWIN[job]).model) < FLOAT64
    if job.startswith("fsdp"):
        assert found["sharded"] == sorted(found["model"])
