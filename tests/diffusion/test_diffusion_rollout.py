import math
from itertools import product

import pytest
import torch

from sdtt.diffusion.divergence import DIVERGENCES
from sdtt.diffusion.noise import SCHEDULES, is_masked, mask, reveal_probability, teacher_times
from sdtt.diffusion.rollout import rollout
from sdtt.diffusion.tiled import tiled_divergence
from sdtt.models.exact import TableDenoiser

F64 = torch.float64
LOG_LINEAR = SCHEDULES["log_linear"]


def table(vocabulary, length, seed=0):
    shape = [vocabulary] * length
    law = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=F64) ** 3 + 0.002
    return TableDenoiser(law / law.sum())


def masked_texts(denoiser, count, smallest, seed=0, schedule=LOG_LINEAR):
    """Canvases z_t of random texts, each with a masked position, and the u, v, t behind them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(denoiser.mask_token_id, (count, denoiser.length), generator=generator)
    u, v = torch.rand(2, count, denoiser.length, generator=generator, dtype=F64)
    t = smallest + (1 - smallest) * torch.rand(count, generator=generator, dtype=F64)
    u[:, 0] = 0.0  # always masked
    return mask(x, is_masked(u, t, schedule), denoiser.mask_token_id), u, v, t


def masked_rows(z, denoiser):
    return (z == denoiser.mask_token_id).flatten().nonzero().squeeze(-1)


def conditional(law, z, position):
    """p(x_position | visible tokens of z) from the table, by slicing and summing."""
    sliced = law[tuple(slice(None) if token == law.shape[0] else token for token in z)]
    axis = sum(token == law.shape[0] for token in z[:position])
    others = [other for other in range(sliced.dim()) if other != axis]
    marginal = sliced.sum(others) if others else sliced
    return (marginal / marginal.sum()).tolist()


def inverse_cdf(law, v):
    total = 0.0
    for token, p in enumerate(law):
        total += p
        if v < total:
            return token
    return len(law) - 1


def algorithm_1(law, z, u, v, t, dt, k, alpha):
    """SDTT, Algorithm 1, for one text, word by word: targets, passes, and the last canvas."""
    masked_id, z = law.shape[0], list(z)
    targets, decided = {}, {}
    for i in range(k):
        s = max(t - (i + 1) * dt, 0.0)
        hidden = [j for j, token in enumerate(z) if token == masked_id]
        laws = {j: conditional(law, z, j) for j in hidden}
        last = list(z)
        for j in hidden:
            revealed = u[j] >= 1 - alpha(s)
            if revealed or i == k - 1:
                targets[j], decided[j] = laws[j], i
            if revealed:
                z[j] = inverse_cdf(laws[j], v[j])
    order = sorted(targets)
    return [targets[j] for j in order], [decided[j] for j in order], last


ALPHAS = {"log_linear": lambda t: 1 - t, "cosine": lambda t: math.cos(math.pi * t / 2)}


@pytest.mark.parametrize("name", sorted(SCHEDULES))
@pytest.mark.parametrize(("k", "dt"), [(1, 0.3), (2, 0.3), (4, 0.2)])
def test_a_rollout_is_algorithm_1_written_out(name, k, dt):
    teacher, schedule = table(3, 5), SCHEDULES[name]
    z, u, v, t = masked_texts(teacher, 40, 0.05, schedule=schedule)
    result = rollout(teacher, z, u, v, teacher_times(t, dt, k), schedule)
    targets, decided, last = [], [], []
    for text in zip(z.tolist(), u.tolist(), v.tolist(), t.tolist(), strict=True):
        one = algorithm_1(teacher.law, *text, dt, k, ALPHAS[name])
        targets += one[0]
        decided += one[1]
        last.append(one[2])
    torch.testing.assert_close(
        result.hidden.exp(), torch.tensor(targets, dtype=F64), rtol=1e-11, atol=0
    )
    assert result.decided.tolist() == decided
    assert result.z.tolist() == last


def test_one_step_gives_the_teachers_own_law_at_z_t():
    teacher = table(3, 4)
    z, u, v, t = masked_texts(teacher, 50, 0.0)
    result = rollout(teacher, z, u, v, teacher_times(t, 0.125, 1), LOG_LINEAR)
    assert torch.equal(result.hidden, teacher.hidden(z, masked_rows(z, teacher)))
    assert torch.equal(result.z, z)


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_positions_are_decided_with_the_chances_of_the_process(name, blind):
    schedule, teacher = SCHEDULES[name], blind([0.5, 0.5])
    count, length, t, dt = 1_500, 8, 0.7, 0.2
    generator = torch.Generator().manual_seed(0)
    u = torch.rand(count, length, generator=generator, dtype=F64)
    times = teacher_times(torch.full((count,), t, dtype=F64), dt, 3)
    z = mask(torch.zeros(count, length).long(), is_masked(u, times[:, 0], schedule), 2)
    decided = rollout(teacher, z, u, torch.rand_like(u), times, schedule).decided
    alpha = schedule.alpha(times[0])
    first, second = reveal_probability(alpha[:-1], alpha[1:])[:2]
    due = torch.stack([first, (1 - first) * second, (1 - first) * (1 - second)]) * len(decided)
    counts = torch.bincount(decided, minlength=3)
    chi_square = ((counts - due) ** 2 / due).sum()
    assert torch.special.gammaincc(torch.tensor(1.0).double(), chi_square / 2) > 5e-4


def test_near_zero_a_rollout_reveals_everything_and_goes_no_further():
    teacher = table(3, 4)
    z, u, v, _ = masked_texts(teacher, 30, 0.5)
    t = torch.full((30,), 0.5, dtype=F64)
    z = mask(torch.zeros(30, 4).long(), is_masked(u, t, LOG_LINEAR), 3)
    result = rollout(teacher, z, u, v, teacher_times(t, 0.75, 3), LOG_LINEAR)
    assert (result.decided == 0).all()
    assert (result.z != 3).all()


def test_visible_tokens_stay_under_a_teacher_that_does_not_look(blind):
    teacher = blind([1e-9, 1e-9, 1 - 2e-9])
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(2, (50, 8), generator=generator)
    u, v = torch.rand(2, 50, 8, generator=generator, dtype=F64)
    t = torch.full((50,), 0.6, dtype=F64)
    z = mask(x, is_masked(u, t, LOG_LINEAR), 3)
    result = rollout(teacher, z, u, v, teacher_times(t, 0.2, 3), LOG_LINEAR)
    visible = z != 3
    assert torch.equal(result.z[visible], x[visible])
    assert set(result.z[~visible].tolist()) == {2, 3}


def test_a_rollout_writes_into_none_of_its_arguments():
    teacher = table(3, 4)
    arguments = masked_texts(teacher, 20, 0.3)
    z, u, v, t = (a.clone() for a in arguments)
    rollout(teacher, z, u, v, teacher_times(t, 0.25, 3), LOG_LINEAR)
    assert all(torch.equal(a, b) for a, b in zip(arguments, (z, u, v, t), strict=True))


def test_a_text_has_the_same_targets_in_any_batch():
    teacher = table(3, 4)
    z, u, v, t = masked_texts(teacher, 12, 0.3)
    times = teacher_times(t, 0.25, 3)
    together = rollout(teacher, z, u, v, times, LOG_LINEAR).hidden
    alone = [
        rollout(teacher, *(a[b : b + 1] for a in (z, u, v, times)), LOG_LINEAR).hidden
        for b in range(12)
    ]
    assert torch.equal(together, torch.cat(alone))


def test_nothing_masked_is_refused():
    teacher = table(3, 4)
    u = torch.full((2, 4), 0.9, dtype=F64)
    times = teacher_times(torch.full((2,), 0.5, dtype=F64), 0.1, 2)
    with pytest.raises(ValueError, match="at least one masked position"):
        rollout(teacher, torch.zeros(2, 4).long(), u, u, times, LOG_LINEAR)


def mean_target(teacher, t, s):
    """The mean of the targets (L, V) of an all-masked text, k = 2, from t over s: no draws.

    Every set of positions that the first step reveals, with its chance, times every choice of
    their tokens, with its chance under the product of the marginals.
    """
    vocabulary, length = teacher.vocabulary, teacher.length
    z = torch.full((1, length), vocabulary)
    marginals = teacher.hidden(z).exp()
    middles = marginals.cumsum(1) - marginals / 2
    revealed_chance = (t - s) / t
    u, v, weights = [], [], []
    for revealed in product([True, False], repeat=length):
        chance = math.prod(revealed_chance if r else 1 - revealed_chance for r in revealed)
        for tokens in product(range(vocabulary), repeat=length):
            u.append([(t + s) / 2 if r else s / 2 for r in revealed])
            v.append([middles[i, token].item() for i, token in enumerate(tokens)])
            weights.append(chance * math.prod(marginals[i, a] for i, a in enumerate(tokens)))
    times = torch.tensor([[t, s, s / 2]], dtype=F64).expand(len(u), -1)
    result = rollout(
        teacher,
        z.expand(len(u), -1),
        torch.tensor(u, dtype=F64),
        torch.tensor(v, dtype=F64),
        times,
        LOG_LINEAR,
    )
    targets = result.hidden.exp().view(len(u), length, vocabulary)
    return torch.einsum("n,nlv->lv", torch.stack(weights), targets)


def test_tower_rule_the_mean_target_of_two_tokens_is_the_teachers_law():
    teacher = table(3, 2)
    own = teacher.hidden(torch.full((1, 2), 3)).exp()
    torch.testing.assert_close(mean_target(teacher, 0.9, 0.4), own, rtol=1e-12, atol=0)


def test_the_mean_target_of_three_tokens_errs_by_what_is_drawn_together():
    law = torch.full((2, 2, 2), 0.02, dtype=F64)
    law[0, 0, 1] = law[1, 1, 1] = 0.44  # the third says whether the first two agree
    teacher = TableDenoiser(law / law.sum())
    own = teacher.hidden(torch.full((1, 3), 2)).exp()
    r = (0.9 - 0.4) / 0.9
    off = torch.zeros_like(own)
    for i in range(3):
        j, k = (other for other in range(3) if other != i)
        given = teacher.law.movedim(i, -1) / teacher.law.sum(i, keepdim=True).movedim(i, -1)
        together = torch.einsum("a,b,abv->v", own[j], own[k], given)
        off[i] = (1 - r) * r**2 * (together - own[i])  # i waits while the other two are revealed
    assert off.abs().max().item() > 0.02
    torch.testing.assert_close(mean_target(teacher, 0.9, 0.4), own + off, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["reverse_kl", "forward_kl"])
def test_a_distilled_table_ends_at_the_enumerated_optimum(name, table_student):
    # both tokens have the marginal (1/2, 1/4, 1/4), so that quarters of v are an exact enumeration
    counts = [[6, 1, 1], [1, 2, 1], [1, 1, 2]]
    teacher = TableDenoiser(torch.tensor(counts, dtype=F64) / 16)
    quarters = [1 / 8, 3 / 8, 5 / 8, 7 / 8]
    cases = list(product([0.15, 0.45], [0.15, 0.45], quarters, quarters))  # u, u, v, v
    uv = torch.tensor(cases, dtype=F64)
    z = torch.full((len(cases), 2), 3)
    times = torch.tensor([[0.6, 0.3, 0.0]], dtype=F64).expand(len(cases), -1)
    target = rollout(teacher, z, uv[:, :2], uv[:, 2:], times, LOG_LINEAR)

    student = table_student(3, 2)
    optimiser = torch.optim.LBFGS(
        student.parameters(), max_iter=300, tolerance_grad=1e-12, line_search_fn="strong_wolfe"
    )

    def closure():
        optimiser.zero_grad()
        loss = tiled_divergence(
            student.hidden(z),
            student.head,
            target.hidden,
            teacher.head,
            DIVERGENCES[name],
            excluded_ids=(3,),
            dtype=F64,
        )
        loss.backward()
        return loss

    optimiser.step(closure)
    marginal = torch.tensor([0.5, 0.25, 0.25], dtype=F64)
    # in a quarter of the cases a position waits, and sees the token of the other one
    given = teacher.law / marginal[:, None]
    optimum = (
        (0.75 * marginal.log() + 0.25 * marginal @ given.log()).softmax(-1)
        if name == "reverse_kl"
        else marginal
    )
    learned = student.logits(student.hidden(z[:1])).softmax(-1)
    torch.testing.assert_close(learned.detach(), optimum.expand(2, -1), rtol=0, atol=1e-6)


# ---------------------------------------------------------------- what a pass takes


class Spy(TableDenoiser):
    """Notes the texts of every pass, and the rows of every projection."""

    def __init__(self, law):
        super().__init__(law)
        self.passes, self.projected = [], []

    def hidden(self, z, rows=None, **others):
        self.passes.append(z)
        return super().hidden(z, rows, **others)

    def logits(self, h):
        self.projected.append(len(h))
        return super().logits(h)


class CompiledSpy(Spy):
    is_compiled = True


def spied(kind, k=4, dt=0.06, count=40):
    teacher = kind(table(3, 5).law)
    z, u, v, t = masked_texts(teacher, count, 0.3)
    result = rollout(teacher, z, u, v, teacher_times(t, dt, k), LOG_LINEAR)
    return teacher, z, u, t, result


def test_a_text_of_which_a_pass_decides_nothing_is_not_in_that_pass():
    teacher, z, u, t, _ = spied(Spy)
    due = []
    for i in range(4):
        ends = (t - i * 0.06).clamp_min(0), (t - (i + 1) * 0.06).clamp_min(0)
        above, below = (u < end[:, None] for end in ends)  # masked at both ends of the pass
        due.append(int((above if i == 3 else above & ~below).any(1).sum()))
    assert [len(texts) for texts in teacher.passes] == due
    assert max(due[:3]) < len(z) / 2  # so that most texts are left out of most passes


def test_a_pass_that_decides_nothing_at_all_is_not_made():
    teacher = Spy(table(3, 5).law)
    z = torch.full((2, 5), 3)
    u = torch.full((2, 5), 0.05, dtype=F64)
    times = teacher_times(torch.full((2,), 0.9, dtype=F64), 0.2, 4)
    rollout(teacher, z, u, u, times, LOG_LINEAR)
    assert len(teacher.passes) == 1


def test_a_compiled_teacher_is_asked_for_few_sizes_and_says_the_same():
    compiled, *_, ours = spied(CompiledSpy)
    *_, due = spied(Spy)
    sizes = {len(texts) for texts in compiled.passes}
    assert sizes <= {8, 16, 32, 40}
    assert torch.equal(ours.hidden, due.hidden)
    assert torch.equal(ours.z, due.z)


def test_no_more_rows_are_projected_at_once_than_a_tile_holds(monkeypatch):
    *_, due = spied(Spy)
    monkeypatch.setattr(
        "sdtt.diffusion.rollout.TILE_NUMBERS", 4 * 3 + 1
    )  # 3 rows of V = 3 and MASK
    teacher, *_, ours = spied(Spy)
    assert max(teacher.projected) == 3
    assert torch.equal(ours.z, due.z)
