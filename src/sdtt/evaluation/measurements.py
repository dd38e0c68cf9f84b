"""From a job to its numbers: each metric called with the model and the texts that it needs."""

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from typing import Any

from sdtt.evaluation.best_of import best_of
from sdtt.evaluation.bound import text_bound
from sdtt.evaluation.context import Context, Measured
from sdtt.evaluation.diversity import Ids, diversity, lengths, standard_error, unigram_entropy
from sdtt.evaluation.errors import covariance_of_means
from sdtt.evaluation.harness import evaluate_tasks
from sdtt.evaluation.jobs import Group, Job
from sdtt.evaluation.judge import Judgement
from sdtt.evaluation.judge_samples import cut_behind_eos, judge_samples
from sdtt.evaluation.lambada import lambada, method_of, passages
from sdtt.evaluation.latency import latency
from sdtt.evaluation.mask_sets import Noise
from sdtt.evaluation.mauve import mauve
from sdtt.evaluation.readability import readability
from sdtt.evaluation.records import Sample
from sdtt.evaluation.self_bleu import grouped, self_bleu
from sdtt.evaluation.subjects import Subject
from sdtt.evaluation.texts import source_blocks, text_source
from sdtt.sampling.settings import SampleSettings

Tell = Callable[[int], None]


def measure(
    context: Context, group: Group, job: Job, samples: Sequence[Sample] | None
) -> list[Measured]:
    """The numbers of one job; several where a metric times or scores several things at once.

    Args:
        context: Judge, models, texts.
        group: Of whom.
        job: What.
        samples: Those of the group, where it has any.

    Raises:
        ValueError: If it cannot be measured, with the reason.
    """
    try:
        if samples is not None:
            return [_OF_SAMPLES[job.metric](context, group, job, samples)]
        return _OF_MODELS[job.metric](context, group, job)
    except ModuleNotFoundError as error:
        raise ValueError(str(error)) from error


# ---------------------------------------------------------------- of samples


def _ids(context: Context, subject: Subject, samples: Sequence[Sample]) -> list[Ids]:
    """Ids of samples without their prompts; those of plain text are the tokenizer's."""
    tokenizer = context.tokenizer_of(subject)
    found: list[Ids] = []
    for sample in samples:
        ids = sample.ids
        if ids is None:
            ids = tokenizer.encode(
                sample.text or "", add_special_tokens=False, split_special_tokens=True
            )
        found.append(ids[sample.prompt_tokens :])
    return found


def _texts(context: Context, subject: Subject, samples: Sequence[Sample]) -> list[str]:
    """What samples say behind their prompts."""
    tokenizer = context.tokenizer_of(subject)
    if any(sample.text is None or sample.prompt_tokens for sample in samples):
        rows = [list(ids) for ids in _ids(context, subject, samples)]
        texts: list[str] = tokenizer.batch_decode(rows, skip_special_tokens=True)
        return texts
    return [sample.text or "" for sample in samples]


def _judged(
    context: Context, group: Group, samples: Sequence[Sample], source: str | None = None
) -> Judgement:
    judge, asked = context.judge(source), context.protocol.perplexity
    known = any(sample.ids is not None for sample in samples)
    return judge_samples(
        judge.model,
        judge.tokenizer,
        samples,
        own=context.tokenizer_of(group.subject) if known else None,
        eos=asked.eos,
        batch_size=asked.batch_size,
        window=asked.window,
        stride=asked.stride,
        advance=context.advance,
    )


def _entropies(context: Context, group: Group, samples: Sequence[Sample]) -> list[float]:
    """Of what the judge reads: prompts too, and cut where it ends with its first EOS."""
    found = _ids(context, group.subject, [replace(one, prompt_tokens=0) for one in samples])
    eos = context.tokenizer_of(group.subject).eos_token_id
    if context.protocol.perplexity.eos == "cut" and eos is not None:
        found = [cut_behind_eos(ids, eos) for ids in found]
    return [unigram_entropy(ids) for ids in found]


def _perplexity(context: Context, group: Group, _: Job, samples: Sequence[Sample]) -> Measured:
    found = _judged(context, group, samples)
    entropies = _entropies(context, group, samples)
    count = len(samples)
    both = covariance_of_means(found.nll_by_text, entropies) if count > 1 else 0.0
    names = ("perplexity", "perplexity_se", "nll", "nll_se")
    bits = ("bits_per_character", "bits_per_character_se")
    result = {name: getattr(found, name) for name in (*names, *bits)}
    result |= {"entropy": sum(entropies) / count, "entropy_se": standard_error(entropies)}
    result |= {"covariance": both, "samples": count, "length": found.length.mean}
    result |= {"shortest": found.length.shortest, "longest": found.length.longest}
    learned = ("prepended_bos", "window", "stride", "retokenised", "eos")
    settings = {name: getattr(found, name) for name in learned}
    dtype = str(context.judge().model.dtype).removeprefix("torch.")
    return Measured(result, found.tokens, settings | {"judge_dtype": dtype})


def _diversity(context: Context, group: Group, _: Job, samples: Sequence[Sample]) -> Measured:
    ids = _ids(context, group.subject, samples)
    size = lengths(ids)
    result = asdict(diversity(ids)) | {"length": size.mean, "length_se": size.se}
    result |= {"shortest": size.shortest, "longest": size.longest}
    return Measured(result, sum(map(len, ids)))


def _self_bleu(context: Context, group: Group, job: Job, samples: Sequence[Sample]) -> Measured:
    texts = _texts(context, group.subject, samples)
    groups = grouped(texts, [sample.group for sample in samples])
    found = asdict(
        self_bleu(groups, references=job.settings["references"], advance=context.advance)
    )
    signature = {"signature": found.pop("signature"), "references": found.pop("references")}
    return Measured(found, settings=signature)


def _readability(context: Context, group: Group, _: Job, samples: Sequence[Sample]) -> Measured:
    found = readability(_texts(context, group.subject, samples), context.trigrams())
    return Measured(asdict(found))


def _mauve(context: Context, group: Group, _: Job, samples: Sequence[Sample]) -> Measured:
    asked = context.protocol.mauve
    assert asked is not None
    assert group.draw is not None
    tokenizer = context.tokenizer_of(group.subject)
    found = mauve(
        context.people(asked, tokenizer, group.draw),
        context.features(asked, samples, tokenizer),
        seeds=tuple(range(asked.seeds)),
        scale=asked.scale,
    )
    result = {"mauve": found.mauve, "mauve_se": found.mauve_se, "by_seed": list(found.by_seed)}
    settings = {"buckets": found.buckets, "references": found.references, "texts": found.texts}
    return Measured(result, settings=settings)


def _best_of(context: Context, group: Group, _: Job, samples: Sequence[Sample]) -> Measured:
    asked = context.protocol.best_of
    context.judge(asked.scorer)  # is loaded once, and not counted
    start = time.perf_counter()
    scores = _judged(context, group, samples, asked.scorer).nll_by_text
    scoring = (time.perf_counter() - start) / len(samples)
    same = asked.scorer in (None, context.protocol.judge)
    reported = None if same else _judged(context, group, samples).nll_by_text
    entropies = _entropies(context, group, samples)
    found = best_of(
        scores,
        entropies,
        seconds=context.seconds[group.file],
        seconds_scoring=scoring,
        reported=reported,
        numbers=[n for n in asked.n if n <= len(samples)],
    )
    curve = [asdict(chosen) for chosen in found.curve]
    settings = {"candidates": found.candidates, "chosen_by_judge": found.chosen_by_judge}
    return Measured({"curve": curve}, settings=settings)


# ---------------------------------------------------------------- of models


def _lambada(context: Context, group: Group, job: Job) -> list[Measured]:
    asked, loaded = context.protocol.lambada, context.loaded(group.subject)
    form = job.settings["form"]
    noise = Noise(samples=asked.noise_samples, seed=asked.seed, exact_tokens=asked.exact_up_to)
    found = lambada(
        loaded.model,
        loaded.tokenizer,
        passages(form, data_root=context.data_root, limit=asked.limit),
        noise=noise,
        batch_size=asked.batch_size,
        advance=context.advance,
    )
    result = asdict(found)
    tokens = result.pop("tokens")
    return [Measured(result, tokens, {"method": method_of(loaded.model, noise)})]


def _bound(context: Context, group: Group, job: Job) -> list[Measured]:
    asked, loaded = context.protocol.bound, context.loaded(group.subject)
    source = text_source(job.settings["text"], context.data_root)
    length = job.settings["length"]
    found = text_bound(
        loaded.model,
        source_blocks(source, loaded.tokenizer, length),
        noise_samples=asked.noise_samples,
        max_blocks=asked.blocks,
        seed=asked.seed,
        batch_size=asked.batch_size,
        advance=context.advance,
    )
    result = asdict(found)
    tokens = result.pop("tokens")
    return [Measured(result, tokens, {**source.settings(), "length": length})]


def _tasks(context: Context, group: Group, job: Job) -> list[Measured]:
    asked, loaded = context.protocol.tasks, context.loaded(group.subject)
    rows = evaluate_tasks(
        loaded.model,
        loaded.tokenizer,
        [job.settings["task"]],
        num_fewshot=asked.num_fewshot,
        limit=asked.limit,
        noise_samples=asked.noise_samples,
        seed=asked.seed,
        batch_size=asked.batch_size,
        include_path=asked.include_path,
        progress=lambda *_: nullcontext(context.advance),
        **asked.sampling,
    )
    own = "as each of its tasks says"
    return [
        Measured(
            {**row.metrics, "examples": row.examples, "noise_se": row.noise_se},
            settings={
                "task": row.task,
                "version": row.version,
                "num_fewshot": own if row.num_fewshot is None else row.num_fewshot,
            },
            draw=None if row.draw is None else dict(row.draw),
        )
        for row in rows
    ]


def _latency(context: Context, group: Group, _: Job) -> list[Measured]:
    asked, loaded = context.protocol.latency, context.loaded(group.subject)
    diffusion = group.subject.kind == "diffusion"
    found = latency(
        loaded.fast,
        steps=asked.steps if diffusion else (),
        batch_sizes=asked.batch_size,
        length=asked.length,
        runs=asked.runs,
        forms=asked.form,
        settings=SampleSettings(sampler=asked.sampler) if diffusion else None,
        on_run=lambda _, __: context.advance(1),
    )
    sampler = asked.sampler if diffusion else "autoregressive"
    rows = []
    for each in found:
        values = asdict(each)
        steps = values.pop("steps")
        how = {name: values.pop(name) for name in ("batch_size", "length", "form", "runs")}
        result = values | {
            "seconds_per_sample": each.seconds_per_sample,
            "tokens_per_second": each.tokens_per_second,
        }
        draw: dict[str, Any] = {"sampler": sampler, "length": how["length"]}
        if steps is not None:
            draw["steps"] = steps
        how["dtype"] = str(loaded.model.dtype).removeprefix("torch.")
        tokens = each.batch_size * each.length
        rows.append(Measured(result, tokens, how, draw))
    return rows


_OF_SAMPLES: dict[str, Callable[[Context, Group, Job, Sequence[Sample]], Measured]] = {
    "perplexity": _perplexity,
    "diversity": _diversity,
    "self_bleu": _self_bleu,
    "readability": _readability,
    "mauve": _mauve,
    "best_of": _best_of,
}
_OF_MODELS: dict[str, Callable[[Context, Group, Job], list[Measured]]] = {
    "lambada": _lambada,
    "bound": _bound,
    "tasks": _tasks,
    "latency": _latency,
}
