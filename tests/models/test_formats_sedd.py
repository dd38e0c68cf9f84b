"""Score models as they are published: a folder of that layout gives the ratios written out."""

import math

import pytest
import torch
from models.written_out import log_scores, raw_output
from published import SMALL, Shape, nested_config, random_weights, texts, under, write_folder
from transformers import AutoModelForMaskedLM

from sdtt.models.checkpoints import load_config, load_model
from sdtt.models.formats.convert import check_foldable, convert_checkpoint
from sdtt.models.formats.lines import account_lines
from sdtt.models.formats.source import read_source
from sdtt.models.sedd import SEDDForMaskedLM

SHAPE = Shape()
WEIGHTS = random_weights(SHAPE)
TIMES = torch.tensor([0.1, 0.6, 1.0])


def score_config(scaled=True, shape=SHAPE, **changes):
    """As louaaron/sedd-small has it: of each section what says something of the network, or not."""
    model = {"name": "small", "type": "ddit", "hidden_size": shape.width, "dropout": 0.1}
    model |= {"cond_dim": shape.condition, "length": shape.length, "n_blocks": shape.blocks}
    model |= {"n_heads": shape.heads, "scale_by_sigma": scaled}
    return {
        "data": {"train": "openwebtext", "valid": "wikitext103"},
        "graph": {"type": "absorb", "file": "data", "report_all": False},
        "model": model,
        "ngpus": 8,
        "noise": {"type": "loglinear", "sigma_min": 1e-4, "sigma_max": 20},
        "sampling": {"predictor": "euler", "steps": 128, "noise_removal": True},
        "tokens": shape.ids - 1,
        "training": {"ema": 0.9999, "n_iters": 1300001},
    } | changes


def folder_of(tmp_path, weights=WEIGHTS, **settings):
    return write_folder(tmp_path / "sedd", score_config(**settings), weights)


def written_out(z, scaled, weights=WEIGHTS, heads=2):
    levels = [-math.log(1 - 0.999 * t) for t in TIMES.tolist()]
    return torch.stack(
        [
            log_scores(weights, text, level, scale_by_sigma=scaled, heads=heads)
            for text, level in zip(z, levels, strict=True)
        ]
    )


@torch.no_grad()
@pytest.mark.parametrize("scaled", [True, False])
def test_a_loaded_score_model_has_the_ratios_written_out(scaled, tmp_path):
    model, z = load_model(folder_of(tmp_path, scaled=scaled)), texts()
    assert type(model) is SEDDForMaskedLM
    assert not model.training
    torch.testing.assert_close(
        model.log_ratios(z, TIMES), written_out(z, scaled), rtol=1e-4, atol=1e-4
    )


@torch.no_grad()
def test_a_converted_score_model_is_a_source_again(tmp_path):
    convert_checkpoint(read_source(folder_of(tmp_path)), tmp_path / "once")
    again = read_source(tmp_path / "once")
    convert_checkpoint(again, tmp_path / "twice", dtype=torch.bfloat16)
    once, twice = (load_model(tmp_path / name) for name in ("once", "twice"))
    assert type(twice) is SEDDForMaskedLM
    assert twice.dtype == torch.bfloat16
    for name, weight in once.state_dict().items():
        torch.testing.assert_close(twice.state_dict()[name], weight.bfloat16())


@torch.no_grad()
@pytest.mark.slow
def test_a_score_model_of_the_published_size_has_the_ratios_written_out(tmp_path):
    weights = random_weights(SMALL, scale=0.03)
    model = load_model(folder_of(tmp_path, weights, shape=SMALL))
    z = texts(SMALL, count=3, length=128)
    due = written_out(z, True, weights, SMALL.heads)
    torch.testing.assert_close(model.log_ratios(z, TIMES), due, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("scaled", [True, False])
def test_a_converted_score_model_has_them_through_the_auto_class(scaled, tmp_path):
    convert_checkpoint(read_source(folder_of(tmp_path, scaled=scaled)), tmp_path / "out")
    loaded, z = AutoModelForMaskedLM.from_pretrained(tmp_path / "out").eval(), texts()
    assert type(loaded) is SEDDForMaskedLM
    torch.testing.assert_close(
        loaded.log_ratios(z, TIMES), written_out(z, scaled), rtol=1e-4, atol=1e-4
    )
    again = load_model(tmp_path / "out")
    torch.testing.assert_close(again.log_ratios(z, TIMES), loaded.log_ratios(z, TIMES))


def test_every_key_of_a_score_model_is_taken_or_computed(tmp_path):
    found = read_source(folder_of(tmp_path))
    assert len(found.account.taken) == len(WEIGHTS) - 1
    assert set(found.account.left) == {"rotary_emb.inv_freq"}


def test_the_account_says_that_a_score_model_is_told_the_time(tmp_path):
    lines = account_lines(read_source(folder_of(tmp_path)))
    assert any("conditioning time, 6 wide" in line for line in lines)


def test_the_config_of_a_score_model_is_read_from_its_sections(tmp_path):
    noise = {"type": "geometric", "sigma_min": "1e-3", "sigma_max": 5}
    config = load_config(folder_of(tmp_path, scaled=False, noise=noise))
    assert (config.noise, config.sigma_min, config.sigma_max) == ("geometric", 1e-3, 5.0)
    assert (config.scale_by_sigma, config.conditioning, config.cond_dim) == (False, "time", 6)
    assert (config.vocab_size, config.mask_token_id, config.model_length) == (11, 10, 12)


def test_there_is_nothing_to_fold_in_a_score_model(tmp_path):
    with pytest.raises(ValueError, match="is told the time, so nothing of its conditioning is con"):
        check_foldable(read_source(folder_of(tmp_path)))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"graph": {"type": "uniform"}}, "graph.type='uniform': its noise is not MASK; 'absorb'"),
        ({"tokens": 11}, "says 11 tokens, which with MASK are 12 ids, and the embedding has 11"),
        ({"noise": {"type": "cosine"}}, "noise must be 'loglinear' or 'geometric', got 'cosine'"),
    ],
)
def test_a_score_model_of_another_law_is_refused(changes, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        load_model(folder_of(tmp_path, **changes))


@torch.no_grad()
def test_a_nested_config_with_time_conditioning_is_of_a_model_that_is_told_the_time(tmp_path):
    config = nested_config(SHAPE) | {"time_conditioning": True}
    model, z = load_model(write_folder(tmp_path / "told", config, under(WEIGHTS))), texts()
    levels = [-math.log(1 - 0.999 * t) for t in TIMES.tolist()]
    plain = [raw_output(WEIGHTS, text, level) for text, level in zip(z, levels, strict=True)]
    due = torch.stack(plain)[..., :-1].log_softmax(-1)
    ours = model(z, t=TIMES).logits[..., :-1].log_softmax(-1)
    torch.testing.assert_close(ours, due, rtol=1e-4, atol=1e-4)
