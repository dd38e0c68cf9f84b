import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from sdtt.diffusion.categorical import Transform, draw
from sdtt.diffusion.uniforms import uniforms
from sdtt.models.causal import CausalConfig, CausalLM
from sdtt.sampling.autoregressive import sample_autoregressive


def network(**settings):
    torch.manual_seed(0)
    shape = {"hidden_dim": 16, "n_blocks": 2, "n_heads": 2, "model_length": 12, "vocab_size": 9}
    ids = {"bos_token_id": 0, "eos_token_id": 0}
    return CausalLM(CausalConfig(initializer_range=0.3, **shape | ids | settings)).eval()


def test_texts_have_exactly_their_length_even_where_eos_is_likely():
    model = network()
    with torch.no_grad():
        model.backbone.output_layer.linear.bias[0] = 5.0
    texts = sample_autoregressive(model, num_samples=5, length=12, batch_size=2)
    assert texts.shape == (5, 12)
    assert (texts == 0).double().mean().item() > 0.5


def test_mask_is_never_drawn():
    model = network()
    with torch.no_grad():
        model.backbone.output_layer.linear.bias[8] = 100.0
    assert (sample_autoregressive(model, num_samples=4, length=12) != 8).all()


def test_a_seed_gives_the_same_texts_again_and_another_seed_others():
    model = network()
    first, again, other = (
        sample_autoregressive(model, num_samples=4, length=12, seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_torchs_generator_is_given_back_as_it_was():
    model = network()
    before = torch.get_rng_state()
    sample_autoregressive(model, num_samples=2, length=4, seed=5)
    assert torch.equal(before, torch.get_rng_state())


def test_first_tokens_have_the_law_of_the_model():
    model, n = network(), 2_000
    texts = sample_autoregressive(model, num_samples=n, length=1, batch_size=n)
    law = model(torch.zeros(1, 1).long()).logits[0, -1].softmax(-1)
    shares = torch.bincount(texts[:, 0], minlength=9) / n
    # 9 comparisons at 4 standard deviations
    assert ((shares - law).abs() <= 4 * (law * (1 - law) / n).sqrt()).all()


def test_a_model_in_training_samples_without_dropout():
    model = network(dropout=0.5)
    quiet = sample_autoregressive(model, num_samples=2, length=12)
    assert torch.equal(sample_autoregressive(model.train(), num_samples=2, length=12), quiet)
    assert model.training


def test_a_model_without_bos_is_refused():
    with pytest.raises(ValueError, match="CausalLM has no bos_token_id"):
        sample_autoregressive(network(bos_token_id=None), num_samples=1, length=2)


# ---------------------------------------------------------------- the cache changes nothing


def llama():
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": 9}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 16}
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
    return LlamaForCausalLM(LlamaConfig(initializer_range=0.3, **shape, **heads, **ids)).eval()


def gpt2():
    torch.manual_seed(0)
    shape = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16, "vocab_size": 9}
    ids = {"bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(initializer_range=0.3, **shape, **ids)).eval()


MODELS = {
    "own": network,
    "own, conditioned": lambda: network(conditioning="constant", cond_dim=4),
    "llama": llama,
    "gpt2": gpt2,
}


@torch.no_grad()
def written_out(model, count, length, prompt=(), seed=0, **change):
    """A forward pass over all earlier tokens for each token, without a cache."""
    transform = Transform(**change)
    v = uniforms(seed, "autoregressive/token", range(count), length)
    text = torch.tensor([[model.config.bos_token_id, *prompt]]).repeat(count, 1)
    for place in range(len(prompt), length):
        logits = model(input_ids=text).logits[:, -1]
        token = draw(transform(logits, text[:, 1:]), v[:, place])
        text = torch.cat([text, token[:, None]], 1)
    return text[:, 1:]


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
@pytest.mark.parametrize("prompt", [[], [3], [3, 1, 4, 1]], ids=str)
@pytest.mark.parametrize(
    "change",
    [{}, {"temperature": 0.0}, {"temperature": 0.7, "top_p": 0.8}, {"repetition_penalty": 1.5}],
    ids=str,
)
def test_texts_with_a_cache_are_those_of_whole_passes(model, prompt, change):
    model, how = model().double(), {"length": 10, "prompt": prompt, "seed": 2, **change}
    texts = sample_autoregressive(model, num_samples=5, batch_size=2, **how)
    assert torch.equal(texts, written_out(model, 5, **how))


def test_temperature_zero_is_greedy_generation_of_transformers():
    model = llama().double()
    greedy = model.generate(
        torch.tensor([[0, 3, 1]]), max_new_tokens=8, do_sample=False, eos_token_id=None
    )
    ours = sample_autoregressive(model, num_samples=1, length=10, prompt=[3, 1], temperature=0.0)
    assert torch.equal(ours, greedy[:, 1:])


# ---------------------------------------------------------------- prompts, stops, settings


def test_a_prompt_stands_at_the_front():
    texts = sample_autoregressive(network(), num_samples=3, length=12, prompt=[5, 2, 7])
    assert texts[:, :3].tolist() == [[5, 2, 7]] * 3
    assert len(texts.unique(dim=0)) == 3


def test_a_prompt_as_long_as_the_text_is_the_text():
    texts = sample_autoregressive(network(), num_samples=2, length=3, prompt=[5, 2, 7])
    assert texts.tolist() == [[5, 2, 7]] * 2


def test_a_prompt_longer_than_the_text_is_refused():
    with pytest.raises(ValueError, match="the prompt has 4 tokens, more than the text's 3"):
        sample_autoregressive(network(), num_samples=1, length=3, prompt=[1, 2, 3, 4])


def test_mask_in_a_prompt_is_refused():
    with pytest.raises(ValueError, match="the prompt holds MASK"):
        sample_autoregressive(network(), num_samples=1, length=3, prompt=[1, 8])


def test_no_samples_are_no_texts():
    assert sample_autoregressive(network(), num_samples=0, length=7).shape == (0, 7)


def test_a_text_does_not_depend_on_the_batch_size():
    model = network().double()
    together, alone = (
        sample_autoregressive(model, num_samples=5, length=12, batch_size=size) for size in (5, 1)
    )
    assert torch.equal(together, alone)


@pytest.mark.parametrize("batch_size", [1, 6])
def test_a_sampled_stop_ends_its_text_and_no_other(batch_size):
    model = network().double()
    how = {"num_samples": 6, "length": 12, "batch_size": batch_size}
    whole, cut = (
        sample_autoregressive(model, stop_ids=stops, pad_id=7, **how) for stops in ((), (2, 4))
    )
    ends = [next((i for i, x in enumerate(row) if x in (2, 4)), 11) for row in whole.tolist()]
    assert len(set(ends)) > 2
    for row, full, end in zip(cut.tolist(), whole.tolist(), ends, strict=True):
        assert row == full[: end + 1] + [7] * (11 - end)


def test_a_stop_in_the_prompt_ends_nothing():
    model = network().double()
    how = {"num_samples": 2, "length": 6, "prompt": [2]}
    with_stop = sample_autoregressive(model, stop_ids=[2], pad_id=7, **how)
    assert (with_stop[:, 1] != 7).all()


class Counting(CausalLM):
    """Counts its passes."""

    passes = 0

    def forward(self, *arguments, **options):
        self.passes += 1
        return super().forward(*arguments, **options)


def test_no_pass_is_made_once_every_text_has_ended():
    model = Counting(network().config).eval()
    with torch.no_grad():
        model.backbone.output_layer.linear.bias[2] = 100.0
    sample_autoregressive(model, num_samples=3, length=12, stop_ids=[2])
    assert model.passes == 1


def test_top_k_of_one_is_greedy():
    model = network()
    one, greedy = (
        sample_autoregressive(model, num_samples=2, length=12, **change)
        for change in ({"top_k": 1}, {"temperature": 0.0})
    )
    assert torch.equal(one, greedy)


def test_a_large_repetition_penalty_repeats_no_token_while_there_are_others():
    texts = sample_autoregressive(network(), num_samples=4, length=8, repetition_penalty=1e6)
    assert all(len(set(row)) == 8 for row in texts.tolist())


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"temperature": -1.0}, "temperature must be a finite number of at least 0, got -1"),
        ({"top_p": 0.0}, "top_p must lie in"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be above 0"),
    ],
)
def test_a_setting_out_of_its_range_is_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        sample_autoregressive(network(), num_samples=1, length=3, **settings)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"seed": 1.0}, "seed must be a whole number, got 1.0"),
        ({"seed": True}, "seed must be a whole number, got True"),
        ({"length": 5.0}, "length must be a whole number, got 5.0"),
        ({"num_samples": 1.5}, "num_samples must be a whole number, got 1.5"),
        ({"top_k": 2.5}, "top_k must be a whole number, got 2.5"),
        ({"stop_ids": [99]}, r"stop_ids has the unknown id 99; ids lie in \[0, 9\)"),
        ({"prompts": torch.tensor([1, 2])}, r"a batch of texts, \(B, P\), got the shape \(2,\)"),
    ],
)
def test_what_is_no_number_or_no_batch_is_refused(unchecked, settings, says):
    del unchecked
    with pytest.raises(ValueError, match=says):
        sample_autoregressive(network(), **{"num_samples": 1, "length": 3} | settings)


def test_a_temperature_is_taken_in_float32_at_least():
    model = network().bfloat16()
    seen = []

    def transform(self, logits, text=None):  # noqa: ARG001
        seen.append(logits.dtype)
        return logits

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Transform, "__call__", transform)
        sample_autoregressive(model, num_samples=2, length=3, temperature=0.8)
    assert set(seen) == {torch.float32}
