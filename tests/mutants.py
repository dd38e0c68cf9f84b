"""Breaks each law of the code on purpose: the tests that state it must turn red.

Run by `make mutants`, or `python tests/mutants.py [part of a name ...]`. Each mutant changes one
place of a copy of src. torch and transformers are imported once, and every run is a fork that
imports sdtt from its own copy. First all named tests must be green on a copy that is not changed.
"""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ALREADY_IMPORTED = (
    "numpy",
    "pytest",
    "beartype",
    "torch._dynamo",
    "torch.utils.checkpoint",
    "tokenizers",
    "transformers.generation",
    "transformers.masking_utils",
    "transformers.modeling_layers",
    "transformers.models.auto.modeling_auto",
)
"""Slow to import, and independent of sdtt."""


@dataclass(frozen=True)
class Mutant:
    """One fault.

    Attributes:
        name: What is wrong with it.
        file: Where, below src/sdtt.
        old: The text that it replaces; it occurs there exactly once.
        new: What it puts there.
        tests: Node ids below tests, each of which must turn red; one with parameters is red if any
            of its cases is.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


NOISE = "diffusion/test_diffusion_noise.py::test_"
UNIFORMS = "diffusion/test_diffusion_uniforms.py::test_"
CATEGORICAL = "diffusion/test_diffusion_categorical.py::test_"
DIVERGENCE = "diffusion/test_diffusion_divergence.py::test_"
ELBO = "diffusion/test_diffusion_elbo.py::test_"
ROLLOUT = "diffusion/test_diffusion_rollout.py::test_"
ANCESTRAL = "sampling/test_sampling_ancestral.py::test_"
GENERATE = "sampling/test_sampling_generate.py::test_"

DISTILL = "training/test_training_distill.py::test_"
RESTART = "training/test_training_restart.py::test_"

MUTANTS = [
    Mutant(
        "draw in float32",
        "diffusion/categorical.py",
        "logits.double().softmax(-1).cumsum(-1)",
        "logits.float().softmax(-1).cumsum(-1)",
        (
            CATEGORICAL + "a_token_of_chance_one_in_a_billion_has_its_interval",
            CATEGORICAL + "float32_scores_are_drawn_in_float64",
        ),
    ),
    Mutant(
        "draw may take a token of probability 0",
        "diffusion/categorical.py",
        "level[:, None], right=True)",
        "level[:, None], right=False)",
        (CATEGORICAL + "v_of_zero_takes_the_first_token_that_can_be",),
    ),
    Mutant(
        "draw may step past the last token",
        "diffusion/categorical.py",
        "torch.minimum(v.to(total) * total, torch.nextafter(total, torch.zeros_like(total)))",
        "v.to(total) + 2.0**-53",
        (CATEGORICAL + "v_just_below_one_takes_the_last_token_that_can_be",),
    ),
    Mutant(
        "top_p drops the token that crosses the mass",
        "diffusion/categorical.py",
        "before >= mass",
        "before + law > mass",
        (CATEGORICAL + "top_p_keeps_the_fewest_tokens_that_reach_the_mass",),
    ),
    Mutant(
        "is_masked takes t for 1 - alpha",
        "diffusion/noise.py",
        "return u < (1 - schedule.alpha(t))[:, None]",
        "return u < t[:, None]",
        (
            NOISE + "a_token_is_masked_with_chance_one_minus_alpha",
            ROLLOUT + "positions_are_decided_with_the_chances_of_the_process",
        ),
    ),
    Mutant(
        "the chance to be revealed is not a conditional one",
        "diffusion/noise.py",
        "return (alpha_s - alpha_t) / (1 - alpha_t)",
        "return alpha_s - alpha_t",
        (
            NOISE + "reveal_probability_is_bayes_rule_of_the_forward_process",
            NOISE + "reveal_probability_satisfies_chapman_kolmogorov",
        ),
    ),
    Mutant(
        "a teacher's times pass below 0",
        "diffusion/noise.py",
        "to(t)).clamp_min(0)",
        "to(t))",
        (NOISE + "a_teacher_visits_t_then_steps_of_dt_and_never_falls_below_zero",),
    ),
    Mutant(
        "a teacher's times as in the reference code: (1 - t) for (1 - space)",
        "diffusion/noise.py",
        "t[:, None] - dt * torch.arange(teacher_steps + 1).to(t)",
        "t[:, None] * (1 - t[:, None]) - dt * torch.arange(teacher_steps + 1).to(t)",
        (NOISE + "a_teacher_visits_t_then_steps_of_dt_and_never_falls_below_zero",),
    ),
    Mutant(
        "uniforms ignore their index",
        "diffusion/uniforms.py",
        '"/".join([str(seed), purpose, *map(str, index)])',
        '"/".join([str(seed), purpose])',
        (UNIFORMS + "rows_of_different_names_are_independent",),
    ),
    Mutant(
        "uniforms of 32 bits",
        "diffusion/uniforms.py",
        "(raw >> np.uint64(11)) * 2.0**-53",
        "(raw >> np.uint64(32)) * 2.0**-32",
        (UNIFORMS + "every_one_of_53_bits_is_fair",),
    ),
    Mutant(
        "forward KL for reverse KL",
        "diffusion/divergence.py",
        "return _kl(student.log_softmax(-1), target.log_softmax(-1))",
        "return _kl(target.log_softmax(-1), student.log_softmax(-1))",
        (
            DIVERGENCE + "two_coins_by_hand",
            ROLLOUT + "a_distilled_table_ends_at_the_enumerated_optimum[reverse_kl]",
        ),
    ),
    Mutant(
        "total variation without its 1/2",
        "diffusion/divergence.py",
        ".abs().sum(-1) / 2",
        ".abs().sum(-1)",
        (DIVERGENCE + "total_variation_is_at_most_one_and_reaches_it",),
    ),
    Mutant(
        "total variation on log-probabilities, as in the reference code",
        "diffusion/divergence.py",
        "(student.softmax(-1) - target.softmax(-1)).abs()",
        "(student.log_softmax(-1) - target.log_softmax(-1)).abs()",
        (
            DIVERGENCE + "total_variation_is_at_most_one_and_reaches_it",
            DIVERGENCE + "pinsker",
        ),
    ),
    Mutant(
        "mse is a sum",
        "diffusion/divergence.py",
        "difference.square().sum(-1) / (~excluded).sum(-1)",
        "difference.square().sum(-1)",
        (DIVERGENCE + "two_coins_by_hand[mse]",),
    ),
    Mutant(
        "mse counts excluded tokens",
        "diffusion/divergence.py",
        "difference.square().sum(-1) / (~excluded).sum(-1)",
        "difference.square().mean(-1)",
        (DIVERGENCE + "excluded_columns_add_nothing_to_value_or_gradient[mse]",),
    ),
    Mutant(
        "tiles leave the head without a gradient",
        "diffusion/divergence.py",
        "run(hidden[tile], head.weight, head.bias, *(other[tile] for other in others))",
        "run(hidden[tile], head.weight.detach(), head.bias, *(other[tile] for other in others))",
        (
            DIVERGENCE + "the_tiled_divergence_is_the_dense_one_in_value_and_gradient",
            DIVERGENCE + "the_tiled_cross_entropy_is_the_dense_one_in_value_and_gradient",
        ),
    ),
    Mutant(
        "MASK keeps its probability",
        "diffusion/denoiser.py",
        "inner = sorted(set(excluded_ids))",
        "inner = sorted(set(excluded_ids))[:-1]",
        (
            DIVERGENCE + "excluded_ids_at_the_end_are_sliced_off_and_others_never_are_drawn",
            GENERATE + "mask_is_never_a_token_of_a_sample",
        ),
    ),
    Mutant(
        "hidden_of_rows mixes the texts up",
        "diffusion/denoiser.py",
        "owner * length + rows % length",
        "rows % length",
        (ROLLOUT + "a_rollout_is_algorithm_1_written_out",),
    ),
    Mutant(
        "the weight of the NELBO lacks its minus",
        "diffusion/elbo.py",
        "return -schedule.alpha_prime(t) / (1 - schedule.alpha(t))",
        "return schedule.alpha_prime(t) / (1 - schedule.alpha(t))",
        (
            ELBO + "the_mean_of_nelbo_sum_over_times_and_masks_is_the_exact_nelbo",
            ELBO + "nelbo_sum_with_drawn_masks_is_unbiased",
        ),
    ),
    Mutant(
        "the weight of the NELBO is 1 / alpha",
        "diffusion/elbo.py",
        "return -schedule.alpha_prime(t) / (1 - schedule.alpha(t))",
        "return -schedule.alpha_prime(t) / schedule.alpha(t)",
        (ELBO + "the_mean_of_nelbo_sum_over_times_and_masks_is_the_exact_nelbo",),
    ),
    Mutant(
        "exact_nelbo counts all mask sets alike",
        "diffusion/elbo.py",
        "math.lgamma(size) + math.lgamma(length - size + 1) - math.lgamma(length + 1)",
        "-math.log(math.comb(length, size))",
        (
            ELBO + "the_nelbo_of_an_exact_denoiser_is_minus_log_p_of_every_text",
            ELBO + "the_nelbo_is_the_mean_of_minus_log_p_over_the_orders_of_revelation",
        ),
    ),
    Mutant(
        "a rollout keeps the law of its last pass for all",
        "diffusion/rollout.py",
        "return Rollout(torch.cat(hidden)[torch.cat(where).argsort()], ",
        "return Rollout(teacher.hidden(z, order), ",
        (ROLLOUT + "a_rollout_is_algorithm_1_written_out",),
    ),
    Mutant(
        "a rollout keeps the law of its first pass for all",
        "diffusion/rollout.py",
        "return Rollout(torch.cat(hidden)[torch.cat(where).argsort()], ",
        "return Rollout(teacher.hidden(z_t, order), ",
        (
            ROLLOUT + "a_rollout_is_algorithm_1_written_out",
            ROLLOUT + "the_mean_target_of_three_tokens_errs_by_what_is_drawn_together",
            ROLLOUT + "a_distilled_table_ends_at_the_enumerated_optimum[reverse_kl]",
        ),
    ),
    Mutant(
        "a rollout gives laws in the order of its passes",
        "diffusion/rollout.py",
        "torch.cat(hidden)[torch.cat(where).argsort()]",
        "torch.cat(hidden)",
        (ROLLOUT + "a_rollout_is_algorithm_1_written_out",),
    ),
    Mutant(
        "a rollout draws its positions afresh",
        "diffusion/rollout.py",
        "[is_masked(u, s, schedule) for s in times[:, 1:].unbind(1)]",
        "[is_masked(torch.rand_like(u), s, schedule) for s in times[:, 1:].unbind(1)]",
        (
            ROLLOUT + "a_rollout_is_algorithm_1_written_out",
            ROLLOUT + "positions_are_decided_with_the_chances_of_the_process",
        ),
    ),
    Mutant(
        "positions are revealed one step late",
        "sampling/ancestral.py",
        "return steps - torch.searchsorted(masked_at, u.contiguous(), right=True)",
        "return (steps + 1 - torch.searchsorted(masked_at, u.contiguous(), right=True)) % steps",
        (
            ANCESTRAL + "a_position_is_revealed_in_the_step_that_holds_its_uniform",
            ANCESTRAL + "each_step_reveals_its_share_of_the_positions[cosine]",
        ),
    ),
    Mutant(
        "steps share the positions evenly, whatever the schedule",
        "sampling/ancestral.py",
        "(1 - schedule.alpha(grid(steps)[1:])).flip(0)",
        "grid(steps)[1:].flip(0)",
        (
            ANCESTRAL + "each_step_reveals_its_share_of_the_positions[cosine]",
            ANCESTRAL + "three_tokens_have_the_enumerated_law_of_their_schedule[cosine]",
        ),
    ),
    Mutant(
        "visible tokens are drawn again",
        "sampling/ancestral.py",
        "(z == denoiser.mask_token_id).flatten()",
        "(z >= 0).flatten()",
        (
            ANCESTRAL + "visible_tokens_stay_under_a_denoiser_that_does_not_look",
            ANCESTRAL + "every_masked_row_is_asked_for_once_and_no_other",
        ),
    ),
    Mutant(
        "a pass does not see what was revealed",
        "sampling/ancestral.py",
        "hidden_of_rows(denoiser, canvas.view_as(z), on_device, t)",
        "hidden_of_rows(denoiser, z, on_device, t)",
        (
            ANCESTRAL + "two_tokens_in_T_steps_are_product_over_T_and_else_the_joint_law",
            ANCESTRAL + "a_pass_sees_what_earlier_steps_revealed",
        ),
    ),
    Mutant(
        "one uniform says both when and what",
        "sampling/generate.py",
        'uniforms(seed, "sample/token", names, length)',
        "u",
        (GENERATE + "samples_of_many_steps_have_the_marginals_of_the_law",),
    ),
    Mutant(
        "a sample depends on its place in the batch",
        "sampling/generate.py",
        "range(first_index + first, first_index + first + len(z))",
        "range(first_index, first_index + len(z))",
        (GENERATE + "a_sample_does_not_depend_on_the_batch_size",),
    ),
    Mutant(
        "a student samples with dropout",
        "sampling/generate.py",
        "model.eval()  # type: ignore[attr-defined]",
        "pass",
        (GENERATE + "a_student_samples_without_dropout",),
    ),
    Mutant(
        "a padded text attends to its padding",
        "models/mdlm.py",
        "            attention_mask=attention_mask,\n        )\n        positions",
        "            attention_mask=None,\n        )\n        positions",
        ("models/test_models_mdlm.py::test_a_padded_text_has_the_logits_that_it_has_alone",),
    ),
    Mutant(
        "the masked model is causal",
        "models/mdlm.py",
        "super().__init__(config, causal=False)",
        "super().__init__(config, causal=True)",
        ("models/test_models_mdlm.py::test_the_last_token_reaches_the_first_position",),
    ),
    Mutant(
        "adaLN shift and scale exchanged",
        "models/blocks.py",
        "return x * (1 + scale) + shift",
        "return x * (1 + shift) + scale",
        ("models/test_models_mdlm.py::test_the_network_is_the_published_one_written_out",),
    ),
    Mutant(
        "a fresh modulation is not zero",
        "models/blocks.py",
        "isinstance(module, Modulation) or (module is head and flat_head)",
        "module is head and flat_head",
        (
            "models/test_models_mdlm.py::test_the_blocks_of_a_fresh_conditioned_model_are_the_identity",
        ),
    ),
    Mutant(
        "the loss is normalised by the micro-batch",
        "training/trainer.py",
        "        if num_items_in_batch is None:\n            num_items_in_batch",
        "        if True:\n            num_items_in_batch",
        (DISTILL + "eight_micro_batches_of_one_are_one_batch_of_eight_across_a_round",),
    ),
    Mutant(
        "a student becomes its own teacher at every update",
        "training/distill.py",
        "        now = self.round.index\n        if now == self.teacher_round:",
        "        now = self.round.index\n        if self.state.global_step == 0:",
        (DISTILL + "the_teacher_of_the_first_round_is_the_one_that_was_given",),
    ),
    Mutant(
        "the teacher is not loaded on resume",
        "training/distill.py",
        "        safetensors.torch.load_model(self.teacher, str(Path(checkpoint) / TEACHER))",
        "        pass",
        (RESTART + "a_distillation_taken_up_again_ends_as_one_that_was_never_stopped",),
    ),
    Mutant(
        "a checkpoint without a manifest counts",
        "training/state.py",
        '        return f"{checkpoint} is incomplete: its saving did not finish (no {MANIFEST})"',
        "        return None",
        (RESTART + "a_damaged_checkpoint_is_refused_by_name",),
    ),
]


class Colours:
    """A pytest plugin: which node ids ran, and which of them were red."""

    def __init__(self) -> None:
        self.ran: set[str] = set()
        self.red: set[str] = set()

    def pytest_runtest_logreport(self, report) -> None:
        self.ran.add(report.nodeid)
        if report.failed:
            self.red.add(report.nodeid)


def matches(asked: str, node: str) -> bool:
    """Whether a node id is the asked test, or a case of it."""
    return node == f"tests/{asked}" or node.startswith(f"tests/{asked}[")


def run_tests(source: Path, tests: Iterable[str]) -> tuple[Colours, int]:
    """The named tests on the sdtt of ``source``; called in a fork that holds no sdtt yet."""
    import pytest

    assert "sdtt" not in sys.modules, "sdtt was imported before the fork"
    sys.path.insert(0, str(source))
    os.chdir(ROOT)
    colours = Colours()
    ids = [f"tests/{test}" for test in dict.fromkeys(tests)]
    status = pytest.main(["-q", "-p", "no:cacheprovider", "--tb=short", *ids], plugins=[colours])
    home = Path(sys.modules["sdtt"].__file__ or "").resolve()
    assert home.is_relative_to(source), f"the tests saw {home}, not the copy in {source}"
    return colours, int(status)


def verdict_on_original(source: Path, tests: Iterable[str]) -> str:
    """Empty if all named tests are green; else what is wrong."""
    tests = list(tests)
    colours, status = run_tests(source, tests)
    missing = [one for one in tests if not any(matches(one, node) for node in colours.ran)]
    if colours.red or missing or status:
        return f"red or missing without any change: {', '.join([*colours.red, *missing]) or status}"
    return ""


def verdict_on_mutant(source: Path, mutant: Mutant) -> str:
    """Empty if every named test is red; else what is wrong."""
    file = source / "sdtt" / mutant.file
    text = file.read_text(encoding="utf-8")
    if text.count(mutant.old) != 1:
        return f"{mutant.old!r} occurs {text.count(mutant.old)} times in {mutant.file}"
    file.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    colours, status = run_tests(source, mutant.tests)
    if status not in (0, 1):
        return f"the tests did not run (pytest gave {status}; 4: there is no test of such a name)"
    green = [one for one in mutant.tests if not any(matches(one, node) for node in colours.red)]
    return f"survives {', '.join(green)}" if green else ""


def in_fork(verdict: Callable[[Path], str], folder: Path) -> str:
    """The verdict of a child process on a fresh copy of src; its output if it says nothing."""
    source, log, result = folder / "src", folder / "log", folder / "verdict"
    shutil.copytree(ROOT / "src", source)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with log.open("w") as output:
                for stream in (sys.stdout, sys.stderr):
                    os.dup2(output.fileno(), stream.fileno())
                result.write_text(verdict(source.resolve()))
            status = 0
        except BaseException as error:  # the parent has to hear of anything
            log.write_text(f"{log.read_text()}\n{error!r}")
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if status or not result.exists():
        return f"the run broke: {log.read_text()[-2000:]}"
    return result.read_text()


def main(parts: list[str]) -> int:
    """Run the mutants whose names hold one of ``parts``, all if there are none."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    for module in ALREADY_IMPORTED:
        import_module(module)
    chosen = [m for m in MUTANTS if not parts or any(part in m.name for part in parts)]
    tests = [test for mutant in chosen for test in mutant.tests]
    runs: list[tuple[str, Callable[[Path], str]]] = [
        ("the code as it is: every named test is green", lambda s: verdict_on_original(s, tests))
    ]
    runs += [(m.name, lambda source, m=m: verdict_on_mutant(source, m)) for m in chosen]
    failed = 0
    with tempfile.TemporaryDirectory(prefix="sdtt-mutants-") as temporary:
        for number, (name, verdict) in enumerate(runs):
            begun = time.monotonic()
            trouble = in_fork(verdict, Path(temporary) / str(number))
            failed += bool(trouble)
            seconds = f"{time.monotonic() - begun:.1f} s"
            print(f"{'FAILED' if trouble else 'ok':6} {name} ({seconds})", flush=True)
            if trouble:
                print(f"       {trouble}", flush=True)
    print(f"{len(runs) - failed} passed, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
