import pytest
import torch
from transformers import AutoModelForMaskedLM

CONDITIONED = {"conditioning": "constant", "cond_dim": 6}
SHAPES = [{}, CONDITIONED, {"tie_word_embeddings": True}, {"mask_token_id": 4}]


def texts():
    z = torch.randint(10, (3, 10), generator=torch.Generator().manual_seed(0))
    z[:, 2:6] = 10
    return z


def logits(model, z):
    with torch.no_grad():
        return model(z).logits


@pytest.mark.parametrize("settings", SHAPES, ids=str)
def test_old_ids_keep_their_scores_and_mask_its_id_when_ids_are_added(random_model, settings):
    model, before = random_model(**settings), random_model(**settings)
    model.resize_token_embeddings(15)
    now, due = logits(model, texts()), logits(before, texts())
    assert now.shape[-1] == model.config.vocab_size == 15
    torch.testing.assert_close(now[..., :11], due, rtol=1e-5, atol=1e-5)
    assert model.mask_token_id == model.config.mask_token_id == before.mask_token_id
    assert now[..., model.mask_token_id].isneginf().all()


@pytest.mark.parametrize("settings", SHAPES, ids=str)
def test_a_new_id_is_at_most_as_likely_as_an_old_one_is_on_average(random_model, settings):
    model = random_model(**settings)
    model.resize_token_embeddings(15)
    law = logits(model, texts()).softmax(-1)
    old = law[..., :11].sum(-1, keepdim=True) / 10  # MASK has none of it
    assert (law[..., 11:] <= old * (1 + 1e-5)).all()
    assert (law[..., 11:] > 0).all()


@pytest.mark.parametrize("settings", SHAPES, ids=str)
def test_a_resized_model_comes_back_from_a_file(random_model, settings, tmp_path):
    model = random_model(**settings)
    model.resize_token_embeddings(15)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(loaded, texts()), logits(model, texts()))
    tied = loaded.head.weight is loaded.backbone.vocab_embed.embedding
    assert tied == settings.get("tie_word_embeddings", False)


def test_tied_rows_stay_tied(random_model):
    model = random_model(tie_word_embeddings=True)
    model.resize_token_embeddings(15)
    assert model.head.weight is model.backbone.vocab_embed.embedding


def test_drawn_rows_have_the_spread_of_a_fresh_model_and_no_bias(random_model):
    model = random_model(initializer_range=0.5)
    torch.manual_seed(3)
    model.resize_token_embeddings(1011, mean_resizing=False)
    for rows in (model.head.weight[11:], model.backbone.vocab_embed.embedding[11:]):
        assert rows.std().item() == pytest.approx(0.5, rel=0.03)
        assert len(rows.unique(dim=0)) == 1000
    assert (model.head.bias[11:] == 0).all()


def test_ids_behind_mask_can_be_cut(random_model):
    model, before = random_model(mask_token_id=4), random_model(mask_token_id=4)
    model.resize_token_embeddings(6)
    z = torch.tensor([[0, 4, 3, 4, 5]])
    torch.testing.assert_close(logits(model, z), logits(before, z)[..., :6])


def test_a_resized_model_generates_new_ids(random_model):
    model = random_model()
    model.resize_token_embeddings(15)
    with torch.no_grad():
        model.head.bias[13] = 1e3
    assert (model.generate(max_length=6, steps=3).sequences == 13).all()


def test_asking_for_nothing_changes_nothing(random_model):
    model = random_model()
    assert model.resize_token_embeddings() is model.get_input_embeddings()
    assert model.config.vocab_size == 11


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"new_num_tokens": 10}, "10 ids leave no row for MASK, which is 10: keep at least 11"),
        ({"new_num_tokens": 12, "pad_to_multiple_of": 8}, "ids that no tokenizer makes"),
    ],
)
def test_a_vocabulary_that_cannot_be_is_refused(random_model, given, says):
    with pytest.raises(ValueError, match=says):
        random_model().resize_token_embeddings(**given)
