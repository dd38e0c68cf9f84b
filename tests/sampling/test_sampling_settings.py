import pytest
from sampling.laws import random_uniforms, run

from sdtt.diffusion.categorical import Transform
from sdtt.sampling.settings import SAMPLERS, STEPS, SampleSettings


def own_settings(**settings):
    """The settings of the chosen sampler."""
    return SampleSettings(**settings).chosen().keywords["settings"]


@pytest.mark.parametrize("sampler", ["dilated", "ancestral", "confidence", "analytic"])
def test_a_sampler_that_counts_steps_has_64_of_them_by_default(sampler):
    assert own_settings(sampler=sampler).steps == STEPS == 64


def test_dilated_is_the_sampler_by_default():
    assert SampleSettings().chosen().func is SAMPLERS["dilated"][0]


@pytest.mark.parametrize("way", ["threshold", "entropy_bound"])
def test_a_threshold_or_a_bound_takes_the_place_of_steps(way):
    settings = own_settings(sampler="confidence", **{way: 0.5})
    assert settings.steps is None
    assert getattr(settings, way) == 0.5


def test_a_setting_that_is_none_takes_the_samplers_own_default():
    given = own_settings(sampler="ancestral", steps=5, counts=None, schedule=None)
    assert given == SAMPLERS["ancestral"][1](steps=5)


def test_an_unknown_sampler_is_refused():
    settings = SampleSettings()
    object.__setattr__(settings, "sampler", "euler")  # the types, checked here, would not let it in
    with pytest.raises(ValueError, match=r"unknown sampler 'euler'; there are dilated, ancestral"):
        settings.chosen()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            {"sampler": "first_hitting", "steps": 3},
            "steps=3 is no setting of the sampler 'first_hitting'; it has schedule",
        ),
        (
            {"sampler": "analytic", "counts": "even"},
            "counts='even' is no setting of the sampler 'analytic'; it has schedule, steps",
        ),
        ({"stratified": True, "sampler": "confidence"}, "stratified=True is no setting"),
        ({"block_length": 8}, "block_length=8 is no setting of the sampler 'dilated'"),
        ({"tokens_per_pass": 2, "sampler": "ancestral"}, "tokens_per_pass=2 is no setting"),
    ],
)
def test_a_setting_of_another_sampler_is_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        SampleSettings(**settings)


@pytest.mark.parametrize("sampler", ["dilated", "ancestral", "confidence", "analytic"])
@pytest.mark.parametrize("steps", [0, -3])
def test_less_than_one_step_is_refused(sampler, steps):
    with pytest.raises(ValueError, match=f"steps must be at least 1, got {steps}"):
        SampleSettings(sampler=sampler, steps=steps)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"temperature": -1.0}, "temperature must be a finite number of at least 0, got -1.0"),
        ({"top_p": 0.0}, r"top_p must lie in \(0, 1\], got 0.0; 1 keeps every token"),
        ({"top_k": 0}, "top_k must be at least 1, got 0; None keeps every token"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be above 0, got 0.0"),
        ({"banned": (3, -1)}, "banned ids must be at least 0, got -1"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"schedule": "linear"}, "unknown schedule 'linear'; there are log_linear, cosine"),
        ({"sampler": "first_hitting", "tokens_per_pass": 0}, "tokens_per_pass must be at least 1"),
        ({"sampler": "confidence", "steps": 3, "threshold": 0.5}, "exactly one of steps"),
    ],
)
def test_a_setting_out_of_its_range_is_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        SampleSettings(**settings)


def test_the_transform_takes_the_settings_of_the_law():
    law = {"temperature": 0.5, "top_p": 0.9, "top_k": 3, "repetition_penalty": 1.2, "banned": (1,)}
    assert SampleSettings(**law).transform() == Transform(**law)


def test_the_chosen_sampler_runs_with_its_settings(blind):
    z, (u, v) = random_uniforms(3, 8)[0].long() + 2, random_uniforms(3, 8)
    chosen = SampleSettings(sampler="first_hitting", tokens_per_pass=3).chosen()
    steps = list(chosen(blind([0.5, 0.5]), z, u=u, v=v, transform=Transform()))
    due = run("first_hitting", blind([0.5, 0.5]), z, u, v, tokens_per_pass=3)[1]
    assert [step.rows.tolist() for step in steps] == [step.rows.tolist() for step in due]
    assert len(steps) == 3


def test_a_record_holds_the_settings_of_its_sampler_and_of_no_other():
    record = SampleSettings(sampler="first_hitting", seed=3, top_k=5).record()
    assert record["tokens_per_pass"] == 1
    assert record["schedule"] == "log_linear"
    assert (record["sampler"], record["seed"], record["top_k"]) == ("first_hitting", 3, 5)
    assert record["draw_dtype"] == "float64"
    assert not record.keys() & {"steps", "counts", "stratified", "score", "dilation"}


def test_a_record_makes_the_same_settings_again():
    settings = SampleSettings(sampler="confidence", block_length=4, order="low", temperature=0.7)
    record = settings.record()
    del record["draw_dtype"]
    assert SampleSettings(**record).chosen().keywords == settings.chosen().keywords
    assert SampleSettings(**record).record() == settings.record()
