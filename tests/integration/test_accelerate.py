"""The files of configs/accelerate as accelerate reads them, and runs that they start."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_multi_gpu_env
from safetensors.torch import load_file

from sdtt.models.mdlm import MDLMConfig, MDLMForMaskedLM
from sdtt.training.parallel import check_plugin

FOLDER = Path(__file__).parents[2] / "configs/accelerate"
FILES = sorted(FOLDER.glob("*.yaml"))


def launched(file, *words):
    """What ``accelerate launch`` makes of a file: arguments, and the environment of processes."""
    parser = launch_command_parser()
    args = parser.parse_args(["--config_file", str(file), *words, "-m", "sdtt", "distill"])
    args, *_ = _validate_launch_command(args)
    return args, prepare_multi_gpu_env(args)


def test_there_is_a_file_for_each_way_to_start():
    assert [file.stem for file in FILES] == ["cpu", "ddp", "fsdp2", "multi_node"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_accelerate_knows_every_key_of_a_file(file):
    config = load_config_from_file(str(file))  # refuses unknown keys, but for those of FSDP
    options = {action.dest for action in launch_command_parser()._actions}
    assert set(config.fsdp_config) <= options


@pytest.mark.parametrize(
    ("name", "processes", "machines"),
    [("cpu", 2, 1), ("ddp", 8, 1), ("fsdp2", 8, 1), ("multi_node", 16, 2)],
)
def test_a_file_starts_its_processes_by_torchrun(name, processes, machines):
    args, _ = launched(FOLDER / f"{name}.yaml", "--main_process_port", "0")
    assert args.multi_gpu or args.use_fsdp
    assert not args.cpu
    assert (args.num_processes, int(args.num_machines)) == (processes, machines)
    assert args.nproc_per_node == str(processes // machines)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_only_the_file_of_fsdp_asks_for_it_and_for_nothing_that_we_refuse(file, monkeypatch):
    _, environment = launched(file, "--main_process_port", "0")
    assert (environment.get("ACCELERATE_USE_FSDP") == "true") == (file.stem == "fsdp2")
    if file.stem == "fsdp2":
        for name, value in environment.items():
            if name.startswith("FSDP_"):
                monkeypatch.setenv(name, value)
        plugin = FullyShardedDataParallelPlugin()
        assert plugin.reshard_after_forward is True
        check_plugin(plugin)


# The command line in several processes


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    from sdtt.data.tokenizer import train_tokenizer

    folder = tmp_path_factory.mktemp("teacher")
    text = folder / "text.txt"
    lines = ["the cat sat on the mat", "a small bird sang in the tree", "red and blue make violet"]
    text.write_text("\n\n".join(lines * 40))
    tokenizer = train_tokenizer([text.read_text()], 300)
    torch.manual_seed(0)
    shape = {"model_length": 16, "hidden_dim": 32, "n_blocks": 2, "n_heads": 2}
    config = MDLMConfig(vocab_size=len(tokenizer), mask_token_id=tokenizer.mask_token_id, **shape)
    MDLMForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def distill(teacher, output, *words):
    command = [
        "-m",
        "sdtt",
        "distill",
        "--model",
        str(teacher),
        "--data",
        str(teacher / "text.txt"),
    ]
    command += [
        "--rounds",
        "2",
        "--steps-per-round",
        "3",
        "--start-steps",
        "4",
        "--save-steps",
        "2",
    ]
    command += ["--use-cpu", "--warmup-steps", "0", "--learning-rate", "1e-3", "--ema-decay", "0.9"]
    command += [
        "--per-device-train-batch-size",
        "2",
        "--global-batch-size",
        "8",
        "--logging-steps",
        "1",
    ]
    return [*command, "--output", str(output), *words]


def run(*command, **environment):
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


@pytest.mark.slow
def test_accelerate_and_torchrun_and_one_process_make_the_same_students(teacher, tmp_path):
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    accelerate = ("-m", "accelerate.commands.launch", "--config_file", str(FOLDER / "cpu.yaml"))
    fsdp = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
    fsdp |= {"FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT"}
    done = {
        "one": run(*distill(teacher, tmp_path / "one")),
        "torchrun": run(*torchrun, *distill(teacher, tmp_path / "torchrun")),
        "accelerate": run(*accelerate, *distill(teacher, tmp_path / "accelerate")),
        "fsdp": run(
            *torchrun, *distill(teacher, tmp_path / "fsdp", "--teacher-sharding", "sharded"), **fsdp
        ),
    }
    for name, each in done.items():
        assert each.returncode == 0, (name, each.stderr)
    for student in ("students/2", "students/1", "students/1/ema"):
        due = load_file(tmp_path / "one" / student / "model.safetensors")
        for name in ("torchrun", "accelerate", "fsdp"):
            found = load_file(tmp_path / name / student / "model.safetensors")
            assert found.keys() == due.keys()
            assert max((found[key] - due[key]).abs().max().item() for key in due) < 1e-5
    lines = (tmp_path / "accelerate" / "metrics.jsonl").read_text().splitlines()
    assert [r["step"] for r in map(json.loads, lines) if "loss" in r] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_a_run_of_two_processes_is_resumed_by_one_with_the_same_command(teacher, tmp_path):
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    first = run(*torchrun, *distill(teacher, tmp_path / "run"))
    assert first.returncode == 0, first.stderr
    due = load_file(tmp_path / "run/students/1/model.safetensors")
    for path in (tmp_path / "run/checkpoint-6").iterdir():
        path.unlink()
    (tmp_path / "run/students/1/model.safetensors").unlink()
    again = run(*distill(teacher, tmp_path / "run", "--resume"))
    assert again.returncode == 0, again.stderr
    assert "checkpoint-4" in again.stderr
    found = load_file(tmp_path / "run/students/1/model.safetensors")
    assert max((found[key] - due[key]).abs().max().item() for key in due) < 1e-5


@pytest.mark.slow
def test_a_batch_that_two_processes_cannot_share_is_refused_before_anything_is_written(
    teacher, tmp_path
):
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = run(*torchrun, *distill(teacher, tmp_path / "run", "--global-batch-size", "1"))
    assert done.returncode != 0
    assert "global_batch_size=1 is less than one text for each of 2 processes" in done.stderr
    assert not (tmp_path / "run").exists()
