"""Processes joined on the loopback, in which all jobs of a list are run.

    python two_processes.py CONFTEST FOLDER PROCESSES DEVICE JOB...

It imports once and forks. Each job leaves its files in FOLDER/JOB, and what it returns in
rank-0.pt, rank-1.pt, ... there.
"""

import functools
import os
import runpy
import socket
import sys
import traceback
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import torch
from torch.distributed.tensor import DTensor

EXACT = {"rounds": 2, "steps_per_round": 3, "save_steps": 2.0, "save_total_limit": 9}
EXACT |= {"loss_dtype": "float64", "student_dropout": 0.1, "learning_rate": 1e-2}
"""Two rounds of three updates of eight texts, in float64, with all that a run may have."""

EMPTY = {"micro": 1, "texts": 4, "student_dropout": 0.0, "save_steps": 99.0}
"""For texts of one token: most micro-batches of a process have nothing masked."""

BF16 = {"loss_dtype": "float32", "bf16": True, "student_dropout": 0.0, "learning_rate": 1e-3}

FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
}


def student(runs, **shape):
    return runs.masked_model(n_blocks=2, **shape).double()


def published(runs):
    """A student conditioned as published ones are, with nothing left at its initial zero.

    Its 21 rows of the vocabulary do not split evenly.
    """
    shape = {"vocab_size": 21, "mask_token_id": 19}
    model = student(runs, cond_dim=4, conditioning="constant", **shape)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for each in model.parameters():
            each += 0.3 * torch.randn(each.shape, generator=generator, dtype=each.dtype)
    return model


def distill(runs, output, model=None, resume=None, micro=2, texts=8, **settings):
    """A run of the exact kind; its trainer, when it is done."""
    trainer = runs.distiller(
        output,
        student(runs) if model is None else model,
        per_device_train_batch_size=micro,
        global_batch_size=texts,
        **EXACT | settings,
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def whole(model):
    """The weights that this process sees of a model, in one piece."""
    return {
        name: (value.full_tensor() if isinstance(value, DTensor) else value).detach().clone()
        for name, value in model.state_dict().items()
    }


def on_cpu(tensors):
    return {name: value.cpu() for name, value in tensors.items()}


def seen(trainer):
    """What a process has at the end."""
    student = trainer.accelerator.unwrap_model(trainer.model)
    parts = {
        name: sorted(key for key, value in model.named_parameters() if isinstance(value, DTensor))
        for name, model in {"sharded": student, "sharded_teacher": trainer.teacher}.items()
    }
    models = {"model": student, "teacher": trainer.teacher}  # read last: reading takes apart
    return parts | {name: on_cpu(whole(model)) for name, model in models.items()}


JOBS = {}


def job(function):
    """Makes a function of (helpers, folder) known by its name."""
    JOBS[function.__name__] = function
    return function


def under_fsdp(function):
    """As ``accelerate launch`` would have set it."""

    @functools.wraps(function)
    def run(runs, folder):
        os.environ |= FSDP
        try:
            return function(runs, folder)
        finally:
            for name in FSDP:
                del os.environ[name]

    return run


@job
def ddp(runs, folder):
    return seen(distill(runs, folder))


@job
def ddp_resumed(runs, folder):
    """The folder holds checkpoint-2 of a single process."""
    return seen(distill(runs, folder, resume=True))


@job
def ddp_empty(runs, folder):
    return seen(distill(runs, folder, data=runs.texts(length=1), **EMPTY))


def pretrain(runs, output, kind, model):
    """Six updates of eight texts; the weights after them."""
    settings = {"per_device_train_batch_size": 2, "global_batch_size": 8, "ema_decay": 0.9}
    trainer = runs.pretrainer(kind, output, model.double(), loss_dtype="float64", **settings)
    trainer.train()
    trainer.save_to(output)
    return on_cpu(whole(trainer.accelerator.unwrap_model(trainer.model)))


@job
def ddp_causal(runs, folder):
    from sdtt.training.pretrain import CausalTrainer

    return pretrain(runs, folder, CausalTrainer, runs.causal_model())


@job
@under_fsdp
def fsdp_masked(runs, folder):
    from sdtt.training.pretrain import MDLMTrainer

    return pretrain(runs, folder, MDLMTrainer, runs.masked_model(n_blocks=2))


def evaluate(runs, output):
    """A run that evaluates after its third and its last update, and once more; what it is told."""
    from sdtt.training.pretrain import MDLMTrainer

    settings = {"per_device_train_batch_size": 2, "global_batch_size": 8}
    model = runs.masked_model(n_blocks=2).double()
    trainer = runs.pretrainer(MDLMTrainer, output, model, loss_dtype="float64", **settings)
    trainer.eval_dataset, trainer.args.eval_strategy = runs.texts(), "steps"
    trainer.args.eval_steps = trainer.state.eval_steps = 3
    trainer.train()
    return trainer.evaluate()


@job
def ddp_evaluated(runs, folder):
    return evaluate(runs, folder)


@job
@under_fsdp
def fsdp_evaluated(runs, folder):
    return evaluate(runs, folder)


@job
def ddp_bf16(runs, folder):
    return seen(distill(runs, folder, runs.masked_model(n_blocks=2), **BF16))


@job
def step(runs, folder):
    """One update by hand: the loss module sharded by ``shard``, no Trainer."""
    from sdtt.training.sharding import shard

    del folder
    rank = torch.distributed.get_rank()
    model = shard(student(runs))
    types = {type(value).__name__ for value in model.parameters()}
    held = sum(value.to_local().numel() for value in model.parameters())
    inside = {}
    loss = hand_loss(runs, model, slice(4 * rank, 4 * rank + 4), inside)
    (2 * loss).backward()  # processes are averaged
    gradients = {name: value.grad for name, value in model.named_parameters()}
    total = loss.detach().clone()
    torch.distributed.all_reduce(total)
    return {
        "loss": total,
        "types": types,
        "share": held / sum(value.numel() for value in model.parameters()),
        "head inside": inside["head"],
        "gradients": {name: value.full_tensor() for name, value in gradients.items()},
    }


def hand_loss(runs, model, own, inside):
    """The reverse KL of some of eight texts to a fixed teacher, over the 36 masked positions."""
    from sdtt.diffusion.divergence import DIVERGENCES

    try:
        from sdtt.diffusion.tiled import tiled_divergence
    except ImportError:
        from sdtt.diffusion.divergence import tiled_divergence

    teacher = runs.masked_model(1).double()
    z = runs.texts(8).clone()
    z[:, ::2] = 19
    z[:4, 1] = 19
    z = z[own]
    rows = (z == 19).flatten().nonzero().squeeze(-1)
    with torch.no_grad():
        target = teacher.hidden(z, rows)

    def objective(hidden, head):
        inside["head"] = type(head.weight).__name__
        return tiled_divergence(
            hidden, head, target, teacher.head, DIVERGENCES["reverse_kl"],
            excluded_ids=(19,), dtype=torch.float64,
        )  # fmt: skip

    return model(input_ids=z, rows=rows, objective=objective).loss / 36


@job
@under_fsdp
def fsdp(runs, folder):
    return seen(distill(runs, folder))


@job
@under_fsdp
def fsdp_sharded_teacher(runs, folder):
    settings = {"teacher_sharding": "sharded", "teacher_from": "ema"}
    return seen(distill(runs, folder, **settings))


@job
@under_fsdp
def fsdp_resumed(runs, folder):
    """The folder holds checkpoint-4, of the second round, of a single process's published one."""
    return seen(distill(runs, folder, published(runs), resume=True, teacher_sharding="sharded"))


@job
@under_fsdp
def fsdp_published(runs, folder):
    """Conditioning as in published models; blocks are computed again in the backward pass."""
    settings = {"teacher_sharding": "sharded", "gradient_checkpointing": True}
    return seen(distill(runs, folder, published(runs), **settings))


@job
def fsdp_tied(runs, folder):
    """Asked for by transformers' own option."""
    return seen(distill(runs, folder, student(runs, tie_word_embeddings=True), fsdp=True))


@job
@under_fsdp
def fsdp_empty(runs, folder):
    settings = EMPTY | {"teacher_sharding": "sharded"}
    return seen(distill(runs, folder, data=runs.texts(length=1), **settings))


@job
@under_fsdp
def fsdp_bf16(runs, folder):
    settings = BF16 | {"teacher_sharding": "sharded"}
    return seen(distill(runs, folder, runs.masked_model(n_blocks=2), **settings))


@job
@under_fsdp
def fsdp_bf16_blocks(runs, folder):
    settings = BF16 | {"teacher_sharding": "sharded", "gather_dtype": "bfloat16"}
    return seen(distill(runs, folder, runs.masked_model(n_blocks=2), **settings))


@job
def refused(runs, folder):
    """What is said to settings that cannot be."""
    words = []
    for environment, settings in (
        ({}, {"teacher_sharding": "sharded"}),
        ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, {}),
        ({}, {"global_batch_size": 1}),
        ({}, {"global_batch_size": 12, "per_device_train_batch_size": 4}),
        (FSDP | {"FSDP_VERSION": "1"}, {}),
        (FSDP | {"FSDP_OFFLOAD_PARAMS": "true"}, {}),
        (FSDP | {"FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT"}, {}),
        (FSDP | {"FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}, {}),
        (FSDP | {"FSDP_ACTIVATION_CHECKPOINTING": "true"}, {}),
    ):
        os.environ |= environment
        try:
            runs.distiller(folder, **settings)
            words.append("nothing")
        except ValueError as error:
            words.append(str(error))
        for name in environment:
            del os.environ[name]
    return words


def main(conftest, folder, processes, device, *names):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    rank, children = 0, []
    for number in range(1, int(processes)):
        child = os.fork()
        if child == 0:
            rank, children = number, []
            break
        children.append(child)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    torch.set_num_threads(1)
    if device == "cuda":
        torch.cuda.set_device(rank)
        EXACT["use_cpu"] = False
    torch.distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
        rank=rank,
        world_size=int(processes),
        timeout=timedelta(seconds=30),
    )
    runs = SimpleNamespace(**runpy.run_path(conftest))
    status = 0
    for name in names:
        output = Path(folder) / name
        output.mkdir(parents=True, exist_ok=True)
        try:
            torch.save(JOBS[name](runs, output), output / f"rank-{rank}.pt")
            torch.distributed.barrier()
        except BaseException:
            (output / f"rank-{rank}.error").write_text(traceback.format_exc())
            status = 1
            break
    for child in children:
        status |= os.waitpid(child, 0)[1]
    os._exit(min(status, 1))


if __name__ == "__main__":
    main(*sys.argv[1:])
