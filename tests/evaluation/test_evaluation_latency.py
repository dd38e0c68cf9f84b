"""The clock of these tests stands still but while a network passes, so that seconds are known."""

import time

import pytest
import torch

from sdtt.evaluation.latency import Latency, latency
from sdtt.evaluation.timing import Timing, interleaved
from sdtt.models.causal import CausalConfig, CausalLM
from sdtt.models.mdlm import MDLMConfig, MDLMForMaskedLM
from sdtt.sampling.settings import SampleSettings

SHAPE = {"vocab_size": 11, "hidden_dim": 16, "n_blocks": 2, "n_heads": 2, "model_length": 12}
IDS = {"bos_token_id": 0, "eos_token_id": 0}


class Clock:
    now = 0.0


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    return clock


class Ticking(MDLMForMaskedLM):
    """A pass takes two seconds and one for each text, half of that where it is compiled."""

    compiled = False
    seen = ()

    def compile_trunk(self, backend="inductor"):  # noqa: ARG002
        self.compiled = True

    def hidden(self, z, rows=None, **others):
        self.clock.now += (2 + len(z)) / (2 if self.compiled else 1)
        self.seen += (len(z),)
        return super().hidden(z, rows, **others)


class TickingCausal(CausalLM):
    """A pass takes a second for each text, and the first pass of all a hundred more."""

    warm = False

    def forward(self, input_ids, **others):
        self.clock.now += len(input_ids) + (0 if self.warm else 100)
        self.warm = True
        return super().forward(input_ids=input_ids, **others)


def network(clock, **settings):
    torch.manual_seed(0)
    model = Ticking(MDLMConfig(initializer_range=0.3, **SHAPE | IDS | settings)).eval()
    Ticking.clock = clock  # of the class, so that copies share it
    return model


def causal(clock):
    torch.manual_seed(0)
    TickingCausal.clock = clock
    return TickingCausal(CausalConfig(initializer_range=0.3, **SHAPE | IDS)).eval()


# ---------------------------------------------------------------- seconds


def test_seconds_are_those_of_the_passes_of_a_batch(clock):
    found = latency(network(clock), steps=[2, 6], batch_sizes=[1, 4], runs=2)
    # a step of the dilated order is a pass over all texts, but for the one that empty texts share
    assert [(each.batch_size, each.steps, each.passes) for each in found] == [
        (1, 2, 2), (1, 6, 6), (4, 2, 2), (4, 6, 6),
    ]  # fmt: skip
    assert [each.seconds for each in found] == [3 + 3, 3 + 5 * 3, 3 + 6, 3 + 5 * 6]


def test_an_autoregressive_model_passes_once_for_each_token(clock):
    (one, four) = latency(causal(clock), batch_sizes=[1, 4], length=5, runs=2)
    assert (one.passes, four.passes) == (5, 5)
    assert (one.seconds, four.seconds) == (5, 20)
    assert one.steps is None


def test_what_only_the_first_run_needs_is_not_counted(clock):
    (found,) = latency(causal(clock), length=5, runs=1)
    assert found.seconds == 5


def test_texts_have_the_length_of_the_model_unless_another_is_given(clock):
    assert latency(network(clock), steps=[2], runs=1)[0].length == 12
    assert latency(causal(clock), runs=1)[0].length == 12
    assert latency(network(clock), steps=[2], length=7, runs=1)[0].length == 7


def test_the_sampler_is_the_one_of_the_settings(clock):
    how = SampleSettings(sampler="first_hitting", tokens_per_pass=3)
    (found,) = latency(network(clock), settings=how, runs=1)
    assert (found.steps, found.passes) == (None, 4)


def test_steps_that_are_not_given_are_those_of_the_settings(clock):
    (found,) = latency(network(clock), settings=SampleSettings(steps=3), runs=1)
    assert (found.steps, found.passes) == (3, 3)


def test_seconds_a_text_and_tokens_a_second_are_of_the_batch():
    found = Latency(
        steps=8, batch_size=4, length=100, form="eager", runs=3, seconds=2.0,
        seconds_least=1.0, seconds_most=5.0, passes=8,
    )  # fmt: skip
    assert found.seconds_per_sample == 0.5
    assert found.tokens_per_second == 200


# ---------------------------------------------------------------- turns


def test_settings_take_turns_behind_a_run_of_each_to_warm_up(clock):
    model = network(clock)
    found = latency(model, steps=[2], batch_sizes=[2, 3], runs=2)
    # the first pass of a batch is that of one empty text
    assert model.seen == (1, 2, 1, 3) * 3
    assert [each.runs for each in found] == [2, 2]


def test_a_machine_that_slows_down_slows_all_settings():
    clock, rate = Clock(), [1.0]

    def call():
        clock.now += rate[0]
        rate[0] *= 1.01

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "perf_counter", lambda: clock.now)
        found = interleaved({"a": call, "b": call}, 100, torch.device("cpu"))
    assert found["b"].median / found["a"].median == pytest.approx(1.01)


def test_the_seconds_are_the_median_run_between_the_fastest_and_the_slowest(clock):
    slow = iter([50, 7, 1, 2])

    class Uneven(TickingCausal):
        def forward(self, input_ids, **others):
            clock.now += next(slow)
            return super().forward(input_ids, **others)

    TickingCausal.clock = clock
    model = Uneven(CausalConfig(**SHAPE | IDS)).eval()
    (found,) = latency(model, length=1, runs=3)
    assert (found.seconds_least, found.seconds, found.seconds_most) == (2, 3, 8)


def test_of_two_runs_the_median_is_their_mean():
    assert Timing((1.0, 2.0)).median == 1.5


def test_each_run_is_told(clock):
    told = []
    latency(causal(clock), batch_sizes=[1, 2], length=2, runs=2, on_run=lambda *at: told.append(at))
    assert told == [(done, 6) for done in range(1, 7)]


# ---------------------------------------------------------------- compiled


def test_the_compiled_form_is_timed_on_a_copy_and_the_model_stays_as_it_is(clock):
    model = network(clock)
    eager, compiled = latency(model, steps=[4], runs=1, forms=["eager", "compiled"])
    assert (eager.form, compiled.form) == ("eager", "compiled")
    assert compiled.seconds == eager.seconds / 2
    assert not model.compiled


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("kind", ["diffusion", "autoregressive"])
def test_a_timed_run_of_compiled_code_compiles_nothing(kind):
    from torch._dynamo.utils import counters

    torch.manual_seed(0)
    if kind == "diffusion":
        model = MDLMForMaskedLM(MDLMConfig(**SHAPE | IDS)).eval()
    else:
        model = CausalLM(CausalConfig(**SHAPE | IDS)).eval()
    counters.clear()
    graphs, sizes = [], [1, 2, 3]
    with torch._dynamo.config.patch(recompile_limit=1):  # more shapes than it would compile
        latency(
            model, batch_sizes=sizes, runs=1, length=6, forms=["compiled"],
            steps=[2] if kind == "diffusion" else [],
            on_run=lambda *_: graphs.append(counters["stats"]["unique_graphs"]),
        )  # fmt: skip
    assert graphs[len(sizes) - 1] >= len(sizes)
    assert set(graphs[len(sizes) :]) == {graphs[len(sizes) - 1]}


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"runs": 0}, "runs must be at least 1, got 0"),
        ({"batch_sizes": [4, 0]}, "batch_size must be at least 1, got 0"),
        ({"batch_sizes": []}, "batch_sizes is empty: there is nothing to time"),
        ({"batch_sizes": [4, 4]}, "batch_sizes holds one value twice: 4, 4"),
        ({"forms": ["fast"]}, "a form is one of eager, compiled, got 'fast'"),
        ({"steps": [0]}, "steps must be at least 1, got 0"),
        ({"length": 13}, "a text of 13 tokens is longer than the model's 12"),
        ({"length": 0}, "length must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_timed_is_refused_in_words(clock, how, says):
    with pytest.raises(ValueError, match=says):
        latency(network(clock), **{"steps": [2], "runs": 1} | how)


def test_steps_of_an_autoregressive_model_are_refused(clock):
    with pytest.raises(ValueError, match="TickingCausal writes token by token and has no steps"):
        latency(causal(clock), steps=[4])
