import copy
import json
import math
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, TrainerCallback

from sdtt.training.sdtt_config import SDTTConfig
from sdtt.training.stream import noise_of


def records(output):
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def losses(output):
    return [record["loss"] for record in records(output) if "loss" in record]


# The loss, written out


def sum_of(terms):
    return math.fsum(terms)


def kl(a, b):
    return sum_of(p * (math.log(p) - math.log(q)) for p, q in zip(a, b, strict=True))


BY_HAND = {
    "reverse_kl": kl,
    "forward_kl": lambda q, p: kl(p, q),
    "jsd": lambda q, p: (
        kl(q, [(a + b) / 2 for a, b in zip(q, p, strict=True)]) / 2
        + kl(p, [(a + b) / 2 for a, b in zip(q, p, strict=True)]) / 2
    ),
    "tvd": lambda q, p: sum_of(abs(a - b) for a, b in zip(q, p, strict=True)) / 2,
    "mse": lambda q, p: (
        sum_of((math.log(a) - math.log(b)) ** 2 for a, b in zip(q, p, strict=True)) / len(q)
    ),
}


def laws(model, z):
    """p(. | z) over the 19 clean tokens, at every position of one text."""
    with torch.no_grad():
        return model(input_ids=z[None]).logits[0, :, :19].softmax(-1)


def targets(teacher, z, t, u, v, dt, k, masked_share):
    """Algorithm 1 for one text: the law under which each masked position is decided."""
    result = {}
    for i in range(k):
        s = max(t - (i + 1) * dt, 0)
        law, following = laws(teacher, z), z.clone()
        for position in (z == 19).nonzero().flatten().tolist():
            result[position] = law[position]  # stays, where this is the last pass
            if u[position] >= masked_share(s):
                cumulative = law[position].cumsum(0)
                following[position] = int((cumulative <= v[position] * cumulative[-1]).sum())
        z = following
    return result


def loss_by_hand(student, teacher, x, divergence, dt, k, masked_share):
    noise = noise_of(list(range(4)), length=8, batch=4, seed=0, smallest_time=0.0)
    values = []
    for text, t, u, v in zip(x, noise.t.tolist(), noise.u, noise.v, strict=True):
        z = torch.where(u < masked_share(t), 19, text)
        law = laws(student, z)
        for position, target in targets(teacher, z, t, u, v, dt, k, masked_share).items():
            values.append(BY_HAND[divergence](law[position].tolist(), target.tolist()))
    return sum_of(values) / len(values)


@pytest.mark.parametrize(
    ("divergence", "k", "schedule"),
    [(name, 3, "log_linear") for name in BY_HAND]
    + [("reverse_kl", 1, "log_linear"), ("reverse_kl", 2, "cosine")],
)
def test_the_loss_is_the_mean_divergence_from_the_targets_of_algorithm_1(
    tmp_path, runs, divergence, k, schedule
):
    masked_share = {"log_linear": lambda t: t, "cosine": lambda t: 1 - math.cos(math.pi / 2 * t)}
    student, teacher = runs.masked_model(0).double(), runs.masked_model(1).double()
    trainer = runs.distiller(
        tmp_path,
        student,
        teacher,
        rounds=1,
        steps_per_round=1,
        start_steps=max(k, 2),
        teacher_steps=k,
        divergence=divergence,
        schedule=schedule,
        loss_dtype="float64",
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
    )
    x = torch.stack([trainer.stream[place]["input_ids"] for place in range(4)])
    dt = 1 / max(k, 2)
    expected = loss_by_hand(student, teacher, x, divergence, dt, k, masked_share[schedule])
    trainer.train()
    assert losses(tmp_path) == pytest.approx([expected], rel=1e-5)


def softened(law, temperature):
    powers = [p ** (1 / temperature) for p in law]
    return [p / sum_of(powers) for p in powers]


def generalised(q, p, beta):
    m = [beta * b + (1 - beta) * a for a, b in zip(q, p, strict=True)]
    return beta * kl(p, m) + (1 - beta) * kl(q, m)


@pytest.mark.parametrize(
    ("settings", "divergence"),
    [
        ({"divergence": "jsd", "jsd_beta": 0.2}, lambda q, p: generalised(q, p, 0.2)),
        ({"divergence_temperature": 2.0}, lambda q, p: kl(softened(q, 2), softened(p, 2))),
    ],
    ids=["beta", "temperature"],
)
def test_beta_and_temperature_reach_the_loss(tmp_path, runs, monkeypatch, settings, divergence):
    monkeypatch.setitem(BY_HAND, "chosen", divergence)
    student, teacher = runs.masked_model(), runs.masked_model(1)
    trainer = runs.distiller(tmp_path, student, teacher, rounds=1, steps_per_round=1, **settings)
    x = torch.stack([trainer.stream[place]["input_ids"] for place in range(4)])
    expected = loss_by_hand(student, teacher, x, "chosen", 1 / 4, 2, lambda s: s)
    trainer.train()
    assert losses(tmp_path)[0] == pytest.approx(expected, rel=1e-4)


def test_the_second_round_takes_its_targets_at_twice_the_step_from_the_first_student(
    tmp_path, runs
):
    trainer = runs.distiller(tmp_path, runs.masked_model().double(), steps_per_round=1)
    trainer.train()
    student = AutoModelForMaskedLM.from_pretrained(tmp_path / "students/2").double().eval()
    noise = noise_of(list(range(4, 8)), length=8, batch=4, seed=0, smallest_time=0.0)
    values = []
    for place, t, u, v in zip(range(4, 8), noise.t.tolist(), noise.u, noise.v, strict=True):
        z = torch.where(u < t, 19, trainer.stream[place]["input_ids"])
        law = laws(student, z)
        for position, target in targets(student, z, t, u, v, 1 / 2, 2, lambda s: s).items():
            values.append(kl(law[position].tolist(), target.tolist()))
    assert losses(tmp_path)[1] == pytest.approx(sum_of(values) / len(values), rel=1e-4)


def test_a_student_that_replaces_one_step_of_itself_has_nothing_to_learn_at_first(tmp_path, runs):
    settings = {"teacher_steps": 1, "rounds": 1, "steps_per_round": 1}
    runs.distiller(tmp_path, runs.masked_model(dropout=0.3), **settings).train()
    assert abs(losses(tmp_path)[0]) < 1e-6


def test_a_student_that_replaces_two_steps_of_itself_has_something_to_learn(tmp_path, runs):
    settings = {"teacher_steps": 2, "rounds": 1, "steps_per_round": 1}
    runs.distiller(tmp_path, runs.masked_model(dropout=0.3), **settings).train()
    assert losses(tmp_path)[0] > 1e-3


def test_a_students_dropout_alone_gives_it_something_to_learn(tmp_path, runs):
    settings = {"teacher_steps": 1, "rounds": 1, "steps_per_round": 1, "student_dropout": 0.3}
    runs.distiller(tmp_path, **settings).train()
    assert losses(tmp_path)[0] > 1e-2


def test_a_teachers_dropout_is_never_on(tmp_path, runs):
    teacher = runs.masked_model(dropout=0.5).train()
    settings = {"teacher_steps": 1, "rounds": 1, "steps_per_round": 1}
    runs.distiller(tmp_path, runs.masked_model(), teacher, **settings).train()
    assert abs(losses(tmp_path)[0]) < 1e-6


def test_the_teacher_of_a_later_round_has_no_dropout_though_its_student_has(tmp_path, runs):
    trainer = runs.distiller(tmp_path, student_dropout=0.5, steps_per_round=1)
    trainer.train()
    z = torch.full((1, 8), 19)
    assert torch.equal(trainer.teacher.hidden(z), trainer.teacher.hidden(z))


@pytest.mark.parametrize(("settings", "expected"), [({}, 0.0), ({"student_dropout": 0.2}, 0.2)])
def test_the_students_dropout_is_the_options_and_not_the_models(tmp_path, runs, settings, expected):
    model = runs.masked_model(dropout=0.4)
    runs.distiller(tmp_path, model, **settings)
    layers = {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)}
    assert (layers, model.config.dropout) == ({expected}, expected)


# Accumulation, and updates with little in them


def trained(runs, output, micro, accumulation, model=None, length=8, **settings):
    """What SGD in float64 makes of a student, after every update."""
    student = runs.masked_model().double() if model is None else model
    history = [runs.weights(student)]

    class Watch(TrainerCallback):
        def on_step_end(self, *_, **__):
            history.append(runs.weights(student))

    trainer = runs.distiller(
        output,
        student,
        runs.masked_model(1).double(),
        data=runs.texts(length=length),
        callbacks=(Watch(),),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=accumulation,
        optim="sgd",
        learning_rate=0.3,
        loss_dtype="float64",
        **settings,
    )
    trainer.train()
    return history, trainer


def farthest(one, other):
    return max((one[name] - other[name]).abs().max().item() for name in one)


def test_eight_micro_batches_of_one_are_one_batch_of_eight_across_a_round(tmp_path, runs):
    one, _ = trained(runs, tmp_path / "one", 8, 1, steps_per_round=1)
    eight, _ = trained(runs, tmp_path / "eight", 1, 8, steps_per_round=1)
    assert farthest(one[0], one[-1]) > 1e-2
    assert farthest(one[-1], eight[-1]) < 1e-9


def test_the_weights_do_not_depend_on_a_micro_batch_in_which_nothing_is_masked(tmp_path, runs):
    cut, trainer = trained(runs, tmp_path / "cut", 1, 4, length=2, rounds=1)
    whole, _ = trained(runs, tmp_path / "whole", 4, 1, length=2, rounds=1)
    masked = [trainer.items(torch.zeros(1, 2), [place]) for place in range(20)]
    assert 0 in masked
    assert farthest(cut[-1], whole[-1]) < 1e-9


def test_an_update_in_which_nothing_is_masked_moves_nothing(tmp_path, runs):
    history, trainer = trained(runs, tmp_path, 1, 1, length=1, rounds=1, steps_per_round=8)
    masked = [trainer.items(torch.zeros(1, 1), [place]) for place in range(8)]
    moved = [farthest(history[i], history[i + 1]) > 0 for i in range(8)]
    assert set(masked) == {0, 1}
    assert moved == [count > 0 for count in masked]


def test_an_update_in_which_nothing_is_masked_counts_in_no_mean(tmp_path, runs):
    settings = {"rounds": 1, "steps_per_round": 8, "per_device_train_batch_size": 1}
    shape = {"model": runs.masked_model(model_length=1), "data": runs.texts(11, 1)}
    trainer = runs.distiller(tmp_path, **shape, **settings, logging_steps=8.0, learning_rate=1e-9)
    masked = [trainer.items(torch.zeros(1, 1), [place]) for place in range(8)]
    sums, step = [], trainer.training_step
    trainer.training_step = lambda *each: sums.append(float(step(*each))) or torch.tensor(sums[-1])
    trainer.train()
    assert losses(tmp_path) == [pytest.approx(sum(sums) / sum(masked))]


# Rounds: one run of three rounds of three updates, watched


class Watch(TrainerCallback):
    """Copies of student, teacher and EMA after every update."""

    def __init__(self, weights):
        self.weights = weights
        self.trainer = None
        self.students, self.teachers, self.shadows, self.moments = [], [], [], []
        self.touched = []

    def on_step_begin(self, *_, **__):
        if not self.students:
            self.students.append(self.weights(self.trainer.model))

    def on_pre_optimizer_step(self, *_, **__):
        self.touched += [
            name
            for name, parameter in self.trainer.teacher.named_parameters()
            if parameter.requires_grad or parameter.grad is not None
        ]

    def on_step_end(self, *_, **__):
        self.students.append(self.weights(self.trainer.model))
        self.teachers.append(self.weights(self.trainer.teacher))
        state = self.trainer.optimizer.state.values()
        self.moments.append({int(each["step"]) for each in state})

    def on_log(self, *_, **__):  # after the trainer's own callbacks have followed the update
        if self.trainer.ema is not None:
            self.shadows.append(copy.deepcopy(self.trainer.ema.shadow))


def watched(runs, output, **settings):
    watch = Watch(runs.weights)
    default = {"rounds": 3, "steps_per_round": 3, "start_steps": 8, "save_steps": 3.0}
    default |= {"save_total_limit": 5, "student_dropout": 0.1}
    trainer = runs.distiller(
        output,
        runs.masked_model(0),
        runs.masked_model(1),
        callbacks=(watch,),
        **default | settings,
    )
    watch.trainer = trainer
    watch.first_teacher = runs.weights(trainer.teacher)
    trainer.train()
    return SimpleNamespace(output=output, trainer=trainer, watch=watch)


@pytest.fixture(scope="module")
def run(runs, tmp_path_factory):
    return watched(runs, tmp_path_factory.mktemp("run"))


def test_the_teacher_of_the_first_round_is_the_one_that_was_given(run, runs):
    for teacher in run.watch.teachers[:3]:
        assert runs.differences(teacher, run.watch.first_teacher) == []


@pytest.mark.parametrize("round_index", [1, 2])
def test_the_teacher_of_a_round_is_the_student_at_the_end_of_the_one_before(run, runs, round_index):
    student = run.watch.students[3 * round_index]
    for teacher in run.watch.teachers[3 * round_index : 3 * round_index + 3]:
        assert runs.differences(teacher, student) == []


def test_the_teacher_is_not_the_student_that_trains_on(run, runs):
    for student, teacher in zip(run.watch.students[1:], run.watch.teachers, strict=True):
        assert runs.differences(teacher, student) != []


def test_a_trainer_that_has_trained_is_not_started_anew(tmp_path, runs):
    trainer = runs.distiller(tmp_path, steps_per_round=1)
    trainer.train()
    with pytest.raises(ValueError, match=r"has done 2 updates, .*; make a new one, or resume"):
        trainer.train()


def test_the_teacher_has_no_gradient(run):
    assert run.watch.touched == []


@pytest.mark.parametrize("update", [3, 6, 9])
def test_a_checkpoint_holds_the_teacher_of_its_round(run, runs, update):
    saved = load_file(run.output / f"checkpoint-{update}" / "teacher.safetensors")
    assert runs.differences(saved, run.watch.teachers[update - 1]) == []


@pytest.mark.parametrize(("steps", "update"), [(4, 3), (2, 6), (1, 9)])
def test_the_student_of_a_round_is_saved_under_its_sampling_steps(run, runs, steps, update):
    saved = AutoModelForMaskedLM.from_pretrained(run.output / "students" / str(steps))
    assert runs.differences(runs.weights(saved), run.watch.students[update]) == []


@pytest.mark.parametrize(("steps", "update"), [(4, 3), (2, 6), (1, 9)])
def test_the_moving_average_of_a_student_is_saved_beside_it(run, runs, steps, update):
    saved = AutoModelForMaskedLM.from_pretrained(run.output / "students" / str(steps) / "ema")
    parameters = {name: value.detach() for name, value in saved.named_parameters()}
    assert runs.differences(parameters, run.watch.shadows[update - 1]) == []


def test_no_other_students_are_saved(run):
    assert {path.name for path in (run.output / "students").iterdir()} == {"1", "2", "4"}


def test_the_moving_average_runs_on_through_the_rounds(run):
    shadow = {name: value.double() for name, value in run.watch.students[0].items()}
    for student, seen in zip(run.watch.students[1:], run.watch.shadows, strict=False):
        shadow = {name: 0.9 * shadow[name] + 0.1 * student[name].double() for name in shadow}
        for name, value in seen.items():
            torch.testing.assert_close(value.double(), shadow[name], rtol=0, atol=1e-6)


def test_the_optimiser_runs_on_through_the_rounds(run):
    assert run.watch.moments == [{update} for update in range(1, 10)]


def test_every_record_names_its_update_and_its_round(run):
    seen = [
        (each["step"], each["round"], each["student_sampling_steps"])
        for each in records(run.output)
        if "loss" in each
    ]
    assert seen == [
        *[(1, 1, 4), (2, 1, 4), (3, 1, 4)],
        *[(4, 2, 2), (5, 2, 2), (6, 2, 2)],
        *[(7, 3, 1), (8, 3, 1), (9, 3, 1)],
    ]


def test_the_closing_record_names_the_last_update_and_the_last_round(run):
    last = records(run.output)[-1]
    assert (last["step"], last["round"], "train_loss" in last) == (9, 3, True)


def test_the_next_teacher_may_be_the_moving_average(tmp_path, runs):
    run = watched(runs, tmp_path, teacher_from="ema", rounds=2, steps_per_round=2)
    average = run.watch.shadows[1]
    teacher = {name: run.watch.teachers[2][name] for name in average}
    assert runs.differences(teacher, average) == []


def test_the_moments_are_forgotten_at_a_round_and_only_there(tmp_path, runs):
    run = watched(runs, tmp_path, reset_optimizer=True)
    assert run.watch.moments == [{1}, {2}, {3}] * 3


def test_a_run_without_an_average_saves_none(tmp_path, runs):
    run = watched(runs, tmp_path, ema_decay=0.0, rounds=1)
    assert list(tmp_path.rglob("ema*")) == []
    assert run.trainer.ema is None


# Who may teach whom


def test_a_student_without_a_teacher_is_taught_by_a_copy_of_itself(tmp_path, runs):
    model = runs.masked_model()
    trainer = runs.distiller(tmp_path, model)
    assert trainer.teacher is not model
    assert runs.differences(runs.weights(trainer.teacher), runs.weights(model)) == []


def test_a_student_that_is_given_as_its_own_teacher_still_learns(tmp_path, runs):
    model = runs.masked_model()
    before = runs.weights(model)
    runs.distiller(tmp_path, model, model, rounds=1).train()
    assert farthest(before, runs.weights(model)) > 1e-3


def test_a_teacher_may_be_larger_than_its_student(tmp_path, runs):
    teacher = runs.masked_model(1, hidden_dim=32, n_blocks=2)
    settings = {"rounds": 1, "steps_per_round": 30, "start_steps": 2, "learning_rate": 3e-2}
    runs.distiller(tmp_path, teacher=teacher, **settings).train()
    values = losses(tmp_path)
    assert sum(values[-5:]) < sum(values[:5]) / 3


@pytest.mark.parametrize("shape", [{"vocab_size": 21}, {"mask_token_id": 18}])
def test_a_teacher_of_another_vocabulary_is_refused(tmp_path, runs, shape):
    with pytest.raises(ValueError, match="student and teacher need one vocabulary"):
        runs.distiller(tmp_path, teacher=runs.masked_model(**shape))


def test_a_causal_teacher_is_refused_by_name(tmp_path, runs):
    with pytest.raises(ValueError, match="CausalLM is no denoiser"):
        runs.distiller(tmp_path, teacher=runs.causal_model())


# Config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"divergence": "kl"}, "unknown divergence 'kl'; there are reverse_kl, forward_kl, jsd"),
        ({"schedule": "linear"}, "unknown schedule 'linear'"),
        ({"loss_dtype": "float16"}, "loss_dtype must be .* got 'float16'"),
        ({"ema_decay": 1.0}, "ema_decay must lie in .* got 1.0"),
        ({"student_dropout": 1.0}, "student_dropout must lie in .* got 1.0"),
        ({"student_dropout": -0.1}, "student_dropout must lie in .* got -0.1"),
        ({"teacher_from": "ema", "ema_decay": 0.0}, "teacher_from='ema' needs an EMA"),
        ({"rounds": 11}, "below one step"),
        ({"start_steps": 1000}, "cannot be divided 5 times"),
        ({"steps_per_round": 0}, "steps_per_round must be at least 1"),
    ],
)
def test_a_config_that_cannot_be_is_refused_in_words(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        SDTTConfig(str(tmp_path), use_cpu=True, **settings)


def test_the_defaults_are_the_papers_but_for_dropout(tmp_path):
    config = SDTTConfig(str(tmp_path), use_cpu=True)
    assert config.divergence == "reverse_kl"
    assert (config.rounds, config.steps_per_round, config.start_steps) == (5, 10_000, 1024)
    assert (config.teacher_steps, config.learning_rate, config.warmup_steps) == (2, 6e-5, 500)
    assert (config.weight_decay, config.ema_decay, config.teacher_from) == (0, 0.9999, "raw")
    assert (config.student_dropout, config.reset_optimizer) == (0, False)


def test_a_run_has_the_updates_of_all_its_rounds(tmp_path):
    assert SDTTConfig(str(tmp_path), use_cpu=True, rounds=3, steps_per_round=7).max_steps == 21
