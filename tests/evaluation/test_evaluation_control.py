import math

import pytest
import torch

from sdtt.diffusion.uniforms import uniforms
from sdtt.evaluation.control import TOLERANCE, match_entropy
from sdtt.evaluation.diversity import diversity

LOGITS = torch.linspace(4, 0, 50, dtype=torch.float64)
V = uniforms(0, "control", range(64), 200)


def sampler(temperature):
    """Texts from one law at a temperature, with the same uniforms at each."""
    cumulative = (LOGITS / temperature).softmax(-1).cumsum(-1)
    return torch.searchsorted(cumulative, V).clamp_max(49)


def entropy_at(temperature):
    return diversity(sampler(temperature).tolist()).entropy


def of_entropy(entropy_of):
    """A text of two tokens whose entropy is a given function of the temperature, up to log 2."""

    def sample_at(temperature):
        wanted = entropy_of(temperature)
        best = min(range(501), key=lambda n: abs(_two(n / 1000) - wanted))
        return torch.tensor([[1] * best + [0] * (1000 - best)])

    return sample_at


def _two(f):
    return 0.0 if f in (0, 1) else -f * math.log(f) - (1 - f) * math.log(1 - f)


def watched(sample_at):
    seen = []

    def sample_and_note(temperature):
        texts = sample_at(temperature)
        seen.append((temperature, diversity(texts.tolist()).entropy))
        return texts

    return sample_and_note, seen


@pytest.mark.parametrize("temperature", [0.35, 0.7, 0.95, 1.0, 1.3])
def test_the_temperature_whose_texts_have_the_wanted_entropy_is_found(temperature):
    match = match_entropy(sampler, entropy_at(temperature))
    assert match.entropy == pytest.approx(entropy_at(temperature), abs=TOLERANCE / 4)
    assert match.temperature == pytest.approx(temperature, abs=0.02)


@pytest.mark.parametrize(
    "entropy_of",
    [lambda t: 0.4 * t, lambda t: 0.3 * t**4, lambda t: 0.6 * (1 - math.exp(-3 * t))],
    ids=["line", "steep", "flat"],
)
def test_the_entropy_is_met_along_any_rising_curve(entropy_of):
    match = match_entropy(of_entropy(entropy_of), entropy_of(0.62))
    assert match.entropy == pytest.approx(entropy_of(0.62), abs=TOLERANCE)


def test_the_texts_of_a_match_are_those_at_its_temperature():
    match = match_entropy(sampler, entropy_at(0.8))
    assert match.samples == sampler(match.temperature).tolist()


def test_the_entropy_of_a_match_is_that_of_its_texts():
    match = match_entropy(sampler, entropy_at(0.8))
    assert match.entropy == diversity(match.samples).entropy


def test_an_entropy_that_is_met_at_temperature_one_costs_one_look():
    sample_at, seen = watched(sampler)
    assert match_entropy(sample_at, entropy_at(1.0)).temperature == 1
    assert len(seen) == 1


def test_the_closest_of_all_temperatures_looked_at_is_kept():
    sample_at, seen = watched(sampler)
    wanted = entropy_at(0.77)
    match = match_entropy(sample_at, wanted, tolerance=0.0, most=6)
    assert len(seen) == 6 or match.entropy == wanted
    assert abs(match.entropy - wanted) == min(abs(entropy - wanted) for _, entropy in seen)


def test_a_later_temperature_that_is_farther_off_does_not_replace_a_closer_one():
    def sample_at(temperature):  # 0.01 off at temperature 1, far off elsewhere
        return of_entropy(lambda _: 0.51 if temperature == 1 else 0.1)(temperature)

    assert match_entropy(sample_at, 0.50, most=4).temperature == 1


def test_no_more_temperatures_are_looked_at_than_allowed():
    sample_at, seen = watched(of_entropy(lambda t: 0.6 if t > 0.5 else 0.1))
    with pytest.raises(ValueError, match="no temperature"):
        match_entropy(sample_at, 0.3, most=5)
    assert len(seen) == 5


def test_no_temperature_outside_its_bounds_is_looked_at():
    sample_at, seen = watched(sampler)
    with pytest.raises(ValueError, match="no temperature"):
        match_entropy(sample_at, 0.0, lowest=0.5)
    assert all(0.5 <= temperature <= 1.5 for temperature, _ in seen)


@pytest.mark.parametrize("entropy", [0.5, 5.0])
def test_an_entropy_out_of_reach_is_refused_with_the_closest(entropy):
    with pytest.raises(ValueError, match=rf"entropy {entropy:.3f} within 0.02; the closest is \d"):
        match_entropy(sampler, entropy)
