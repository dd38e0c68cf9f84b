"""Claims about `--dry-run`: a plan is printed, nothing is written."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from sdtt.cli import app, dry_run
from sdtt.models.mdlm import MDLMConfig, MDLMForMaskedLM
from sdtt.training.sdtt_config import SDTTConfig

DISTILL = ["--rounds", "2", "--steps-per-round", "5", "--start-steps", "16", "--use-cpu"]
PLAN = ["--dry-run", "--probe-updates", "0"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    torch.manual_seed(0)
    shape = {"vocab_size": 40, "model_length": 8, "hidden_dim": 16, "n_blocks": 1, "n_heads": 2}
    MDLMForMaskedLM(MDLMConfig(**shape)).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty working folder: whatever a dry run writes would be seen in it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def distill(model, *words):
    return run("distill", "--model", model, "--data", "absent.txt", "--output", "o", *words)


def record(result):
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_a_dry_run_writes_nothing_and_reads_no_text(model, home):
    result = distill(model, *DISTILL, "--dry-run", "--probe-updates", "2")
    assert result.exit_code == 0, result.stderr
    assert list(home.iterdir()) == []


def test_a_dry_run_prints_each_round(model):
    out = distill(model, *DISTILL, *PLAN).stdout
    assert "16 > 8" in out
    assert "8 > 4" in out
    assert f"{SDTTConfig('o', use_cpu=True).learning_rate:.3g}" in out


def test_the_json_of_a_dry_run_holds_the_plan_and_its_sums(model):
    plan = record(distill(model, *DISTILL, *PLAN, "--json"))
    assert [stage["student_steps"] for stage in plan["stages"]] == [8, 4]
    assert plan["updates"] == 10
    assert plan["tokens"] == 10 * 64 * 8
    assert plan["flops"] == sum(stage["flops"] for stage in plan["stages"])
    parts = [size for name, size in plan["memory"].items() if name != "total"]
    assert plan["memory"]["total"] == sum(parts)
    assert plan["hours"] is None


def test_a_probe_gives_hours(model):
    plan = record(distill(model, *DISTILL, "--dry-run", "--probe-updates", "2", "--json"))
    expected = plan["flops"] / plan["probe"]["flops_per_second"] / 3600
    assert plan["hours"] == pytest.approx(expected)


def test_a_probed_update_takes_as_many_micro_batches_as_the_global_batch_needs(model, monkeypatch):
    probe, told = dry_run.probe, []

    def listening(make_trainer, **given):
        told.append(given["accumulation"])
        return probe(make_trainer, **given)

    monkeypatch.setattr(dry_run, "probe", listening)
    words = ["--per-device-train-batch-size", "4", "--global-batch-size", "12", "--dry-run"]
    plan = record(distill(model, *DISTILL, *words, "--probe-updates", "2", "--json"))
    assert told == [3]
    assert plan["texts"] == 12


def test_a_probe_of_a_run_that_is_pushed_to_the_hub_pushes_nothing(model, home):
    result = distill(model, *DISTILL, "--push-to-hub", "--dry-run", "--probe-updates", "2")
    assert result.exit_code == 0, result.stderr
    assert list(home.iterdir()) == []


def test_an_assumed_share_of_a_given_rate_gives_hours_without_a_probe(model):
    words = ["--dry-run", "--assumed-mfu", "0.5", "--peak-tflops", "2", "--json"]
    plan = record(distill(model, *DISTILL, *words))
    assert plan["hours"] == pytest.approx(plan["flops"] / 1e12 / 3600)
    assert plan["probe"] is None


@pytest.mark.parametrize(("words", "mfu"), [([], 0.25), (["--assumed-mfu", "0.5"], 0.5)])
def test_hours_of_named_gpus_are_operations_over_a_share_of_their_rates(model, words, mfu):
    words = ["--dry-run", "--gpus", "H100,RTX 4090", *words]
    plan = record(distill(model, *DISTILL, *words, "--json"))
    rates = {"H100": 66.9e12, "RTX 4090": 82.6e12}  # in float32
    assert {each["gpu"] for each in plan["gpus"]} == set(rates)
    for each in plan["gpus"]:
        hours = plan["flops"] / (mfu * rates[each["gpu"]]) / 3600
        assert each["hours"] == pytest.approx(hours)
    assert (plan["probe"], plan["hours"]) == (None, None)
    table = distill(model, *DISTILL, *words).stdout
    assert "RTX 4090" in table
    assert "MFU is assumed, not measured" in table


def test_bfloat16_counts_for_gpus_where_the_run_asks_for_it(model):
    words = ["--dry-run", "--gpus", "H100", "--json"]
    whole, half = (
        record(distill(model, *DISTILL, *words, *more))["gpus"][0] for more in ([], ["--bf16"])
    )
    assert (whole["peak_tflops"], half["peak_tflops"]) == (66.9, 989.4)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator")
def test_a_run_in_bfloat16_is_planned_on_a_cpu_without_saying_so(model):
    words = ["--rounds", "2", "--start-steps", "16", "--bf16", *PLAN, "--json"]
    assert record(distill(model, *words))["updates"] == 20_000


def test_a_probe_that_would_take_too_long_gives_way_to_gpus(model, monkeypatch):
    monkeypatch.setattr(dry_run, "PROBE_SECONDS", 0)
    plan = record(distill(model, *DISTILL, "--dry-run", "--json"))
    assert (plan["probe"], plan["hours"]) == (None, None)
    assert "a probe of this machine would take" in plan["basis"]
    assert {"H100", "A100"} <= {each["gpu"] for each in plan["gpus"]}
    asked = record(distill(model, *DISTILL, "--dry-run", "--probe-updates", "2", "--json"))
    assert asked["probe"]["updates"] == 1


def test_a_stated_shape_stands_for_a_model_that_is_not_at_hand(home):
    words = ["--shape", "tiny", "--dry-run", "--probe-updates", "2", "--json"]
    plan = record(distill("someone/model", *DISTILL, *words))
    assert plan["probe"]["updates"] == 1
    assert plan["length"] == 64
    assert list(home.iterdir()) == []


def test_the_published_teacher_is_planned_by_name(home):
    out = distill("kuleshov-group/mdlm-owt", *DISTILL, *PLAN).stdout
    assert "169,627,218 parameters" in out
    assert "not read: the shape of the preset small" in out
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("kind", ["mdlm", "causal"])
def test_a_pretraining_is_planned_with_the_vocabulary_it_would_train(home, kind):
    words = ["--model", kind, "--data", "absent.txt", "--output", "o", "--max-steps", "7"]
    words += [
        "--vocab-size",
        "300",
        "--length",
        "16",
        "--warmup-steps",
        "2",
        "--use-cpu",
        *PLAN,
        "--json",
    ]
    plan = record(run("pretrain", *words))
    tiny = 4 * 12 * 128 * 128 + 300 * 128
    assert plan["parameters"] == pytest.approx(tiny, rel=0.02)
    assert plan["tokens"] == 7 * 64 * 16
    assert list(home.iterdir()) == []


def test_a_pretraining_is_probed(home):
    words = ["--data", "absent.txt", "--output", "o", "--length", "8", "--vocab-size", "300"]
    words += ["--per-device-train-batch-size", "2", "--use-cpu"]
    plan = record(run("pretrain", *words, "--dry-run", "--probe-updates", "2", "--json"))
    assert plan["probe"]["updates"] == 1
    assert plan["hours"] > 0
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--probe-updates", "3"], "--probe-updates is for --dry-run"),
        (["--json"], "--json is for --dry-run"),
        (["--gpus", "H100"], "--gpus is for --dry-run"),
        (["--shape", "small"], "--shape is for --dry-run"),
        (["--dry-run", "--shape", "huge"], "unknown preset 'huge'; there are tiny"),
        (["--dry-run", "--gpus", "H900"], "the rate of 'H900' is not known here; there are H200"),
        (["--dry-run", "--probe-updates", "-1"], "probe_updates must be at least 0, got -1"),
        (["--dry-run", "--assumed-mfu", "1.5"], "assumed_mfu must lie in (0, 1], got 1.5"),
        (["--dry-run", "--assumed-mfu", "0.3", "--probe-updates", "3"], "leave one of them out"),
        ([*PLAN, "--rounds", "5"], "below one step"),
    ],
)
def test_a_dry_run_that_cannot_be_is_refused_in_words(model, home, words, message):
    result = distill(model, *DISTILL, *words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert list(home.iterdir()) == []


def test_a_dry_run_of_a_missing_model_names_it():
    result = distill(Path("absent"), *DISTILL, *PLAN)
    assert result.exit_code == 2
    assert "there is no model folder absent" in result.stderr
