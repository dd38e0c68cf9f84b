"""A model card says what the records say, and no more."""

import json
import math
import shutil

import pytest
import yaml
from huggingface_hub import ModelCard
from safetensors.numpy import save_file

from sdtt.models.remote import AUTO_MAP
from sdtt.report.card import WITHOUT_CONTROL, Measured, Said, model_card
from sdtt.report.provenance import is_hub_name, read_saved, read_training, shown_name

CONFIG = {
    "model_type": "mdlm",
    "vocab_size": 11,
    "model_length": 12,
    "hidden_dim": 8,
    "n_blocks": 2,
    "sdtt_sampling_steps": 16,
}

RUN = {
    "data": ["/home/me/letters", "Skylion007/openwebtext"],
    "model": "kuleshov-group/mdlm-owt",
    "teacher": None,
    "divergence": "reverse_kl",
    "loss_dtype": "float32",
    "rounds": 2,
    "steps_per_round": 30,
    "teacher_steps": 4,
    "start_steps": 256,
    "ladder": None,
    "learning_rate": 6e-05,
    "student_dropout": 0.0,
    "bf16": False,
    "lora_rank": 0,
    "seed": 0,
}

METRICS = [{"step": 10, "round": 1}, {"step": 27, "round": 1}, {"step": 60, "round": 2}]


@pytest.fixture
def folder(tmp_path, numpy_weights):
    """The last student of a run, without the run's records."""
    folder = tmp_path / "run/students/16"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    save_file(numpy_weights, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def numpy_weights():
    import numpy

    return {"a": numpy.zeros((3, 5), numpy.float32), "b": numpy.zeros(7, numpy.float32)}


@pytest.fixture
def in_run(folder):
    """The same with the run's records, and the student of its first round."""
    run = folder.parents[1]
    header = "# sdtt 0.1.0\n# sdtt distill --config run.yaml\n"
    (run / "run.yaml").write_text(header + yaml.safe_dump(RUN))
    lines = [json.dumps(record) + "\n" for record in METRICS]
    (run / "metrics.jsonl").write_text("".join(lines))
    shutil.copytree(folder, run / "students/64")
    config = CONFIG | {"sdtt_sampling_steps": 64}
    (run / "students/64/config.json").write_text(json.dumps(config))
    return folder


def card_of(folder, measured=None, **said):
    return model_card(folder, Said("me/student", **said), measured)


def part(card, title):
    """What stands under a heading of a card."""
    return card.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows_of(card):
    """The table of how a model was made."""
    lines = [line for line in part(card, "How it was made").splitlines() if line.startswith("| ")]
    pairs = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return dict(pairs)


def test_the_front_matter_is_what_the_hub_reads(in_run):
    said = {"license": "apache-2.0", "language": "en"}
    data = ModelCard(card_of(in_run, **said)).data.to_dict()
    assert data == {
        "license": "apache-2.0",
        "language": "en",
        "library_name": "transformers",
        "pipeline_tag": "fill-mask",
        "tags": [
            *("sdtt", "mdlm", "masked-diffusion", "diffusion-language-model"),
            "self-distillation-through-time",
        ],
        "base_model": "kuleshov-group/mdlm-owt",
        "datasets": ["Skylion007/openwebtext"],
    }


def test_what_the_owner_says_goes_before_what_the_run_says(in_run):
    data = ModelCard(card_of(in_run, base_model="me/base", datasets=("me/text",))).data
    assert (data.base_model, data.datasets) == ("me/base", ["me/text"])


def test_a_licence_that_was_not_stated_is_not_made_up(folder):
    card = card_of(folder)
    assert ModelCard(card).data.license is None
    assert "None was stated" in part(card, "Licence")


def test_a_card_without_records_says_that_there_are_none(folder):
    card = card_of(folder)
    assert part(card, "How it was made").strip() == (
        "No record of its training lies with it, so nothing is said of it here."
    )
    assert part(card, "What was measured").strip().startswith("Nothing, as far as the records")


def test_a_card_tells_method_rounds_and_settings_as_the_run_has_them(in_run):
    assert rows_of(card_of(in_run)) == {
        "command": "sdtt distill (version 0.1.0)",
        "start": "kuleshov-group/mdlm-owt",
        "text": "letters (local), Skylion007/openwebtext",
        "sampling steps, round by round": "256 → 64 → 16",
        "this model": "the student of round 2 of 2",
        "updates recorded up to here": "60",
        "updates a round, at most": "30",
        "divergence": r"reverse\_kl",
        "loss computed in": "float32",
        "learning rate": "6e-05",
        "dropout": "0.0",
        "seed": "0",
    }


def test_the_student_of_an_earlier_round_tells_of_its_own_round(in_run):
    rows = rows_of(card_of(in_run.parent / "64"))
    assert rows["this model"] == "the student of round 1 of 2"
    assert rows["updates recorded up to here"] == "27"


def test_averaged_weights_belong_to_the_run_of_their_student(in_run):
    shutil.copytree(in_run, in_run / "ema")
    card = card_of(in_run / "ema")
    assert rows_of(card)["this model"] == "the student of round 2 of 2"
    assert "These are the averaged weights (EMA)" in card


def test_a_run_of_a_ladder_tells_its_steps(in_run):
    file = in_run.parents[1] / "run.yaml"
    file.write_text("# sdtt distill --config\n" + yaml.safe_dump(RUN | {"ladder": [48, 16]}))
    assert read_training(in_run).plan.ladder == (48, 16)


def test_a_card_names_no_folder_of_this_machine(in_run):
    assert "/home/me" not in card_of(in_run)
    assert shown_name(in_run, in_run) == "16 (local)"


@pytest.mark.parametrize(
    ("start", "says"),
    [
        ("kuleshov-group/mdlm-owt", "the model that it was made of, and its text"),
        (None, "its text"),
    ],
)
def test_the_card_of_a_pretrained_model_names_what_it_was_made_of(in_run, start, says):
    own = {"model": "mdlm", "init_from": start, "data": ["me/text"]}
    (in_run.parents[1] / "run.yaml").write_text(
        "# sdtt 0.1.0\n# sdtt pretrain --config run.yaml\n" + yaml.safe_dump(RUN | own)
    )
    card = card_of(in_run)
    assert ModelCard(card).data.to_dict().get("base_model") == start
    assert rows_of(card).get("start") == start
    assert "mdlm (local)" not in card
    assert part(card, "Licence").split("\n\n")[-1].lower().startswith(says)


@pytest.mark.parametrize("here", ["..", ".", "students"])
def test_paths_of_this_machine_are_no_names_on_the_hub_wherever_one_stands(
    in_run, here, monkeypatch
):
    run = in_run.parents[1]
    (run.parent / "runs").mkdir()  # the teacher that lay in it is gone
    own = {"model": "runs/teacher", "data": ["texts/letters.txt.gz", "me/text:en", "text/a.jsonl"]}
    (run / "run.yaml").write_text("# sdtt distill --config\n" + yaml.safe_dump(RUN | own))
    monkeypatch.chdir(run / here)
    card = card_of(in_run)
    data = ModelCard(card).data.to_dict()
    assert "base_model" not in data
    assert data["datasets"] == ["me/text"]
    assert rows_of(card)["start"] == "teacher (local)"
    assert rows_of(card)["text"] == "letters.txt.gz (local), me/text:en, a.jsonl (local)"


def test_a_data_set_may_have_a_name_without_an_owner_and_a_model_not():
    assert is_hub_name("wikitext", dataset=True)
    assert not is_hub_name("gpt2")
    assert not is_hub_name("letters.txt", dataset=True)


@pytest.mark.parametrize(
    ("content", "says"), [(b"a: [1\n b:", "no YAML"), (b"- 1", "a list"), (b"\xff", "no YAML")]
)
def test_a_damaged_record_of_the_run_is_named(in_run, content, says):
    (in_run.parents[1] / "run.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=rf"run\.yaml is damaged: it (is|holds) {says}"):
        read_training(in_run)


def test_parameters_and_their_type_are_those_of_the_weights_file(folder):
    saved = read_saved(folder)
    assert (saved.parameters, saved.dtypes) == (22, ("float32",))
    assert "distilled to write in 16 steps: 22 parameters in float32" in card_of(folder)


def test_a_missing_shard_is_refused_and_a_stray_file_is_not_counted(folder, numpy_weights):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(ValueError, match="1 of 2 shards are missing"):
        read_saved(folder)
    save_file(numpy_weights, folder / "model.safetensors")
    assert read_saved(folder).parameters == 22


def test_a_measured_model_stands_beside_its_control(folder, made, tmp_path):
    made.write(tmp_path / "evaluation", [*made.temperatures(), made.student(0.2)])
    card = card_of(folder, Measured(tmp_path / "evaluation", "student"))
    said = part(card, "What was measured")
    assert "student, dilated: better than its control at 8 steps" in said
    ratio = math.exp(-0.2)
    assert f"{ratio:.3f} ±" in said
    assert WITHOUT_CONTROL not in card


def test_a_model_without_a_control_comes_with_the_warning(folder, made, tmp_path):
    made.write(tmp_path / "evaluation", [made.perplexity("teacher"), made.student(0.2)])
    assert WITHOUT_CONTROL in card_of(folder, Measured(tmp_path / "evaluation", "student"))


def test_other_students_of_the_evaluation_are_left_out(folder, made, tmp_path):
    other = made.perplexity("another", 3.0, 3.9, taught_steps=4)
    made.write(tmp_path / "evaluation", [*made.temperatures(), made.student(0.2), other])
    assert "another" not in card_of(folder, Measured(tmp_path / "evaluation", "student"))


def test_a_model_that_was_not_measured_is_refused_by_name(folder, made, tmp_path):
    made.write(tmp_path / "evaluation", made.temperatures())
    with pytest.raises(ValueError, match="has no model 'student'; it has teacher"):
        card_of(folder, Measured(tmp_path / "evaluation", "student"))


def test_how_to_load_without_sdtt_is_told_where_there_is_code(folder):
    assert "trust_remote_code" not in card_of(folder)
    (folder / "config.json").write_text(json.dumps(CONFIG | {"auto_map": AUTO_MAP}))
    assert "trust_remote_code" not in card_of(folder)
    (folder / "modeling_mdlm.py").write_text("")
    assert "trust_remote_code=True" in part(card_of(folder), "How to use it")
    elsewhere = {"auto_map": {"AutoModelForMaskedLM": "a/b--modeling_mdlm.MDLM"}}
    (folder / "config.json").write_text(json.dumps(CONFIG | elsewhere))
    assert "trust_remote_code" not in card_of(folder)


@pytest.mark.parametrize("code", [False, True])
def test_the_example_asks_for_no_tokenizer_and_no_steps_that_are_not_known(folder, code):
    config = CONFIG | ({"auto_map": AUTO_MAP} if code else {})
    (folder / "modeling_mdlm.py").write_text("")
    (folder / "config.json").write_text(json.dumps(config))
    alone = part(card_of(folder), "How to use it")
    assert "It comes without a tokenizer" in alone
    assert "AutoTokenizer" not in alone
    assert "model.generate(num_return_sequences=4, steps=16, seed=1).sequences" in alone
    (folder / "tokenizer.json").write_text("{}")
    config.pop("sdtt_sampling_steps")
    (folder / "config.json").write_text(json.dumps(config))
    both = part(card_of(folder), "How to use it")
    assert both.count("AutoTokenizer.from_pretrained") == 1 + code
    assert "sdtt.generate(model, tokenizer, num_samples=4, seed=1)" in both
    assert "steps" not in both


def test_a_model_that_was_not_distilled_does_not_cite_distillation(folder):
    config = {name: value for name, value in CONFIG.items() if name != "sdtt_sampling_steps"}
    (folder / "config.json").write_text(json.dumps(config))
    card = card_of(folder)
    assert "sahoo2024simple" in card
    assert "deschenaux2025beyond" not in card
    assert "distilled" not in card


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: (f / "config.json").unlink(), "it has no config.json"),
        (lambda f: (f / "config.json").write_text("{"), r"config\.json is damaged: it is no JSON"),
        (lambda f: (f / "config.json").write_text("{}"), "of another layout .*'sdtt convert"),
        (lambda f: (f / "model.safetensors").rename(f / "a.safetensors"), "it has no weights"),
        (lambda f: (f / "model.safetensors").unlink(), "it has no weights"),
        (lambda f: (f / "config.json").write_text('{"model_type": "gpt2"}'), "of type 'gpt2'"),
        (lambda f: (f / "model.safetensors").write_bytes(b"no"), "it is no safetensors file"),
    ],
    ids=["no config", "no JSON", "layout", "stray", "no weights", "another model", "damaged"],
)
def test_a_folder_that_is_no_whole_model_is_refused(folder, change, words):
    change(folder)
    with pytest.raises(ValueError, match=words):
        card_of(folder)
