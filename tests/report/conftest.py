"""Constructed records of an evaluation, with answers that can be worked by hand."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from sdtt.evaluation.records import Record, Sample, append, write_samples
from sdtt.report.evaluation import write_report

ENVIRONMENT = {"sdtt": "0.1.0", "device": "cpu"}
HARM = "</script><script>document.title = 'harmed'</script><b>&amp;"
JUDGE = {"judge": "gpt2-large", "window": 64}


def draw_of(sampler="dilated", steps=8, temperature=1.0, seed=0, **more):
    settings = {"sampler": sampler, "steps": steps, "temperature": temperature, "top_p": 1.0}
    settings |= {"seed": seed, "num_samples": 256, "length": 64, "draw_dtype": "float64"}
    return settings | more


def record(metric, model, result, draw=None, **more):
    kinds = {"ar": "autoregressive", "real text": "text"}
    values = {
        "kind": kinds.get(model, "diffusion"),
        "taught_steps": 16 if model == "student" else None,
        "source": f"runs/{model}",
        "environment": ENVIRONMENT,
        "draw": draw,
    }
    return Record(metric, model, result=result, **(values | more))


def perplexity(model="teacher", nll=4.0, entropy=4.0, draw=None, **more):
    result = {"nll": nll, "nll_se": 0.01, "entropy": entropy, "entropy_se": 0.0, "covariance": 0.0}
    result |= {"perplexity": math.exp(nll), "perplexity_se": 0.01 * math.exp(nll)}
    settings = {"settings": JUDGE, "tokens": 1000, "seconds": 2.0} | more
    return record("perplexity", model, result, draw or draw_of(), **settings)


def temperatures(nll=4.0, model="teacher", sampler="dilated", **more):
    """Cooled by 0.2 a model loses 0.2 nats of entropy and 1 nat of NLL: a slope of 5."""
    return [
        perplexity(model, nll + 5 * (t - 1), 4 + (t - 1), draw_of(sampler, temperature=t, **more))
        for t in (0.8, 1.0, 1.1)
    ]


def student(gain, **more):
    """A student whose NLL lies ``gain`` below the teacher's at 0.1 nats less of entropy."""
    return perplexity("student", 4.0 - 0.5 - gain, 3.9, draw_of(**more))


def levels():
    text = {"sampler": "text", "length": 64, "num_samples": 256, "seed": 0}
    causal = draw_of("autoregressive", None)
    return [perplexity("ar", 3.5, draw=causal), perplexity("real text", 3.0, draw=text)]


def samples(model, draw, file, seconds=0.1, dtype="float32"):
    result = {"file": f"samples/{file}.jsonl", "samples": 256, "seconds_per_sample": seconds}
    result |= {"passes_per_sample": 8.0}
    return record("samples", model, result, draw, settings={"dtype": dtype})


def latency(model, steps, seconds, spread=0.05, length=64):
    """As the runner writes it: what the draw says is not among the settings."""
    result = {"seconds": seconds, "seconds_per_sample": seconds, "tokens_per_second": 64.0}
    result |= {"seconds_least": seconds - spread, "seconds_most": seconds + spread}
    draw = {"sampler": "dilated", "steps": steps} if steps else {"sampler": "autoregressive"}
    settings = {"batch_size": 1, "form": "eager", "dtype": "float32"}
    return record("latency", model, result, {**draw, "length": length}, settings=settings)


def whole():
    """Records of every metric that a report knows."""
    records = [*temperatures(), student(0.2), *levels()]
    for steps, nll in ((4, 5.0), (16, 3.8)):
        records += temperatures(nll, steps=steps)
        records.append(perplexity("student", nll - 0.5, 3.9, draw_of(steps=steps)))
    for one in list(records):
        if one.model != "real text" and one.draw["temperature"] == 1:
            steps = one.draw["steps"]
            seconds = 0.01 * (steps or 64)
            records.append(samples(one.model, one.draw, f"{one.model}-{steps}", seconds))
            records.append(
                record(
                    "mauve",
                    one.model,
                    {"mauve": 0.7, "mauve_se": 0.01},
                    one.draw,
                    settings={"features": "gpt2-large"},
                )
            )
    for model, accuracy in (("teacher", 0.3), ("student", 0.32), ("ar", 0.4)):
        result = {
            "accuracy": accuracy,
            "accuracy_se": 0.01,
            "perplexity": 20.0,
            "perplexity_se": 1.0,
            "nll": math.log(20),
            "nll_se": 0.05,
            "examples": 100,
        }
        settings = {"form": "openai", "method": "exact"}
        records.append(record("lambada", model, result, settings=settings))
        bound = {
            "nats_per_token": 3.0,
            "nats_per_token_se": 0.1,
            "perplexity": math.exp(3),
            "perplexity_se": 2.0,
            "bits_per_byte": 1.2,
            "bits_per_byte_se": 0.1,
            "exact": model == "ar",
        }
        records.append(record("bound", model, bound, settings={"text": "wikitext-2"}))
        tasks = {"acc": 0.25, "acc_se": 0.01, "examples": 500}
        records.append(record("tasks", model, tasks, settings={"task": "arc_easy"}))
        curve = [
            {"n": n, "seconds": 0.1 * n, "nll": 4 - 0.1 * n, "nll_se": 0.01, "entropy": 4.0}
            for n in (1, 2, 4)
        ]
        causal = model == "ar"
        drawn = draw_of("autoregressive" if causal else "dilated", None if causal else 8)
        records.append(record("best_of", model, {"curve": curve}, drawn, settings={"scorer": "j"}))
    for steps in (4, 8, 16, None):
        records.append(latency("teacher" if steps else "ar", steps, 0.1 * (steps or 10)))
    return records  # fmt: skip


def write(folder, records, texts=("once upon a time",)):
    """A folder as `sdtt evaluate` leaves it: two of the four tokens appear in each of two steps."""
    for one in records:
        append(folder / "records.jsonl", one)
        if one.metric == "samples":
            tokens = [texts[0], " a", " b", " c"]
            kept = {"tokens": tokens, "revealed": [1, 0, 3, 1], "ids": [1, 2, 3, 4]}
            made = [Sample(text="".join(tokens), **kept), *(Sample(text=text) for text in texts)]
            write_samples(folder / Path(one.result["file"]), made)
    return folder


@pytest.fixture(scope="session")
def made():
    """The builders above, by name."""
    return SimpleNamespace(
        draw_of=draw_of,
        record=record,
        perplexity=perplexity,
        temperatures=temperatures,
        student=student,
        levels=levels,
        latency=latency,
        samples=samples,
        whole=whole,
        write=write,
        judge=JUDGE,
        harm=HARM,
    )


@pytest.fixture(scope="session")
def reported(made, tmp_path_factory):
    """The folder of a whole report, one of whose samples would do harm; to be read only."""
    folder = made.write(tmp_path_factory.mktemp("run"), made.whole(), [HARM])
    write_report([folder], folder)
    return folder
