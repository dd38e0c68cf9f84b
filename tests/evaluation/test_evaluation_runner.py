"""Running a protocol: measured once, drawn once, whoever interrupts and however many share it."""

import dataclasses
import lzma
import math
import platform
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig

from sdtt.evaluation import drawing, timing
from sdtt.evaluation import subjects as subjects_module
from sdtt.evaluation.context import Context
from sdtt.evaluation.jobs import groups_of
from sdtt.evaluation.protocol import (
    Autoregressive,
    BestOf,
    Bound,
    Grid,
    Latency,
    MauveSettings,
    Protocol,
    Readability,
    RealText,
    Tasks,
)
from sdtt.evaluation.readability import readability
from sdtt.evaluation.records import Sample, read_file, read_folder, read_samples, write_samples
from sdtt.evaluation.runner import Share, missing, run
from sdtt.evaluation.subjects import Subject, load, model_subjects
from sdtt.evaluation.timing import device_name
from sdtt.models.placement import accelerator
from sdtt.models.shipped import resolve
from sdtt.sampling.settings import SampleSettings

GRID = Grid({"sampler": ("dilated",), "steps": (2, 4)}, num_samples=6, length=16)


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "book.txt"
    words = "the old man said that he had seen the little house by the river again and again"
    path.write_text("\n\n".join(f"Chapter {i}. {words}." for i in range(60)))
    return str(path)


@pytest.fixture(scope="module")
def subjects():
    return model_subjects(["student", "teacher", "ar=judge"])


def protocol(**changes):
    asked = Protocol(
        draws=(GRID,), autoregressive=(Autoregressive(num_samples=6, length=16),), judge="judge"
    )
    return dataclasses.replace(asked, **changes)


def evaluate(asked, subjects, folder, most=None):
    context = Context(asked, subjects)
    groups = missing(groups_of(asked, subjects), folder)
    for count, _ in enumerate(run(groups, context, folder), 1):
        if count == most:
            return


def results(folder):
    """What was found, by what was asked: without times."""
    timed = ("seconds_per_sample", "curve")
    return {
        record.request: {k: v for k, v in record.result.items() if k not in timed}
        for record in read_folder(folder)
    }


@pytest.fixture(scope="module")
def whole(subjects, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    evaluate(protocol(), subjects, folder)
    return folder


def test_an_evaluation_that_was_cut_off_ends_as_one_that_was_not(subjects, whole, tmp_path):
    evaluate(protocol(), subjects, tmp_path, most=5)
    assert 0 < len(results(tmp_path)) < len(results(whole))
    evaluate(protocol(), subjects, tmp_path)
    assert results(tmp_path) == results(whole)


def test_what_is_measured_is_not_measured_again(subjects, whole):
    assert missing(groups_of(protocol(), subjects), whole) == []


def test_processes_share_the_work_and_find_what_one_finds(subjects, whole, tmp_path):
    for index in range(2):
        asked, context = protocol(), Context(protocol(), subjects)
        groups = groups_of(asked, subjects)
        list(run(groups, context, tmp_path, share=Share(index, 2)))
    files = sorted(tmp_path.glob("*.jsonl"))
    assert [path.name for path in files] == ["records.1.jsonl", "records.jsonl"]
    assert sum(len(read_file(path)) for path in files) == len(results(whole))
    assert results(tmp_path) == results(whole)


def test_a_metric_that_is_added_takes_the_samples_that_are_there(subjects, tmp_path):
    first = protocol(metrics=("diversity",))
    evaluate(first, subjects[:1], tmp_path)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "samples").iterdir()}
    evaluate(protocol(metrics=("diversity", "perplexity")), subjects[:1], tmp_path)
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert [one.metric for one in read_folder(tmp_path)].count("perplexity") == 2


def test_samples_that_were_lost_are_drawn_again_and_are_the_same(subjects, tmp_path):
    asked = protocol(metrics=("diversity",))
    evaluate(asked, subjects[:1], tmp_path)
    file = next((tmp_path / "samples").iterdir())
    before = read_samples(file)
    file.unlink()
    evaluate(protocol(metrics=("diversity", "perplexity")), subjects[:1], tmp_path)
    assert read_samples(file) == before


def test_of_the_first_samples_it_is_kept_which_step_revealed_each_token(whole):
    record = next(
        one for one in read_folder(whole) if one.metric == "samples" and one.model == "student"
    )
    first, *_, last = read_samples(whole / record.result["file"])
    assert set(first.revealed) == set(range(record.draw["steps"]))
    assert "".join(first.tokens).strip() == first.text.strip()
    assert last.revealed is None


def test_every_metric_of_a_protocol_gives_its_numbers(subjects, book, tmp_path):
    asked = protocol(
        metrics=(
            "perplexity", "diversity", "self_bleu", "readability", "mauve", "best_of", "bound",
            "latency",
        ),
        real_text=RealText(book, num_samples=6),
        readability=Readability(book),
        mauve=MauveSettings(
            book, prompts=12, prompt_tokens=4, new_tokens=8, continuations=2, seeds=2, draws=(GRID,)
        ),
        best_of=BestOf(n=(1, 2, 4)),
        bound=Bound(text=(book,), blocks=2, noise_samples=2),
        latency=Latency(steps=(2, 4), batch_size=(1,), length=16, runs=1),
    )  # fmt: skip
    everyone = [*subjects, Subject("real text", book, "text", length=16)]
    evaluate(asked, everyone, tmp_path)
    found = read_folder(tmp_path)
    count = {metric: sum(one.metric == metric for one in found) for metric in asked.metrics}
    # 2 models x 2 steps and the causal one; real text; prompted: the same 5
    assert count == {
        "perplexity": 6, "diversity": 6, "self_bleu": 5, "readability": 6, "mauve": 5,
        "best_of": 5, "bound": 3, "latency": 5,
    }  # fmt: skip
    shares = {one.model: one.result["trigrams"] for one in found if one.metric == "readability"}
    assert shares["real text"] == 1.0
    exact = {one.model: one.result["exact"] for one in found if one.metric == "bound"}
    assert exact == {"student": False, "teacher": False, "ar": True}


def test_samples_of_text_alone_are_judged(tmp_path):
    write_samples(tmp_path / "mine.jsonl", [Sample(text="The old man said"), Sample(text="Yes.")])
    subject = Subject("mine", str(tmp_path / "mine.jsonl"), "samples")
    evaluate(protocol(), [subject], tmp_path / "out")
    found = {one.metric: one.result for one in read_folder(tmp_path / "out")}
    assert found["perplexity"]["bits_per_character"] > 0
    assert found["diversity"]["shortest"] < found["diversity"]["longest"]


def test_the_entropy_beside_a_perplexity_is_of_what_the_judge_reads(tmp_path):
    samples = [Sample(ids=[5, 6, 7, 8], prompt_tokens=4), Sample(ids=[9, 9, 9, 9], prompt_tokens=2)]
    write_samples(tmp_path / "mine.jsonl", samples)
    subject = Subject("mine", str(tmp_path / "mine.jsonl"), "samples")
    evaluate(protocol(metrics=("perplexity",)), [subject], tmp_path / "out")
    (found,) = read_folder(tmp_path / "out")
    assert found.result["entropy"] == pytest.approx(math.log(4) / 2)


def test_loading_a_scorer_is_no_part_of_the_seconds_of_the_best_of_n(
    subjects, tmp_path, monkeypatch
):
    clock = [0.0]  # stands still but for a model that is loaded

    def load_slowly(subject):
        clock[0] += 1000.0
        return load(subject)

    monkeypatch.setattr("sdtt.evaluation.context.load", load_slowly)
    still = SimpleNamespace(perf_counter=lambda: clock[0])
    monkeypatch.setattr("sdtt.evaluation.measurements.time", still)
    evaluate(protocol(metrics=("best_of",), best_of=BestOf(n=(2,))), subjects[:1], tmp_path)
    drawn, chosen = read_folder(tmp_path)[:2]
    (best,) = chosen.result["curve"]
    assert best["seconds"] == pytest.approx(2 * drawn.result["seconds_per_sample"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"metrics": ("perplexity", "bound"), "bound": Bound(text=("wikitex-2",))}, "wikitext-2"),
        (
            {"metrics": ("perplexity", "readability"), "readability": Readability("none.npy")},
            "none",
        ),
    ],
)
def test_a_text_that_there_is_not_is_refused_before_anything_is_drawn(
    subjects, tmp_path, changes, words
):
    with pytest.raises(ValueError, match=f"there is no text .*{words}"):
        evaluate(protocol(**changes), subjects[:1], tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow  # the harness's index of all its tasks
def test_a_task_that_there_is_not_is_refused_before_anything_is_drawn(subjects, tmp_path):
    pytest.importorskip("lm_eval")
    asked = protocol(metrics=("perplexity", "tasks"), tasks=Tasks(names=("arc_eazy",)))
    with pytest.raises(ValueError, match=r"no task 'arc_eazy'; near it: .*arc_easy"):
        evaluate(asked, subjects[:1], tmp_path)
    assert not list(tmp_path.iterdir())


def test_two_models_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two models are called 'student'; name one"):
        model_subjects(["student", "student"])


def test_a_text_with_too_few_blocks_is_refused(subjects, book, tmp_path):
    asked = protocol(real_text=RealText(book, num_samples=10_000))
    real = Subject("real text", book, "text", length=16)
    with pytest.raises(ValueError, match=r"blocks of 16 tokens, 10000 are asked for"):
        evaluate(asked, [subjects[0], real], tmp_path)


def test_models_are_measured_in_a_dtype_that_the_processor_multiplies(subjects, processor):
    masked, causal = subjects[0], subjects[2]
    processor(multiplies_halves=True)
    assert [str(load(each).model.dtype) for each in (masked, causal)] == ["torch.bfloat16"] * 2
    processor(multiplies_halves=False)
    forms = [form for each in map(load, (masked, causal)) for form in (each.model, each.fast)]
    assert [str(form.dtype) for form in forms] == ["torch.float32"] * 4


def test_a_named_text_is_read_for_its_trigrams_as_it_is_read_elsewhere(tmp_path):
    path = tmp_path / "wikitext-2/test.txt.xz"
    path.parent.mkdir()
    path.write_bytes(lzma.compress(b"He said , it is @-@ so , the man 's name\n"))
    asked = protocol(metrics=("readability",), readability=Readability("wikitext-2"))
    reference = Context(asked, data_root=tmp_path).trigrams()
    assert readability(["He said, it is-so, the man's name"], reference).trigrams == 1


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_model_is_another_one_when_one_of_its_files_changed(tmp_path, name):
    shutil.copytree(resolve("student"), tmp_path / "student")
    source = [str(tmp_path / "student")]
    (before,) = model_subjects(source)
    file = tmp_path / "student" / name
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if "model" in name else content + b" ")
    (after,) = model_subjects(source)
    assert before.fingerprint != after.fingerprint


def test_a_model_of_the_hub_is_known_by_its_commit(monkeypatch):
    config = AutoConfig.from_pretrained(resolve("student"))
    config._commit_hash = "0123abcd"
    monkeypatch.setattr(subjects_module, "check_folder", lambda source: source)
    monkeypatch.setattr(subjects_module, "load_config", lambda _: config)
    (subject,) = model_subjects(["somebody/student"])
    assert subject.fingerprint == "0123abcd"


def test_the_seconds_of_a_draw_begin_and_end_when_the_device_has_finished(subjects, monkeypatch):
    loaded, what = load(subjects[0]), drawing.Draw(SampleSettings(steps=1), 1, 8)
    events = []
    clock = SimpleNamespace(perf_counter=lambda: events.append("clock") or float(len(events)))
    monkeypatch.setattr(drawing, "time", clock)
    monkeypatch.setattr(drawing, "wait", lambda _: events.append("wait"))
    assert drawing.draw(loaded, what, None, lambda _: None).seconds == 2
    assert events == ["wait", "clock", "wait", "clock"]


def test_records_say_which_machine_their_times_are_of(whole):
    names = {record.environment["device"] for record in read_folder(whole)}
    assert names == {device_name(accelerator() or torch.device("cpu"))}


def test_a_cpu_is_known_by_its_model_where_linux_tells_it(tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text("processor : 0\nmodel name : Some CPU: 2 GHz\nflags : a\n")
    monkeypatch.setattr(timing, "Path", lambda name: tmp_path / Path(name).name)
    assert device_name(torch.device("cpu")) == "Some CPU: 2 GHz"
    (tmp_path / "cpuinfo").unlink()
    other = platform.processor() or platform.machine()
    assert device_name(torch.device("cpu")) == other
