"""Claims about estimated bytes, against what autograd keeps and what a checkpoint weighs."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from sdtt.training.flops import shape_of
from sdtt.training.lora import LoraSettings, with_adapters
from sdtt.training.memory import checkpoint_bytes, memory_of

TEXTS, LENGTH = 4, 64


def kept(model, half, **inputs):
    """Bytes that a pass keeps for its backward pass, weights and their casts aside."""
    own = {each.untyped_storage().data_ptr() for each in model.parameters()}
    shapes = {each.shape for each in model.parameters()}
    shapes |= {each.t().shape for each in model.parameters() if each.dim() == 2}
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and tensor.shape not in shapes:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.randint(19, (TEXTS, LENGTH), generator=torch.Generator().manual_seed(0))
    rows = torch.arange(TEXTS * LENGTH)
    with (
        torch.autocast("cpu", torch.bfloat16, enabled=half),
        saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        loss = model(input_ids=ids, rows=rows, objective=lambda h, _: h.sum(), **inputs).loss
    assert loss.requires_grad
    return sum(storages.values())


@pytest.mark.parametrize("condition", [{}, {"conditioning": "constant", "cond_dim": 8}])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("half", [False, True])
def test_activations_are_estimated_within_a_tenth_of_what_autograd_keeps(
    runs, attention, half, condition
):
    shape = {"hidden_dim": 96, "n_blocks": 4, "n_heads": 8, "model_length": LENGTH}
    model = runs.masked_model(**shape | condition)
    model.set_attn_implementation(attention)
    estimate = memory_of(
        shape_of(model),
        texts=TEXTS,
        length=LENGTH,
        rows=TEXTS * LENGTH,
        half=half,
        eager_heads=8 if attention == "eager" else 0,
    )
    assert estimate.activations == pytest.approx(kept(model, half), rel=0.1)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_what_attention_in_an_order_keeps_is_estimated_within_a_tenth(runs, attention, whole, half):
    shape = {"hidden_dim": 32, "n_blocks": 4, "n_heads": 4, "model_length": LENGTH}
    model = runs.masked_model(**shape, attention="reveal_causal")
    model.set_attn_implementation(attention)
    estimate = memory_of(
        shape_of(model),
        texts=TEXTS,
        length=2 * LENGTH if whole else LENGTH,
        rows=TEXTS * LENGTH,
        half=half,
        eager_heads=4 if attention == "eager" else 0,
        hides_keys=True,
    )
    order = {"revealed": torch.arange(LENGTH).expand(TEXTS, -1), "in_order": whole}
    assert estimate.activations == pytest.approx(kept(model, half, **order), rel=0.1)


def test_gradient_checkpointing_keeps_one_block_and_the_stream_between_them(runs):
    network = shape_of(runs.masked_model(hidden_dim=96, n_blocks=8))
    size = {"texts": TEXTS, "length": LENGTH, "rows": 0}
    plain = memory_of(network, **size)
    spared = memory_of(network, **size, checkpointing=True)
    one_block = plain.activations / 8
    stream = 8 * 4 * 96 * TEXTS * LENGTH
    assert spared.activations == pytest.approx(one_block + stream)


def test_shards_divide_what_is_held_for_each_weight_and_nothing_else(runs):
    network = shape_of(runs.masked_model())
    size = {"texts": 1, "length": 8, "rows": 8, "teacher_bytes": 1000}
    whole, half = (memory_of(network, **size, ema=True, shards=n) for n in (1, 2))
    for name in ("weights", "gradients", "moments", "ema"):
        assert getattr(half, name) == getattr(whole, name) // 2, name
    for name in ("teacher", "activations", "loss"):
        assert getattr(half, name) == getattr(whole, name), name


def test_a_checkpoint_weighs_what_was_estimated(tmp_path, runs):
    model = runs.masked_model(hidden_dim=96, n_blocks=2)
    network = shape_of(model)
    runs.distiller(tmp_path, model, rounds=1, steps_per_round=1).train()
    names = ("model.safetensors", "optimizer.pt", "ema.safetensors", "teacher.safetensors")
    weight = sum((tmp_path / "checkpoint-1" / name).stat().st_size for name in names)
    estimate = checkpoint_bytes(network, teacher_bytes=4 * network.parameters, ema=True)
    assert weight == pytest.approx(estimate, rel=0.02)


def test_a_checkpoint_of_adapters_weighs_what_was_estimated(tmp_path, runs):
    model = runs.masked_model(hidden_dim=96, n_blocks=2)
    model = with_adapters(model, LoraSettings(lora_rank=16))
    network = shape_of(model)
    runs.distiller(tmp_path, model, rounds=1, steps_per_round=1).train()
    names = ("adapter_model.safetensors", "optimizer.pt", "ema.safetensors", "teacher.safetensors")
    weight = sum((tmp_path / "checkpoint-1" / name).stat().st_size for name in names)
    estimate = checkpoint_bytes(network, teacher_bytes=4 * network.trained, ema=True, adapters=True)
    assert weight == pytest.approx(estimate, rel=0.05)
