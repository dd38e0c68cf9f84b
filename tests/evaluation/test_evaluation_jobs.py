"""A protocol as data: what it asks of which model, and what makes a measurement another one."""

import dataclasses

import pytest

from sdtt.evaluation.jobs import groups_of
from sdtt.evaluation.protocol import (
    Autoregressive,
    Bound,
    Grid,
    Latency,
    MauveSettings,
    Protocol,
    Readability,
    RealText,
    Tasks,
    load_protocol,
    written,
)
from sdtt.evaluation.subjects import Subject

TEACHER = Subject("teacher", "t", "diffusion", None, 16, "a")
STUDENT = Subject("student", "s", "diffusion", 4, 16, "b")
CAUSAL = Subject("ar", "c", "autoregressive", None, 16, "c")
LONG = Subject("long", "l", "diffusion", 4, 128, "l")
TEXT = Subject("real text", "book", "text", None, 16)
FILE = Subject("file", "f.jsonl", "samples")


def protocol(**changes):
    grid = Grid({"sampler": ("dilated", "ancestral"), "steps": (2, 4)}, num_samples=8)
    return dataclasses.replace(Protocol(draws=(grid,)), **changes)


def draws(found, label):
    return [group.draw.record() for group in found if group.subject.label == label and group.draw]


def test_a_grid_is_every_combination_of_its_axes():
    found = draws(groups_of(protocol(), [STUDENT]), "student")
    assert [(one["sampler"], one["steps"]) for one in found] == [
        ("dilated", 2), ("dilated", 4), ("ancestral", 2), ("ancestral", 4),
    ]  # fmt: skip


def test_only_teachers_are_drawn_at_the_temperatures_of_the_control():
    found = groups_of(protocol(control_temperatures=(0.9, 0.8)), [TEACHER, STUDENT])
    assert {one["temperature"] for one in draws(found, "teacher")} == {1.0, 0.9, 0.8}
    assert {one["temperature"] for one in draws(found, "student")} == {1.0}


def test_a_draw_that_two_grids_ask_for_is_made_once():
    grid = protocol().draws[0]
    assert len(groups_of(protocol(draws=(grid, grid)), [STUDENT])) == 4


@pytest.mark.parametrize(("of", "who"), [("teacher", {"teacher"}), ("students", {"student"})])
def test_a_grid_may_be_of_some_of_the_models(of, who):
    grid = dataclasses.replace(protocol().draws[0], of=of)
    found = groups_of(protocol(draws=(grid,)), [TEACHER, STUDENT])
    assert {group.subject.label for group in found} == who


def test_samples_come_before_what_is_measured_of_them():
    for group in groups_of(protocol(metrics=("diversity", "perplexity")), [TEACHER]):
        assert [job.metric for job in group.jobs] == ["samples", "diversity", "perplexity"]


def test_every_kind_of_subject_gets_the_metrics_that_have_a_meaning_for_it():
    asked = protocol(
        metrics=("perplexity", "self_bleu", "mauve", "best_of", "bound", "latency"),
        autoregressive=(Autoregressive(top_p=(1.0, 0.9), num_samples=8),),
        real_text=RealText("book", 8),
        mauve=MauveSettings("book", prompts=2, prompt_tokens=4, new_tokens=4, continuations=2),
        bound=Bound(text=("x", "y")),
        latency=Latency(steps=(2, 4), batch_size=(1,)),
    )
    found = groups_of(asked, [TEACHER, CAUSAL, TEXT, FILE])

    def of(label):
        groups = [group for group in found if group.subject.label == label]
        return sorted({job.metric for group in groups for job in group.jobs})

    every = ["best_of", "bound", "latency", "mauve", "perplexity", "samples", "self_bleu"]
    assert of("teacher") == every
    assert of("ar") == every
    assert of("real text") == ["perplexity", "samples"]
    assert of("file") == ["perplexity", "self_bleu"]
    latencies = [group for group in found if group.jobs[0].metric == "latency"]
    assert [group.subject.label for group in latencies] == ["teacher", "ar"]


def test_prompted_draws_say_where_their_prompts_are_from():
    mauve = MauveSettings("book", prompts=3, prompt_tokens=4, new_tokens=5, continuations=2)
    (first, *_) = draws(groups_of(protocol(metrics=("mauve",), mauve=mauve), [STUDENT]), "student")
    assert (first["num_samples"], first["length"], first["prompts"]) == (6, 9, "book")


def test_a_request_changes_with_settings_weights_and_draws_but_not_with_the_batch_of_the_judge():
    def requests(asked, subject=STUDENT):
        return {group.request(job) for group in groups_of(asked, [subject]) for job in group.jobs}

    plain = requests(protocol(metrics=("perplexity",)))
    again = requests(protocol(metrics=("perplexity", "diversity")))
    assert plain < again
    other = dataclasses.replace(STUDENT, fingerprint="other weights")
    assert not plain & requests(protocol(metrics=("perplexity",)), other)
    changed = requests(protocol(metrics=("perplexity",), judge="another"))
    assert len(plain & changed) == 4  # the samples alone
    smaller = dataclasses.replace(protocol().perplexity, batch_size=1)
    assert plain == requests(protocol(metrics=("perplexity",), perplexity=smaller))


@pytest.mark.parametrize(
    "changes",
    [
        lambda file: {"metrics": ("bound",), "bound": Bound(text=(file,))},
        lambda file: {"metrics": ("readability",), "readability": Readability(file)},
        lambda file: {"metrics": ("mauve",), "mauve": MauveSettings(file)},
    ],
    ids=["bound", "readability", "mauve"],
)
def test_a_text_that_was_edited_makes_another_request(tmp_path, changes):
    file = tmp_path / "book.txt"

    def requests():
        found = groups_of(protocol(**changes(str(file))), [LONG])
        return {g.request(job) for g in found for job in g.jobs if job.metric != "samples"}

    file.write_text("It was the best of times.")
    first = requests()
    assert requests() == first != set()
    file.write_text("It was the worst of times.")
    assert not requests() & first


def test_the_best_is_chosen_again_where_texts_are_read_in_another_way():
    def requests(**how):
        perplexity = dataclasses.replace(protocol().perplexity, **how)
        asked = protocol(metrics=("best_of",), perplexity=perplexity)
        jobs = [(group, job) for group in groups_of(asked, [STUDENT]) for job in group.jobs]
        return {group.request(job) for group, job in jobs if job.metric == "best_of"}

    assert requests() == requests(batch_size=1) != set()
    for how in ({"eos": "cut"}, {"window": 8}, {"stride": 4}):
        assert not requests() & requests(**how)


def test_a_number_without_a_point_asks_for_no_other_draw(tmp_path):
    text = "draws: [{sampler: dilated, steps: 8}, {sampler: dilated, steps: 8, top_p: [1, 0.9]}]"
    (tmp_path / "p.yaml").write_text(text)
    found = draws(groups_of(load_protocol(tmp_path / "p.yaml"), [STUDENT]), "student")
    assert [one["top_p"] for one in found] == [1.0, 0.9]
    assert all(type(one["top_p"]) is float and type(one["steps"]) is int for one in found)


def test_blocks_of_a_bound_may_be_as_long_for_all_models():
    def lengths(bound):
        found = groups_of(protocol(metrics=("bound",), bound=bound), [STUDENT, LONG])
        return [job.settings["length"] for group in found for job in group.jobs]

    assert lengths(Bound()) == [16, 128]
    assert lengths(Bound(length=8)) == [8, 8]
    with pytest.raises(ValueError, match=r"blocks of 17 tokens .* student reads at most 16"):
        lengths(Bound(length=17))


def test_a_length_that_a_protocol_gives_does_for_a_model_that_says_none():
    asked = protocol(metrics=("bound",), bound=Bound(length=8))
    (group,) = groups_of(asked, [dataclasses.replace(CAUSAL, length=None)])
    assert group.jobs[0].settings["length"] == 8


def test_a_protocol_may_leave_the_number_of_shots_to_the_task(tmp_path):
    def request(shots):
        (tmp_path / "p.yaml").write_text(f"metrics: tasks\ntasks: {{names: mmlu{shots}}}")
        asked = load_protocol(tmp_path / "p.yaml")
        (group,) = groups_of(asked, [STUDENT])
        return asked.tasks.num_fewshot, group.request(group.jobs[0])

    own, none = request(", num_fewshot: null"), request("")
    assert (own[0], none[0]) == (None, 0)
    assert own[1] != none[1]


def test_how_answers_are_sampled_is_part_of_the_request_of_a_task():
    def request(subject, **sampling):
        asked = protocol(metrics=("tasks",), tasks=Tasks(names=("gsm8k",), sampling=sampling))
        (group,) = groups_of(asked, [subject])
        return group.request(group.jobs[0])

    assert request(STUDENT) == request(STUDENT, sampler="dilated", steps=64)
    assert len({request(STUDENT, **how) for how in ({}, {"steps": 8}, {"temperature": 1.0})}) == 3
    assert request(CAUSAL) == request(CAUSAL, steps=8) != request(CAUSAL, temperature=1.0)


@pytest.mark.parametrize(
    ("changes", "copy"),
    [
        ({"metrics": ("bound",), "bound": Bound(text=("gutenberg",))}, "gutenberg/test.jsonl.xz"),
        ({"metrics": ("lambada",)}, "lambada/lambada_openai_test.jsonl.xz"),
    ],
    ids=["bound", "lambada"],
)
def test_a_copy_of_a_named_text_that_was_edited_makes_another_request(tmp_path, changes, copy):
    file = tmp_path / copy
    file.parent.mkdir()
    requests = []
    for text in ("the best of times", "the best of times", "the worst of times"):
        file.write_text(text)
        (group,) = groups_of(protocol(**changes), [LONG], tmp_path)
        requests.append(group.request(group.jobs[0]))
    assert requests[0] == requests[1] != requests[2]


@pytest.mark.parametrize("name", ["own.yaml", "own.py", "data/questions.jsonl"])
def test_a_task_of_ones_own_that_was_edited_makes_another_request(tmp_path, name):
    tasks = Tasks(names=("own",), include_path=str(tmp_path))
    (group,) = groups_of(protocol(metrics=("tasks",), tasks=tasks), [STUDENT])
    (tmp_path / "data").mkdir()
    (tmp_path / "__pycache__").mkdir()
    requests = []
    for text in ("one", "one", "two"):
        (tmp_path / name).write_text(text)
        (tmp_path / f"__pycache__/{len(requests)}.pyc").write_text("of python")
        requests.append(group.request(group.jobs[0]))
    assert requests[0] == requests[1] != requests[2]


def test_files_of_samples_have_names_of_their_own():
    found = groups_of(protocol(control_temperatures=(0.9,)), [TEACHER, STUDENT])
    names = [group.file for group in found]
    assert len(set(names)) == len(names) == 12
    assert names[0].startswith("samples/teacher-dilated-2-")


def test_a_protocol_is_read_back_as_it_was_written(tmp_path):
    asked = protocol(
        metrics=("perplexity", "mauve"),
        mauve=MauveSettings("book", draws=protocol().draws),
        real_text=RealText("book"),
        autoregressive=(Autoregressive(),),
        tasks=Tasks(sampling={"sampler": "first_hitting", "banned": (3, 4)}),
    )
    (tmp_path / "mine.yaml").write_text(written(asked))
    assert load_protocol(tmp_path / "mine.yaml") == asked


def test_real_text_is_as_long_as_the_samples_beside_it():
    short = dataclasses.replace(protocol().draws[0], length=8)
    asked = protocol(
        draws=(short,), autoregressive=(Autoregressive(length=8),), real_text=RealText("book", 8)
    )
    found = groups_of(asked, [TEACHER, CAUSAL, TEXT])
    assert {each.draw.length for each in found} == {8}


@pytest.mark.parametrize("subject", [STUDENT, CAUSAL])
def test_texts_longer_than_a_model_are_refused_before_anything_is_drawn(subject):
    mauve = MauveSettings("book", prompts=2, prompt_tokens=12, new_tokens=5)
    asked = protocol(metrics=("mauve",), mauve=mauve, autoregressive=(Autoregressive(),))
    with pytest.raises(ValueError, match=r"texts of 17 tokens .* at most 16; .* new_tokens"):
        groups_of(asked, [subject])


def test_a_model_that_says_no_length_has_no_bound():
    with pytest.raises(ValueError, match=r"ar does not say how long its texts are"):
        groups_of(protocol(metrics=("bound",)), [dataclasses.replace(CAUSAL, length=None)])


@pytest.mark.parametrize("name", ["quick", "paper", "full", "pair"])
def test_the_protocols_that_come_along_can_be_read_by_name(name):
    assert load_protocol(name).name == name


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("metrics: [perplexety]", "metrics has no 'perplexety'; nearest: perplexity"),
        ("judges: x", "a protocol has no 'judges'; nearest: judge"),
        ("lambada: {form: new}", "form is one of openai, original, got 'new'"),
        ("latency: {runs: many}", "runs wants a int, got 'many'"),
        ("draws: [{sampler: dilated, stepps: 4}]", "draws has no 'stepps'; nearest: steps"),
        ("draws: [{sampler: dilated, steps: [4, 0]}]", "steps must be at least 1, got 0"),
        ("draws: [{num_samples: 0}]", "num_samples must be at least 1, got 0"),
        ("real_text: {text: x, num_samples: 0}", "num_samples must be at least 1, got 0"),
        ("best_of: {n: [1, 0]}", "n must be at least 1, got 0"),
        ("mauve: {text: x, continuations: 0}", "continuations must be at least 1, got 0"),
        ("bound: {blocks: 0}", "blocks must be at least 1, got 0"),
        ("bound: {noise_samples: 3}", "noise samples must be 1 or an even number, got 3"),
        ("tasks: {noise_samples: 3}", "noise samples must be 1 or an even number, got 3"),
        ("lambada: {exact_up_to: 20}", r"exact_tokens must lie in \[0, 16\], got 20"),
        ("tasks: {num_fewshot: -1}", "num_fewshot must be at least 0, got -1"),
        ("tasks: {sampling: {seed: 1}}", "sampling of tasks has no 'seed'"),
        ("tasks: {sampling: {steps: 0}}", "steps must be at least 1, got 0"),
        ("tasks: {sampling: 4}", "sampling is a mapping of names to settings, got 4"),
        ("latency: {sampler: dilatd}", "dilatd"),
        ("latency: {steps: [2, 2]}", "steps names 2 twice"),
        ("latency: {sampler: first_hitting}", "the sampler .first_hitting. counts none; give one"),
        ("autoregressive: {temperature: [1.0, -1.0]}", "temperature must be .* got -1.0"),
        ("autoregressive: {top_p: 0.0}", r"top_p must lie in \(0, 1\], got 0.0"),
        (
            "perplexity: {window: 8, stride: 16}",
            "stride 16 skips tokens, .* window 8; give",
        ),
        ("bound: {length: 0}", "length must be at least 1, got 0"),
        ("mauve: {text: x, scale: -1.0}", "mauve: scale must be a positive number, got -1.0"),
        (
            "{metrics: [best_of], draws: [{num_samples: 8}], best_of: {n: [16, 32]}}",
            "best_of chooses from 16 samples at least, and a draw has 8",
        ),
        ("metrics: [mauve]", "the metric mauve needs a section 'mauve' with its 'text'"),
        ("- a list", "a protocol is a mapping"),
        ("a: [", "not valid YAML"),
    ],
)
def test_a_protocol_that_cannot_be_is_refused_in_words(tmp_path, text, words):
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(ValueError, match=words):
        load_protocol(tmp_path / "p.yaml")


def test_an_unknown_protocol_is_refused_with_those_that_there_are():
    with pytest.raises(ValueError, match=r"no protocol 'quik'; there are .*quick"):
        load_protocol("quik")
