import pytest
import torch

from sdtt.data.tokenizer import train_tokenizer
from sdtt.models.exact import MarkovDenoiser, TableDenoiser
from sdtt.models.mdlm import MDLMConfig, MDLMForMaskedLM
from sdtt.sampling.canvas import canvas_of
from sdtt.sampling.generate import evaluating, generate, sample, texts_a_pass, texts_of
from sdtt.sampling.generation import DiffusionGenerationConfig
from sdtt.sampling.text_settings import TextSettings, text_settings_for

F64 = torch.float64
SETTINGS = {
    "dilated": {"steps": 4},
    "ancestral": {"steps": 6},
    "first_hitting": {},
    "confidence": {"steps": 5},
    "analytic": {"steps": 6},
}


def chain(length=12):
    transition = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.5, 0.3], [0.1, 0.3, 0.6]], dtype=F64)
    return MarkovDenoiser(torch.tensor([0.5, 0.3, 0.2], dtype=F64), transition, length)


def network(vocabulary=9, **settings):
    torch.manual_seed(0)
    shape = {"hidden_dim": 16, "n_blocks": 2, "n_heads": 2, "model_length": 24}
    return MDLMForMaskedLM(
        MDLMConfig(vocab_size=vocabulary, initializer_range=0.3, **shape | settings)
    ).eval()


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["The cat sat on the mat. The dog sat on the cat. "] * 9, 300)


@pytest.mark.parametrize("schedule", ["log_linear", "cosine"])
@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_a_sample_does_not_depend_on_the_batch_size(schedule, batch_size):
    denoiser = chain()
    settings = {"steps": 5, "seed": 4, "schedule": schedule}
    canvas = canvas_of(denoiser, 12, 7)
    together = sample(denoiser, canvas, **settings, batch_size=64)
    assert torch.equal(sample(denoiser, canvas, **settings, batch_size=batch_size), together)


def test_a_sample_is_a_function_of_its_index_and_not_of_its_neighbours():
    denoiser = chain()
    together = sample(denoiser, canvas_of(denoiser, 12, 9), steps=5, seed=4)
    later = sample(denoiser, canvas_of(denoiser, 12, 3), steps=5, seed=4, first_index=6)
    assert torch.equal(later, together[6:])


def test_another_rows_canvas_changes_nothing():
    denoiser, canvas = chain(), canvas_of(chain(), 12, 4)
    prompted = canvas.clone()
    prompted[1, :6] = 0
    with_prompt = sample(denoiser, prompted, steps=5)
    without = sample(denoiser, canvas, steps=5)
    assert torch.equal(with_prompt[[0, 2, 3]], without[[0, 2, 3]])


def test_seeds_and_indices_give_different_texts():
    denoiser = chain(40)
    texts = [sample(denoiser, canvas_of(denoiser, 40, 3), steps=4, seed=seed) for seed in (0, 1)]
    assert len(torch.cat(texts).unique(dim=0)) == 6


def test_samples_of_many_steps_have_the_marginals_of_the_law():
    denoiser, n = chain(6), 1_000
    texts = sample(denoiser, canvas_of(denoiser, 6, n), steps=50, batch_size=n)
    shares = torch.nn.functional.one_hot(texts, 3).double().mean(0)
    law = denoiser.hidden(torch.full((1, 6), 3)).exp()
    # 18 comparisons at 4 standard deviations
    assert ((shares - law).abs() < 4 * (law * (1 - law) / n).sqrt()).all()


def test_torchs_own_generator_is_left_alone():
    before = torch.get_rng_state()
    sample(chain(), canvas_of(chain(), 12, 2), steps=3)
    assert torch.equal(before, torch.get_rng_state())


def test_temperature_zero_takes_the_likeliest_token_of_each_law():
    denoiser, canvas = chain(), canvas_of(chain(), 12, 5)
    z = canvas.clone().flatten()

    def check(first, step):
        assert first == 0
        likeliest = denoiser.hidden(z.view(5, 12), step.rows).argmax(-1)
        assert torch.equal(step.tokens, likeliest)
        z[step.rows] = step.tokens

    filled = sample(denoiser, canvas, steps=4, temperature=0.0, on_step=check)
    assert torch.equal(filled.flatten(), z)


def test_a_nucleus_holds_only_its_tokens():
    law = torch.tensor([0.1, 0.5, 0.3, 0.1], dtype=F64)
    denoiser = TableDenoiser(law)
    texts = sample(denoiser, canvas_of(denoiser, 1, 300), steps=1, top_p=0.6)
    assert set(texts.flatten().tolist()) == {1, 2}


def test_a_canvas_is_filled_whatever_its_strides():
    denoiser, turned = chain(4), torch.full((4, 3), 3).t()
    expected = sample(denoiser, turned.contiguous(), steps=2)
    assert torch.equal(sample(denoiser, turned, steps=2), expected)


def test_on_step_tells_the_first_row_of_its_batch():
    firsts = []
    sample(
        chain(), canvas_of(chain(), 12, 5), steps=1, batch_size=2,
        on_step=lambda first, _: firsts.append(first),
    )  # fmt: skip
    assert firsts == [0, 2, 4]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"temperature": -1.0}, "temperature must be"),
        ({"top_p": 0.0}, "top_p must lie in"),
        ({"top_p": 1.5}, "top_p must lie in"),
        ({"schedule": "linear"}, "unknown schedule 'linear'; there are log_linear, cosine"),
    ],
)
def test_a_setting_out_of_its_range_is_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        sample(chain(), canvas_of(chain(), 12), **{"steps": 3} | settings)


def test_a_canvas_is_prompt_masks_suffix():
    assert canvas_of(chain(), 6, 2, prompt=[0, 1], suffix=[2]).tolist() == [[0, 1, 3, 3, 3, 2]] * 2


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"length": 0}, "length must be at least 1, got 0"),
        ({"prompt": [0] * 9, "suffix": [0] * 4}, "has 13 tokens, more than the text's 12"),
        ({"prompt": [3]}, "unknown id 3"),
        ({"suffix": [3]}, "unknown id 3"),
        ({"prompt": [-1]}, "unknown id -1"),
        ({"prompt": [7], "vocab_size": 4}, "unknown id 7"),
    ],
)
def test_a_prompt_that_no_text_has_is_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        canvas_of(chain(), **{"length": 12} | settings)


@pytest.mark.parametrize("training", [True, False])
def test_evaluating_gives_the_mode_back_even_after_an_error(training):
    model = network().train(training)
    modes = []

    def fail():
        with evaluating(model):
            modes.extend(module.training for module in model.modules())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not any(modes)
    assert all(module.training == training for module in model.modules())


@pytest.mark.parametrize("of_whole", [True, False])
def test_each_part_is_given_back_in_its_own_mode(of_whole):
    model = network(dropout=0.5).train(of_whole)
    part = model.backbone.blocks[0].train(not of_whole)
    before = [module.training for module in model.modules()]
    canvas = canvas_of(model, 12, 2)
    texts = [sample(model, canvas, steps=4) for _ in range(2)]
    assert torch.equal(*texts)  # so without dropout
    assert [module.training for module in model.modules()] == before
    assert part.training != model.training


def test_a_student_samples_without_dropout():
    model = network(dropout=0.5)
    canvas = canvas_of(model, 24, 2)
    quiet = sample(model.eval(), canvas, steps=6)
    in_training = sample(model.train(), canvas, steps=6)
    assert torch.equal(in_training, quiet)
    assert model.training


def test_sampling_leaves_no_gradient_graph():
    model, grad_modes = network(), []
    sample(
        model, canvas_of(model, 24), steps=1,
        on_step=lambda *_: grad_modes.append(torch.is_grad_enabled()),
    )  # fmt: skip
    assert grad_modes == [False]


def test_mask_is_never_a_token_of_a_sample():
    model = network(mask_token_id=4)
    with torch.no_grad():
        model.backbone.output_layer.linear.bias[4] = 100.0
    assert (sample(model, canvas_of(model, 24, 4), steps=3) != 4).all()


def test_generated_texts_hold_the_prompt_at_the_front_and_the_suffix_at_the_end(tokenizer):
    model = network(len(tokenizer), mask_token_id=tokenizer.mask_token_id)
    texts = generate(
        model, tokenizer, steps=4, num_samples=3, prompt="The cat sat", suffix=" the mat."
    )
    assert len(texts) == 3
    assert all(text.startswith("The cat sat") for text in texts)
    assert all(text.endswith(" the mat.") for text in texts)
    assert tokenizer.mask_token not in "".join(texts)


def test_a_prompt_that_spells_a_special_token_is_plain_text(tokenizer):
    model = network(len(tokenizer), mask_token_id=tokenizer.mask_token_id, model_length=40)
    (text,) = generate(model, tokenizer, steps=2, prompt=f"a {tokenizer.mask_token} b")
    assert text.startswith(f"a {tokenizer.mask_token} b")


def test_generate_takes_the_settings_of_sample(tokenizer):
    model = network(len(tokenizer), mask_token_id=tokenizer.mask_token_id)
    first, again, other = (
        generate(model, tokenizer, steps=4, length=9, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other
    with pytest.raises(ValueError, match="steps must be at least 1"):
        generate(model, tokenizer, steps=0)


def test_a_text_longer_than_the_model_is_refused(tokenizer):
    model = network(len(tokenizer))
    with pytest.raises(ValueError, match="length 25 is more than the model's 24"):
        generate(model, tokenizer, steps=2, length=25)


@pytest.mark.parametrize("sampler", sorted(SETTINGS))
@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_sample_of_any_sampler_does_not_depend_on_the_batch_size(sampler, batch_size):
    canvas = canvas_of(chain(), 12, 9)
    canvas[::2, 3:6] = 1
    settings = {"sampler": sampler, "seed": 4} | SETTINGS[sampler]
    together = sample(chain(), canvas, **settings)
    assert torch.equal(sample(chain(), canvas, **settings, batch_size=batch_size), together)


@pytest.mark.parametrize("sampler", sorted(SETTINGS))
def test_a_padded_text_is_what_it_is_alone(sampler):
    model = network(model_length=16).double()
    canvas = torch.full((5, 16), 8)
    sizes = torch.tensor([16, 7, 11, 3, 16])
    mask = torch.arange(16) < sizes[:, None]
    canvas[1:4, :2] = 2
    canvas[~mask] = 0
    settings = {"sampler": sampler, "seed": 2, "repetition_penalty": 1.5} | SETTINGS[sampler]
    together = sample(model, canvas, attention_mask=mask, **settings)
    assert (together[mask] != 8).all()
    for index, size in enumerate(sizes.tolist()):
        alone = sample(model, canvas[index : index + 1, :size], first_index=index, **settings)
        assert torch.equal(alone[0], together[index, :size])
    assert (together[~mask] == 0).all()


@pytest.mark.parametrize("sampler", sorted(SETTINGS))
def test_a_canvas_with_nothing_to_fill_in_is_returned_as_it_is(sampler):
    canvas = torch.arange(24).view(2, 12) % 3
    assert torch.equal(sample(chain(), canvas, sampler=sampler, **SETTINGS[sampler]), canvas)


@pytest.mark.parametrize("sampler", sorted(SETTINGS))
@pytest.mark.parametrize("shape", [(0, 12), (0, 0), (3, 0)])
def test_a_batch_of_nothing_is_nothing(sampler, shape):
    canvas = torch.full(shape, 3)
    assert sample(chain(), canvas, sampler=sampler, **SETTINGS[sampler]).shape == shape


@pytest.mark.parametrize("sampler", sorted(SETTINGS))
def test_any_sampler_fills_a_canvas_whatever_its_strides(sampler):
    turned = torch.full((4, 3), 3).t()
    settings = {"sampler": sampler} | SETTINGS[sampler]
    expected = sample(chain(4), turned.contiguous(), **settings)
    assert torch.equal(sample(chain(4), turned, **settings), expected)


@pytest.mark.parametrize("sampler", sorted(SETTINGS))
def test_a_sampled_stop_is_the_last_token_and_padding_follows(sampler):
    canvas = canvas_of(chain(40), 40, 30)
    settings = {"sampler": sampler, "seed": 1} | SETTINGS[sampler]
    texts = sample(chain(40), canvas, stop_ids=[2], pad_id=7, **settings)
    stopped = 0
    for row in texts.tolist():
        size = row.index(2) + 1 if 2 in row else 40
        assert set(row[:size]) <= {0, 1, 2}
        assert row[size:] == [7] * (40 - size)
        stopped += size < 40
    assert stopped > 0


def test_a_stop_of_the_prompt_ends_nothing():
    canvas = torch.tensor([[2, 0, 3, 1]])
    texts = sample(chain(4), canvas, stop_ids=[2], pad_id=7, steps=1, banned=(2,))
    assert texts[0, [0, 1, 3]].tolist() == [2, 0, 1]


def test_generated_texts_end_at_eos(tokenizer):
    eos = tokenizer.eos_token_id
    model = network(len(tokenizer), mask_token_id=tokenizer.mask_token_id, eos_token_id=eos)
    with torch.no_grad():
        model.backbone.output_layer.linear.bias[eos] = 100.0
    assert generate(model, tokenizer, steps=4, prompt="The cat", stop_at_eos=True) == ["The cat"]


def test_a_model_without_eos_is_not_asked_to_stop_there(tokenizer):
    model = network(len(tokenizer), mask_token_id=tokenizer.mask_token_id, eos_token_id=None)
    with pytest.raises(ValueError, match="MDLMForMaskedLM has no eos_token_id to stop at"):
        generate(model, tokenizer, steps=4, stop_at_eos=True)


def test_each_of_several_prompts_has_its_own_texts(tokenizer):
    model = network(len(tokenizer), mask_token_id=tokenizer.mask_token_id)
    prompts = ["The cat sat", "The"]
    texts = generate(model, tokenizer, steps=3, prompt=prompts, max_new_tokens=4, num_samples=2)
    assert len(texts) == 4
    assert all(text.startswith("The cat sat") for text in texts[:2])
    assert all(text.startswith("The") for text in texts[2:])


def test_a_denoiser_that_has_no_trunk_is_not_compiled():
    with pytest.raises(
        ValueError, match="MarkovDenoiser cannot be compiled: it has no compile_trunk"
    ):
        sample(chain(), canvas_of(chain(), 12), compile=True)


def test_a_model_that_is_no_denoiser_is_refused(tokenizer):
    with pytest.raises(ValueError, match="Linear is no denoiser: it must offer mask_token_id"):
        generate(torch.nn.Linear(2, 2), tokenizer, steps=2)


def test_twice_as_long_texts_go_half_as_many_to_a_pass():
    model, cpu = network(), torch.device("cpu")
    assert texts_a_pass(model, 1_024, cpu) == texts_a_pass(model, 2_048, cpu) * 2
    assert texts_a_pass(model, 10**9, cpu) == 1


def test_a_batch_that_memory_splits_gives_the_same_texts(monkeypatch):
    denoiser = chain()
    whole = sample(denoiser, canvas_of(denoiser, 12, 7), steps=5)
    firsts = []
    monkeypatch.setattr("sdtt.sampling.generate.HOST_BYTES", 12 * 3 * 16 * 8 * 2)  # two texts
    split = sample(
        denoiser, canvas_of(denoiser, 12, 7), steps=5, on_step=lambda first, _: firsts.append(first)
    )
    assert torch.equal(split, whole)
    assert sorted(set(firsts)) == [0, 2, 4, 6]


@pytest.mark.parametrize("sampler", sorted(SETTINGS))
@pytest.mark.parametrize("pad", [-100, 9, 8])
def test_padding_may_be_any_number(sampler, pad):
    model, mask = network(), torch.arange(12) < torch.tensor([[12], [5]])
    canvas = torch.full((2, 12), 8)
    settings = {"sampler": sampler, "attention_mask": mask} | SETTINGS[sampler]
    expected = sample(model, canvas.masked_fill(~mask, 0), **settings)
    found = sample(model, canvas.masked_fill(~mask, pad), **settings)
    assert torch.equal(found[mask], expected[mask])
    assert (found[~mask] == pad).all()


def test_a_canvas_of_small_integers_is_filled_too():
    canvas = torch.full((2, 12), 8)
    assert torch.equal(sample(network(), canvas.int()), sample(network(), canvas))


NO_CANVAS = {
    "a canvas is a batch of texts, .* the shape \\(12,\\)": (torch.full((12,), 8), {}),
    "a text of 25 tokens is longer than the model's 24": (torch.full((1, 25), 8), {"steps": 1}),
    "the canvas has the unknown id 9: .* \\[0, 9\\)": (torch.tensor([[8, 9]]), {}),
    "the canvas has the unknown id -1": (torch.tensor([[8, -1]]), {}),
    "attention_mask has the shape \\(1, 12\\), the canvas \\(2, 12\\)": (
        torch.full((2, 12), 8),
        {"attention_mask": torch.ones(1, 12)},
    ),
    "a canvas must hold ids, whole numbers; got torch.float32": (torch.full((1, 4), 8.0), {}),
    "attention_mask has padding before a token: pad on the right": (
        torch.full((1, 3), 8),
        {"attention_mask": torch.tensor([[0, 1, 1]])},
    ),
    "seed must be a whole number, got None": (torch.full((1, 4), 8), {"seed": None}),
    "temperature must be a number, got None": (torch.full((1, 4), 8), {"temperature": None}),
    "banned must be a list of whole numbers, got None": (
        torch.full((1, 4), 8),
        {"banned": None},
    ),
    "banned has the unknown id 99; ids lie in": (torch.full((1, 4), 8), {"banned": (99,)}),
    "stop_ids has the unknown id 8; ids lie in .* not MASK": (
        torch.full((1, 4), 8),
        {"stop_ids": (8,)},
    ),
}


@pytest.mark.parametrize("says", sorted(NO_CANVAS))
def test_a_canvas_that_cannot_be_is_refused_in_one_line(unchecked, says):
    del unchecked
    canvas, settings = NO_CANVAS[says]
    with pytest.raises(ValueError, match=says):
        sample(network(), canvas, **settings)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"num_samples": 2.5}, "num_samples must be a whole number, got 2.5"),
        ({"num_samples": "2"}, "num_samples must be a whole number, got '2'"),
        ({"length": 4.5}, "length must be a whole number, got 4.5"),
        ({"max_new_tokens": True}, "max_new_tokens must be a whole number, got True"),
        ({"forced": {"a": 3}}, "forced_tokens must be pairs of a place and an id"),
        ({"prompt": None}, "prompt must be a text, or a sequence of texts, got None"),
        ({"prompt": ["a", 3]}, "prompt must be a text, or a sequence of texts, got"),
    ],
)
def test_a_text_that_cannot_be_is_refused_in_one_line(tokenizer, unchecked, settings, says):
    del unchecked
    model = network(len(tokenizer), mask_token_id=tokenizer.mask_token_id)
    with pytest.raises(ValueError, match=says):
        generate(model, tokenizer, **settings)


def test_what_stands_behind_an_end_that_the_config_does_not_name_is_that_end(tokenizer):
    model = network(len(tokenizer), mask_token_id=tokenizer.mask_token_id)
    assert text_settings_for(model).pad_id == 0
    model.generation_config = DiffusionGenerationConfig(eos_token_id=7)
    assert text_settings_for(model).pad_id == 7
    model.config.pad_token_id = -1  # as some say that there is none
    assert text_settings_for(model).pad_id == 7
    model.config.pad_token_id = 4
    assert text_settings_for(model).pad_id == 4


def test_what_is_left_open_is_as_the_generation_config_says(tokenizer):
    model = network(len(tokenizer), mask_token_id=tokenizer.mask_token_id, eos_token_id=5)
    own = {"max_length": 9, "num_return_sequences": 2, "stop_at_eos": True, "eos_token_id": 7}
    model.generation_config = DiffusionGenerationConfig(
        **own, forced_tokens=[[0, 33]], pad_token_id=6
    )
    due = text_settings_for(model)
    assert due == TextSettings(2, 9, None, {0: 33}, (7,), 6)
    ids = model.generate(return_dict_in_generate=False)
    strings = texts_of(tokenizer, ids, None)
    assert generate(model, tokenizer) == strings
    given = text_settings_for(
        model, num_samples=1, max_new_tokens=3, forced={1: 34}, stop_at_eos=False
    )
    assert given == TextSettings(1, None, 3, {1: 34}, (), 6)
    assert text_settings_for(model, forced={}).forced == {}


def test_a_setting_that_is_given_as_none_is_not_that_of_the_config():
    config = DiffusionGenerationConfig(top_k=1, sampler="confidence", threshold=0.5, order="high")
    assert config.sample_settings(top_k=None).top_k is None
    assert config.sample_settings().top_k == 1
    assert config.sample_settings(sampler=None, temperature=None).sampler == "confidence"
