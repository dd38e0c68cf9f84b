"""A compiled network gives the texts of the other; copies of it are not compiled."""

import copy
import pickle

import pytest
import torch

from sdtt.models.exact import TableDenoiser
from sdtt.models.mdlm import MDLMForMaskedLM
from sdtt.sampling.canvas import canvas_of
from sdtt.sampling.generate import sample

HOW = {"sampler": "ancestral", "steps": 6, "seed": 3}


def canvas(model, count=5):
    return canvas_of(model, 12, count, prompt=[1, 2])


@pytest.fixture
def pair(random_model, unchecked):  # noqa: ARG001
    """A model, and one of the same weights that is compiled."""
    model = random_model().double()
    compiled = random_model().double()
    compiled.compile_trunk()
    return model, compiled


class FewShapes(MDLMForMaskedLM):
    """Says that it is compiled, and keeps the sizes of the batches that it was asked for."""

    is_compiled = True

    def hidden(self, z, rows=None, **others):
        self.sizes = [*getattr(self, "sizes", []), len(z)]
        return super().hidden(z, rows, **others)


@pytest.mark.parametrize("sampler", ["ancestral", "first_hitting", "confidence"])
@pytest.mark.parametrize("padded", [False, True])
def test_filling_batches_up_to_powers_of_two_changes_no_text(random_model, sampler, padded):
    model = random_model().double()
    few = FewShapes(model.config).double().eval()
    few.load_state_dict(model.state_dict())
    z = canvas(model, 7)
    for index in range(7):
        z[index, 2 : 2 + index] = 3  # so that texts end in different steps
    real = None
    if padded:
        real = torch.arange(12) < torch.tensor([12, 11, 12, 9, 12, 12, 10])[:, None]
    how = {"sampler": sampler, "seed": 3, "attention_mask": real}
    assert torch.equal(sample(few, z, **how), sample(model, z, **how))
    assert set(few.sizes) <= {1, 2, 4, 7}
    assert len(set(few.sizes)) > 1


def test_a_denoiser_that_cannot_be_compiled_is_refused():
    denoiser = TableDenoiser(torch.full((2,), 0.5).double())
    with pytest.raises(ValueError, match="TableDenoiser cannot be compiled: it has no compile_tr"):
        sample(denoiser, canvas_of(denoiser, 1, 2), compile=True)


def test_a_model_is_not_compiled_unless_asked_to_be(random_model):
    model = random_model()
    sample(model, canvas(model), **HOW)
    assert not model.is_compiled


@pytest.mark.slow
def test_a_compiled_model_writes_the_texts_of_the_other(pair):
    model, compiled = pair
    assert torch.equal(sample(compiled, canvas(model), **HOW), sample(model, canvas(model), **HOW))
    assert (compiled.is_compiled, model.is_compiled) == (True, False)


@pytest.mark.slow
def test_a_compiled_model_writes_padded_texts_as_the_other_does(pair):
    model, compiled = pair
    real = torch.arange(12) < torch.tensor([12, 9, 12, 5, 12])[:, None]
    ours, due = (sample(m, canvas(model), attention_mask=real, **HOW) for m in (compiled, model))
    assert torch.equal(ours, due)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_sampling_compiles_where_it_is_asked_to(random_model):
    model, other = random_model().double(), random_model().double()
    ours = sample(model, canvas(model), compile=True, **HOW)
    assert model.is_compiled
    assert torch.equal(ours, sample(other, canvas(model), **HOW))


@pytest.mark.slow
def test_a_compiled_model_can_still_be_trained(pair):
    model, compiled = pair
    sample(compiled, canvas(model), **HOW)
    z, labels = canvas(model), torch.full((5, 12), 4)
    ours, due = (m(z, labels=labels).loss for m in (compiled, model))
    torch.testing.assert_close(ours, due)
    gradients = (
        torch.autograd.grad(x, list(m.parameters())) for x, m in ((ours, compiled), (due, model))
    )
    torch.testing.assert_close(*gradients)


WAYS = {"deepcopy": copy.deepcopy, "pickle": lambda model: pickle.loads(pickle.dumps(model))}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_a_copy_of_a_compiled_model_is_not_compiled(pair, way):
    model, compiled = pair
    twin = way(compiled)
    assert (twin.is_compiled, compiled.is_compiled) == (False, True)
    with torch.no_grad():
        assert torch.equal(twin.hidden(canvas(model)), model.hidden(canvas(model)))


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_a_copy_of_a_compiled_model_runs_on_its_own_weights(pair, way):
    model, compiled = pair
    sample(compiled, canvas(model), **HOW)
    twin, z = way(compiled), canvas(model)
    with torch.no_grad():
        twin.backbone.vocab_embed.embedding.mul_(-1)
        torch.testing.assert_close(compiled.hidden(z), model.hidden(z))
        assert (twin.hidden(z) - model.hidden(z)).abs().max() > 0.1


@pytest.mark.slow
def test_a_packed_and_compiled_model_gives_the_texts_of_the_plain_one(random_model, unchecked):  # noqa: ARG001
    model = random_model()
    compiled = model.for_inference()
    compiled.compile_trunk()
    assert torch.equal(sample(compiled, canvas(model), **HOW), sample(model, canvas(model), **HOW))
