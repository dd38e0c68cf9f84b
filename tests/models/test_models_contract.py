"""What callers of transformers may count on: losses, arguments, shapes."""

import pytest
import torch
from transformers import Trainer, TrainingArguments

from sdtt.models.contract import check_labels
from sdtt.models.remote import modeling_mdlm as remote


def texts(count=3, length=10, seed=0):
    return torch.randint(10, (count, length), generator=torch.Generator().manual_seed(seed))


def alone(ours):
    """The same model of the file that needs no sdtt."""
    model = remote.MDLMForMaskedLM(remote.MDLMConfig(**ours.config.to_dict()))
    model.load_state_dict(ours.state_dict())
    return model


def trained(model, folder, batch, accumulation):
    """The loss and the norm of the gradient of one update, of eight texts."""
    rows = [{"input_ids": ids, "labels": ids.clone()} for ids in texts(8)]
    rows[0]["labels"][:7] = -100  # micro-batches of unlike numbers of targets
    args = TrainingArguments(
        str(folder), per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation,
        max_steps=1, use_cpu=True, logging_steps=1, report_to=[], save_strategy="no",
        optim="sgd", disable_tqdm=True, max_grad_norm=1e9,
    )  # fmt: skip
    trainer = Trainer(model, args, train_dataset=rows)
    trainer.train()
    (record,) = [each for each in trainer.state.log_history if "loss" in each]
    return record["loss"], record["grad_norm"]


@pytest.mark.parametrize("kind", ["masked", "causal", "remote"])
def test_accumulation_changes_neither_loss_nor_gradient_of_transformers_trainer(
    random_model, tmp_path, kind
):
    def model():
        return alone(random_model()) if kind == "remote" else random_model(kind)

    whole, parts = trained(model(), tmp_path, 8, 1), trained(model(), tmp_path, 1, 8)
    assert parts == pytest.approx(whole, rel=1e-4)


@pytest.mark.parametrize("kind", ["masked", "causal", "remote"])
@pytest.mark.parametrize("items", [0, torch.tensor(0)], ids=["number", "tensor"])
def test_an_update_without_a_target_has_the_loss_zero(random_model, kind, items):
    model = alone(random_model()) if kind == "remote" else random_model(kind)
    loss = model(texts(), labels=torch.full((3, 10), -100), num_items_in_batch=items).loss
    loss.backward()
    assert loss == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_transformers_trainer_counts_the_targets_of_a_causal_model(random_model, tmp_path):
    model, ids = random_model("causal"), texts(8)
    rows = [{"input_ids": one, "labels": one} for one in ids]
    args = TrainingArguments(str(tmp_path), use_cpu=True, report_to=[], disable_tqdm=True)
    found = Trainer(model, args, eval_dataset=rows).evaluate()["eval_loss"]
    assert found == pytest.approx(model(ids, labels=ids).loss.item(), rel=1e-5)


@pytest.mark.parametrize("kind", ["masked", "causal"])
@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.full((3, 10), 10), r"below 11 and not MASK \(10\), .* got 10"),
        (torch.full((3, 10), -1), "got -1"),
        (torch.full((3, 10), 11), "got 11"),
    ],
)
def test_labels_that_cannot_be_are_refused(random_model, kind, labels, words):
    with pytest.raises(ValueError, match=words):
        random_model(kind)(texts(), labels=labels)


@pytest.mark.parametrize("shape", [(3, 5), (1, 10), (30,)], ids=str)
def test_labels_of_another_shape_are_refused(random_model, shape):
    labels = torch.zeros(shape, dtype=torch.long)
    with pytest.raises(
        ValueError, match=r"labels have the shape .*, input_ids \(3, 10\): one an id"
    ):
        check_labels(random_model(), labels, texts())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("position_ids", torch.arange(10)[None]),
        ("output_hidden_states", True),
        ("output_attentions", True),
        ("inputs_embeds", torch.zeros(3, 10, 16)),
        ("label", texts()),
    ],
)
def test_what_a_masked_model_does_not_do_is_refused(random_model, name, value):
    with pytest.raises(ValueError, match=f"MDLMForMaskedLM takes no {name}: leave it out"):
        random_model()(texts(), **{name: value})


@torch.no_grad()
def test_what_asks_for_nothing_is_taken(random_model):
    model = random_model()
    due = model(texts()).logits
    nothing = {"position_ids": None, "output_attentions": False, "token_type_ids": texts() * 0}
    assert torch.equal(model(texts(), **nothing).logits, due)
    (logits,) = model(texts(), return_dict=False)
    assert torch.equal(logits, due)
    loss, logits = model(texts(), labels=texts(), return_dict=False)
    assert loss.dim() == 0


@pytest.mark.parametrize("kind", ["masked", "causal"])
@pytest.mark.parametrize("shape", [(0, 5), (2, 0)], ids=str)
def test_ids_without_a_token_are_refused(random_model, kind, shape):
    with pytest.raises(ValueError, match=r"no token, they have the shape \("):
        random_model(kind)(torch.zeros(shape, dtype=torch.long))


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_text_of_padding_alone_has_finite_logits(random_model, attention):
    model = random_model().bfloat16()
    model.set_attn_implementation(attention)
    for block in model.backbone.blocks:
        block.without_tiles = True
    real = torch.ones(3, 10, dtype=torch.long)
    real[1] = 0
    assert model(texts(), attention_mask=real).logits[..., :10].isfinite().all()


def test_a_cast_of_a_model_under_another_attention_leaves_the_model(random_model):
    model = random_model()
    other = model.with_attention("reveal_causal").bfloat16()
    assert (model.dtype, other.dtype) == (torch.float32, torch.bfloat16)
