"""Networks that are told the time: the noise level of each text, in every way to make a pass."""

import json
import math

import jaxtyping
import pytest
import torch
from models.written_out import published_parameters, raw_output
from transformers import AutoModelForMaskedLM

from sdtt.models.causal import CausalConfig
from sdtt.models.fold import fold
from sdtt.models.mdlm import MDLMConfig
from sdtt.models.noise_level import geometric_level, log_linear_level, masked_share
from sdtt.models.pack import can_pack
from sdtt.sampling.canvas import canvas_of
from sdtt.sampling.generate import sample

TOLD = {"conditioning": "time", "cond_dim": 6}
TIMES = torch.tensor([0.02, 0.5, 0.97, 1.0])
ROWS = {
    "ragged": [0, 3, 4, 9, 12, 23, 24, 25, 26, 27],
    "any order": [31, 2, 39, 17, 0, 11],
    "two texts without a row": [11, 19, 30],
    "all": list(range(40)),
    "none": [],
}


def texts(count=4, length=10, seed=0):
    return torch.randint(11, (count, length), generator=torch.Generator().manual_seed(seed))


def some_padding():
    real = torch.ones(4, 10, dtype=torch.bool)
    real[1, 6:], real[2, 3:] = False, False
    return real


def level(t):
    return -math.log(1 - (1 - 1e-3) * t)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_network_that_is_told_the_time_is_the_published_one_written_out(random_model, attention):
    model = random_model(**TOLD)
    model.set_attn_implementation(attention)
    z, p = texts(), published_parameters(model)
    ours = model.logits(model.hidden(z, t=TIMES)).view(4, 10, -1)
    plain = [raw_output(p, one, level(t)) for one, t in zip(z, TIMES.tolist(), strict=True)]
    torch.testing.assert_close(ours, torch.stack(plain)[..., :10], rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("told", [TIMES, None], ids=["told", "counting"])
@pytest.mark.parametrize("mask", [None, some_padding()], ids=["whole", "padded"])
@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS.keys())
def test_asked_rows_have_the_condition_of_their_text(random_model, told, mask, rows):
    model = random_model(**TOLD).double()
    asked = torch.tensor(rows, dtype=torch.long)
    ours = model.hidden(texts(), asked, attention_mask=mask, t=told)
    due = model.hidden(texts(), attention_mask=mask, t=told)[asked]
    torch.testing.assert_close(ours, due, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rows", [None, torch.tensor(ROWS["any order"])], ids=["all", "some"])
def test_a_pass_with_gradients_is_told_the_same(random_model, rows):
    model = random_model(**TOLD).double()
    with_gradients = model.hidden(texts(), rows, t=TIMES)
    with torch.no_grad():
        without = model.hidden(texts(), rows, t=TIMES)
    assert with_gradients.requires_grad
    torch.testing.assert_close(with_gradients.detach(), without, rtol=1e-12, atol=1e-12)


def test_checkpointed_blocks_give_the_gradients_of_the_others(random_model):
    model, gradients = random_model(**TOLD).double().train(), []
    for checkpointing in (False, True):
        if checkpointing:
            model.activation_checkpointing_enable()
        loss = model.hidden(texts(), torch.tensor(ROWS["ragged"]), t=TIMES).square().sum()
        of = [p for name, p in model.named_parameters() if "linear" not in name]
        gradients.append(torch.autograd.grad(loss, of))
    assert all((gradient != 0).any() for gradient in gradients[0])
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_a_network_that_is_told_nothing_counts_its_masks(random_model):
    model, z = random_model(**TOLD).double(), texts() % 10
    for text, count in enumerate((0, 3, 7, 10)):
        z[text, :count] = 10
    ours = model.hidden(z)
    due = model.hidden(z, t=torch.tensor([0, 0.3, 0.7, 1], dtype=torch.float64))
    torch.testing.assert_close(ours, due, rtol=1e-4, atol=1e-4)


def test_padding_does_not_count():
    z = torch.tensor([[9, 9, 1, 9], [1, 2, 9, 9]])
    real = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    assert masked_share(z, 9, real).tolist() == pytest.approx([2 / 3, 1 / 2])
    assert masked_share(z, 9).tolist() == pytest.approx([3 / 4, 1 / 2])


@torch.no_grad()
def test_forward_tells_its_times(random_model):
    model = random_model(**TOLD)
    ours = model(texts(), t=TIMES).logits[..., :10].flatten(0, 1)
    torch.testing.assert_close(ours, model.logits(model.hidden(texts(), t=TIMES)))
    rows = torch.tensor(ROWS["any order"])
    loss = model(texts(), t=TIMES, rows=rows, objective=lambda hidden, _: hidden.sum()).loss
    torch.testing.assert_close(loss, model.hidden(texts(), rows, t=TIMES).sum())


@torch.no_grad()
@pytest.mark.parametrize("length", [2, 7, 12])
def test_at_one_time_a_text_of_masks_has_one_row_everywhere_and_at_any_length(random_model, length):
    model = random_model(**TOLD).double()
    assert model.blank_is_uniform
    mask_id, times = model.mask_token_id, TIMES.double()
    one = model.hidden(torch.full((4, 1), mask_id), t=times)
    every = model.hidden(torch.full((4, length), mask_id), t=times).view(4, length, -1)
    torch.testing.assert_close(every, one[:, None].expand(-1, length, -1), rtol=1e-12, atol=1e-12)
    assert (one[0] - one[1]).abs().max() > 1e-2


@pytest.mark.parametrize("conditioning", [{}, {"conditioning": "constant", "cond_dim": 6}, TOLD])
@torch.no_grad()
def test_a_model_says_whether_time_changes_its_law(random_model, conditioning):
    model = random_model(**conditioning)
    early, late = (model.hidden(texts(), t=torch.full((4,), t)) for t in (0.1, 0.9))
    assert model.is_told_time == (not torch.equal(early, late))


@torch.no_grad()
def test_a_model_that_is_told_the_time_is_packed_without_folding(random_model):
    model = random_model(**TOLD)
    assert fold(model) is model
    if not can_pack(model):
        pytest.skip("this torch has no kernels to pack float32")
    fast = model.for_inference()
    assert (fast.is_packed, fast.config.conditioning) == (True, "time")
    for rows in (None, torch.tensor(ROWS["any order"])):
        ours, due = (each.logits(each.hidden(texts(), rows, t=TIMES)) for each in (fast, model))
        torch.testing.assert_close(ours, due, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("sampler", ["ancestral", "first_hitting", "dilated", "confidence"])
def test_a_text_does_not_depend_on_the_times_of_its_batch(random_model, sampler):
    model = random_model(n_blocks=1, **TOLD).double()
    canvas = canvas_of(model, 8, 3)
    canvas[1, :3] = 1
    how = {"sampler": sampler, "seed": 3}
    how |= {"tokens_per_pass": 3} if sampler == "first_hitting" else {"steps": 3}
    together, alone = sample(model, canvas, **how), sample(model, canvas, batch_size=1, **how)
    assert torch.equal(together, alone)


@pytest.mark.slow
def test_a_compiled_model_that_is_told_the_time_writes_the_texts_of_the_other(random_model):
    jaxtyping.config.update("jaxtyping_disable", True)  # torch.compile does not see through it
    try:
        model, compiled = random_model(**TOLD).double(), random_model(**TOLD).double()
        compiled.compile_trunk()
        how = {"sampler": "ancestral", "steps": 6, "seed": 3}
        canvas = canvas_of(model, 12, 5, prompt=[1, 2])
        assert torch.equal(sample(compiled, canvas, **how), sample(model, canvas, **how))
        assert compiled.is_compiled
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def test_a_published_config_with_time_conditioning_loads_as_one_that_is_told_the_time(
    random_model, tmp_path
):
    source = random_model(**TOLD)
    source.save_pretrained(tmp_path)
    published = {"model_type": "mdlm", "cond_dim": 6, "time_conditioning": True, "n_blocks": 3}
    published |= {"hidden_dim": 16, "model_length": 12, "n_heads": 2, "vocab_size": 11}
    (tmp_path / "config.json").write_text(json.dumps(published))
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    assert loaded.config.conditioning == "time"
    with torch.no_grad():
        ours, due = (each.hidden(texts(), t=TIMES) for each in (loaded, source))
    torch.testing.assert_close(ours, due)


def test_a_config_that_says_time_says_so_under_the_published_key():
    shape = {"vocab_size": 11, "hidden_dim": 16, "n_blocks": 1, "n_heads": 2}
    assert MDLMConfig(**shape, **TOLD).to_dict()["time_conditioning"] is True
    assert MDLMConfig(**shape, cond_dim=6).time_conditioning is False


def test_a_causal_model_has_no_time_to_be_told():
    with pytest.raises(ValueError, match="a causal model masks nothing, so it has no time"):
        CausalConfig(hidden_dim=16, n_heads=2, **TOLD)


def test_the_published_log_linear_level_ends_at_a_thousandth_of_visible_tokens():
    visible = (-log_linear_level(torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64))).exp()
    assert visible.tolist() == pytest.approx([1, 1 - 0.999 / 4, 1e-3])


def test_a_geometric_level_is_the_one_that_masks_the_share():
    t = torch.linspace(0, 1, 9, dtype=torch.float64)
    sigma = 1e-3 ** (1 - t) * 5**t  # sigma_min^(1 - t) sigma_max^t
    torch.testing.assert_close(geometric_level(1 - (-sigma).exp(), 1e-3, 5.0), sigma)


def test_a_geometric_level_stays_within_its_ends():
    ends = geometric_level(torch.tensor([0.0, 1.0]), 1e-3, 5.0)
    assert ends.tolist() == pytest.approx([1e-3, 5])
