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


# Ladders, and rounds of their own lengths


def test_a_ladder_gives_each_round_the_ratio_of_its_neighbours():
    plan = RoundPlan.of_ladder([1024, 256, 128, 16], 10)
    rounds = [plan.at(step) for step in (0, 9, 10, 20, 29)]
    assert [each.teacher_steps for each in rounds] == [4, 4, 2, 8, 8]
    assert rounds[2] == Round(1, 256, 128)


def test_a_plan_by_k_has_the_ladder_of_its_powers():
    assert RoundPlan(3, 1, 96, 2).ladder == (96, 48, 24, 12)


def test_a_ladder_of_doublings_is_the_papers_plan():
    ladder, paper = RoundPlan.of_ladder([64, 32, 16], 5), RoundPlan(2, 5, 64, 2)
    assert [ladder.at(step) for step in range(11)] == [paper.at(step) for step in range(11)]


def test_the_students_of_a_ladder_lie_under_its_steps():
    assert RoundPlan.of_ladder([64, 16, 8], 1).folders == ("16", "8")


def test_each_round_may_have_its_own_number_of_updates():
    plan = RoundPlan(3, [2, 5, 1], 8, 2)
    assert [plan.at(step).index for step in range(8)] == [0, 0, 1, 1, 1, 1, 1, 2]
    assert [step for step in range(8) if plan.ends_at(step)] == [1, 6, 7]
    assert plan.updates == 8


@pytest.mark.parametrize(
    ("ladder", "message"),
    [
        ([64], "ladder=64 has no round"),
        ([64, 0], "ladder=64,0 passes below one step"),
        ([16, 64], "ladder=16,64 rises from 16 to 64"),
        ([64, 32, 32], "ladder=64,32,32 repeats 32"),
        ([64, 24], "ladder=64,24: 24 does not divide 64"),
    ],
)
def test_a_ladder_that_no_student_can_climb_down_is_refused(ladder, message):
    with pytest.raises(ValueError, match=message):
        RoundPlan.of_ladder(ladder, 1)


def test_a_ladder_of_one_number_is_self_distillation_without_time():
    plan = RoundPlan.of_ladder([64, 64, 64], 1)
    assert plan.folders == ("64-round-1", "64-round-2")
    assert plan.at(1).teacher_steps == 1


@pytest.mark.parametrize("numbers", [[3], [3, 3, 3]])
def test_a_list_of_updates_that_is_not_one_for_each_round_is_refused(numbers):
    with pytest.raises(ValueError, match=f"steps_per_round has {len(numbers)} numbers for 2 round"):
        RoundPlan(2, numbers, 8, 2)


def test_a_round_of_a_list_without_updates_is_refused():
    with pytest.raises(ValueError, match="steps_per_round must be at least 1"):
        RoundPlan(2, [3, 0], 8, 2)


# Rounds that ended early


def test_a_round_that_ended_early_is_followed_by_the_next_at_once():
    plan = RoundPlan(3, 10, 8, 2).ended(4)
    assert [plan.at(step).index for step in (3, 4, 13, 14)] == [0, 1, 1, 2]


def test_a_round_behind_one_that_ended_early_keeps_its_length():
    plan = RoundPlan(3, 10, 8, 2).ended(4)
    assert (plan.ends, plan.updates) == ((4, 14, 24), 24)


def test_rounds_that_ended_when_they_were_to_end_change_nothing():
    planned = RoundPlan(3, 4, 8, 2)
    ended = planned.ended(4).ended(8)
    assert [ended.at(step) for step in range(13)] == [planned.at(step) for step in range(13)]


def test_a_plan_is_over_when_its_last_round_has_ended():
    plan = RoundPlan(2, 4, 8, 2).ended(3)
    assert (plan.is_over, plan.ended(5).is_over, plan.ended(5).updates) == (False, True, 5)


def test_the_first_update_of_a_round_follows_the_end_of_the_one_before():
    plan = RoundPlan(3, 4, 8, 2).ended(3)
    assert [plan.start_of(index) for index in range(3)] == [0, 3, 7]
