"""A model that transformers and accelerate spread, cast and cut up keeps its law."""

import pytest
import torch
from accelerate import dispatch_model
from accelerate.utils import send_to_device
from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline

from sdtt.data.tokenizer import train_tokenizer
from sdtt.models.attention import Asked
from sdtt.models.checkpoints import load_model, on_accelerator
from sdtt.models.placement import accelerator

CONDITIONED = {"conditioning": "constant", "cond_dim": 6}
SHAPES = [{}, CONDITIONED, {"tie_word_embeddings": True}]
SPLIT = {
    "backbone.vocab_embed": "cpu",
    "backbone.blocks.0": "cpu",
    "backbone.blocks.1": "disk",
    "backbone.blocks.2": "cpu",
    "backbone.output_layer": "cpu",
    "backbone.sigma_map": "cpu",
}
PLACES = {
    "auto": "auto",
    "one": {"": "cpu"},
    "block": SPLIT,
    "last block": SPLIT | {"backbone.blocks.1": "cpu", "backbone.blocks.2": "disk"},
    "all": {"": "disk"},
}


def texts():
    z = torch.randint(10, (3, 10), generator=torch.Generator().manual_seed(0))
    z[:, 2:6] = 10
    return z


ROWS = torch.tensor([4, 2, 13, 25])


@pytest.fixture(scope="module", params=SHAPES, ids=str)
def saved(request, random_model, tmp_path_factory):
    """A model and the folder that it was saved in."""
    folder = tmp_path_factory.mktemp("model")
    model = random_model(**request.param)
    model.save_pretrained(folder)
    return model, folder


def placed(folder, where, offload):
    places = PLACES[where]
    if isinstance(places, dict):
        names = AutoModelForMaskedLM.from_pretrained(folder).state_dict()
        places = {k: v for k, v in places.items() if any(name.startswith(k) for name in names)}
    return AutoModelForMaskedLM.from_pretrained(folder, device_map=places, offload_folder=offload)


# Places


@torch.no_grad()
@pytest.mark.parametrize("where", PLACES)
def test_a_model_has_its_law_wherever_its_weights_are_kept(saved, where, tmp_path):
    model, folder = saved
    other = placed(folder, where, tmp_path)
    real = torch.ones(3, 10, dtype=torch.bool)
    real[1, 7:] = False
    due, asked = model.hidden(texts(), attention_mask=real), other.hidden(texts(), ROWS)
    torch.testing.assert_close(other.hidden(texts(), attention_mask=real), due)
    torch.testing.assert_close(asked, model.hidden(texts(), ROWS))
    torch.testing.assert_close(other.logits(asked), model.logits(asked))
    torch.testing.assert_close(other(texts()).logits, model(texts()).logits)


@torch.no_grad()
def test_an_offloaded_model_does_not_hold_its_weights(saved, tmp_path):
    other = placed(saved[1], "all", tmp_path)
    other.generate(max_length=8, steps=2)
    assert {p.device.type for p in other.parameters()} == {"meta"}
    assert other.device == torch.device("cpu")


@pytest.mark.parametrize("where", ["block", "last block", "all"])
def test_an_offloaded_model_generates_the_same_texts(saved, where, tmp_path):
    model, folder = saved
    given = {"max_length": 10, "steps": 4, "seed": 1, "num_return_sequences": 3}
    ours = placed(folder, where, tmp_path).generate(**given).sequences
    assert torch.equal(ours, model.generate(**given).sequences)


@torch.no_grad()
def test_the_head_of_an_offloaded_model_is_read_in_for_losses(saved, tmp_path):
    model, folder = saved
    other = placed(folder, "all", tmp_path)
    labels = torch.where(texts() == 10, 3, -100)
    torch.testing.assert_close(
        other(texts(), labels=labels).loss, model(texts(), labels=labels).loss
    )
    assert torch.equal(other.head.weight, model.head.weight)
    assert torch.equal(other.head.bias, model.head.bias)


def test_a_model_that_is_offloaded_is_its_own_fast_form(saved, tmp_path):
    other = placed(saved[1], "block", tmp_path)
    assert other.for_inference() is other


def test_folding_and_resizing_an_offloaded_model_is_refused(random_model, tmp_path):
    random_model(**CONDITIONED).save_pretrained(tmp_path / "model")
    other = placed(tmp_path / "model", "all", tmp_path)
    with pytest.raises(ValueError, match="cannot be folded: fold the plain one before"):
        other.fold()
    with pytest.raises(ValueError, match="keeps its vocabulary: resize the plain one"):
        other.resize_token_embeddings(20)


def test_asked_rows_go_with_the_other_inputs_of_a_block_to_its_device():
    asked = Asked.of(ROWS, 3, 10, torch.device("cpu"))
    moved = send_to_device((torch.zeros(1), asked), "meta")[1]
    assert {x.device.type for x in (moved.rows, moved.padded, moved.picked)} == {"meta"}
    assert asked.rows.device.type == "cpu"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@torch.no_grad()
@pytest.mark.parametrize("settings", SHAPES, ids=str)
@pytest.mark.parametrize("on_gpu", ["blocks.0", "blocks.1", "blocks.2", "output_layer"])
def test_a_model_over_two_devices_has_its_law_and_texts(random_model, settings, on_gpu):
    model = random_model(**settings)
    due = model(texts()).logits, model.hidden(texts(), ROWS)
    given = {"max_length": 10, "steps": 4, "seed": 1}
    drawn = model.generate(**given).sequences
    names = {name.split(".")[1] for name, _ in model.named_parameters()} - {"blocks"}
    names |= {f"blocks.{index}" for index in range(3)}
    places = {f"backbone.{name}": 0 if name == on_gpu else "cpu" for name in names}
    split = dispatch_model(random_model(**settings), places, main_device="cpu")
    assert {p.device.type for p in split.parameters()} == {"cpu", "cuda"}
    torch.testing.assert_close(split(texts()).logits, due[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(split.hidden(texts(), ROWS), due[1], rtol=1e-4, atol=1e-4)
    assert torch.equal(split.generate(**given).sequences, drawn)


# Dtypes, shards, attention, checkpointing


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_dtype_is_that_of_all_weights_and_auto_is_that_of_the_file(saved, dtype, tmp_path):
    model, folder = saved
    cast = AutoModelForMaskedLM.from_pretrained(folder, dtype=dtype)
    assert cast.dtype == dtype
    due = {name: weight.to(dtype) for name, weight in model.state_dict().items()}
    cast.save_pretrained(tmp_path)
    again = AutoModelForMaskedLM.from_pretrained(tmp_path, dtype="auto").state_dict()
    assert again.keys() == due.keys()
    assert all(torch.equal(again[name], due[name]) for name in due)


@torch.no_grad()
def test_a_model_in_parts_comes_back_whole(saved, tmp_path):
    model, _ = saved
    model.save_pretrained(tmp_path, max_shard_size="6KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    for loaded in (AutoModelForMaskedLM.from_pretrained(tmp_path), load_model(tmp_path)):
        torch.testing.assert_close(loaded(texts()).logits, model(texts()).logits)


@torch.no_grad()
@pytest.mark.parametrize("name", ["eager", "sdpa"])
def test_attention_is_chosen_when_loading(saved, name):
    model, folder = saved
    loaded = AutoModelForMaskedLM.from_pretrained(folder, attn_implementation=name)
    assert loaded.config._attn_implementation == name
    due = model(texts()).logits
    torch.testing.assert_close(loaded(texts()).logits, due, rtol=1e-4, atol=1e-4)


def gradients_and_bytes(model):
    kept = []
    hooks = torch.autograd.graph.saved_tensors_hooks(
        lambda x: kept.append(x.untyped_storage().nbytes()) or x, lambda x: x
    )
    with hooks:
        model(texts(), labels=torch.where(texts() == 10, 3, -100)).loss.backward()
    return {name: p.grad for name, p in model.named_parameters()}, sum(kept)


def test_gradient_checkpointing_keeps_less_and_gives_the_same_gradients(random_model):
    plain, checkpointed = random_model().train(), random_model().train()
    checkpointed.activation_checkpointing_enable()
    (due, more), (ours, less) = gradients_and_bytes(plain), gradients_and_bytes(checkpointed)
    assert less < more / 2
    for name, gradient in due.items():
        torch.testing.assert_close(ours[name], gradient)


# A pipeline


def test_fill_mask_gives_the_likeliest_tokens_of_the_law(random_model, tmp_path):
    tokenizer = train_tokenizer(["the small cat saw a red bird sing in the tree. " * 9], 300)
    model = random_model(vocab_size=len(tokenizer), mask_token_id=tokenizer.mask_token_id)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    fill = pipeline(
        "fill-mask", model=str(tmp_path), tokenizer=AutoTokenizer.from_pretrained(tmp_path)
    )
    text = f"the small{tokenizer.mask_token} saw"
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    (row,) = (ids[0] == tokenizer.mask_token_id).nonzero().flatten()
    with torch.no_grad():
        law = model(ids).logits[0, row].softmax(-1)
    found = fill(text, top_k=3)
    assert [each["token"] for each in found] == law.topk(3).indices.tolist()
    assert [each["score"] for each in found] == pytest.approx(law.topk(3).values.tolist(), rel=1e-4)


@pytest.mark.usefixtures("cuda_wheel")
def test_a_torch_that_was_built_for_cuda_has_no_accelerator_without_one(random_model):
    assert accelerator() is None
    assert on_accelerator(random_model()).device.type == "cpu"
