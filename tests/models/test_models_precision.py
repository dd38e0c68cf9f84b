"""A half precision that the processor only emulates is left for float32."""

import pytest
import torch
from transformers import AutoModelForMaskedLM

from sdtt.models.precision import in_multiplied_dtype, multiplies
from sdtt.sampling.canvas import canvas_of
from sdtt.sampling.generate import sample
from sdtt.training.teacher import packed

CPU = torch.device("cpu")
HALVES = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_a_half_precision_is_multiplied_where_the_processor_says_so(processor, dtype):
    processor(multiplies_halves=True)
    assert multiplies(dtype, CPU)
    processor(multiplies_halves=False)
    assert not multiplies(dtype, CPU)
    assert multiplies(dtype, torch.device("cuda"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_full_precisions_are_multiplied_everywhere(processor, dtype):
    processor(multiplies_halves=False)
    assert multiplies(dtype, CPU)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_a_model_in_float32_has_the_weights_of_the_other_which_stays(
    processor, random_model, dtype
):
    processor(multiplies_halves=False)
    model = random_model(tie_word_embeddings=True).to(dtype)
    wide = in_multiplied_dtype(model)
    assert (wide.dtype, model.dtype) == (torch.float32, dtype)
    weights = dict(wide.named_parameters())
    assert all(torch.equal(weights[n], p.float()) for n, p in model.named_parameters())
    assert len(weights) == len(dict(model.named_parameters()))  # tied ones stay one
    processor(multiplies_halves=True)
    assert in_multiplied_dtype(model) is model


@pytest.mark.parametrize("settings", [{}, {"conditioning": "constant", "cond_dim": 6}], ids=str)
def test_a_model_for_inference_writes_what_it_writes_in_float32(processor, random_model, settings):
    processor(multiplies_halves=False)
    model = random_model(**settings).bfloat16()
    fast, wide = model.for_inference(), in_multiplied_dtype(model).for_inference()
    assert fast.dtype == torch.float32
    texts = [sample(each, canvas_of(each, 12, 4), steps=4, seed=3) for each in (fast, wide)]
    assert torch.equal(*texts)


def test_a_teacher_stays_in_the_dtype_that_it_was_given(processor, random_model):
    processor(multiplies_halves=False)
    teacher = random_model().bfloat16()
    assert packed(teacher).dtype == teacher.for_inference(keep_dtype=True).dtype == torch.bfloat16
    assert teacher.for_inference().dtype == torch.float32


def test_a_model_that_is_split_over_places_keeps_its_dtype(processor, random_model, tmp_path):
    processor(multiplies_halves=False)
    random_model().bfloat16().save_pretrained(tmp_path)
    place = {"device_map": {"": "disk"}, "offload_folder": str(tmp_path / "disk")}
    split = AutoModelForMaskedLM.from_pretrained(tmp_path, **place)
    assert in_multiplied_dtype(split) is split
