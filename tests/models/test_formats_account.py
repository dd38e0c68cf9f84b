"""Every key of a checkpoint is taken, left over for a reason, or an error that names it."""

import json
import re

import pytest
import torch
from published import (
    Shape,
    mdlm_config,
    nested_config,
    parameters,
    random_weights,
    under,
    write_folder,
    write_lightning,
)
from transformers import BertConfig, BertForMaskedLM

from sdtt.models.checkpoints import load_config, load_model
from sdtt.models.formats.checkpoint import read, read_folder
from sdtt.models.formats.lines import account_lines
from sdtt.models.formats.names import plain
from sdtt.models.formats.source import read_source
from sdtt.models.formats.stored import in_memory

WEIGHTS = random_weights()


def folder_of(tmp_path, weights=None, config=None, **options):
    weights = under(WEIGHTS) if weights is None else weights
    return write_folder(tmp_path / "model", config or nested_config(), weights, **options)


def changed(**by_name):
    """The weights under ``backbone.``, with some replaced, or left out where None."""
    weights = under(WEIGHTS) | {"backbone." + name: w for name, w in by_name.items()}
    return {name: weight for name, weight in weights.items() if weight is not None}


@pytest.mark.parametrize(
    "name",
    [
        "backbone.blocks.0.norm1.weight",
        "module.backbone.blocks.0.norm1.weight",
        "_orig_mod.module.backbone._orig_mod.blocks.0.norm1.weight",
        "backbone.blocks.0._orig_mod.norm1.weight",
        "module.backbone.module.backbone._orig_mod.blocks.0.norm1.weight",
    ],
)
def test_wrappers_at_any_depth_leave_no_trace_in_a_name(name):
    assert plain(name) == "backbone.blocks.0.norm1.weight"


def test_two_weights_of_one_plain_name_are_refused():
    twice = under(WEIGHTS) | {"module.backbone.output_layer.linear.bias": torch.zeros(11)}
    with pytest.raises(ValueError, match=r"two weights have one name .* module\.backbone\.output"):
        read("x", nested_config(), in_memory(twice))


def test_the_account_holds_every_key_once(tmp_path):
    more = {"noise.sigma_max": torch.ones(()), "train_metrics.nll": torch.ones(())}
    more |= {"teacher.backbone.vocab_embed.embedding": torch.ones(11, 16)}
    found = read_folder(folder_of(tmp_path, under(WEIGHTS) | more)).account
    assert len(found.taken) == len(parameters(WEIGHTS))
    assert found.left == {
        "backbone.rotary_emb.inv_freq": "rotary frequencies, which are computed; equal to ours",
        "noise.sigma_max": "the noise schedule, which is not part of the law",
        "train_metrics.nll": "metrics of its training",
        "teacher.backbone.vocab_embed.embedding": "the teacher of its training",
    }
    assert found.bytes == sum(4 * weight.numel() for weight in parameters(WEIGHTS))


def test_a_key_outside_the_network_is_reported_though_nobody_knows_it(tmp_path):
    weights = under(WEIGHTS) | {"extra.gate": torch.ones(3)}
    found = read_folder(folder_of(tmp_path, weights))
    assert found.account.left["extra.gate"] == "unknown, and outside the network"
    assert "left over   1: extra.gate: unknown, and outside the network" in account_lines(found)


@pytest.mark.parametrize("config", [nested_config(), mdlm_config()], ids=["sdtt", "mdlm"])
def test_a_key_that_the_network_has_and_the_model_does_not_is_an_error(config, tmp_path):
    weights = under(WEIGHTS) | {"backbone.blocks.1.attn_qkv.bias": torch.ones(48)}
    folder = folder_of(tmp_path, weights, config)
    says = r"a weight that this model does not: backbone\.blocks\.1\.attn_qkv\.bias \[48\]"
    with pytest.raises(ValueError, match=says):
        load_model(folder)


def test_a_block_more_than_the_config_says_is_an_error(tmp_path):
    config = nested_config(Shape(blocks=1))
    with pytest.raises(ValueError, match=r"this model does not: backbone\.blocks\.1\."):
        load_model(folder_of(tmp_path, config=config))


@pytest.mark.parametrize("config", [nested_config(), mdlm_config()], ids=["sdtt", "mdlm"])
def test_missing_keys_are_counted_and_named(config, tmp_path):
    weights = changed(**{"blocks.1.mlp.0.bias": None, "sigma_map.mlp.2.bias": None})
    folder = folder_of(tmp_path, weights, config)
    says = r"model: 2 weights are missing, such as backbone\.\S+ \(it has 29 weights"
    with pytest.raises(ValueError, match=says):
        load_model(folder)


def test_misshapen_keys_are_counted_and_named_with_both_shapes(tmp_path):
    weights = changed(**{"blocks.0.attn_out.weight": torch.ones(16, 8)})
    says = r"1 weights are misshapen, such as backbone\.blocks\.0\.attn_out\.weight: it is "
    with pytest.raises(ValueError, match=says + r"\[16, 8\] where the config makes it \[16, 16\]"):
        load_model(folder_of(tmp_path, weights))


def test_a_quantised_weight_is_refused(tmp_path):
    weights = changed(**{"blocks.0.attn_out.weight": torch.ones(16, 16, dtype=torch.int8)})
    with pytest.raises(ValueError, match=r"whole numbers, such as .*attn_out\.weight \(int8\)"):
        load_model(folder_of(tmp_path, weights))


def test_rotary_frequencies_of_another_base_are_refused(tmp_path):
    weights = changed(**{"rotary_emb.inv_freq": 500.0 ** -(torch.arange(4) / 4)})
    with pytest.raises(ValueError, match=r"rotary_emb\.inv_freq holds other rotary frequencies"):
        load_model(folder_of(tmp_path, weights))


def test_embedding_and_head_of_two_vocabularies_are_refused(tmp_path):
    head = {"output_layer.linear.weight": torch.ones(10, 16)}
    weights = changed(**head, **{"output_layer.linear.bias": torch.ones(10)})
    with pytest.raises(ValueError, match="the embedding has 11 rows and the head 10"):
        load_model(folder_of(tmp_path, weights))


def test_heads_that_the_rotary_frequencies_deny_are_refused(tmp_path):
    with pytest.raises(ValueError, match="says 4 attention heads, but 2 are given or follow"):
        load_model(folder_of(tmp_path, config=nested_config(Shape(heads=4))))


def test_heads_follow_from_the_rotary_frequencies(tmp_path):
    assert load_model(write_lightning(tmp_path / "x.ckpt", under(WEIGHTS))).config.n_heads == 2


def test_heads_that_nothing_says_must_be_given(tmp_path):
    weights = changed(**{"rotary_emb.inv_freq": None})
    file = write_lightning(tmp_path / "x.ckpt", weights)
    with pytest.raises(ValueError, match=r"how many attention heads it has.* give --n-heads"):
        read_source(file)
    assert read_source(file, n_heads=4).config.n_heads == 4


def test_given_heads_do_not_contradict_the_config(tmp_path):
    with pytest.raises(ValueError, match="says 2 attention heads, but 4 are given"):
        read_source(folder_of(tmp_path), n_heads=4)


# ---------------------------------------------------------------- other architectures


def test_another_architecture_is_named_by_what_was_found(tmp_path):
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertForMaskedLM(BertConfig(vocab_size=20, intermediate_size=8, **shape)).save_pretrained(
        tmp_path / "bert"
    )
    says = r"another architecture: it has model_type 'bert' and weights such as bert\..*; known are"
    with pytest.raises(ValueError, match=says):
        read_source(tmp_path / "bert")


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ({"parameterization": "sedd"}, "parameterization='sedd'"),
        ({"algo": {"parameterization": "mean", "name": "duo"}}, "parameterization='mean'"),
        ({"diffusion": "uniform"}, "diffusion='uniform'"),
        ({"backbone": "dimamba"}, "backbone='dimamba'"),
        ({"algo": {"causal_attention": True}}, "causal_attention=true"),
    ],
)
def test_a_network_of_another_law_is_refused_though_its_weights_fit(said, named, tmp_path):
    with pytest.raises(ValueError, match=named):
        load_model(folder_of(tmp_path, config=nested_config() | said))


@pytest.mark.parametrize(
    "said", [{"time_conditioning": True}, {"algo": {"time_conditioning": True}}]
)
def test_a_network_that_is_told_the_time_is_told_it_here_too(said, tmp_path):
    model = load_model(folder_of(tmp_path, config=nested_config() | said))
    assert model.config.conditioning == "time"


# ---------------------------------------------------------------- half a download


@pytest.mark.parametrize("config", [nested_config(), mdlm_config()], ids=["sdtt", "mdlm"])
def test_a_truncated_file_is_named(config, tmp_path):
    folder = folder_of(tmp_path, config=config)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged or not whole .*again"):
        load_model(folder)


@pytest.mark.parametrize("config", [nested_config(), mdlm_config()], ids=["sdtt", "mdlm"])
def test_a_missing_shard_is_named(config, tmp_path):
    folder = folder_of(tmp_path, config=config, shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    says = r"1 of 3 shards are missing, such as model-00002-of-00003\.safetensors"
    with pytest.raises(ValueError, match=says):
        load_model(folder)


@pytest.mark.parametrize("place", ["../model.safetensors", "/tmp/model.safetensors", "a/b"])
def test_a_shard_outside_the_folder_is_refused(place, tmp_path):
    folder = folder_of(tmp_path, shards=2)
    file = folder / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    index["weight_map"]["backbone.vocab_embed.embedding"] = place
    file.write_text(json.dumps(index))
    with pytest.raises(ValueError, match=f"names a shard outside the folder, {place}"):
        read_folder(folder)


def test_a_tied_head_that_is_not_the_embedding_is_refused():
    config = nested_config()
    config["model"]["tie_word_embeddings"] = True
    with pytest.raises(ValueError, match=r"output_layer\.linear\.weight is another weight"):
        read("x", config, in_memory(under(WEIGHTS)))
    same = changed(**{"output_layer.linear.weight": WEIGHTS["vocab_embed.embedding"]})
    assert read("x", config, in_memory(same)).config.tie_word_embeddings


def test_a_reference_of_hydra_to_its_own_config_is_followed():
    config = nested_config() | {"data": {"length": 24}}
    config["model"]["length"] = "${data.length}"
    assert read("x", config, in_memory(under(WEIGHTS))).config.model_length == 24


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("length", "${elsewhere.length}"),
        ("hidden_size", "16"),
        ("n_blocks", 1.5),
        ("cond_dim", [6]),
        ("dropout", "a"),
    ],
)
def test_a_config_that_says_no_number_where_one_is_due_is_refused(name, value):
    config = nested_config()
    config["model"][name] = value
    says = rf"its config says \w+={re.escape(repr(value))}, which is no"
    with pytest.raises(ValueError, match=says):
        read("x", config, in_memory(under(WEIGHTS)))


def test_a_non_linearity_that_nobody_knows_is_refused():
    with pytest.raises(ValueError, match="its config says hidden_act='foo'"):
        read("x", mdlm_config() | {"hidden_act": "foo"}, in_memory(under(WEIGHTS)))


@pytest.mark.parametrize(
    "setting", [{"dtype": "bf16"}, {"time_conditioning": None}, {"hidden_act": []}], ids=str
)
def test_a_config_with_which_no_network_begins_is_refused_in_words(setting, tmp_path):
    folder = folder_of(tmp_path, config=mdlm_config() | setting)
    for load in (read_source, load_config, load_model):
        with pytest.raises(ValueError, match=next(iter(setting))):
            load(folder)


@pytest.mark.parametrize("name", ["vocab_embed.embedding", "output_layer.linear.weight"])
def test_a_vocabulary_of_one_number_is_refused_in_words(name):
    with pytest.raises(ValueError, match="both must be the size of the vocabulary"):
        read("x", nested_config(), in_memory(changed(**{name: torch.tensor(1.0)})))


def test_a_weight_that_is_not_in_its_shard_is_named(tmp_path):
    folder = folder_of(tmp_path, shards=2)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["backbone.lost"] = "model-00001-of-00002.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"1 weights are not in the shard .* backbone\.lost in"):
        load_model(folder)


def test_a_config_that_is_cut_off_is_named(tmp_path):
    folder = folder_of(tmp_path)
    (folder / "config.json").write_text('{"model": {"hidden_')
    with pytest.raises(ValueError, match=r"config\.json is damaged: it is no JSON"):
        load_model(folder)


# ---------------------------------------------------------------- MASK


@pytest.mark.parametrize(("ids", "whose"), [(50257, "GPT-2's without MASK"), (30522, "103")])
def test_a_vocabulary_whose_last_id_is_a_token_must_name_mask(ids, whose, tmp_path):
    shape = Shape(ids=ids, width=4, heads=1, blocks=1)
    folder = folder_of(tmp_path, under(random_weights(shape)), nested_config(shape))
    with pytest.raises(ValueError, match=f"where is MASK.*{whose}.*--mask-token-id"):
        load_model(folder)
    assert read_source(folder, mask_token_id=103).config.mask_token_id == 103


def test_the_last_id_is_mask_where_nothing_names_it_and_the_account_says_so(tmp_path):
    found = read_source(folder_of(tmp_path))
    assert found.config.mask_token_id == 10
    assert "note        nothing names MASK: the last id, 10, is taken" in account_lines(found)


def test_a_mask_that_the_config_names_is_kept(tmp_path):
    folder = folder_of(tmp_path, config=mdlm_config() | {"mask_token_id": 4})
    assert read_source(folder).config.mask_token_id == 4
    assert load_model(folder).config.mask_token_id == 4
