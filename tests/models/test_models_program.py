"""The forward pass as a program of torch: saved, loaded, equal to the model."""

import pytest
import torch

from sdtt.models.fold import fold
from sdtt.models.pack import can_pack, pack
from sdtt.models.program import export_program

CONDITIONED = {"conditioning": "constant", "cond_dim": 6}


def texts(count, length=12):
    return torch.randint(11, (count, length), generator=torch.Generator().manual_seed(count))


def reloaded(program, folder):
    torch.export.save(program, folder / "model.pt2")
    return torch.export.load(folder / "model.pt2").module()


@torch.no_grad()
@pytest.mark.parametrize("form", ["plain", "conditioned", "folded", "attention written out"])
def test_a_program_that_was_saved_gives_the_scores_of_the_model(random_model, form, tmp_path):
    model = random_model(**({} if form == "plain" else CONDITIONED))
    model = fold(model) if form == "folded" else model
    if form == "attention written out":
        model.set_attn_implementation("eager")
    program = reloaded(export_program(model), tmp_path)
    for count in (1, 2, 5):
        due = model(texts(count)).logits
        torch.testing.assert_close(program(texts(count)), due, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_program_of_a_fixed_shape_takes_that_shape_alone(random_model, tmp_path):
    model = random_model()
    program = reloaded(export_program(model, batch=3, length=7), tmp_path)
    due = model(texts(3, 7)).logits
    torch.testing.assert_close(program(texts(3, 7)), due, rtol=1e-5, atol=1e-5)
    with pytest.raises(AssertionError, match=r"Guard failed: input_ids.size\(\)\[0\] == 3"):
        program(texts(2, 7))


def test_exporting_leaves_the_mode_of_the_model(random_model):
    model = random_model(dropout=0.5).train()
    program = export_program(model, batch=2).module()
    assert model.training
    assert torch.equal(program(texts(2)), program(texts(2)))  # without dropout


@pytest.mark.parametrize(
    "sizes", [{"batch": 0}, {"length": 13}, {"length": 0}, {"length": -1}], ids=str
)
def test_sizes_that_cannot_be_are_refused(random_model, sizes):
    with pytest.raises(ValueError, match=r"length in \[1, 12\]"):
        export_program(random_model(), **sizes)


def test_a_packed_model_is_refused(random_model):
    model = random_model()
    if not can_pack(model):
        pytest.skip("this torch packs nothing")
    with pytest.raises(ValueError, match="export the model that it was made of"):
        export_program(pack(model))
