import json
import logging
import math
import random
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from sdtt.data.tokenizer import train_tokenizer
from sdtt.evaluation.task_model import TaskModel
from sdtt.models.causal import CausalConfig, CausalLM
from sdtt.models.mdlm import MDLMConfig, MDLMForMaskedLM
from sdtt.sampling.generation import DiffusionGenerationConfig

SHAPE = {"model_length": 24, "hidden_dim": 16, "n_blocks": 1, "n_heads": 2}
SHAPE |= {"bos_token_id": 0, "eos_token_id": 0}
CHANCES = {" cat": 0.5, " bird": 0.25}

CHOICES = """
task: tiny_choices
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/choices.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{query}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: gold
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 3.0}}
"""
WORDS = """
task: tiny_words
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/words.jsonl}}}}
test_split: test
output_type: loglikelihood
doc_to_text: "{{{{text.split(' ')[:-1]|join(' ')}}}}"
doc_to_target: "{{{{' '+text.split(' ')[-1]}}}}"
metric_list:
  - {{metric: perplexity, aggregation: perplexity, higher_is_better: false}}
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""
ANSWERS = """
task: tiny_answers
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/words.jsonl}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{text}}}}"
doc_to_target: " cat cat"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 2}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["the small cat saw a red bird sing in the tree. " * 9], 300)


@pytest.fixture(scope="module")
def law(tokenizer):
    """One law for any place: half of it is " cat", a quarter " bird", the rest is shared."""
    size = tokenizer.mask_token_id
    chances = torch.full((size,), 0.25 / (size - 2))
    for word, chance in CHANCES.items():
        (token,) = tokenizer.encode(word)
        chances[token] = chance
    return chances


def of_law(kind, law):
    config = MDLMConfig if kind is MDLMForMaskedLM else CausalConfig
    model = kind(config(vocab_size=len(law) + 1, **SHAPE)).eval()
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.cat([law, law[:1]]).log())
    return model


@pytest.fixture(params=[MDLMForMaskedLM, CausalLM], scope="module")
def model(request, law):
    return of_law(request.param, law)


def asked(*args):
    return SimpleNamespace(args=args, task_name="own")


# What the harness asks for


def test_the_likelihood_of_a_continuation_is_that_of_its_tokens(model, tokenizer):
    requests = [asked("the", " cat bird"), asked("the cat", " cat"), asked("", " bird")]
    found = TaskModel(model, tokenizer).loglikelihood(requests)
    expected = [math.log(1 / 8), math.log(1 / 2), math.log(1 / 4)]
    assert [value for value, _ in found] == pytest.approx(expected, rel=1e-5)
    assert [greedy for _, greedy in found] == [False, True, False]


def test_a_long_text_is_scored_in_windows_each_token_once(model, tokenizer):
    found = TaskModel(model, tokenizer).loglikelihood_rolling([asked(" cat" * 70)])
    assert found[0] == pytest.approx(70 * math.log(1 / 2), rel=1e-5)


def test_a_long_continuation_is_scored_in_windows_too(model, tokenizer):
    found = TaskModel(model, tokenizer).loglikelihood([asked("the", " cat" * 70)])
    assert found[0] == (pytest.approx(70 * math.log(1 / 2), rel=1e-5), True)


def test_the_error_of_each_request_is_kept_with_its_task(law, tokenizer):
    masked = TaskModel(of_law(MDLMForMaskedLM, law), tokenizer, noise_samples=2)
    masked.loglikelihood([asked("the", " cat cat bird"), asked("the", " cat")])
    first, second = masked.noise_errors["own"]
    assert first > 0
    assert second == 0


def test_an_answer_is_greedy_unless_the_task_samples(model, tokenizer):
    task = {"until": [], "max_gen_toks": 3}
    found = TaskModel(model, tokenizer, steps=2).generate_until([asked("the", task)] * 2)
    assert found == [" cat cat cat"] * 2


def test_an_answer_ends_before_the_first_of_its_stops(model, tokenizer):
    task = {"until": ["bird", "t c", " cat"], "max_gen_toks": 3}
    assert TaskModel(model, tokenizer, steps=2).generate_until([asked("the", task)]) == [""]
    task["until"] = "t c"
    assert TaskModel(model, tokenizer, steps=2).generate_until([asked("the", task)]) == [" ca"]


def test_a_sampled_answer_is_a_function_of_seed_and_number(model, tokenizer):
    task = {"until": [], "max_gen_toks": 5, "do_sample": True, "temperature": 1.0}
    requests = [asked("the", task)] * 3
    whole = TaskModel(model, tokenizer, steps=4).generate_until(requests)
    assert len(set(whole)) == 3
    assert TaskModel(model, tokenizer, steps=4, batch_size=1).generate_until(requests) == whole
    assert TaskModel(model, tokenizer, steps=4).generate_until(requests[:1]) == whole[:1]
    assert TaskModel(model, tokenizer, steps=4, seed=1).generate_until(requests) != whole


def test_our_temperature_wins_over_the_tasks(model, tokenizer):
    task = {"until": [], "max_gen_toks": 4, "do_sample": True, "temperature": 1.0}
    lm = TaskModel(model, tokenizer, steps=2, temperature=0.0)
    assert lm.generate_until([asked("the", task)] * 4) == [" cat" * 4] * 4


def test_an_answer_that_does_not_fit_beside_its_context_gets_half_of_the_model(model, tokenizer):
    found = TaskModel(model, tokenizer, steps=2).generate_until([asked(" bird" * 40, {})])
    assert found == [" cat" * 12]


def test_an_answer_ends_at_the_end_of_a_text(tokenizer):
    law = torch.full((tokenizer.mask_token_id,), 1e-6)
    law[tokenizer.eos_token_id] = 1.0
    for kind in (MDLMForMaskedLM, CausalLM):
        lm = TaskModel(of_law(kind, law / law.sum()), tokenizer, steps=2)
        assert lm.generate_until([asked("the", {"max_gen_toks": 3})]) == [""]


def test_a_model_is_loaded_from_its_folder_with_its_tokenizer(tmp_path, law, tokenizer):
    for kind, causal in ((MDLMForMaskedLM, False), (CausalLM, True)):
        of_law(kind, law).save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        lm = TaskModel(str(tmp_path), causal=causal, batch_size="2")
        found = lm.loglikelihood([asked("the", " cat")])
        assert found[0] == (pytest.approx(math.log(1 / 2), rel=1e-5), True)


def test_an_argument_that_there_is_not_is_refused_with_those_there_are(law, tokenizer):
    model = of_law(CausalLM, law)
    with pytest.raises(ValueError, match=r"no argument 'noise_sample'; .* noise_samples, .* steps"):
        TaskModel(model, tokenizer, noise_sample=32)


@pytest.mark.parametrize("batch", ["auto", "auto:4", None])
def test_an_automatic_batch_is_by_memory(law, tokenizer, batch):
    assert TaskModel(of_law(CausalLM, law), tokenizer, batch_size=batch).batch_size is None


@pytest.mark.parametrize("batch", ["many", 0, "-1"])
def test_a_batch_that_is_no_number_of_texts_is_refused(law, tokenizer, batch):
    with pytest.raises(
        ValueError, match=f'batch_size must be at least 1, or "auto", got .*{batch}'
    ):
        TaskModel(of_law(CausalLM, law), tokenizer, batch_size=batch)


def test_another_causal_model_scores_a_text_behind_its_end_of_text_in_windows(tokenizer):
    torch.manual_seed(0)
    shape = {"n_positions": 8, "n_embd": 16, "n_layer": 1, "n_head": 2, "initializer_range": 0.4}
    config = GPT2Config(vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=0, **shape)
    model = GPT2LMHeadModel(config).eval()
    ids = tokenizer.encode("the small cat saw a red bird sing")[:9]
    text = tokenizer.decode(ids)
    # eight tokens behind the end of a text, then the ninth behind the eight
    behind = torch.tensor([[0, *ids[:8]]]), torch.tensor([ids])
    expected = 0.0
    with torch.no_grad():
        for window, scored in zip(behind, (slice(1, None), slice(8, None)), strict=True):
            law = model(input_ids=window[:, :-1]).logits[0].double().log_softmax(-1)
            own = law.gather(1, window[0, 1:, None])[:, 0]
            expected += own[scored.start - 1 :].sum().item()
    found = TaskModel(model, tokenizer).loglikelihood_rolling([asked(text)])
    assert found[0] == pytest.approx(expected, rel=1e-5)
    assert len(TaskModel(model, tokenizer).generate_until([asked("the", {})])) == 1


def test_the_draws_of_each_task_are_kept_as_a_record_says_them(model, tokenizer):
    task = {"max_gen_toks": 3, "do_sample": True, "temperature": 0.5, "top_k": 0}
    lm = TaskModel(model, tokenizer, steps=2, seed=3, top_p=0.9)
    lm.generate_until([asked("the", task)])
    kept = {name: lm.draws["own"].get(name) for name in ("temperature", "top_p", "top_k", "seed")}
    assert kept == {"temperature": 0.5, "top_p": 0.9, "top_k": None, "seed": 3}
    masked = {"sampler": "dilated", "steps": 2}
    own = masked if isinstance(model, MDLMForMaskedLM) else {"sampler": "autoregressive"}
    assert lm.draws["own"].items() >= own.items()


def test_a_generation_config_counts_where_the_class_is_asked_to_follow_it(law, tokenizer):
    model = of_law(MDLMForMaskedLM, law)
    model.generation_config = DiffusionGenerationConfig(temperature=0.0, steps=3)
    draws = {}
    for follow in (True, False):
        lm = TaskModel(model, tokenizer, follow_generation_config=follow)
        lm.generate_until([asked("the", {"max_gen_toks": 2, "do_sample": True})])
        draws[follow] = lm.draws["own"]["temperature"], lm.draws["own"]["steps"]
    assert draws == {True: (0.0, 3), False: (1.0, 64)}


# The harness itself


@pytest.fixture(scope="module")
def harness():
    pytest.importorskip("lm_eval")
    from sdtt.evaluation import harness

    return harness


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    docs = {
        "choices": [{"query": "the", "choices": ["cat", "bird"], "gold": i} for i in (0, 0, 1)],
        "words": [{"text": f"the small {word}"} for word in ("cat", "bird")],
    }
    for name, rows in docs.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = {"choices": CHOICES, "words": WORDS, "answers": ANSWERS}
    texts["shots"] = WORDS.replace("tiny_words", "tiny_shots")
    texts["shots"] += "fewshot_split: test\nnum_fewshot: 1\n"
    texts["absent"] = WORDS.replace("tiny_words", "absent").replace(": json", ": nobody/nothing")
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text.format(folder=folder))
    return folder


@pytest.fixture(scope="module")
def evaluated(harness, tasks, law, tokenizer):
    """One run of all three tasks, what it printed, and what progress it told."""
    told = []

    @contextmanager
    def progress(total, what, unit):
        print("a bar", file=sys.stderr)
        yield lambda number: told.append((what, unit, total, number))

    names = ["tiny_choices", "tiny_words", "tiny_answers"]
    options = {"include_path": tasks, "include_defaults": False, "progress": progress, "steps": 2}
    model = of_law(MDLMForMaskedLM, law)
    before = torch.get_rng_state(), logging.getLogger("lm_eval").level
    found = harness.evaluate_tasks(model, tokenizer, names, **options)
    after = torch.get_rng_state(), logging.getLogger("lm_eval").level
    state = torch.equal(before[0], after[0]) and before[1] == after[1]
    return SimpleNamespace(rows={row.task: row for row in found}, told=told, unchanged=state)


def test_choices_are_scored_by_their_likelihood(evaluated):
    row = evaluated.rows["tiny_choices"]
    assert row.metrics["acc"] == pytest.approx(2 / 3)  # always "cat"
    assert row.metrics["acc_se"] == pytest.approx(1 / 3)
    assert (row.examples, row.num_fewshot, row.version, row.noise_se) == (3, 0, "3.0", 0)


def test_perplexities_of_words_are_those_by_hand(evaluated):
    metrics = evaluated.rows["tiny_words"].metrics
    assert metrics["perplexity"] == pytest.approx(math.sqrt(8), rel=1e-5)
    assert metrics["acc"] == 1 / 2
    assert metrics["perplexity_se"] > 0


def test_answers_are_sampled(evaluated):
    row = evaluated.rows["tiny_answers"]
    assert (row.metrics["exact_match"], row.noise_se) == (1, None)
    assert (row.draw["sampler"], row.draw["steps"], row.draw["temperature"]) == ("dilated", 2, 0)


def test_a_task_without_answers_has_no_draw(evaluated):
    assert evaluated.rows["tiny_choices"].draw is None


def test_a_measurement_of_tasks_does_not_follow_the_generation_config(
    harness, tasks, law, tokenizer
):
    model = of_law(MDLMForMaskedLM, law)
    model.generation_config = DiffusionGenerationConfig(sampler="ancestral", steps=3)
    (row,) = harness.evaluate_tasks(
        model, tokenizer, ["tiny_answers"], include_path=tasks, include_defaults=False
    )
    assert (row.draw["sampler"], row.draw["steps"]) == ("dilated", 64)


def test_a_task_may_say_its_number_of_shots_itself(harness, tasks, law, tokenizer):
    model, options = of_law(CausalLM, law), {"include_path": tasks, "include_defaults": False}
    shots = {
        asked: harness.evaluate_tasks(
            model, tokenizer, ["tiny_shots"], num_fewshot=asked, **options
        )[0].num_fewshot
        for asked in (None, 0)
    }
    assert shots == {None: 1, 0: 0}


def test_progress_is_told_of_every_request(evaluated):
    likelihoods = [each for each in evaluated.told if each[0] == "likelihoods"]
    answers = [each for each in evaluated.told if each[0] == "answers"]
    assert sum(each[-1] for each in likelihoods) == sum({each[2] for each in likelihoods}) == 8
    assert answers == [("answers", "requests", 2, 2)]


def test_a_run_leaves_generators_and_loggers_as_they_were(evaluated):
    assert evaluated.unchanged


SHUFFLE = """
import random
from pathlib import Path

import numpy as np
import torch


def shuffle(docs):
    drawn = random.random(), np.random.random(), torch.rand(()).item()
    Path(__file__).with_name("drawn").write_text(str(drawn))
    return docs
"""


def test_a_task_that_shuffles_by_a_global_generator_does_so_by_the_seed(
    harness, tmp_path, law, tokenizer
):
    (tmp_path / "own.py").write_text(SHUFFLE)
    (tmp_path / "words.jsonl").write_text(json.dumps({"text": "the cat"}))
    task = WORDS.format(folder=tmp_path) + "process_docs: !function own.shuffle\n"
    (tmp_path / "own.yaml").write_text(task)
    options = {"include_path": tmp_path, "include_defaults": False}
    drawn = []
    for seed in (0, 0, 1):
        harness.evaluate_tasks(
            of_law(CausalLM, law), tokenizer, ["tiny_words"], seed=seed, **options
        )
        drawn.append((tmp_path / "drawn").read_text().split(", "))
    assert drawn[0] == drawn[1]
    assert all(one != other for one, other in zip(drawn[0], drawn[2], strict=True))


def test_the_generators_of_the_caller_go_on_where_they_were(harness):
    def drawn():
        return random.random(), np.random.random(), torch.rand(()).item()  # noqa: NPY002

    with harness._seeded(1):
        here = drawn()
        with harness._seeded(1):
            assert drawn() == here
        later = drawn()
    with harness._seeded(1):
        assert (drawn(), drawn()) == (here, later)


def test_an_unknown_task_is_refused_with_the_nearest_names(harness, tasks, law, tokenizer):
    with pytest.raises(ValueError, match="no task 'tiny_choice'; near it: tiny_choices"):
        harness.evaluate_tasks(
            of_law(CausalLM, law),
            tokenizer,
            ["tiny_choice"],
            include_path=tasks,
            include_defaults=False,
        )


def test_data_that_cannot_be_loaded_is_one_line_with_the_way_out(harness, tasks, law, tokenizer):
    with pytest.raises(ValueError, match=r"cannot load the data of absent .*; fetch it where"):
        harness.evaluate_tasks(
            of_law(CausalLM, law),
            tokenizer,
            ["absent"],
            include_path=tasks,
            include_defaults=False,
        )


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("nowhere.py", r"\(Dataset scripts are no longer .*\); datasets runs no scripts any more"),
        ("words.jsonl", r"\(An error occurred while generating .*\); look whether its files are"),
    ],
    ids=["a script", "a damaged file"],
)
def test_data_that_is_not_as_datasets_wants_it_is_one_line_too(
    harness, tmp_path, law, tokenizer, file, words
):
    folder = tmp_path / "nowhere"
    folder.mkdir()
    (folder / file).write_text('{"text": ')
    (tmp_path / "own.yaml").write_text(
        f"task: own\ndataset_path: {folder}\ntest_split: test\noutput_type: loglikelihood\n"
        "doc_to_text: the\ndoc_to_target: cat\nmetric_list: [{metric: acc}]\n"
    )
    with pytest.raises(ValueError, match=f"cannot load the data of own {words}"):
        harness.evaluate_tasks(
            of_law(CausalLM, law),
            tokenizer,
            ["own"],
            include_path=tmp_path,
            include_defaults=False,
        )


def test_the_declared_class_is_a_model_of_the_harness(harness):
    from lm_eval.api.model import LM

    assert issubclass(harness.HarnessLM, LM)
    assert harness.HarnessLM is harness.harness_class()
