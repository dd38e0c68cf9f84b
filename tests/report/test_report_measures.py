"""The tables of the other metrics hold the numbers of the records."""

import pytest

from sdtt.report.best_of import best_of_tables
from sdtt.report.cells import read_cells
from sdtt.report.measures import measure_tables
from sdtt.report.suite import Suite
from sdtt.report.tasks import tasks_tables


def tables(records):
    suite = Suite(read_cells(records), "teacher")
    found = [*measure_tables(suite), *tasks_tables(suite), *best_of_tables(suite)]
    return {table.title: table for table in found}


def column(table, name):
    place = list(table.head).index(name)
    return [row[place].text for row in table.rows]


def test_every_metric_has_its_table(made):
    titles = {"MAUVE", "LAMBADA", "Likelihood of real text", "Latency", "Tasks", "Best of n"}
    assert set(tables(made.whole())) == titles


def test_lambada_is_in_per_cent_with_its_error(made):
    table = tables(made.whole())["LAMBADA"]
    assert column(table, "accuracy %") == ["30.0 ± 1.0", "32.0 ± 1.0", "40.0 ± 1.0"]
    assert column(table, "taught steps") == ["–", "16", "–"]


def test_a_bound_is_called_a_bound_and_a_likelihood_exact(made):
    table = tables(made.whole())["Likelihood of real text"]
    assert column(table, "is") == ["upper bound", "upper bound", "exact"]
    assert column(table, "bits a byte") == ["1.200 ± 0.100"] * 3


def test_two_texts_or_two_forms_never_stand_in_one_table(made):
    texts = [
        made.record("bound", "teacher", {"bits_per_byte": 1.0}, settings={"text": t})
        for t in ("ptb", "lm1b")
    ]
    forms = [
        made.record("lambada", "teacher", {"accuracy": 0.1}, settings={"form": f})
        for f in ("openai", "original")
    ]
    features = [
        made.record("mauve", "teacher", {"mauve": 0.5}, made.draw_of(), settings={"features": f})
        for f in ("gpt2", "judge")
    ]
    assert list(tables([*texts, *forms, *features])) == [
        "MAUVE: features gpt2", "MAUVE: features judge",
        "LAMBADA: form openai", "LAMBADA: form original",
        "Likelihood of real text: text ptb", "Likelihood of real text: text lm1b",
    ]  # fmt: skip


def test_times_of_two_machines_never_stand_in_one_table(made):
    result = {"seconds": 1.0}
    times = [
        made.record("latency", "teacher", result, {"steps": 4}, environment={"device": d})
        for d in ("cpu", "cuda")
    ]
    assert list(tables(times)) == [
        "Latency: timed with device cpu",
        "Latency: timed with device cuda",
    ]


def test_tasks_stand_beside_each_other_one_row_a_model(made):
    scores = {"acc": 0.25, "acc_se": 0.01, "acc_norm": 0.3, "acc_norm_se": 0.02, "examples": 10}
    records = [
        made.record("tasks", model, scores, settings={"task": task, "num_fewshot": 0})
        for model, task in (("teacher", "arc_easy"), ("teacher", "piqa"), ("ar", "piqa"))
    ]
    table = tables(records)["Tasks"]
    assert column(table, "model") == ["teacher", "ar"]
    assert column(table, "arc_easy acc %") == ["25.0 ± 1.0", "–"]
    assert column(table, "piqa acc norm %") == ["30.0 ± 2.0", "30.0 ± 2.0"]


def test_tasks_scored_by_other_numbers_of_masks_stand_apart(made):
    records = [
        made.record(
            "tasks",
            model,
            {"acc": share, "acc_se": 0.01},
            settings={"task": "piqa", "noise_samples": masks},
        )
        for model, share, masks in (("t", 0.6, 128), ("t", 0.52, 32), ("s", 0.51, 32))
    ]
    found = tables(records)
    assert column(found["Tasks: noise samples a text 128"], "piqa acc %") == ["60.0 ± 1.0"]
    few = found["Tasks: noise samples a text 32"]
    assert sorted(column(few, "piqa acc %")) == ["51.0 ± 1.0", "52.0 ± 1.0"]


def test_latencies_of_other_lengths_stand_apart_and_have_their_spread_and_type(made):
    found = tables([made.latency("a", 8, 1.0, spread=0.25), made.latency("b", 8, 2.0, length=32)])
    one = found["Latency: 64 tokens a sample"]
    assert column(one, "model") == ["a"]
    assert [column(one, name) for name in ("least", "most")] == [["0.75"], ["1.2"]]
    assert column(one, "network in") == ["float32"]
    assert column(found["Latency: 32 tokens a sample"], "model") == ["b"]


def test_answers_that_were_sampled_in_two_ways_stand_in_two_rows(made):
    ways = [({"steps": 8, "temperature": 0.0}, 0.25), ({"steps": 64, "temperature": 1.0}, 0.5)]
    records = [
        made.record("tasks", "teacher", {"f1": f1, "f1_se": 0.1}, made.draw_of(**how),
                    settings={"task": "squad"})
        for how, f1 in ways
    ]  # fmt: skip
    table = tables(records)["Tasks"]
    assert column(table, "answers") == ["dilated, 64 steps", "dilated, 8 steps, T 0"]
    assert column(table, "squad f1 %") == ["50.0 ± 10.0", "25.0 ± 10.0"]


def test_best_of_n_has_a_row_for_each_n(made):
    table = tables(made.whole())["Best of n"]
    assert column(table, "n")[:3] == ["1", "2", "4"]
    assert column(table, "its NLL, nats a token")[:2] == ["3.900 ± 0.010", "3.800 ± 0.010"]


@pytest.mark.parametrize(
    ("chosen_by_judge", "words"),
    [(True, "the same scorer judges it"), (False, "the judge, which had no part in the choice")],
)
def test_best_of_n_says_whether_the_judge_had_a_part_in_the_choice(made, chosen_by_judge, words):
    curve = {"curve": [{"n": 1, "seconds": 0.1, "nll": 4.0, "nll_se": 0.1, "entropy": 4.0}]}
    settings = {"scorer": "j", "chosen_by_judge": chosen_by_judge}
    one = made.record("best_of", "teacher", curve, made.draw_of(), settings=settings)
    assert words in tables([one])["Best of n"].notes[0]
