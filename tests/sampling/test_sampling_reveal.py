import pytest
import torch
from sampling.laws import F64, PLAIN, OfPlace, OfTime, Watched, random_uniforms, run

from sdtt.diffusion import categorical
from sdtt.diffusion.categorical import Transform
from sdtt.models.exact import MarkovDenoiser
from sdtt.sampling import network
from sdtt.sampling.network import Network, decode

SETTINGS = {
    "dilated": {"steps": 4},
    "ancestral": {"steps": 6},
    "first_hitting": {},
    "confidence": {"steps": 5},
    "analytic": {"steps": 6},
}
PLANNED = ["dilated", "ancestral", "first_hitting"]


def chain(length=12):
    transition = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.5, 0.3], [0.1, 0.3, 0.6]], dtype=F64)
    return MarkovDenoiser(torch.tensor([0.5, 0.3, 0.2], dtype=F64), transition, length)


def some_canvas(texts=6, length=12):
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(3, (texts, length), generator=generator)
    return tokens.masked_fill(torch.rand(texts, length, generator=generator) < 0.6, 3)


def alike(length, law=(0.5, 0.3, 0.2)):
    """One law for all places."""
    return OfPlace([law] * length)


def test_a_pass_over_some_texts_gives_the_rows_of_a_pass_over_all():
    canvas, watched = some_canvas(), Watched(chain())
    rows = torch.tensor([2 * 12 + 3, 2 * 12 + 7, 4 * 12, 5 * 12 + 11])
    hidden = Network(watched, canvas).hidden(
        rows, torch.tensor([2, 4, 5]), torch.ones(3, dtype=F64)
    )
    assert torch.equal(hidden, chain().hidden(canvas, rows))
    assert torch.equal(watched.canvases[0], canvas[[2, 4, 5]])


@pytest.mark.parametrize("sampler", sorted(SETTINGS))
def test_a_text_with_nothing_to_fill_in_takes_part_in_no_pass(sampler):
    canvas = some_canvas()
    canvas[[1, 4]] = 0
    watched = Watched(chain())
    _, taken = run(sampler, watched, canvas, *random_uniforms(6, 12), **SETTINGS[sampler])
    assert not {1, 4} & {text for step in taken for text in step.texts.tolist()}
    assert not any((z == 0).all(1).any() for z in watched.canvases)


@pytest.mark.parametrize("sampler", ["dilated", "ancestral"])
def test_all_empty_texts_share_a_first_pass_over_one(sampler):
    watched, canvas = Watched(chain()), torch.full((30, 12), 3)
    _, taken = run(sampler, watched, canvas, *random_uniforms(30, 12), steps=1)
    assert len(taken[0].texts) == 30
    assert [z.shape for z in watched.canvases] == [(1, 12)]
    assert sorted(watched.rows[0].tolist()) == list(range(12))


@pytest.mark.parametrize("sampler", PLANNED)
def test_where_empty_texts_are_uniform_one_token_is_asked_for_once(sampler):
    watched = Watched(alike(12), blank_is_uniform=True)
    run(sampler, watched, torch.full((30, 12), 3), *random_uniforms(30, 12), **SETTINGS[sampler])
    blank = [z for z in watched.canvases if (z == 3).all(1).any()]
    assert [z.shape for z in blank] == [(1, 1)]


def test_empty_texts_of_different_lengths_share_one_token_where_they_are_uniform():
    watched, canvas = Watched(alike(12), blank_is_uniform=True), torch.full((4, 12), 3)
    mask = torch.arange(12) < torch.tensor([[12], [5], [1], [7]])
    canvas[~mask] = 0
    run("dilated", watched, canvas, *random_uniforms(4, 12), attention_mask=mask, steps=1)
    assert [z.shape for z in watched.canvases] == [(1, 1)]


def test_an_empty_padded_text_has_a_pass_of_its_own_where_they_are_not():
    watched, canvas = Watched(alike(12)), torch.full((4, 12), 3)
    mask = torch.arange(12) < torch.tensor([[12], [5], [12], [7]])
    canvas[~mask] = 0
    run("dilated", watched, canvas, *random_uniforms(4, 12), attention_mask=mask, steps=1)
    assert [z.shape for z in watched.canvases] == [(1, 12), (2, 12)]


@pytest.mark.parametrize("sampler", sorted(SETTINGS))
def test_the_shared_first_pass_changes_no_text(sampler):
    canvas, (u, v) = torch.full((20, 12), 3), random_uniforms(20, 12)
    together, _ = run(sampler, chain(), canvas, u, v, **SETTINGS[sampler])
    for index in range(0, 20, 5):
        one = slice(index, index + 1)
        alone, _ = run(
            sampler, chain(), torch.full((1, 12), 3), u[one], v[one], **SETTINGS[sampler]
        )
        assert torch.equal(alone, together[one])


@pytest.mark.parametrize("sampler", sorted(SETTINGS))
def test_each_text_is_told_its_own_time(sampler):
    canvas, (u, v) = torch.full((20, 12), 3), random_uniforms(20, 12)
    canvas[::3, :5] = 0
    settings = SETTINGS[sampler] | ({"counts": "even"} if sampler == "ancestral" else {})
    together, _ = run(sampler, OfTime(), canvas, u, v, **settings)
    for index in range(20):
        one = slice(index, index + 1)
        alone, _ = run(sampler, OfTime(), canvas[one], u[one], v[one], **settings)
        assert torch.equal(alone, together[one])


@pytest.mark.parametrize("sampler", sorted(SETTINGS))
@pytest.mark.parametrize("texts", [6, 8])
def test_a_compiled_network_sees_few_shapes_and_gives_the_same_texts(sampler, texts):
    canvas, (u, v) = some_canvas(texts), random_uniforms(texts, 12)
    plain, _ = run(sampler, OfTime(), canvas, u, v, **SETTINGS[sampler])
    watched = Watched(OfTime(), is_compiled=True)
    compiled, _ = run(sampler, watched, canvas, u, v, **SETTINGS[sampler])
    assert torch.equal(compiled, plain)
    assert {len(z) for z in watched.canvases} <= {1, 2, 4, texts}


@pytest.mark.parametrize("sampler", sorted(SETTINGS))
def test_nothing_behind_a_sampled_stop_is_revealed(sampler):
    canvas, (u, v) = torch.full((40, 12), 3), random_uniforms(40, 12)
    denoiser = alike(12, (0.6, 0.3, 0.1))
    _, taken = run(sampler, denoiser, canvas, u, v, stop_ids=(2,), **SETTINGS[sampler])
    text, kept = canvas.clone(), 0
    for step in taken:
        for row in step.rows.tolist():
            assert not (text[row // 12, : row % 12] == 2).any()
        text.view(-1)[step.rows] = step.tokens
        kept += len(step.rows)
    assert 0 < kept < text.numel()


@pytest.mark.parametrize("sampler", sorted(SETTINGS))
def test_all_before_a_stop_is_filled_in_as_without_it(sampler):
    canvas, (u, v) = torch.full((40, 12), 3), random_uniforms(40, 12)
    denoiser = alike(12, (0.6, 0.3, 0.1))
    if sampler == "confidence":  # where all laws are alike its order is from the left
        denoiser = OfPlace([[0.6 - i / 100, 0.3 + i / 100, 0.1] for i in range(12)])
    texts, _ = run(sampler, denoiser, canvas, u, v, stop_ids=(2,), **SETTINGS[sampler])
    whole, _ = run(sampler, denoiser, canvas, u, v, **SETTINGS[sampler])
    before = ((texts == 2).long().cumsum(1) - (texts == 2).long()) == 0  # the stop included
    assert torch.equal(texts[before], whole[before])
    assert not before.all()


@pytest.mark.parametrize("sampler", sorted(SETTINGS))
def test_a_stop_in_the_prompt_stops_nothing(sampler):
    canvas = torch.full((6, 12), 3)
    canvas[:, 2] = 2
    v = torch.zeros(6, 12, dtype=F64)  # the first token, which is no stop
    u = random_uniforms(6, 12)[0]
    texts, _ = run(sampler, alike(12), canvas, u, v, stop_ids=(2,), **SETTINGS[sampler])
    assert (texts != 3).all()


@pytest.mark.parametrize("sampler", ["ancestral", "first_hitting", "analytic"])
def test_a_finished_text_has_no_further_pass(sampler):
    u = torch.linspace(0.99, 0.01, 12, dtype=F64).repeat(2, 1)  # from the left
    v = torch.zeros(2, 12, dtype=F64)
    v[0, 0] = 0.99  # a stop
    _, taken = run(
        sampler, alike(12), torch.full((2, 12), 3), u, v, stop_ids=(2,), **SETTINGS[sampler]
    )
    of_first = [step for step in taken if 0 in step.texts.tolist()]
    assert len(taken) > len(of_first) == 1


def test_decoding_in_tiles_is_decoding_at_once(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    laws = torch.rand(7, 5, generator=generator, dtype=F64)
    denoiser = OfPlace(laws / laws.sum(1, keepdim=True))
    hidden = denoiser.hidden(torch.full((30, 7), 5))
    v = torch.rand(210, generator=generator, dtype=F64)
    text = torch.randint(6, (210, 7), generator=generator)
    transform = Transform(top_p=0.8, repetition_penalty=3.0)
    whole = decode(denoiser, hidden, v, transform, text)
    monkeypatch.setattr(network, "TILE_NUMBERS", 6 * 4)  # four rows
    monkeypatch.setattr(categorical, "DRAWN_NUMBERS", 6 * 3)  # three of them, and one
    assert torch.equal(decode(denoiser, hidden, v, transform, text), whole)


@pytest.mark.parametrize("sampler", sorted(SETTINGS))
def test_a_sampler_in_tiles_gives_the_same_texts(sampler, monkeypatch):
    canvas, (u, v) = some_canvas(), random_uniforms(6, 12)
    whole, _ = run(sampler, chain(), canvas, u, v, **SETTINGS[sampler])
    monkeypatch.setattr(network, "TILE_NUMBERS", 1)
    assert torch.equal(run(sampler, chain(), canvas, u, v, **SETTINGS[sampler])[0], whole)


def one_by_one(sampler):
    return {} if sampler == "first_hitting" else {"steps": 64}


@pytest.mark.parametrize("sampler", sorted(SETTINGS))
def test_a_token_of_the_text_is_penalised_and_one_of_the_padding_is_not(sampler):
    # two free places behind a prompt of 0; padded with 1
    canvas = torch.tensor([[0, 3, 3, 1, 1]]).repeat(2_000, 1)
    mask = torch.tensor([[True, True, True, False, False]]).expand(2_000, -1)
    transform = Transform(repetition_penalty=20.0)  # 1/3 becomes 3^-20
    texts, _ = run(
        sampler, alike(5, (1 / 3, 1 / 3, 1 / 3)), canvas, *random_uniforms(2_000, 5),
        transform=transform, attention_mask=mask, **SETTINGS[sampler] | one_by_one(sampler),
    )  # fmt: skip
    assert (texts[:, 1:3] != 0).all()
    ones = (texts[:, 1] == 1).double().mean().item()
    assert abs(ones - 0.5) < 4 * (0.25 / 2_000) ** 0.5


def test_the_canvas_that_is_given_stays_as_it_is():
    canvas = some_canvas()
    before = canvas.clone()
    for sampler, settings in SETTINGS.items():
        run(sampler, chain(), canvas, *random_uniforms(6, 12), transform=PLAIN, **settings)
    assert torch.equal(canvas, before)
