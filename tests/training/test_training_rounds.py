import pytest

from sdtt.training.rounds import Round, RoundPlan


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, Round(0, 1024, 512)),
        (9_999, Round(0, 1024, 512)),
        (10_000, Round(1, 512, 256)),
        (19_999, Round(1, 512, 256)),
        (20_000, Round(2, 256, 128)),
        (59_999, Round(5, 32, 16)),
        (60_000, Round(6, 16, 8)),
        (69_999, Round(6, 16, 8)),
    ],
)
def test_the_papers_plan_halves_the_steps_every_ten_thousand_updates(step, expected):
    assert RoundPlan(7, 10_000, 1024, 2).at(step) == expected


@pytest.mark.parametrize(
    ("step", "expected"), [(0, Round(0, 64, 16)), (3, Round(1, 16, 4)), (8, Round(2, 4, 1))]
)
def test_k_of_four_quarters_the_steps(step, expected):
    assert RoundPlan(3, 3, 64, 4).at(step) == expected


def test_k_of_one_leaves_the_steps_as_they_are():
    plan = RoundPlan(3, 2, 10, 1)
    assert [plan.at(step) for step in (0, 2, 5)] == [Round(i, 10, 10) for i in range(3)]


def test_a_student_of_a_round_steps_as_the_teacher_of_the_next():
    plan = RoundPlan(5, 1, 96, 2)
    rounds = [plan.at(step) for step in range(5)]
    assert [r.student_sampling_steps for r in rounds[:-1]] == [
        r.teacher_sampling_steps for r in rounds[1:]
    ]


def test_dt_doubles_from_round_to_round():
    plan = RoundPlan(4, 7, 1024, 2)
    assert [plan.at(7 * index).dt for index in range(4)] == [1 / 1024, 1 / 512, 1 / 256, 1 / 128]


def test_after_the_last_update_it_is_still_the_last_round():
    plan = RoundPlan(3, 4, 8, 2)
    assert plan.at(plan.updates) == plan.at(plan.updates - 1)


def test_a_round_ends_at_its_last_update_only():
    plan = RoundPlan(3, 4, 8, 2)
    assert [step for step in range(plan.updates) if plan.ends_at(step)] == [3, 7, 11]


def test_the_updates_are_those_of_all_rounds():
    assert RoundPlan(7, 10_000, 1024, 2).updates == 70_000


def test_the_last_student_may_take_a_single_step():
    assert RoundPlan(3, 1, 8, 2).at(2).student_sampling_steps == 1


def test_a_plan_that_passes_below_one_step_is_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"below one step; .* start_steps of at least 16"):
        RoundPlan(4, 1, 8, 2)


def test_a_plan_that_splits_a_step_is_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"start_steps=100 cannot be divided 3 times .* 96"):
        RoundPlan(3, 1, 100, 2)


@pytest.mark.parametrize("name", ["rounds", "steps_per_round", "start_steps", "teacher_steps"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_plan_of_nothing_is_refused_by_name(name, value):
    plan = {"rounds": 1, "steps_per_round": 1, "start_steps": 2, "teacher_steps": 2}
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got {value}"):
        RoundPlan(**plan | {name: value})


def test_rounds_of_self_distillation_without_time_leave_a_student_each():
    plan = RoundPlan(rounds=3, steps_per_round=2, start_steps=64, teacher_steps=1)
    assert [plan.folder_of(step) for step in (0, 2, 5)] == [
        "64-round-1",
        "64-round-2",
        "64-round-3",
    ]
