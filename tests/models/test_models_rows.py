"""The last block computes asked rows only, and in low precision the residual stream keeps more."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from sdtt.models import attention
from sdtt.models.attention import attention_by_heads, eager_attention

CONDITIONED = {"conditioning": "constant", "cond_dim": 6}
ROWS = {
    "ragged": [0, 3, 4, 9, 12, 23, 24, 25, 26, 27],
    "any order": [31, 2, 39, 17, 0, 11],
    "some twice": [5, 5, 36, 5, 14, 36],
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


@torch.no_grad()
@pytest.mark.parametrize(
    "settings", [{}, CONDITIONED, {"attention_bias": True}], ids=["plain", "conditioned", "biased"]
)
@pytest.mark.parametrize("mask", [None, some_padding()], ids=["whole", "padded"])
@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS.keys())
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_asked_rows_are_rows_of_the_whole(random_model, settings, mask, rows, dtype, error):
    model = random_model(**settings).to(dtype)
    asked = torch.tensor(rows, dtype=torch.long)
    ours = model.hidden(texts(), asked, attention_mask=mask)
    due = model.hidden(texts(), attention_mask=mask)[asked]
    torch.testing.assert_close(ours, due, rtol=error, atol=error)


@torch.no_grad()
@pytest.mark.parametrize("mask", [None, some_padding()], ids=["whole", "padded"])
def test_asked_rows_are_rows_of_the_whole_with_written_out_attention(random_model, mask):
    model = random_model().double()
    model.set_attn_implementation("eager")
    asked = torch.tensor(ROWS["any order"])
    ours = model.hidden(texts(), asked, attention_mask=mask)
    due = model.hidden(texts(), attention_mask=mask)[asked]
    torch.testing.assert_close(ours, due, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_written_out_attention_is_exact_in_float64(random_model):
    model = random_model().double()
    fused = model.hidden(texts())
    model.set_attn_implementation("eager")
    torch.testing.assert_close(model.hidden(texts()), fused, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_a_text_does_not_depend_on_its_neighbours_and_their_rows(random_model):
    model = random_model().double()
    together = model.hidden(texts(), torch.tensor([3, 12, 14, 18, 33]))
    alone = model.hidden(texts()[1:2], torch.tensor([2, 4, 8]))
    torch.testing.assert_close(together[1:4], alone, rtol=1e-12, atol=1e-12)


def test_asked_rows_with_gradients_are_those_without(random_model):
    model, asked = random_model(), torch.tensor(ROWS["any order"])
    with_gradients = model.hidden(texts(), asked)
    with torch.no_grad():
        without = model.hidden(texts(), asked)
    assert with_gradients.requires_grad
    torch.testing.assert_close(with_gradients.detach(), without, rtol=1e-5, atol=1e-5)


def test_gradients_of_asked_rows_are_those_of_the_rows_of_the_whole(random_model):
    model, asked = random_model().double(), torch.tensor(ROWS["any order"])
    weights = list(model.backbone.blocks.parameters())
    ours, due = (
        torch.autograd.grad(h.square().sum(), weights)
        for h in (model.hidden(texts(), asked), model.hidden(texts())[asked])
    )
    torch.testing.assert_close(ours, due, rtol=1e-12, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("settings", [{}, CONDITIONED], ids=["plain", "conditioned"])
@pytest.mark.parametrize("length", [2, 7, 12])
def test_a_text_of_masks_has_one_row_everywhere_and_at_any_length(random_model, settings, length):
    model = random_model(**settings).double()
    assert model.blank_is_uniform
    one = model.hidden(torch.full((1, 1), model.mask_token_id))
    every = model.hidden(torch.full((1, length), model.mask_token_id))
    torch.testing.assert_close(every, one.expand(length, -1), rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_a_padded_text_of_masks_has_that_row_too(random_model):
    model = random_model().double()
    z, real = torch.full((1, 10), model.mask_token_id), some_padding()[1:2]
    z[~real] = 3
    one = model.hidden(z[:, :1])
    padded = model.hidden(z, torch.arange(6), attention_mask=real)
    torch.testing.assert_close(padded, one.expand(6, -1), rtol=1e-12, atol=1e-12)


# ---------------------------------------------------------------- low precision


def with_residual_in_bfloat16(model, z):
    """The network as it would be if what flows between blocks were bfloat16."""
    backbone = model.backbone
    angles = attention.rotary_angles(torch.arange(z.shape[1]), backbone.head_width)
    x = backbone.vocab_embed(z).bfloat16()
    for block in backbone.blocks:
        x = block(x, angles, None, None, None)
        assert x.dtype == torch.bfloat16
    return backbone.output_layer(x.flatten(0, 1), None)


@torch.no_grad()
def test_in_bfloat16_the_residual_stream_loses_less_than_a_bfloat16_one(random_model):
    model = random_model(n_blocks=16, scale=0.05).bfloat16()
    rounded = with_residual_in_bfloat16(model, texts()).float()
    ours = model.hidden(texts()).float()
    exact = model.float().hidden(texts())
    assert (ours - exact).abs().mean() < 0.75 * (rounded - exact).abs().mean()


@torch.no_grad()
def test_in_bfloat16_small_additions_to_a_large_residual_stay(random_model):
    model = random_model(scale=0.02)
    model.backbone.vocab_embed.embedding += 100
    model.bfloat16()
    angles = attention.rotary_angles(torch.arange(10), 8)
    added = model.backbone.trunk(texts(), angles, None, None, None)
    added -= model.backbone.vocab_embed.embedding[texts()].float()
    assert added.abs().max() < 0.25  # half of the distance between bfloat16 numbers near 100
    assert (added != 0).all()


def heads(rows, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((3, 5, rows, 8), (3, 5, 12, 8), (3, 5, 12, 8))
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def padding(rows):
    real = torch.arange(12) < torch.tensor([12, 7, 1])[:, None]
    return real[:, None, None].expand(-1, 1, rows, -1)


def growing():
    """Nine keys that all queries see, and of the rest each sees a few."""
    return (torch.arange(12) <= 8 + torch.arange(6)[:, None] // 2).expand(3, 1, -1, -1)


@pytest.mark.parametrize("together", [1, 2, 5])
@pytest.mark.parametrize(
    "mask",
    [None, padding(6), padding(1), growing(), torch.ones(3, 1, 1, 12, dtype=torch.bool)],
    ids=["whole", "padded", "one row", "growing", "nothing hidden"],
)
@pytest.mark.parametrize(
    ("dtype", "error"), [(torch.bfloat16, 0.02), (torch.float16, 0.003), (torch.float32, 1e-5)]
)
def test_attention_by_heads_is_attention(together, mask, dtype, error, monkeypatch):
    monkeypatch.setattr(attention, "SCORES_AT_ONCE", together * 3 * 6 * 12)
    query, key, value = heads(6, dtype)
    ours, _ = attention_by_heads(torch.nn.Module(), query, key, value, mask, scaling=0.4)
    exact = scaled_dot_product_attention(
        *(x.double() for x in (query, key, value)), attn_mask=mask, scale=0.4
    )
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.double(), exact.transpose(1, 2), rtol=error, atol=error)


def test_attention_by_heads_writes_into_no_argument():
    arguments = heads(6, torch.bfloat16)
    before = [x.clone() for x in arguments]
    attention_by_heads(torch.nn.Module(), *arguments, padding(6), scaling=0.4)
    assert all(torch.equal(x, old) for x, old in zip(arguments, before, strict=True))


@pytest.mark.parametrize("mask", [None, some_padding()], ids=["whole", "padded"])
def test_a_bfloat16_model_has_one_law_with_and_without_gradients(random_model, mask):
    model = random_model(scale=0.15).bfloat16()
    with_gradients = model.hidden(texts(), attention_mask=mask).detach()
    with torch.no_grad():
        without = model.hidden(texts(), attention_mask=mask)
    real = slice(None) if mask is None else mask.flatten()
    torch.testing.assert_close(with_gradients[real], without[real], rtol=0.05, atol=0.05)


def test_written_out_attention_is_fused_attention():
    query, key, value = heads(6, torch.float64)
    ours, _ = eager_attention(torch.nn.Module().eval(), query, key, value, None, scaling=0.4)
    exact = scaled_dot_product_attention(query, key, value, scale=0.4)
    torch.testing.assert_close(ours, exact.transpose(1, 2), rtol=1e-12, atol=1e-12)
