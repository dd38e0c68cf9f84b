"""What ``model.generate`` takes and gives: settings and their order, prompts, counts, streamers."""

import dataclasses

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, GenerationConfig, TextStreamer
from transformers.generation.streamers import BaseStreamer, TextDiffusionStreamer

from sdtt.data.tokenizer import train_tokenizer
from sdtt.models.mdlm import MDLMConfig, MDLMForMaskedLM
from sdtt.sampling.generate import sample
from sdtt.sampling.generation import (
    ALL_FIELDS,
    DiffusionGenerationConfig,
    DiffusionGenerationOutput,
    check_names,
)
from sdtt.sampling.settings import SAMPLERS, SampleSettings

MASK, PAD, EOS = 8, 0, 1


def network(vocab_size=9, **settings):
    torch.manual_seed(0)
    shape = {"hidden_dim": 16, "n_blocks": 2, "n_heads": 2, "model_length": 12}
    config = MDLMConfig(vocab_size=vocab_size, initializer_range=0.3, **shape | settings)
    return MDLMForMaskedLM(config).double().eval()


def liking(token, bonus=100.0):
    """A model that writes one token nearly always."""
    model = network()
    with torch.no_grad():
        model.backbone.output_layer.linear.bias[token] = bonus
    return model


def given(config):
    """What a config sets."""
    values = {name: getattr(config, name) for name in ALL_FIELDS}
    return {name: value for name, value in values.items() if value is not None}


# ---------------------------------------------------------------- settings


def test_an_argument_wins_over_a_config_and_that_over_the_models_and_that_over_defaults():
    model, config = network(), DiffusionGenerationConfig(temperature=0.5, seed=5)
    model.generation_config = DiffusionGenerationConfig(temperature=0.3, seed=3, steps=4)
    ids = model.generate(generation_config=config, temperature=0.7).sequences
    canvas = torch.full((1, 12), MASK)
    assert torch.equal(ids, sample(model, canvas, temperature=0.7, seed=5, steps=4, top_p=1.0))


@pytest.mark.parametrize("name", ["temperature", "seed", "steps"])
def test_each_config_is_asked_in_its_turn(name):
    first, second = DiffusionGenerationConfig(**{name: 1}), DiffusionGenerationConfig(**{name: 2})
    empty = DiffusionGenerationConfig()
    assert getattr(first.merged(second), name) == 1
    assert getattr(empty.merged(empty, second, first), name) == 2
    assert getattr(empty.merged(empty), name) is None


def test_merging_writes_into_no_config():
    first, second = DiffusionGenerationConfig(steps=3), DiffusionGenerationConfig(seed=2)
    first.merged(second)
    assert (given(first), given(second)) == ({"steps": 3}, {"seed": 2})


def test_generating_changes_no_config():
    model, config = network(), DiffusionGenerationConfig(steps=3)
    model.generate(generation_config=config, seed=1)
    assert given(config) == {"steps": 3}
    assert given(model.generation_config) == {}


def test_no_setting_at_all_is_the_default_of_sample():
    model = network()
    assert torch.equal(model.generate().sequences, sample(model, torch.full((1, 12), MASK)))


@pytest.mark.parametrize("name", ["tempreature", "temprature", "num_beams", "max_tokens"])
def test_an_unknown_setting_is_refused(name):
    with pytest.raises(ValueError, match=f"unknown generation setting '{name}'"):
        network().generate(**{name: 1})
    with pytest.raises(ValueError, match=f"unknown generation setting '{name}'"):
        DiffusionGenerationConfig(**{name: 1})


def test_an_unknown_setting_is_met_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean temperature\\?"):
        check_names(["temprature"])
    with pytest.raises(ValueError, match="there are sampler, steps"):
        check_names(["zzzz"])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"sampler": "dilated", "threshold": 0.9}, "threshold=0.9 is no setting of the sampler"),
        ({"threshold": 0.9, "tokens_per_pass": 2}, "is no setting of the sampler 'dilated'"),
        ({"temperature": -1.0}, "temperature must be a finite number of at least 0"),
        ({"top_p": 0.0}, "top_p must lie in"),
        ({"max_length": 0}, "max_length must be at least 1, got 0"),
        ({"max_new_tokens": -1}, "max_new_tokens must be at least 0, got -1"),
        ({"num_return_sequences": 0}, "num_return_sequences must be at least 1, got 0"),
        ({"num_return_sequences": True}, "num_return_sequences must be a whole number, got True"),
        ({"max_length": 3.7}, "max_length must be a whole number, got 3.7"),
        ({"steps": "3"}, "steps must be a whole number, got '3'"),
        ({"steps": 3.5}, "steps must be a whole number, got 3.5"),
        ({"seed": "a"}, "seed must be a whole number, got 'a'"),
        ({"top_k": 2.5}, "top_k must be a whole number, got 2.5"),
        ({"batch_size": 2.5}, "batch_size must be a whole number, got 2.5"),
        ({"temperature": "hot"}, "temperature must be a number, got 'hot'"),
        ({"temperature": True}, "temperature must be a number, got True"),
        ({"compile": 1}, "compile must be true or false, got 1"),
        ({"sampler": 3}, "sampler must be a name, got 3"),
        ({"eos_token_id": "x"}, "eos_token_id must be an id or a list of them, got 'x'"),
        ({"pad_token_id": [0, "x"]}, "pad_token_id must be an id or a list of them, got"),
        ({"banned": 5}, "banned must be a list of whole numbers, got 5"),
        ({"banned": [1, "a"]}, r"banned must be a list of whole numbers, got .*'a'"),
    ],
)
def test_a_config_that_cannot_be_is_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        DiffusionGenerationConfig(**settings)
    with pytest.raises(ValueError, match=says):
        network().generate(**settings)


def test_a_setting_of_a_sampler_may_stand_alone_but_is_refused_where_none_has_it():
    config = DiffusionGenerationConfig(threshold=0.9)
    model = network()
    with pytest.raises(ValueError, match="is no setting of the sampler 'dilated'"):
        model.generate(generation_config=config)
    model.generation_config = DiffusionGenerationConfig(sampler="confidence", steps=3)
    due = sample(model, torch.full((1, 12), MASK), sampler="confidence", threshold=0.9)
    assert torch.equal(model.generate(generation_config=config).sequences, due)


OWN = {
    "dilated": {"steps": 5, "stratified": True, "schedule": "cosine"},
    "ancestral": {"steps": 5, "counts": "even", "schedule": "cosine"},
    "first_hitting": {"tokens_per_pass": 3, "schedule": "cosine"},
    "confidence": {"threshold": 0.9, "score": "margin", "block_length": 4},
    "analytic": {"steps": 5},
}


@pytest.mark.parametrize("saved", OWN)
@pytest.mark.parametrize("asked", SAMPLERS)
def test_another_sampler_leaves_the_settings_of_the_saved_one_but_its_steps(saved, asked):
    model = network()
    model.generation_config = DiffusionGenerationConfig(
        sampler=saved, temperature=0.5, **OWN[saved]
    )
    counts_steps = asked != "first_hitting" and "steps" in OWN[saved]
    kept = OWN[saved] if saved == asked else {"steps": 5} if counts_steps else {}
    due = sample(model, torch.full((1, 12), MASK), sampler=asked, temperature=0.5, **kept)
    assert torch.equal(model.generate(sampler=asked).sequences, due)


def test_saved_steps_do_not_hinder_a_sampler_that_has_none():
    model = network()
    model.generation_config = DiffusionGenerationConfig(steps=4)
    due = sample(model, torch.full((1, 12), MASK), sampler="first_hitting")
    assert torch.equal(model.generate(sampler="first_hitting").sequences, due)


def test_steps_asked_for_replace_a_saved_threshold():
    model = network()
    model.generation_config = DiffusionGenerationConfig(sampler="confidence", threshold=0.9)
    due = sample(model, torch.full((1, 12), MASK), sampler="confidence", steps=3)
    assert torch.equal(model.generate(steps=3).sequences, due)


def test_new_tokens_asked_for_replace_a_saved_length():
    model = network()
    model.generation_config = DiffusionGenerationConfig(max_length=9)
    assert model.generate(torch.tensor([[2, 3]]), max_new_tokens=3).sequences.shape == (1, 5)
    model.generation_config = DiffusionGenerationConfig(max_new_tokens=3)
    assert model.generate(torch.tensor([[2, 3]]), max_length=9).sequences.shape == (1, 9)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_generate_is_sample_with_the_same_settings(sampler):
    model, canvas = network(), torch.full((3, 12), MASK)
    canvas[:, :2] = torch.tensor([[2, 3], [4, 5], [6, 7]])
    how = {"sampler": sampler, "temperature": 0.8, "top_p": 0.9, "top_k": 5, "seed": 7}
    how |= {"repetition_penalty": 1.2, "banned": (3,), "batch_size": 2}
    assert torch.equal(model.generate(canvas[:, :2], **how).sequences, sample(model, canvas, **how))


# ---------------------------------------------------------------- files

EVERYTHING = {
    "sampler": "confidence", "threshold": 0.8, "score": "entropy", "temperature": 0.5,
    "top_p": 0.9, "top_k": 4, "repetition_penalty": 1.1, "banned": [2, 3], "seed": 9,
    "max_new_tokens": 4, "num_return_sequences": 2, "forced_tokens": [[0, 5], [-1, 6]],
    "eos_token_id": [1, 7], "pad_token_id": 4, "return_dict_in_generate": True,
}  # fmt: skip


def test_a_config_comes_back_from_its_file(tmp_path):
    DiffusionGenerationConfig(**EVERYTHING).save_pretrained(tmp_path)
    loaded = DiffusionGenerationConfig.from_pretrained(tmp_path)
    assert type(loaded) is DiffusionGenerationConfig
    assert given(loaded) == EVERYTHING
    assert (loaded.steps, loaded.max_length, loaded.compile) == (None, None, None)


def test_a_file_holds_what_is_set_and_no_more(tmp_path):
    DiffusionGenerationConfig(steps=3, seed=0).save_pretrained(tmp_path)
    text = (tmp_path / "generation_config.json").read_text()
    assert '"steps": 3' in text
    assert '"seed": 0' in text
    assert "null" not in text
    assert "num_beams" not in text


@pytest.mark.parametrize("settings", [EVERYTHING, {"steps": 3}, {}], ids=["all", "steps", "none"])
def test_the_config_of_a_model_comes_back_through_the_auto_class(settings, tmp_path):
    model = network()
    model.generation_config = DiffusionGenerationConfig(**settings)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert type(loaded.generation_config) is DiffusionGenerationConfig
    names = ("threshold", "banned", "forced_tokens", "eos_token_id", "steps", "max_length")
    for name in names:
        assert getattr(loaded.generation_config, name) == settings.get(name)


def test_a_loaded_model_writes_the_texts_of_the_saved_one(tmp_path):
    model = network()
    model.generation_config = DiffusionGenerationConfig(**EVERYTHING)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path, dtype=torch.float64)
    assert torch.equal(loaded.generate().sequences, model.generate().sequences)


def test_forced_tokens_given_as_a_mapping_come_back_as_the_same_places(tmp_path):
    model = network()
    model.generation_config = DiffusionGenerationConfig(forced_tokens={0: 5, -1: 6})
    model.save_pretrained(tmp_path)
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert loaded.generate().sequences[0, [0, -1]].tolist() == [5, 6]


def test_a_config_given_on_loading_is_the_models(tmp_path):
    network().save_pretrained(tmp_path)
    config = DiffusionGenerationConfig(steps=2)
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path, generation_config=config)
    assert loaded.generation_config.steps == 2


def test_a_config_of_transformers_given_on_loading_is_the_models(tmp_path, unchecked):
    del unchecked
    network().save_pretrained(tmp_path)
    config = GenerationConfig(temperature=0.5)
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path, generation_config=config)
    assert loaded.generation_config.temperature == 0.5


def test_ids_of_a_prompt_are_whole_numbers(unchecked):
    del unchecked
    with pytest.raises(ValueError, match=r"input_ids must hold ids, .* got torch.float32"):
        network().generate(torch.tensor([[1.7, 2.2]]))


def test_a_folder_without_a_generation_config_loads(tmp_path):
    network(pad_token_id=3).save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert given(loaded.generation_config) == {"pad_token_id": 3}


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff"])
def test_a_damaged_generation_config_is_not_passed_over(tmp_path, content):
    network().save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"generation_config\.json is damaged: it holds no JSON"):
        AutoModelForMaskedLM.from_pretrained(tmp_path)


def test_every_setting_of_a_sampler_is_one_of_the_config():
    config = DiffusionGenerationConfig()
    assert all(hasattr(config, each.name) for each in dataclasses.fields(SampleSettings))


# ---------------------------------------------------------------- prompts


def test_a_prompt_stays_and_is_followed_by_new_tokens():
    prompt = torch.tensor([[2, 3, 4], [5, 6, 7]])
    ids = network().generate(prompt, max_new_tokens=5).sequences
    assert torch.equal(ids[:, :3], prompt)
    assert ids.shape == (2, 8)
    assert (ids != MASK).all()


@pytest.mark.parametrize(
    ("settings", "length"),
    [({}, 12), ({"max_length": 7}, 7), ({"max_new_tokens": 4}, 6), ({"max_new_tokens": 0}, 2)],
)
def test_a_text_has_the_length_that_was_asked_for(settings, length):
    assert network().generate(torch.tensor([[2, 3]]), **settings).sequences.shape == (1, length)


def test_masks_of_a_prompt_are_filled_in_where_they_stand():
    z = torch.tensor([[2, MASK, 3, MASK, MASK, 4]])
    ids = network().generate(z).sequences
    assert ids.shape == z.shape
    assert ids[0, [0, 2, 5]].tolist() == [2, 3, 4]
    assert (ids != MASK).all()


def test_a_prompt_is_not_written_into():
    z = torch.tensor([[2, MASK, 3]])
    network().generate(z)
    assert z.tolist() == [[2, MASK, 3]]


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_prompt_gets_the_text_that_it_gets_alone(side):
    model = network()
    prompts = [[2, 3, 4, 5], [6], [7, 2, 3]]
    rows = [p + [PAD] * (4 - len(p)) if side == "right" else [PAD] * (4 - len(p)) + p
            for p in prompts]  # fmt: skip
    sizes = torch.tensor([len(p) for p in prompts])[:, None]
    place = torch.arange(4) if side == "right" else torch.arange(3, -1, -1)
    together = model.generate(
        torch.tensor(rows), attention_mask=(place < sizes).long(), max_new_tokens=6, steps=4
    )
    for index, prompt in enumerate(prompts):
        canvas = torch.tensor([prompt + [MASK] * 6])
        alone = sample(model, canvas, steps=4, first_index=index)[0]
        size = len(prompt) + 6
        assert together.sequences[index, :size].tolist() == alone.tolist()
        assert (together.sequences[index, size:] == PAD).all()


def test_padding_is_the_pad_token_that_was_asked_for():
    real = torch.tensor([[1, 1, 1], [0, 0, 1]])
    ids = (
        network()
        .generate(torch.full((2, 3), 2), attention_mask=real, max_new_tokens=2, pad_token_id=7)
        .sequences
    )
    assert ids[1, 3:].tolist() == [7, 7]


def test_samples_of_a_prompt_stand_one_after_the_other_and_differ():
    ids = network().generate(torch.tensor([[2, 3], [4, 5]]), num_return_sequences=3).sequences
    assert ids[:, :2].tolist() == [[2, 3]] * 3 + [[4, 5]] * 3
    assert len(ids.unique(dim=0)) == 6


@pytest.mark.parametrize(
    ("forced", "says"),
    [
        ([[0, 3], [0, 4]], "forced_tokens names place 0 twice"),
        ({0.7: 3}, "must be pairs of a place and an id"),
        ([[0, 1.5]], "must be pairs of a place and an id"),
    ],
)
def test_forced_tokens_that_cannot_be_are_refused(forced, says):
    with pytest.raises(ValueError, match=says):
        network().generate(forced_tokens=forced)


def test_numbers_in_other_forms_are_numbers():
    plain = network().generate(banned=[1, 2], temperature=0.5, max_new_tokens=4)
    tensors = {"temperature": torch.tensor(0.5), "max_new_tokens": torch.tensor(4)}
    for banned in (range(1, 3), {1, 2}, np.array([1, 2]), torch.tensor([1, 2])):
        found = network().generate(banned=banned, **tensors)
        assert torch.equal(found.sequences, plain.sequences)


def test_padding_is_an_id_of_the_vocabulary():
    assert network().generate(pad_token_id=-1) is not None  # how some configs say: none
    with pytest.raises(ValueError, match=r"pad_token_id must lie in \[0, .*\), got 99"):
        network().generate(pad_token_id=99)


def test_forced_tokens_stand_at_their_places_from_either_end():
    ids = (
        network()
        .generate(torch.tensor([[2, 3], [4, 5]]), max_new_tokens=4, forced_tokens={2: 7, -1: 6})
        .sequences
    )
    assert ids[:, 2].tolist() == [7, 7]
    assert ids[:, -1].tolist() == [6, 6]


@pytest.mark.parametrize(
    ("prompt", "settings", "says"),
    [
        ([2] * 13, {}, "the prompt has 13 tokens, more than the text's 12"),
        ([2] * 6, {"max_length": 5}, "the prompt has 6 tokens, more than the text's 5"),
        ([2] * 6, {"max_new_tokens": 7}, "a text of 13 tokens is longer than the model's 12"),
        ([2], {"max_length": 13}, "a text of 13 tokens is longer than the model's 12"),
        ([MASK] * 13, {}, "a text of 13 tokens is longer than the model's 12"),
        ([2, 9], {}, r"the prompt has the unknown id 9; ids lie in \[0, 9\)"),
        ([-100], {}, "the prompt has the unknown id -100"),
        ([2], {"max_length": 5, "max_new_tokens": 5}, "exclude each other: give one"),
        ([2], {"forced_tokens": {0: 9}}, "unknown id 9"),
        ([2], {"forced_tokens": {12: 3}}, "forced at place 12, outside of a text of 12 tokens"),
        ([2], {"forced_tokens": {-13: 3}}, "forced at place -13, outside"),
    ],
)
def test_a_prompt_that_cannot_be_is_refused(prompt, settings, says):
    with pytest.raises(ValueError, match=says):
        network().generate(torch.tensor([prompt]), **settings)


def test_a_batch_of_no_prompts_gives_no_texts():
    output = network().generate(torch.empty(0, 3, dtype=torch.long))
    assert [len(part) for part in output.to_tuple()] == [0, 0, 0]


def test_a_text_with_nothing_to_fill_in_comes_back_without_a_pass():
    z = torch.tensor([[2, 3, 4]])
    output = network().generate(z, max_new_tokens=0)
    assert torch.equal(output.sequences, z)
    assert (output.passes.tolist(), output.tokens_per_forward.tolist()) == ([0], [0.0])


# ---------------------------------------------------------------- outputs


def test_without_an_output_the_ids_alone_are_given():
    model = network()
    ids = model.generate(steps=3, return_dict_in_generate=False)
    assert torch.equal(ids, model.generate(steps=3).sequences)
    assert isinstance(model.generate(steps=3), DiffusionGenerationOutput)


def test_passes_are_counted_for_each_text():
    z = torch.tensor([[MASK] * 12, [MASK] * 8 + [2] * 4, [MASK] * 3 + [2] * 9, [2] * 12])
    output = network().generate(z, sampler="first_hitting", tokens_per_pass=2, batch_size=2)
    assert output.passes.tolist() == [6, 4, 2, 0]
    assert output.tokens_per_forward.tolist() == [2.0, 2.0, 1.5, 0.0]


def test_passes_of_dilated_steps_are_no_more_than_the_free_places():
    z = torch.tensor([[MASK] * 12, [MASK] * 3 + [2] * 9])
    output = network().generate(z, steps=4)
    assert output.passes.tolist() == [4, 3]
    assert output.tokens_per_forward.tolist() == [3.0, 1.0]


def test_a_sampled_eos_ends_a_text():
    output = liking(EOS).generate(
        torch.tensor([[2, 3]]),
        stop_at_eos=True,
        eos_token_id=EOS,
        pad_token_id=6,
        steps=1,
        max_new_tokens=4,
    )
    assert output.sequences.tolist() == [[2, 3, EOS, 6, 6, 6]]
    assert output.tokens_per_forward.tolist() == [1.0]


def test_any_of_several_ids_ends_a_text():
    output = liking(7).generate(
        stop_at_eos=True, eos_token_id=[EOS, 7], pad_token_id=6, steps=1, max_length=4
    )
    assert output.sequences.tolist() == [[7, 6, 6, 6]]


def test_without_an_eos_none_ends_a_text():
    output = liking(EOS).generate(steps=1, max_length=4)
    assert output.sequences.tolist() == [[EOS] * 4]
    assert output.tokens_per_forward.tolist() == [4.0]


def test_an_eos_of_the_prompt_ends_nothing():
    z = torch.tensor([[EOS, 2]])
    output = liking(5).generate(z, stop_at_eos=True, eos_token_id=EOS, steps=1, max_new_tokens=3)
    assert output.sequences.tolist() == [[EOS, 2, 5, 5, 5]]


def test_no_pass_is_made_for_what_lies_behind_an_eos():
    z = torch.tensor([[MASK, 2, 3, 4, 5, 6, 7, 2, 3, 4, 5, MASK]])
    model = liking(EOS)
    passes = [
        model.generate(z, stop_at_eos=True, eos_token_id=EOS, steps=2, seed=seed).passes.item()
        for seed in range(9)
    ]
    assert set(passes) == {1, 2}  # by which of the two places comes first


# ---------------------------------------------------------------- modes and streamers


@pytest.mark.parametrize("training", [True, False])
def test_a_model_is_given_back_in_its_mode_and_samples_without_dropout(training):
    model = network(dropout=0.5)
    quiet = model.generate(steps=3).sequences
    model.train(training)
    assert torch.equal(model.generate(steps=3).sequences, quiet)
    assert model.training == training


class Recorder(BaseStreamer):
    """A streamer that keeps what it is given."""

    def __init__(self):
        self.heard = []

    def put(self, value):
        self.heard.append(("put", value.tolist()))

    def put_draft(self, value):
        self.heard.append(("draft", value.tolist()))

    def end(self):
        self.heard.append(("end", None))


def stream(prompt, **settings):
    recorder = Recorder()
    output = network().generate(prompt, streamer=recorder, steps=3, **settings)
    return recorder.heard, output


def test_a_streamer_gets_the_prompt_a_draft_a_step_and_the_text():
    heard, output = stream(torch.tensor([[2, 3]]), max_new_tokens=6)
    assert [kind for kind, _ in heard] == ["put", "draft", "draft", "draft", "put", "end"]
    assert heard[0][1] == [[2, 3]]
    assert heard[-2][1] == output.sequences[:, 2:].tolist() == heard[-3][1]
    counts = [ids[0].count(MASK) for kind, ids in heard if kind == "draft"]
    assert counts == [4, 2, 0]


def test_drafts_that_a_streamer_keeps_do_not_change():
    kept = []
    recorder = Recorder()
    recorder.put_draft = kept.append
    network().generate(streamer=recorder, steps=3)
    assert [int((draft == MASK).sum()) for draft in kept] == [8, 4, 0]


def test_a_config_of_transformers_counts_by_what_is_set_in_it():
    foreign = GenerationConfig(max_new_tokens=3, temperature=0.5)
    model, prompt = network(), torch.tensor([[2, 3]])
    expected = model.generate(prompt, max_new_tokens=3, temperature=0.5).sequences
    assert torch.equal(model.generate(prompt, generation_config=foreign).sequences, expected)
    whole = GenerationConfig.from_model_config(model.config)
    assert model.generate(prompt, generation_config=whole).sequences.shape == (1, 12)
    with pytest.raises(ValueError, match="unknown generation setting 'num_beams'"):
        model.generate(prompt, generation_config=GenerationConfig(num_beams=4))
    with pytest.raises(ValueError, match=r"no do_sample: texts are drawn; temperature=0"):
        model.generate(prompt, do_sample=True)


def test_an_attention_mask_of_another_shape_is_refused(unchecked):
    del unchecked
    with pytest.raises(ValueError, match=r"the shape \(1, 2\), input_ids \(1, 3\)"):
        network().generate(torch.tensor([[2, 3, 4]]), attention_mask=torch.ones(1, 2))


def test_a_streamer_gets_the_whole_text_where_nothing_is_in_front():
    heard, output = stream(None)
    assert heard[0] == ("put", [[]])
    assert heard[-2][1] == output.sequences.tolist()


def test_a_streamer_gets_what_was_filled_in_between():
    heard, output = stream(torch.tensor([[2, 3, MASK, 4, MASK]]))
    assert heard[0][1] == [[2, 3]]
    assert heard[-2][1] == output.sequences[:, 2:].tolist()


@pytest.mark.parametrize("real", [[0, 0, 1, 1], [1, 1, 0, 0]])
def test_a_streamer_gets_no_padding_of_the_prompt(real):
    z = torch.tensor([[2, 3, 4, 5]])
    heard, output = stream(z, attention_mask=torch.tensor([real]), max_new_tokens=3)
    assert heard[0][1] == [z[0, torch.tensor(real).bool()].tolist()]
    assert heard[-2][1] == output.sequences[:, 2:].tolist()


def test_a_streamer_of_a_whole_text_gets_it_at_once():
    heard, _ = stream(torch.tensor([[2, 3]]), max_new_tokens=0)
    assert heard == [("put", [[2, 3]]), ("put", [[]]), ("end", None)]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["The cat sat on the mat. The dog sat on the cat. "] * 9, 300)


@pytest.mark.parametrize("kind", [TextStreamer, TextDiffusionStreamer])
@pytest.mark.parametrize("prompt", ["The cat sat on", None])
@pytest.mark.parametrize("skip_prompt", [False, True])
def test_the_streamers_of_transformers_print_the_text(kind, prompt, skip_prompt, tokenizer, capsys):
    model = network(len(tokenizer), mask_token_id=tokenizer.mask_token_id, model_length=20)
    z = None if prompt is None else torch.tensor([tokenizer.encode(prompt)])
    ids = model.generate(z, streamer=kind(tokenizer, skip_prompt=skip_prompt), steps=3).sequences[0]
    printed = capsys.readouterr().out
    shown = printed.rsplit("\0338\033[J", 1)
    front = "" if prompt is None or skip_prompt else shown[0].split("\0337")[0]
    size = 0 if z is None or not skip_prompt else z.shape[1]
    said = shown[-1] if len(shown) == 1 else front + shown[-1]
    assert said == tokenizer.decode(ids[size:]) + "\n"
    assert printed.count("\0337") == (3 if kind is TextDiffusionStreamer else 0)


def test_a_config_of_another_way_to_generate_does_not_keep_a_model_from_loading(tmp_path):
    model = network()
    model.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"do_sample": true, "num_beams": 4}')
    loaded = type(model).from_pretrained(tmp_path)
    assert loaded.generate(steps=2, seed=3).sequences.tolist() == (
        model.generate(steps=2, seed=3).sequences.tolist()
    )
