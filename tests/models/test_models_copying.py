"""A copy of a model in which each weight is shared or new, as one says."""

import torch
from torch import nn

from sdtt.models.copying import copy_with


def test_a_weight_is_shared_or_new_as_one_says(random_model):
    model = random_model()
    shared = model.backbone.blocks[0].attn_qkv.weight
    copied = copy_with(model, lambda p: p if p is shared else nn.Parameter(p.detach().clone()))
    kept = {id(p) for p in copied.parameters()} & {id(p) for p in model.parameters()}
    assert kept == {id(shared)}


def test_a_copy_has_the_law_of_the_model_and_a_config_of_its_own(random_model):
    model = random_model()
    copied = copy_with(model, lambda p: nn.Parameter(p.detach().clone()))
    z = torch.full((1, 5), 3)
    assert torch.equal(copied.hidden(z), model.hidden(z))
    assert copied.config is not model.config
    assert copied.backbone.blocks[0].config is copied.config


def test_tied_weights_stay_tied(random_model):
    model = random_model(tie_word_embeddings=True)
    copied = copy_with(model, lambda p: nn.Parameter(p.detach().clone()))
    assert copied.head.weight is copied.backbone.vocab_embed.embedding
    assert copied.head.weight is not model.head.weight
