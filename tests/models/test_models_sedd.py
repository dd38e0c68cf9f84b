"""Score models: their ratios are the published ones, and as a law they are what ratios say."""

import math
from itertools import product

import pytest
import torch
from models.written_out import log_scores, published_parameters
from transformers import AutoModelForMaskedLM

from sdtt.diffusion.denoiser import Denoiser
from sdtt.diffusion.elbo import nelbo_sum
from sdtt.diffusion.noise import SCHEDULES
from sdtt.models.exact import TableDenoiser
from sdtt.models.mdlm import MDLMForMaskedLM
from sdtt.models.pack import can_pack
from sdtt.models.sedd import SEDDConfig, SEDDForMaskedLM, log_odds_masked
from sdtt.sampling.analytic import total_score
from sdtt.sampling.canvas import canvas_of
from sdtt.sampling.generate import sample

SHAPE = {"vocab_size": 11, "hidden_dim": 16, "n_blocks": 3, "n_heads": 2, "model_length": 12}
TIMES = torch.tensor([0.02, 0.5, 0.97, 1.0])
LEVELS = {
    "loglinear": lambda t: -math.log(1 - (1 - 1e-3) * t),
    "geometric": lambda t: min(-math.log(1 - t), 4.0) if t < 1 else 4.0,
}
ANCESTRAL = {"sampler": "ancestral"}
WAYS = [
    {"scale_by_sigma": True},
    {"scale_by_sigma": False},
    {"noise": "geometric", "sigma_max": 4.0},
    {"noise": "geometric", "sigma_max": 4.0, "scale_by_sigma": False},
]


def score_model(scale=0.3, **settings):
    torch.manual_seed(0)
    model = SEDDForMaskedLM(SEDDConfig(**SHAPE | {"cond_dim": 6} | settings)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(float("norm" in name), scale, generator=generator)
    return model


def texts(count=4, length=10, seed=0):
    return torch.randint(11, (count, length), generator=torch.Generator().manual_seed(seed))


def written_out(model, z):
    """log s, by the published network and its law of scales, for a text at each of TIMES."""
    p, level = published_parameters(model), LEVELS[model.config.noise]
    plain = [
        log_scores(p, one, level(t), scale_by_sigma=model.config.scale_by_sigma)
        for one, t in zip(z, TIMES.tolist(), strict=True)
    ]
    return torch.stack(plain)


def log_odds(model):
    """log((1 - alpha) / alpha) at each of TIMES."""
    return torch.tensor([math.log(math.expm1(LEVELS[model.config.noise](t))) for t in TIMES])


@torch.no_grad()
@pytest.mark.parametrize("settings", WAYS, ids=str)
def test_ratios_are_the_published_ones_written_out(settings):
    model, z = score_model(**settings), texts()
    torch.testing.assert_close(
        model.log_ratios(z, TIMES), written_out(model, z), rtol=1e-4, atol=1e-4
    )


@torch.no_grad()
@pytest.mark.parametrize("settings", WAYS, ids=str)
def test_logits_are_ratios_times_the_odds_to_be_masked(settings):
    model, z = score_model(**settings), texts() % 10
    z[:, ::2] = 10
    due = written_out(model, z) + log_odds(model)[:, None, None]
    rows = (z == 10).flatten().nonzero().squeeze(1)
    ours = model.logits(model.hidden(z, rows, t=TIMES))
    torch.testing.assert_close(ours, due.flatten(0, 1)[rows, :10], rtol=1e-4, atol=1e-4)


def test_ratios_of_the_process_times_the_odds_to_be_masked_are_the_law_of_a_token():
    weights = torch.rand(2, 2, 2, generator=torch.Generator().manual_seed(3)).double() + 0.1
    table = TableDenoiser(weights / weights.sum())
    sigma = torch.tensor(0.7, dtype=torch.float64)
    alpha = (-sigma).exp().item()

    def q(z):
        """The chance of a noisy text: the sum over all texts that it may come from."""
        total = 0.0
        for x in product(range(2), repeat=3):
            chance = table.law[x].item()
            for clean, noisy in zip(x, z, strict=True):
                chance *= {clean: alpha, 2: 1 - alpha}.get(noisy, 0.0)
            total += chance
        return total

    for z in product(range(3), repeat=3):
        laws = table.hidden(torch.tensor([z])).exp()
        for place in (i for i in range(3) if z[i] == 2):
            ratios = [q((*z[:place], y, *z[place + 1 :])) / q(z) for y in range(2)]
            odds = log_odds_masked(sigma).exp().item()
            assert [s * odds for s in ratios] == pytest.approx(laws[place].tolist())


@torch.no_grad()
@pytest.mark.parametrize("settings", WAYS, ids=str)
def test_the_total_is_the_sum_of_ratios_times_the_odds_to_be_masked(settings):
    model, z = score_model(**settings), torch.full((4, 10), 10)
    sums = written_out(model, z)[..., :10].logsumexp(-1)
    due = (sums + log_odds(model)[:, None]).exp().double().flatten()
    ours = total_score(model, model.hidden(z, t=TIMES))
    assert (ours - 1).abs().min() > 1e-2
    torch.testing.assert_close(ours, due, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("settings", WAYS, ids=str)
def test_asked_rows_of_a_score_model_are_rows_of_the_whole(settings):
    model, rows = score_model(**settings).double(), torch.tensor([31, 2, 39, 17, 0, 11])
    ours = model.hidden(texts(), rows, t=TIMES)
    torch.testing.assert_close(ours, model.hidden(texts(), t=TIMES)[rows], rtol=1e-12, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("settings", WAYS, ids=str)
def test_the_head_gives_the_law_of_the_logits(settings):
    model = score_model(**settings).double()
    hidden = model.hidden(texts(), t=TIMES)
    ours = model.head.scores(hidden)[:, :10].log_softmax(-1)
    torch.testing.assert_close(ours, model.logits(hidden).log_softmax(-1))


@torch.no_grad()
@pytest.mark.parametrize("settings", WAYS, ids=str)
def test_in_bfloat16_logits_lose_nothing_in_their_constant(settings):
    model = score_model(**settings).bfloat16()
    hidden = model.hidden(texts(), t=TIMES)
    due = model.backbone.output_layer.linear(hidden[:, :16])[:, :10].float().log_softmax(-1)
    torch.testing.assert_close(model.logits(hidden).log_softmax(-1), due, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("settings", WAYS, ids=str)
def test_without_noise_the_logits_are_finite(settings):
    model = score_model(**settings)
    assert model.logits(model.hidden(texts(), t=torch.zeros(4))).isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("settings", WAYS, ids=str)
def test_a_score_model_comes_back_through_the_auto_class(settings, tmp_path):
    model = score_model(**settings)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    assert type(loaded) is SEDDForMaskedLM
    assert (loaded.config.noise, loaded.config.scale_by_sigma) == (
        model.config.noise,
        model.config.scale_by_sigma,
    )
    torch.testing.assert_close(loaded.log_ratios(texts(), TIMES), model.log_ratios(texts(), TIMES))


@torch.no_grad()
@pytest.mark.parametrize("settings", WAYS, ids=str)
def test_a_score_model_is_packed_with_the_same_ratios(settings):
    model = score_model(**settings)
    if not can_pack(model):
        pytest.skip("this torch has no kernels to pack float32")
    fast = model.for_inference()
    assert fast.is_packed
    torch.testing.assert_close(
        fast.log_ratios(texts(), TIMES), model.log_ratios(texts(), TIMES), rtol=2e-5, atol=2e-5
    )


@torch.no_grad()
def test_as_an_mdlm_it_has_the_same_law_and_the_same_weights():
    model = score_model().double()
    mdlm = model.as_mdlm()
    assert type(mdlm) is MDLMForMaskedLM
    ours, due = (
        each.logits(each.hidden(texts(), t=TIMES)).log_softmax(-1) for each in (mdlm, model)
    )
    torch.testing.assert_close(ours, due)
    own = dict(model.named_parameters())
    assert all(parameter is own[name] for name, parameter in mdlm.named_parameters())


@torch.no_grad()
@pytest.mark.parametrize("scaled", [True, False])
def test_the_nelbo_of_a_score_model_is_that_of_its_normalised_law(scaled):
    model, x = score_model(scale_by_sigma=scaled).double(), texts() % 10
    u = torch.rand(4, 10, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    schedule = SCHEDULES["log_linear"]
    ours, due = (
        nelbo_sum(each, x, TIMES.double(), u, schedule) for each in (model, model.as_mdlm())
    )
    assert due > 0
    torch.testing.assert_close(ours, due)


def test_a_geometric_score_model_is_no_mdlm():
    with pytest.raises(ValueError, match="told the levels of loglinear noise, this model those of"):
        score_model(noise="geometric").as_mdlm()


@pytest.mark.parametrize("settings", WAYS[:2], ids=str)
@pytest.mark.parametrize("sampler", ["ancestral", "first_hitting", "dilated", "confidence"])
def test_samplers_of_laws_write_the_texts_of_the_normalised_law(sampler, settings):
    model = score_model(**settings).double()
    canvas = canvas_of(model, 8, 3, prompt=[1, 2])
    how = {"sampler": sampler, "seed": 3}
    how |= {"tokens_per_pass": 3} if sampler == "first_hitting" else {"steps": 2}
    ours, due = (sample(each, canvas, **how) for each in (model, model.as_mdlm()))
    assert torch.equal(ours, due)


def test_the_analytic_sampler_takes_the_rates_of_a_score_model():
    model = score_model().double()
    canvas = canvas_of(model, 12, 20)
    how = {"sampler": "analytic", "steps": 3, "seed": 3}
    plain = sample(model, canvas, **how)
    with torch.no_grad():  # a bias of all ids is a factor of all rates, and changes no law
        model.backbone.output_layer.linear.bias += 2
    assert not torch.equal(sample(model, canvas, **how), plain)
    mdlm = model.as_mdlm()
    assert torch.equal(sample(mdlm, canvas, **how), sample(mdlm, canvas, **how | ANCESTRAL))


def test_a_score_model_is_a_denoiser_whose_scores_carry_a_scale():
    model = score_model()
    assert isinstance(model, Denoiser)
    assert (model.unnormalised_scores, model.is_told_time) == (True, True)
    assert (model.mask_token_id, model.excluded_ids) == (10, (10,))


def test_an_objective_of_a_score_model_is_refused_by_what_to_train_instead():
    with pytest.raises(ValueError, match=r"not trained here.*train model\.as_mdlm\(\)"):
        score_model()(texts(), rows=torch.tensor([3]), objective=lambda hidden, _: hidden.sum())


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"conditioning": "constant"}, "a score model is told the time.*got 'constant'"),
        ({"cond_dim": None}, "conditioning='time' does not go with cond_dim=None"),
        ({"noise": "cosine"}, "noise must be 'loglinear' or 'geometric', got 'cosine'"),
        ({"sigma_min": 0.0}, "0 < sigma_min < sigma_max must hold, got 0.0 and 20.0"),
        ({"sigma_min": 30.0}, "0 < sigma_min < sigma_max must hold, got 30.0 and 20.0"),
    ],
)
def test_a_score_model_that_cannot_be_is_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        SEDDConfig(**SHAPE | settings)
