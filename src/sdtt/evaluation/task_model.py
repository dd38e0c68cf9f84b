"""What the evaluation harness asks of a model: likelihoods of strings, and texts up to a stop."""

import dataclasses
import inspect
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from sdtt.diffusion.denoiser import Denoiser
from sdtt.evaluation.likelihood import Likelihood, pair_likelihoods
from sdtt.evaluation.mask_sets import Noise, name
from sdtt.evaluation.pairs import Pair, encode_pair, room_of, windows
from sdtt.models.checkpoints import load_model, load_tokenizer_of
from sdtt.models.precision import in_multiplied_dtype
from sdtt.sampling.autoregressive import sample_autoregressive
from sdtt.sampling.canvas import encode, pad_id_of, ragged_canvas
from sdtt.sampling.generate import sample
from sdtt.sampling.settings import SampleSettings, settings_for

Progress = Callable[[int, str, str], AbstractContextManager[Callable[[int], object]]]
"""(how many, what, their name) -> a context that yields ``advance``: ``cli.console.progress``."""

MAX_NEW_TOKENS = 256
"""Tokens of an answer where a task does not say, as in the harness."""

NOISE_SAMPLES = 128
"""Sets of masks for a continuation, as LLaDA's evaluation draws (arXiv 2502.09992): with 32 of them
the bound of eight words of the shipped teacher has an error of 2.4 nats, with 128 one of 1.3."""

LAW = "temperature", "top_p", "top_k"
"""Settings of answers that a task may say itself; of one that does not sample the first is 0."""

CAUSAL = (*LAW, "repetition_penalty")
"""Settings of answers that a causal model has."""

TEXTS_A_CALL = 256
"""Answers that are sampled before progress is told."""


class TaskModel:
    """A model for ``lm_eval``: a denoiser through its NELBO and its sampler, a causal one exactly.

    Causal models go through the same code, not through the harness's own class: contexts are cut,
    texts encoded and windows made by one rule, so that rows compare, and our ``CausalLM`` gets the
    BOS that it was trained behind.

    Args:
        pretrained: A model, or a folder or name that ``models.checkpoints.load_model`` knows.
        tokenizer: The model's; of a folder or name its own by default.
        causal: Whether a folder or name is of a causal model.
        noise_samples: Sets of masks for each continuation; shorter ones are computed exactly where
            that takes no more passes.
        seed: Of masks and answers.
        batch_size: Texts a pass; by memory if None or, as the harness says it, "auto".
        device: Where a folder or name is loaded to.
        progress: Makes progress bars.
        follow_generation_config: Whether what ``sampling`` leaves open is as the model's
            generation_config.json says, as in ``sdtt generate``; else it is the library's default.
        **sampling: Fields of ``SampleSettings`` for answers: sampler, steps and others, which only
            a denoiser has; temperature, top_p and top_k, which win over what a task says.

    Raises:
        ValueError: If an argument is unknown, or the batch is no number of texts.
    """

    def __init__(
        self,
        pretrained: Any,
        tokenizer: Any = None,
        *,
        causal: bool = False,
        noise_samples: int = NOISE_SAMPLES,
        seed: int = 0,
        batch_size: int | str | None = None,
        device: str | None = None,
        progress: Progress | None = None,
        follow_generation_config: bool = True,
        **sampling: Any,
    ) -> None:
        super().__init__()
        _check_known(sampling)
        if isinstance(pretrained, str | Path):
            tokenizer = tokenizer or load_tokenizer_of(pretrained)
            loaded = load_model(pretrained, causal=causal).to(device or "cpu")
            pretrained = in_multiplied_dtype(loaded)
        self.model, self.tokenizer = pretrained, tokenizer
        self.noise = Noise(samples=noise_samples, seed=seed)
        self.batch_size = _texts_a_pass(batch_size)
        self.progress: Progress = progress or (lambda *_: nullcontext(lambda _: None))
        self.follow_generation_config = follow_generation_config
        self.sampling = sampling
        self.noise_errors: dict[str, list[float]] = defaultdict(list)
        """Of each task the standard error of each request's log-likelihood, by its masks."""
        self.draws: dict[str, dict[str, Any]] = {}
        """Of each task that has answers how they were sampled: every setting, as plain values."""

    def loglikelihood(
        self,
        requests: Sequence[Any],
        disable_tqdm: bool = False,  # noqa: ARG002 - the harness's; bars are the caller's
    ) -> list[tuple[float, bool]]:
        """Log p(continuation | context) in nats (a denoiser's lower bound), and if it is greedy.

        Args:
            requests: With ``args`` (context, continuation).
            disable_tqdm: Not used.
        """
        pairs = [self._pair(*request.args) for request in requests]
        found = self._of_windows(requests, pairs, greedy=True)
        return [(-nll, bool(right)) for nll, right in found]

    def loglikelihood_rolling(
        self,
        requests: Sequence[Any],
        disable_tqdm: bool = False,  # noqa: ARG002 - the harness's; bars are the caller's
    ) -> list[float]:
        """Log p of whole texts in nats (a denoiser's lower bound), a window after the other.

        Args:
            requests: With ``args`` (text,).
            disable_tqdm: Not used.
        """
        pairs = [self._pair("", request.args[0]) for request in requests]
        return [-nll for nll, _ in self._of_windows(requests, pairs, greedy=False)]

    def generate_until(
        self,
        requests: Sequence[Any],
        disable_tqdm: bool = False,  # noqa: ARG002 - the harness's; bars are the caller's
    ) -> list[str]:
        """Answers, each cut before the first of its stop strings.

        Answer i is a function of the seed, i and its context. A task that does not ask to sample
        gets temperature 0. A context is cut on the left, to no less than half of the model.

        Args:
            requests: With ``args`` (context, settings of the task: until, max_gen_toks, ...).
            disable_tqdm: Not used.
        """
        answers: list[str] = []
        with self.progress(len(requests), "answers", "requests") as advance:
            for law, part in self._alike(requests):
                prompts = [self._prompt(*request.args) for request in part]
                texts = self._sampled(prompts, law, first_index=len(answers))
                for text, request in zip(texts, part, strict=True):
                    answers.append(_before(text, request.args[1].get("until")))
                    self._remember("generate_until", request.args, answers[-1])
                    self.draws.setdefault(request.task_name or "", self._draw(law))
                advance(len(part))
        return answers

    def _alike(self, requests: Sequence[Any]) -> Iterator[tuple[dict[str, Any], list[Any]]]:
        """Neighbours that are drawn from by one change of the law, not too many at a time."""
        for law, group in groupby(requests, lambda request: self._law(request.args[1])):
            while part := list(islice(group, TEXTS_A_CALL)):
                yield dict(law), part

    def _pair(self, context: str, continuation: str) -> Pair:
        pair = encode_pair(self.tokenizer, context, continuation)
        if pair.context or room_of(self.model).context == 0:
            return pair
        return Pair((self._first_id(),), pair.continuation)

    def _first_id(self) -> int:
        """What stands before a text without a context, for a model that needs something there."""
        for token in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        raise ValueError("an empty context needs a bos or eos, and the tokenizer has neither")

    def _of_windows(
        self, requests: Sequence[Any], pairs: Sequence[Pair], *, greedy: bool
    ) -> list[tuple[float, bool | None]]:
        room = room_of(self.model)
        parts = [list(windows(pair, room)) for pair in pairs]
        flat = [window for own in parts for window in own]
        with self.progress(len(flat), "likelihoods", "texts") as advance:
            found = iter(
                pair_likelihoods(
                    self.model,
                    flat,
                    noise=self.noise,
                    greedy=greedy,
                    batch_size=self.batch_size,
                    advance=advance,
                )
            )
        results = []
        for request, own in zip(requests, parts, strict=True):
            scored: list[Likelihood] = [next(found) for _ in own]
            nll = sum(each.nll for each in scored)
            right = all(bool(each.greedy) for each in scored) if greedy else None
            error = math.sqrt(sum(each.noise_se**2 for each in scored))
            self.noise_errors[request.task_name or ""].append(error)
            kind = "loglikelihood" if greedy else "loglikelihood_rolling"
            self._remember(kind, request.args, (-nll, right) if greedy else -nll)
            results.append((nll, right))
        return results

    def _law(self, task: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
        """The change of the law before a draw: ours, else the task's, else greedy."""
        asked = {key: task[key] for key in LAW if key in task}
        if not task.get("do_sample", float(asked.get("temperature", 0)) > 0):
            asked = {"temperature": 0.0}
        if asked.get("top_k") == 0:  # how transformers says that there is no limit
            asked["top_k"] = None
        own = {key: self.sampling[key] for key in CAUSAL if key in self.sampling}
        return tuple(sorted((asked | own).items()))

    def _settings(self, law: Mapping[str, Any]) -> SampleSettings:
        """How answers of a denoiser are sampled."""
        given = {"batch_size": self.batch_size, "seed": self.noise.seed, **self.sampling, **law}
        return (
            settings_for(self.model, given)
            if self.follow_generation_config
            else SampleSettings(**given)
        )

    def _draw(self, law: Mapping[str, Any]) -> dict[str, Any]:
        """The same as a record says it, also of a causal model."""
        if isinstance(self.model, Denoiser):
            return self._settings(law).record()
        own = {"sampler": "autoregressive", "temperature": 1.0, "top_p": 1.0}
        return {**own, **law, "seed": self.noise.seed, "draw_dtype": "float64"}

    def _prompt(self, context: str, task: Mapping[str, Any]) -> tuple[list[int], int]:
        """The ids of a context, cut to what fits, and how many are to be added."""
        room = room_of(self.model)
        ids = encode(self.tokenizer, context)
        new = int(task.get("max_gen_toks") or MAX_NEW_TOKENS)
        if room.tokens is not None:
            limit = room.tokens - room.context
            new = max(1, min(new, max(limit - len(ids), limit // 2)))
            ids = ids[max(0, len(ids) - (limit - new)) :]
        return ids, new

    def _sampled(
        self, prompts: Sequence[tuple[list[int], int]], law: dict[str, Any], first_index: int
    ) -> list[str]:
        model, eos = self.model, self.tokenizer.eos_token_id
        stops = () if eos is None else (eos,)
        if isinstance(model, Denoiser):
            texts = [[*ids, *[model.mask_token_id] * new] for ids, new in prompts]
            canvas = ragged_canvas(texts, pad_id_of(model)).to(getattr(model, "device", "cpu"))
            rows = sample(
                model,
                canvas.ids,
                attention_mask=canvas.attention_mask,
                stop_ids=stops,
                pad_id=pad_id_of(model) if eos is None else eos,
                first_index=first_index,
                **vars(self._settings(law)),
            ).tolist()
        else:
            rows = [
                sample_autoregressive(
                    model,
                    num_samples=1,
                    length=len(ids) + new,
                    prompt=ids,
                    seed=name([self.noise.seed], [first_index + number]),
                    stop_ids=stops,
                    pad_id=0 if eos is None else eos,
                    **law,
                )[0].tolist()
                for number, (ids, new) in enumerate(prompts)
            ]
        added = [
            row[len(ids) : len(ids) + new] for row, (ids, new) in zip(rows, prompts, strict=True)
        ]
        return [self.tokenizer.decode(_until(row, eos)) for row in added]

    def _remember(self, kind: str, args: Any, result: Any) -> None:
        """Tells the harness's cache of a result, where there is one."""
        hook = getattr(self, "cache_hook", None)
        if hook is not None:
            hook.add_partial(kind, args, result)


def _check_known(sampling: Mapping[str, Any]) -> None:
    """Refuses arguments that there are not."""
    own = list(inspect.signature(TaskModel).parameters)[:-1]
    fields = [each.name for each in dataclasses.fields(SampleSettings)]
    known = list(dict.fromkeys([*own, *fields]))
    for argument in sampling:
        if argument not in known:
            raise ValueError(f"sdtt has no argument {argument!r}; there are {', '.join(known)}")


def _texts_a_pass(batch_size: int | str | None) -> int | None:
    """A batch as the harness says it: a number, or "auto" (also "auto:N"), which is None here."""
    if batch_size is None or str(batch_size).partition(":")[0] == "auto":
        return None
    try:
        texts = int(batch_size)
    except ValueError:
        texts = 0
    if texts < 1:
        raise ValueError(f'batch_size must be at least 1, or "auto", got {batch_size!r}')
    return texts


def _until(ids: list[int], stop: int | None) -> list[int]:
    return ids[: ids.index(stop)] if stop in ids else ids


def _before(text: str, until: str | Sequence[str] | None) -> str:
    """The text before the first of some strings."""
    strings = [until] if isinstance(until, str) else list(until or ())
    places = [text.find(string) for string in strings if string]
    return text[: min((place for place in places if place >= 0), default=len(text))]
