"""A model card from records: nothing is said that no record says."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sdtt.report.cells import read_cells, read_runs
from sdtt.report.matched import beside, is_student, teacher_of
from sdtt.report.provenance import (
    Saved,
    Training,
    hub_name,
    read_saved,
    read_training,
    shown_name,
)
from sdtt.report.quality import perplexity_blocks, quality_tables
from sdtt.report.rendering import as_markdown, in_markdown
from sdtt.report.suite import Suite
from sdtt.report.summary import summary
from sdtt.report.words import in_steps, markdown

SETTINGS = {
    "steps_per_round": "updates a round, at most",
    "max_steps": "updates, at most",
    "divergence": "divergence",
    "loss_dtype": "loss computed in",
    "teacher_from": "weights of the next teacher",
    "learning_rate": "learning rate",
    "lr_scheduler_type": "its schedule",
    "warmup_steps": "updates of warm-up",
    "global_batch_size": "texts an update",
    "per_device_train_batch_size": "texts a process",
    "gradient_accumulation_steps": "passes an update",
    "ema_decay": "decay of the averaged weights",
    "student_dropout": "dropout",
    "lora_rank": "rank of the adapters",
    "bf16": "bfloat16 products",
    "seed": "seed",
}
"""Options that decide what a model is, by name, and what a card calls them."""

SDTT_PAPER = """@inproceedings{deschenaux2025beyond,
  title = {Beyond Autoregression: Fast {LLMs} via Self-Distillation Through Time},
  author = {Deschenaux, Justin and Gulcehre, Caglar},
  booktitle = {International Conference on Learning Representations},
  year = {2025},
  url = {https://arxiv.org/abs/2410.21035}
}"""

MDLM_PAPER = """@inproceedings{sahoo2024simple,
  title = {Simple and Effective Masked Diffusion Language Models},
  author = {Sahoo, Subham Sekhar and Arriola, Marianne and Schiff, Yair and Gokaslan, Aaron and
    Marroquin, Edgar and Chiu, Justin T. and Rush, Alexander and Kuleshov, Volodymyr},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2024},
  url = {https://arxiv.org/abs/2406.07524}
}"""

WITHOUT_CONTROL = (
    "No control was measured: the teacher in as many steps, cooled to the same entropy. So these"
    " numbers do not say whether the model learned more than a lower temperature."
)


@dataclass(frozen=True)
class Said:
    """What the owner of a model says of it, for records do not.

    Attributes:
        name: Of the model, such as its name on the hub.
        license: As the hub writes it, such as "apache-2.0".
        base_model: The name on the hub of what it was made of; by default as the run has it.
        datasets: Names on the hub of the text; by default as the run has them.
        language: Such as "en".
    """

    name: str
    license: str | None = None
    base_model: str | None = None
    datasets: tuple[str, ...] = ()
    language: str | None = None


@dataclass(frozen=True)
class Measured:
    """An evaluation that a model was part of.

    Attributes:
        folder: With its records.
        label: What the model is called in them.
        teacher: What its teacher is called; by default the one model that was not taught.
    """

    folder: Path
    label: str
    teacher: str | None = None


def model_card(folder: Path, said: Said, measured: Measured | None = None) -> str:
    """The README.md of a model: front matter for the hub, and what is known of the model.

    Args:
        folder: Of the model; what is known of its training is read from the run that it lies in.
        said: By its owner.
        measured: The evaluation, if there is one.

    Raises:
        ValueError: If the folder is no whole model's, or the evaluation says nothing of it.
    """
    saved, training = read_saved(folder), read_training(folder)
    parts = [
        _front_matter(saved, training, said),
        f"# {said.name}",
        _what(saved, folder),
        *_made(saved, training),
        *_measured(measured),
        *_use(saved, said),
        *_license(said, training),
        *_citation(saved),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(saved: Saved, training: Training | None, said: Said) -> str:
    base, datasets = said.base_model, said.datasets
    if training is not None:
        names = [hub_name(each, training.folder) for each in _list(training.settings.get("data"))]
        base = base or hub_name(_start(training), training.folder)
        datasets = datasets or tuple(filter(None, names))
    tags = ["sdtt", "mdlm", "masked-diffusion", "diffusion-language-model"]
    fields: dict[str, Any] = {
        "license": said.license,
        "language": said.language,
        "library_name": "transformers",
        "pipeline_tag": "fill-mask",
        "tags": [*tags, "self-distillation-through-time"] if saved.taught_steps else tags,
        "base_model": base,
        "datasets": list(datasets),
    }
    kept = {name: value for name, value in fields.items() if value}
    return f"---\n{yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)}---"


def _what(saved: Saved, folder: Path) -> str:
    config = saved.config
    kind = "A masked diffusion language model"
    if saved.taught_steps:
        kind += f", distilled to write in {in_steps([saved.taught_steps])}"
    averaged = " These are the averaged weights (EMA) of its training." * (folder.name == "ema")
    return (
        f"{kind}: {saved.parameters:,} parameters in {' and '.join(saved.dtypes)},"
        f" {config.get('n_blocks')} blocks of width {config.get('hidden_dim')},"
        f" texts of {config.get('model_length')} tokens,"
        f" {config.get('vocab_size'):,} ids with MASK.{averaged}"
    )


def _made(saved: Saved, training: Training | None) -> Iterator[str]:
    yield "## How it was made"
    if training is None:
        yield "No record of its training lies with it, so nothing is said of it here."
        return
    if saved.taught_steps:
        yield (
            "By Self-Distillation Through Time (SDTT): in each round a student learns to do in one"
            " step of the reverse diffusion what its teacher does in several, and is the teacher of"
            " the next round."
        )
    rows = [[name, in_markdown(value)] for name, value in _facts(training)]
    yield markdown(["", ""], rows, right=False)


def _facts(training: Training) -> Iterator[tuple[str, str]]:
    settings, plan = training.settings, training.plan
    yield "command", f"sdtt {training.verb} (version {training.version or 'unknown'})"
    for words, name in (("start", _start(training)), ("first teacher", settings.get("teacher"))):
        if name:
            yield words, shown_name(name, training.folder)
    if settings.get("data"):
        names = (shown_name(each, training.folder) for each in _list(settings["data"]))
        yield "text", ", ".join(names)
    if plan is not None:
        yield "sampling steps, round by round", " → ".join(map(str, plan.ladder))
        if training.round is not None:
            yield "this model", f"the student of round {training.round + 1} of {plan.rounds}"
    if training.updates is not None:
        yield "updates recorded up to here", f"{training.updates:,}"
    for name, words in SETTINGS.items():
        if _is_said(name, settings.get(name)):
            yield words, ", ".join(map(str, _list(settings[name])))


def _start(training: Training) -> Any:
    """The model that it was made of; of a pretraining "model" names a kind."""
    return training.settings.get("init_from" if training.verb == "pretrain" else "model")


def _is_said(name: str, value: Any) -> bool:
    switched_off = value is None or value is False or value in ("", [])
    return not (switched_off or (name == "lora_rank" and value == 0))


def _measured(measured: Measured | None) -> Iterator[str]:
    yield "## What was measured"
    if measured is None:
        yield (
            "Nothing, as far as the records with it go: no claim is made for its quality or speed."
            " `sdtt evaluate` measures it beside its teacher and the controls."
        )
        return
    cells = read_cells(read_runs([measured.folder]))
    labels = list(dict.fromkeys(cell.model for cell in cells))
    if measured.label not in labels:
        raise ValueError(
            f"the evaluation in {measured.folder} has no model {measured.label!r}; "
            f"it has {', '.join(labels)}"
        )
    teacher = teacher_of(cells, measured.teacher)
    kept = [c for c in cells if c.model == measured.label or not is_student(c, teacher)]
    suite = Suite(kept, teacher)
    yield f"In what follows this model is called **{in_markdown(measured.label)}**."
    yield "\n".join(f"* {in_markdown(sentence)}" for sentence in summary(suite))
    if not _has_control(suite, measured.label):
        yield WITHOUT_CONTROL
    for table in quality_tables(suite):
        if not table.folded:
            yield as_markdown(table)


def _has_control(suite: Suite, label: str) -> bool:
    """Whether it was compared with its teacher at one entropy; the teacher needs no control."""
    if label == suite.teacher:
        return True
    blocks = perplexity_blocks(suite)
    own = [(block, cell) for block in blocks for cell in block.cells if cell.model == label]
    found = (beside(block.cells, suite.teacher, cell).control for block, cell in own)
    return any(control is not None for control in found)


def _use(saved: Saved, said: Said) -> Iterator[str]:
    yield "## How to use it"
    if not saved.has_tokenizer:
        yield "It comes without a tokenizer: its ids are those of the one it was trained with."
    # the sampler that was saved with it may be one without steps
    how = f"steps={saved.taught_steps}, seed=1" if saved.taught_steps else "seed=1"
    name = f'"{said.name}"'
    first = ["import sdtt  # pip install sdtt: registers the class, so no remote code is run"]
    if saved.has_tokenizer:
        last = [f"texts = sdtt.generate(model, tokenizer, num_samples=4, {how})"]
    else:
        last = [f"ids = model.generate(num_return_sequences=4, {how}).sequences"]
    yield _example(saved, name, first, last)
    if not saved.has_code:
        yield "It comes without code of its own, so it needs sdtt."
        return
    yield "Without sdtt, by the code that comes with it (`modeling_mdlm.py`):"
    last = [f"ids = model.generate(num_return_sequences=4, {how})"]
    if saved.has_tokenizer:
        last.append("texts = tokenizer.batch_decode(ids, skip_special_tokens=True)")
    yield _example(saved, f"{name}, trust_remote_code=True", [], last)


def _example(saved: Saved, arguments: str, first: list[str], last: list[str]) -> str:
    """A program that loads the model, and its tokenizer where there is one."""
    classes = {"model": "AutoModelForMaskedLM", "tokenizer": "AutoTokenizer"}
    if not saved.has_tokenizer:
        classes.pop("tokenizer")
    imports = f"from transformers import {', '.join(classes.values())}"
    loads = [f"{name} = {kind}.from_pretrained({arguments})" for name, kind in classes.items()]
    return "\n".join(["```python", *first, imports, "", *loads, *last, "```"])


def _license(said: Said, training: Training | None) -> Iterator[str]:
    yield "## Licence"
    if said.license:
        yield f"{said.license}, as its owner states."
    else:
        yield "None was stated: ask its owner before you use it."
    if training is None:
        return
    start, text = _start(training), training.settings.get("data")
    if start and text:
        yield "The model that it was made of, and its text, have licences of their own."
    elif start or text:
        yield f"{'Its text' if text else 'The model that it was made of'} has a licence of its own."


def _citation(saved: Saved) -> Iterator[str]:
    yield "## Citation"
    papers: Sequence[str] = [SDTT_PAPER, MDLM_PAPER] if saved.taught_steps else [MDLM_PAPER]
    yield "```bibtex\n" + "\n\n".join(papers) + "\n```"


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
