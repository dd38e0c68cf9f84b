"""Cells are the mean of their seeds; files of several runs are read together."""

import json
import math
from dataclasses import replace

import pytest

from sdtt.report.cells import averaged, read_cells, read_runs


def one_cell(records):
    (cell,) = read_cells(records)
    return cell


def test_seeds_of_a_setting_are_averaged_and_their_errors_combined(made):
    seeds = [made.perplexity(nll=nll, draw=made.draw_of(seed=i)) for i, nll in enumerate((4, 4.2))]
    cell = one_cell(seeds)
    assert cell.number("nll") == pytest.approx(4.1)
    assert cell.number("nll_se") == pytest.approx(0.01 / math.sqrt(2))


def test_the_perplexity_of_several_seeds_is_that_of_their_mean_nll(made):
    seeds = [made.perplexity(nll=nll, draw=made.draw_of(seed=i)) for i, nll in enumerate((4, 5))]
    cell = one_cell(seeds)
    assert cell.number("perplexity") == pytest.approx(math.exp(4.5))
    assert cell.number("perplexity_se") == pytest.approx(math.exp(4.5) * 0.01 / math.sqrt(2))


def test_a_covariance_of_means_shrinks_with_the_number_of_seeds():
    mean = averaged([{"covariance": 0.4}, {"covariance": 0.2}])
    assert mean["covariance"] == pytest.approx(0.6 / 4)


def test_the_error_of_one_text_does_not_fall_with_the_seeds_of_its_masks():
    result = {"nll": 2.0, "nll_se": 0.3, "noise_se": 0.2, "perplexity": 7.4, "examples": 9}
    mean = averaged([result, result], one_text=True)
    assert (mean["nll_se"], mean["examples"]) == (0.3, 9)
    assert mean["noise_se"] == pytest.approx(0.2 / math.sqrt(2))
    assert mean["perplexity_se"] == pytest.approx(0.3 * math.exp(2))


def test_a_value_that_one_seed_lacks_is_missing():
    assert averaged([{"x": 1.0, "x_se": None}, {"x": 2.0, "x_se": 0.1}])["x_se"] is None


def test_curves_of_several_seeds_are_averaged_at_each_n():
    curves = [[{"n": 2, "nll": 3.0}, {"n": 1, "nll": 4.0}], [{"n": 1, "nll": 5.0}]]
    curve = averaged([{"curve": curve} for curve in curves])["curve"]
    assert {point["n"]: point["nll"] for point in curve} == {1: 4.5, 2: 3.0}


def test_one_seed_with_more_samples_replaces_its_smaller_measurement(made):
    few = made.perplexity(nll=4.0, draw=made.draw_of(num_samples=64))
    many = made.perplexity(nll=4.3, draw=made.draw_of(num_samples=256))
    assert one_cell([many, few]).number("nll") == one_cell([few, many]).number("nll") == 4.3


@pytest.mark.parametrize("change", [{"temperature": 0.9}, {"steps": 4}, {"draw_dtype": "float32"}])
def test_other_draws_are_other_cells(made, change):
    records = [made.perplexity(), made.perplexity(draw=made.draw_of(**change))]
    assert len(read_cells(records)) == 2


def test_one_label_for_two_models_of_two_runs_is_followed_by_its_folder(made, tmp_path):
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        made.write(folder, [made.perplexity(source=f"{folder}/model")])
    labels = [record.model for record in read_runs(folders)]
    assert labels == [f"teacher ({folder})" for folder in folders]


def test_a_model_whose_weights_changed_from_run_to_run_is_two(made, tmp_path):
    folders = [
        made.write(tmp_path / f"{i}", [replace(made.perplexity(), fingerprint=f"weights {i}")])
        for i in range(2)
    ]
    labels = [record.model for record in read_runs(folders)]
    assert labels == [f"teacher ({folder})" for folder in folders]


def test_seeds_of_two_judges_of_one_name_are_two_cells(made):
    seeds = [
        made.perplexity(draw=made.draw_of(seed=i), settings={"judge": "j", "judge_files": files})
        for i, files in enumerate("ab")
    ]
    assert len(read_cells(seeds)) == 2


@pytest.mark.parametrize("older", [{"judge": "j"}, {"judge": "j", "judge_files": "a"}], ids=str)
def test_a_record_that_does_not_know_the_files_of_its_judge_stands_with_one_that_does(made, older):
    settings = [older, {"judge": "j", "judge_files": "a"}]
    seeds = [
        made.perplexity(draw=made.draw_of(seed=i), settings=own) for i, own in enumerate(settings)
    ]
    assert one_cell(seeds).record.settings == {"judge": "j"}


def test_real_text_that_another_tokenizer_cut_is_no_other_model(made, tmp_path):
    folders = [
        made.write(tmp_path / f"{i}", [replace(made.levels()[1], fingerprint=f"cut {i}")])
        for i in range(2)
    ]
    assert [record.model for record in read_runs(folders)] == ["real text"]


def test_what_two_runs_measured_alike_is_taken_from_the_first(made, tmp_path):
    folders = [
        made.write(tmp_path / f"{i}", [made.perplexity(nll=nll)])
        for i, nll in enumerate((4.0, 5.0))
    ]
    assert [record.result["nll"] for record in read_runs(folders)] == [4.0]


def test_records_of_another_version_are_refused_in_words(made, tmp_path):
    line = json.loads(made.perplexity().line()) | {"version": 99}
    (tmp_path / "records.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(ValueError, match="a record of layout 99; this sdtt reads layout 1"):
        read_runs([tmp_path])
