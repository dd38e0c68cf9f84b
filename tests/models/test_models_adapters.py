"""A masked language model of transformers is a denoiser of the same law."""

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

from sdtt.diffusion.denoiser import as_denoiser
from sdtt.models.adapters import MaskedLMDenoiser, denoiser_from, network_of
from sdtt.models.mdlm import MDLMForMaskedLM
from sdtt.sampling.generate import sample

SHAPE = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SHAPE |= {"intermediate_size": 32, "max_position_embeddings": 24, "pad_token_id": 0}
MASK = 7  # not the last id, as in BERT


def bert():
    torch.manual_seed(0)
    return BertForMaskedLM(BertConfig(**SHAPE)).double().eval()


def roberta():
    torch.manual_seed(0)
    return RobertaForMaskedLM(RobertaConfig(**SHAPE)).double().eval()


def modern_bert():
    torch.manual_seed(0)
    return ModernBertForMaskedLM(ModernBertConfig(**SHAPE)).double().eval()


def distil_bert():
    torch.manual_seed(0)
    names = {"dim": 16, "hidden_dim": 32, "n_layers": 2, "n_heads": 2}
    shape = {"vocab_size": 20, "max_position_embeddings": 24, "pad_token_id": 0}
    return DistilBertForMaskedLM(DistilBertConfig(**shape, **names)).double().eval()


FAMILIES = [bert, roberta, modern_bert, distil_bert]


def texts():
    z = torch.randint(1, 20, (3, 10), generator=torch.Generator().manual_seed(0))
    z[:, 4:6] = MASK
    return z


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_the_law_is_that_of_the_model_without_mask(family):
    model = family()
    denoiser = as_denoiser(MaskedLMDenoiser(model, MASK))
    scores = model(input_ids=texts(), attention_mask=torch.ones_like(texts())).logits
    scores[..., MASK] = float("-inf")
    ours = denoiser.logits(denoiser.hidden(texts())).view_as(scores)
    torch.testing.assert_close(ours, scores, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_rows_are_rows_of_the_whole():
    denoiser = MaskedLMDenoiser(bert(), MASK)
    rows = torch.tensor([14, 4, 5, 25])
    assert torch.equal(denoiser.hidden(texts(), rows), denoiser.hidden(texts())[rows])


@torch.no_grad()
def test_padding_is_not_read():
    denoiser = MaskedLMDenoiser(bert(), MASK)
    real = torch.arange(10).expand(3, -1) < 8
    other = texts().masked_fill(~real, 3)
    ours, due = (denoiser.hidden(z, attention_mask=real).view(3, 10, -1) for z in (texts(), other))
    torch.testing.assert_close(ours[:, :8], due[:, :8], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_given_model_is_not_changed_and_its_weights_are_not_copied(family):
    model = family()
    denoiser = MaskedLMDenoiser(model, MASK)
    assert {id(p) for p in denoiser.parameters()} <= {id(p) for p in model.parameters()}
    assert isinstance(model.get_output_embeddings(), torch.nn.Linear)


def test_a_model_that_has_no_head_is_refused():
    with pytest.raises(ValueError, match="BertModel is no masked language model"):
        MaskedLMDenoiser(BertModel(BertConfig(**SHAPE)), MASK)


@pytest.mark.parametrize("token", [-1, 20])
def test_an_id_of_mask_beyond_the_vocabulary_is_refused(token):
    with pytest.raises(ValueError, match=rf"mask_token_id must lie in \[0, 20\), got {token}"):
        MaskedLMDenoiser(bert(), token)


def test_a_denoiser_is_taken_as_it_is(random_model):
    model = random_model()
    assert denoiser_from(model, 10) is model
    assert isinstance(denoiser_from(bert(), MASK), MaskedLMDenoiser)


def test_a_model_without_a_wrapper_is_its_own_network(random_model):
    model = random_model()
    assert isinstance(network_of(model), MDLMForMaskedLM)
    assert network_of(model) is model


def test_sampling_leaves_the_model_in_the_mode_that_it_was_given_in():
    model = bert()
    denoiser = MaskedLMDenoiser(model, MASK)
    sample(denoiser, torch.full((1, 4), MASK), steps=2)
    assert not any(module.training for module in denoiser.modules())
    assert MaskedLMDenoiser(model.train(), MASK).training


def test_parts_of_a_model_keep_their_own_modes():
    model = bert().train()
    model.bert.embeddings.eval()
    denoiser = MaskedLMDenoiser(model, MASK)
    assert denoiser.training
    assert not denoiser.trunk.bert.embeddings.training
    assert denoiser.trunk.bert.encoder.training


def test_a_text_longer_than_the_positions_is_refused():
    with pytest.raises(ValueError, match="25 tokens is longer than the model's 24"):
        sample(MaskedLMDenoiser(bert(), MASK), torch.full((1, 25), MASK))
    assert MaskedLMDenoiser(bert(), MASK).device == torch.device("cpu")
