from dataclasses import dataclass, field

import pytest
import torch

from sdtt.diffusion.categorical import Transform
from sdtt.diffusion.uniforms import uniforms
from sdtt.models.blocks import several_shapes
from sdtt.models.mdlm import MDLMConfig, MDLMForMaskedLM
from sdtt.models.reveal import KeyShape, LentMemory, RevealCache, order_mask, reveal_mask
from sdtt.sampling.dilated import DilatedSettings, plan_dilated
from sdtt.sampling.generate import check_cache, sample
from sdtt.sampling.network import Network, by_cache
from sdtt.sampling.reveal import carry_out, free_positions

LENGTH, MASK = 12, 20
KEYS = KeyShape(3, 4, 8, torch.float32, torch.device("cpu"))


def follower(seed=0, **changes):
    """A small model whose attention follows the order, with weights that are not small."""
    torch.manual_seed(seed)
    shape = {"vocab_size": MASK + 1, "model_length": 16, "hidden_dim": 32, "n_blocks": 3}
    shape |= {"n_heads": 4, "initializer_range": 0.3, "attention": "reveal_causal"}
    return MDLMForMaskedLM(MDLMConfig(**shape | changes)).eval()


@pytest.fixture(scope="module")
def model():
    return follower()


def test_nobody_sees_a_mask_but_itself():
    masked = torch.tensor([[False, True, True]])
    sees = reveal_mask(masked, torch.zeros(1, 3, dtype=torch.long))[0, 0]
    assert sees.tolist() == [[True, False, False], [True, True, False], [True, False, True]]


def test_a_visible_token_sees_those_of_its_own_step_and_before():
    revealed = torch.tensor([[1, 0, 1, 2]])
    sees = reveal_mask(torch.zeros(1, 4, dtype=torch.bool), revealed)[0, 0].long()
    assert sees.tolist() == [[1, 1, 1, 0], [0, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]


def test_what_is_revealed_later_changes_no_visible_token(model):
    x = torch.randint(0, MASK, (1, LENGTH), generator=torch.Generator().manual_seed(1))
    order = torch.arange(LENGTH)[None]
    changed = x.clone()
    changed[0, 8:] = (x[0, 8:] + 1) % MASK
    with torch.no_grad():
        before, after = (model.hidden(each, revealed=order) for each in (x, changed))
    torch.testing.assert_close(before[:8], after[:8], rtol=0, atol=0)
    assert not torch.allclose(before[8:], after[8:])


def test_in_one_pass_a_masked_position_sees_the_tokens_of_earlier_steps_and_itself():
    sees = order_mask(torch.tensor([[1, 0, 1]]))[0, 0].long()
    tokens = [[1, 1, 1, 0, 0, 0], [0, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0]]
    masked = [[0, 1, 0, 1, 0, 0], [0, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, 1]]
    assert sees.tolist() == tokens + masked


@pytest.mark.parametrize("padded", [False, True])
def test_one_pass_gives_the_rows_of_all_steps(model, padded):
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(0, MASK, (2, LENGTH), generator=generator)
    revealed = torch.randint(0, 4, (2, LENGTH), generator=generator)
    real = (torch.arange(LENGTH) < torch.tensor([[LENGTH], [9]])).long() if padded else None
    with torch.no_grad():
        at_once = model.hidden_in_order(x, revealed, attention_mask=real)
        for step in range(4):
            z = torch.where(revealed < step, x, MASK)
            rows = ((revealed == step) & (real is None or real == 1)).flatten().nonzero().squeeze(1)
            told = {"revealed": revealed, "attention_mask": real}
            torch.testing.assert_close(at_once[rows], model.hidden(z, rows, **told))


def test_forward_gives_the_same_laws_in_order(model):
    x, revealed = torch.arange(LENGTH)[None], torch.arange(LENGTH)[None] // 3
    with torch.no_grad():
        logits = model(x, revealed=revealed, in_order=True).logits
        torch.testing.assert_close(
            logits[0, :, :MASK], model.logits(model.hidden_in_order(x, revealed))
        )
    with pytest.raises(ValueError, match="in_order=True needs revealed"):
        model(x, in_order=True)


def test_the_rows_that_are_asked_for_come_in_their_order(model):
    x, revealed = torch.arange(LENGTH).view(2, -1), torch.tensor([[0, 1, 2, 0, 1, 2]] * 2)
    rows = torch.tensor([7, 2, 11])
    with torch.no_grad():
        every, some = (model.hidden_in_order(x, revealed, each) for each in (None, rows))
    torch.testing.assert_close(some, every[rows])


def test_the_probabilities_of_all_texts_in_an_order_add_up_to_one():
    model = follower(vocab_size=4)
    every = torch.cartesian_prod(*[torch.arange(3)] * 4)
    revealed = torch.tensor([[2, 0, 1, 1]]).expand(len(every), -1)
    with torch.no_grad():
        hidden = model.hidden_in_order(every, revealed)
        laws = model.logits(hidden).double().log_softmax(-1)
    logp = laws.gather(1, every.reshape(-1, 1)).view(len(every), 4).sum(1)
    assert logp.exp().sum().item() == pytest.approx(1, abs=1e-6)
    assert logp.std() > 0.1


def test_a_text_that_is_too_long_has_no_pass_of_all_steps(model):
    x = torch.zeros(1, 17, dtype=torch.long)
    with pytest.raises(ValueError, match="17 tokens is longer than the model's 16"):
        model.hidden_in_order(x, x)


def test_a_bidirectional_model_has_no_pass_of_all_steps():
    x = torch.zeros(1, 4, dtype=torch.long)
    with pytest.raises(ValueError, match=r"bidirectional attention .* each step"):
        follower(attention="bidirectional").hidden_in_order(x, x)


SAMPLERS = {
    "dilated": {"steps": 4},
    "ancestral": {"steps": 5},
    "first_hitting": {},
    "confidence": {"steps": 4},
    "analytic": {"steps": 5},
}


def canvas_of(form):
    """Texts of one prompt form, and their attention mask."""
    ids = torch.full((4, LENGTH), MASK)
    real = torch.ones_like(ids, dtype=torch.bool)
    if form == "prefix":
        ids[:, :3] = torch.arange(12).view(4, 3)
    elif form == "infill":
        ids[:, 2:4], ids[:, 9] = 5, 7
    elif form == "ragged":
        for row, size in enumerate((5, 12, 8, 3)):
            ids[row, : row + 1] = row
            ids[row, size:], real[row, size:] = 0, False
    return ids, real


@pytest.mark.parametrize("form", ["blank", "prefix", "infill", "ragged"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_cache_changes_no_text(model, sampler, form):
    ids, real = canvas_of(form)
    settings = {"sampler": sampler, "seed": 3, "attention_mask": real} | SAMPLERS[sampler]
    told = sample(model, ids, cache=True, **settings)
    assert torch.equal(told, sample(model, ids, cache=False, **settings))


@dataclass(frozen=True)
class Recorder(Transform):
    """No change of the law, but it is written down."""

    laws: list = field(default_factory=list)

    def __call__(self, logits, text=None):
        del text
        self.laws.append(logits.log_softmax(-1))
        return logits


def laws_of(denoiser, ids, real, steps):
    """The laws of all positions, in the order in which a dilated sampler asks for them."""
    u, v = (uniforms(5, purpose, range(len(ids)), LENGTH) for purpose in "uv")
    plan = plan_dilated(free_positions(denoiser, ids, real), u, DilatedSettings(steps=steps))
    recorder = Recorder()
    with torch.no_grad():
        list(carry_out(denoiser, ids, plan, v, transform=recorder, attention_mask=real))
    return torch.cat(recorder.laws)


@pytest.mark.parametrize("form", ["blank", "prefix", "infill", "ragged"])
@pytest.mark.parametrize("steps", [1, 3, 12])
def test_a_cache_changes_no_law(model, form, steps):
    ids, real = canvas_of(form)
    plain, cached = (laws_of(by_cache(model, cache), ids, real, steps) for cache in (False, None))
    torch.testing.assert_close(cached, plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", ["blank", "prefix", "infill", "ragged"])
def test_a_cache_that_grows_changes_no_law(model, form, monkeypatch):
    monkeypatch.setattr("sdtt.models.reveal.SLOTS_AT_ONCE", 4)
    ids, real = canvas_of(form)
    plain, cached = (laws_of(by_cache(model, cache), ids, real, 5) for cache in (False, None))
    torch.testing.assert_close(cached, plain, rtol=0, atol=1e-5)


def test_a_text_of_nan_spoils_no_other_when_a_cache_grows(monkeypatch):
    monkeypatch.setattr("sdtt.models.reveal.SLOTS_AT_ONCE", 4)
    cache = RevealCache(2, LENGTH, KEYS)
    part = torch.ones(2, 4, 2, 8)
    part[1] = float("nan")
    for place in range(0, 10, 2):
        new = torch.tensor([place, place + LENGTH])
        cache.plan(new, new + 1, torch.arange(2))
        kept = [cache.update(part, part, layer) for layer in range(3)]
        assert all(pair[0][0].isfinite().all() and pair[1][0].isfinite().all() for pair in kept)


def test_a_cache_grows_with_its_texts():
    cache = RevealCache(2, 1024, KEYS)
    reach = [
        cache.plan(torch.arange(new), torch.tensor([1023]), torch.tensor([0])).sees.shape[-1]
        for new in (127, 1, 300, 0)
    ]
    assert reach == [128, 256, 512, 512]


def test_a_folded_model_keeps_the_same_cache():
    conditioned = follower(conditioning="constant", cond_dim=8)
    with torch.no_grad():
        for name, weight in conditioned.named_parameters():
            if "adaLN" in name:
                weight.normal_(std=0.3)
    ids, real = canvas_of("prefix")
    plain = laws_of(by_cache(conditioned, False), ids, real, 4)
    torch.testing.assert_close(laws_of(conditioned.fold(), ids, real, 4), plain, rtol=0, atol=1e-4)


def test_texts_that_reveal_nothing_take_no_part_in_a_pass(model):
    ids, real = canvas_of("ragged")
    whole = sample(model, ids, attention_mask=real, sampler="first_hitting", seed=1)
    for row, size in enumerate(real.sum(1).tolist()):
        alone = sample(
            model, ids[row : row + 1, :size], sampler="first_hitting", seed=1, first_index=row
        )
        assert torch.equal(alone[0], whole[row, :size])


def test_a_pass_computes_what_is_new_and_what_is_asked(model):
    ids, _ = canvas_of("prefix")
    widths = []
    record = model.backbone.register_forward_pre_hook(
        lambda _, inputs: widths.append(inputs[0].shape[1])
    )
    sample(model, ids, sampler="dilated", steps=3)
    record.remove()
    assert widths == [3 + 3, 3 + 3, 3 + 3]  # the prompt and a third of nine, then thirds


def test_a_cache_of_bidirectional_attention_is_refused_with_the_way_out():
    ids, _ = canvas_of("blank")
    with pytest.raises(ValueError, match=r"sdtt pretrain --attention reveal_causal --init-from"):
        sample(follower(attention="bidirectional"), ids, cache=True)


@pytest.mark.parametrize("token", [3, MASK])
def test_a_token_that_is_taken_back_is_refused_with_the_way_out(model, token):
    ids, _ = canvas_of("prefix")
    network, row = Network(model, ids), torch.tensor([LENGTH + 5])
    network.put(row, row, torch.tensor([7]))
    with pytest.raises(ValueError, match=r"position 5 .* needs cache=False"):
        network.put(row, row, torch.tensor([token]))
    visible = torch.tensor([2])
    with pytest.raises(ValueError, match=r"position 2 .* needs cache=False"):
        network.put(visible, visible, torch.tensor([token]))


def test_without_a_cache_a_token_may_be_taken_back(model):
    ids, _ = canvas_of("prefix")
    network, row = Network(by_cache(model, False), ids), torch.tensor([5])
    for token in (7, MASK):
        network.put(row, row, torch.tensor([token]))
    assert network.canvas[0, 5] == MASK


def test_a_cache_takes_the_memory_that_is_told(model):
    ids, _ = canvas_of("blank")
    law = model.reveal_cache(4, LENGTH)
    everything = torch.arange(LENGTH - 1)
    with torch.no_grad():
        law.hidden(ids, everything, torch.tensor([LENGTH - 1]), torch.tensor([0]))
    kept = sum(part.nbytes for part in law.cache.layers)
    kept += kept // (2 * model.config.n_blocks)  # the spare one
    assert kept == 4 * model.reveal_cache_bytes(LENGTH)


def test_a_cache_that_does_not_fit_is_refused_before_the_first_pass(model):
    with pytest.raises(ValueError, match=r"cache of 200000000 texts .* lower batch_size"):
        check_cache(model, 200_000_000, LENGTH, torch.device("cpu"))


def test_memory_that_torch_keeps_for_later_is_there_for_a_cache(monkeypatch):
    model, gpu = follower(), torch.device("cuda")
    each = model.reveal_cache_bytes(LENGTH)
    said = {"get_memory_info": (each, 9 * each), "memory_reserved": 5 * each}
    for name, value in (said | {"memory_allocated": 2 * each}).items():
        monkeypatch.setattr(torch.accelerator, name, lambda _, value=value: value)
    check_cache(model, 4, LENGTH, gpu)  # one that nobody has, three that torch lends again
    with pytest.raises(ValueError, match="the cache of 5 texts"):
        check_cache(model, 5, LENGTH, gpu)


class FewShapes(MDLMForMaskedLM):
    """Says that it is compiled."""

    is_compiled = True


@pytest.mark.parametrize("form", ["blank", "prefix", "infill", "ragged"])
@pytest.mark.parametrize("sampler", ["dilated", "first_hitting"])
@pytest.mark.parametrize("has_graphs", [False, True])
def test_filling_passes_up_to_few_shapes_changes_no_text(
    model, sampler, form, has_graphs, monkeypatch
):
    monkeypatch.setattr("sdtt.models.blocks.Backbone.has_graphs", has_graphs)
    few = FewShapes(model.config).eval()
    few.load_state_dict(model.state_dict())
    ids, real = canvas_of(form)
    settings = {"sampler": sampler, "attention_mask": real, "seed": 2}
    assert torch.equal(sample(few, ids, **settings), sample(model, ids, **settings))


def test_a_compiled_network_meets_few_shapes():
    cache = RevealCache(2, 64, KEYS, few_shapes=True)
    shapes = set()
    for step in range(16):
        new = (
            torch.arange(4 * step, 4 * step) if step == 0 else torch.arange(4 * step - 4, 4 * step)
        )
        now = cache.plan(new, torch.arange(4 * step, 4 * step + 4), torch.tensor([0]))
        shapes.add((*now.places.shape, now.sees.shape[-1]))
    assert shapes == {(2, 8, reach) for reach in (24, 48, 65)}  # one is for padding


def test_caches_of_one_shape_lie_at_one_place_one_after_another():
    lent = LentMemory()
    first = RevealCache(2, LENGTH, KEYS, lent=lent)
    places = [x.data_ptr() for x in first.layers]
    beside = RevealCache(2, LENGTH, KEYS, lent=lent)
    assert not {x.data_ptr() for x in beside.layers} & set(places)
    del beside
    first.layers[0].fill_(float("nan"))
    del first
    again = RevealCache(2, LENGTH, KEYS, lent=lent)
    assert [x.data_ptr() for x in again.layers] == places
    assert not any(x.any() for x in again.layers)
    beside = RevealCache(2, LENGTH, KEYS, lent=lent)
    assert not {x.data_ptr() for x in beside.layers} & set(places)


def test_memory_for_caches_goes_where_weights_go():
    network = follower()
    network.backbone.lent_memory.give_back([torch.zeros(1)])
    lent = network.backbone.lent_memory
    network.to(torch.bfloat16)
    assert network.backbone.lent_memory is not lent


def test_blocks_of_another_precision_than_the_embedding_keep_a_cache():
    mixed = follower()
    mixed.backbone.blocks.to(torch.bfloat16)
    ids, _ = canvas_of("prefix")
    assert (sample(mixed, ids, steps=4) != MASK).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_cache_is_kept_under_autocast(dtype):
    ids, _ = canvas_of("prefix")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (sample(follower().to(dtype), ids, steps=4) != MASK).all()


def test_what_was_lent_in_inference_mode_serves_outside_too():
    lent = LentMemory()
    with torch.inference_mode():
        RevealCache(2, LENGTH, KEYS, lent=lent).layers[0].fill_(1)
    assert not RevealCache(2, LENGTH, KEYS, lent=lent).layers[0].any()


@pytest.mark.parametrize(("texts", "length"), [(3, LENGTH), (2, LENGTH - 4)])
def test_a_cache_of_another_shape_has_its_own_memory(texts, length):
    lent = LentMemory()
    RevealCache(2, LENGTH, KEYS, lent=lent)
    assert RevealCache(texts, length, KEYS, lent=lent).layers[0].shape == (texts, 4, length + 1, 8)


@pytest.mark.parametrize("has_graphs", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_each_shape_is_compiled_once_and_none_is_left_uncompiled(
    unchecked, has_graphs, monkeypatch
):
    del unchecked
    if not several_shapes():
        pytest.skip("this torch compiles eight shapes")
    monkeypatch.setattr("sdtt.models.blocks.Backbone.has_graphs", has_graphs)
    shapes, compiled, counts = set(), [], []
    plan = RevealCache.plan

    def watched(cache, *passed):
        now = plan(cache, *passed)
        shapes.add((now.places.shape, now.sees.shape))
        return now

    def counted(graph, _):
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(RevealCache, "plan", watched)
    network = follower(model_length=64, n_blocks=2)
    network.compile_trunk(backend=counted)
    for _ in range(2):
        for steps in (2, 4, 8, 16):
            sample(network, torch.full((2, 64), MASK), sampler="dilated", steps=steps)
            counts.append(len(compiled))
    assert len(shapes) > 8  # after which torch gives up by itself
    assert counts[3] == counts[7] == len(shapes)


@pytest.mark.gpu
def test_the_cache_of_a_compiled_network_runs_as_cuda_graphs(unchecked):
    del unchecked
    plain, compiled = follower().double().cuda(), follower().double().cuda()
    ids, real = (x if x is None else x.cuda() for x in canvas_of("ragged"))
    torch._dynamo.utils.counters.clear()
    for seed in range(3):
        settings = {"steps": 4, "attention_mask": real, "seed": seed}
        assert torch.equal(
            sample(compiled, ids, compile=True, **settings), sample(plain, ids, **settings)
        )
    assert torch._dynamo.utils.counters["inductor"]["cudagraph_skips"] == 0


@pytest.mark.slow  # each shape is compiled
@pytest.mark.parametrize("sampler", ["dilated", "ancestral"])
def test_a_compiled_network_with_a_cache_writes_the_same_texts(unchecked, sampler):
    del unchecked
    model, compiled = follower().double(), follower().double()
    ids, real = canvas_of("ragged")
    settings = {"sampler": sampler, "steps": 4, "attention_mask": real}
    expected = sample(model, ids, **settings)
    assert torch.equal(sample(compiled, ids, compile=True, **settings), expected)
    assert compiled.is_compiled


def test_a_packed_model_keeps_the_same_cache():
    packed = follower().bfloat16().for_inference()
    if not packed.is_packed:
        pytest.skip("this processor packs no bfloat16")
    ids, real = canvas_of("prefix")
    laws = (laws_of(by_cache(packed, cache), ids, real, 1) for cache in (False, None))
    torch.testing.assert_close(*laws, rtol=0, atol=0.1)


@pytest.mark.parametrize("tied", [True, False])
def test_another_attention_has_the_same_weights_and_its_own_law(tied):
    model = follower(attention="bidirectional", tie_word_embeddings=tied)
    other = model.with_attention("reveal_causal")
    assert (other.follows_order, other.training) == (True, False)
    weights = dict(other.named_parameters())
    assert weights.keys() == dict(model.named_parameters()).keys()
    assert all(weights[n].data_ptr() == x.data_ptr() for n, x in model.named_parameters())
    assert not model.follows_order
    z = torch.randint(MASK + 1, (2, LENGTH), generator=torch.Generator().manual_seed(2))
    same = follower(tie_word_embeddings=tied)
    assert torch.equal(other.hidden(z), same.hidden(z))
    assert not torch.allclose(other.hidden(z), model.hidden(z))


def test_an_attention_that_cannot_be_is_refused(model):
    with pytest.raises(ValueError, match="'sideways'"):
        model.with_attention("sideways")
    told = follower(attention="bidirectional", conditioning="time", cond_dim=8)
    with pytest.raises(ValueError, match="conditioning='time'"):
        told.with_attention("reveal_causal")
