"""Breaks each law of the code on purpose: the tests that state it must turn red.

Run by `make mutants`, or `python tests/mutants.py [--quick] [--share 1/3] [part of a name ...]`;
`--quick` leaves out those whose tests start several processes, which may hang until a timeout, and
`--share 2/3` takes every third, from the second on. Each mutant changes
one place of a copy of src. What is slow to import is imported once, and every run is a fork that
imports sdtt from its own copy, one run a core at a time. All named tests must also be green on a
copy that is not changed, which is the first run.
"""

import argparse
import gc
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
    "jaxtyping",
    "torch._dynamo",
    "torch.utils.checkpoint",
    "tokenizers",
    "transformers.generation",
    "transformers.masking_utils",
    "transformers.modeling_layers",
    "transformers.models.auto.modeling_auto",
    "transformers.trainer",
    "accelerate",
    "datasets",
    "peft",
    "matplotlib.figure",
    "rich.progress",
    "typer.testing",
)
"""Slow to import, and independent of sdtt."""

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # none is needed, and each takes its time
}
"""Set before anything is imported: one thread a run, no network."""


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


PLACEMENT = "models/test_models_placement.py::test_"
RESIZE = "models/test_models_resize.py::test_"
PEFT = "models/test_models_peft.py::test_"
PUBLISHED_TEACHER = "integration/test_published_teacher.py::test_"
NOISE = "diffusion/test_diffusion_noise.py::test_"
UNIFORMS = "diffusion/test_diffusion_uniforms.py::test_"
CATEGORICAL = "diffusion/test_diffusion_categorical.py::test_"
DIVERGENCE = "diffusion/test_diffusion_divergence.py::test_"
TILED = "diffusion/test_diffusion_tiled.py::test_"
ELBO = "diffusion/test_diffusion_elbo.py::test_"
ROLLOUT = "diffusion/test_diffusion_rollout.py::test_"
ANCESTRAL = "sampling/test_sampling_ancestral.py::test_"
FIRST_HITTING = "sampling/test_sampling_first_hitting.py::test_"
ANALYTIC = "sampling/test_sampling_analytic.py::test_"
DILATED = "sampling/test_sampling_dilated.py::test_"
CONFIDENCE = "sampling/test_sampling_confidence.py::test_"
REVEAL = "sampling/test_sampling_reveal.py::test_"
SETTINGS = "sampling/test_sampling_settings.py::test_"
CANVAS = "sampling/test_sampling_canvas.py::test_"
GENERATE = "sampling/test_sampling_generate.py::test_"

FOLD = "models/test_models_fold.py::test_"
TIME = "models/test_models_time.py::test_"
SEDD = "models/test_models_sedd.py::test_"
FORMATS_SEDD = "models/test_formats_sedd.py::test_"
SAMPLERS_TELL = "sampling/test_sampling_told.py::test_"
TOLD = "training/test_training_told.py::test_"
ROWS = "models/test_models_rows.py::test_"
PACK = "models/test_models_pack.py::test_"
COMPILE = "models/test_models_compile.py::test_"
GENERATION = "sampling/test_sampling_generation.py::test_"

DISTILL = "training/test_training_distill.py::test_"
RESTART = "training/test_training_restart.py::test_"
FLOPS = "training/test_training_flops.py::test_"
PEAK = "training/test_training_peak.py::test_"
MEMORY = "training/test_training_memory.py::test_"
MONITOR = "training/test_training_monitor.py::test_"
LOOKS = "training/test_training_looks.py::test_"
ESTIMATE = "training/test_training_estimate.py::test_"
DRY_RUN = "cli/test_cli_dry_run.py::test_"
ROUNDS = "training/test_training_rounds.py::test_"
RATES = "training/test_training_rates.py::test_"
EARLY = "training/test_training_early_stop.py::test_"
OPTIONS = "training/test_training_round_options.py::test_"
LENGTHS = "training/test_training_lengths.py::test_"
ORDER = "training/test_training_order.py::test_"
GRIDS = "diffusion/test_diffusion_time_grids.py::test_"
CORPUS = "data/test_data_corpus.py::test_"
STREAMING = "data/test_data_streaming.py::test_"
DATA_STATE = "training/test_training_data_state.py::test_"
TEACHER = "training/test_training_teacher.py::test_"
LORA = "training/test_training_lora.py::test_"
COMPILING = "training/test_training_compiling.py::test_"
PARALLEL = "training/test_training_parallel.py::test_"
SHARING = "training/test_training_sharing.py::test_"
KILL = "training/test_training_kill.py::test_"
FINITE = "training/test_training_finite.py::test_"
SIGNALS = "training/test_training_signals.py::test_"
DISK = "training/test_training_disk.py::test_"
RESUMED = "training/test_training_settings.py::test_"
EMA = "training/test_training_ema.py::test_"
PROCESSES = "training/test_training_processes.py::test_"
READABILITY = "evaluation/test_evaluation_readability.py::test_"
RECORDS = "evaluation/test_evaluation_records.py::test_"
JOBS = "evaluation/test_evaluation_jobs.py::test_"
RUNNER = "evaluation/test_evaluation_runner.py::test_"
BEST_OF = "evaluation/test_evaluation_best_of.py::test_"
LATENCY = "evaluation/test_evaluation_latency.py::test_"
MASK_SETS = "evaluation/test_evaluation_mask_sets.py::test_"
LIKELIHOOD = "evaluation/test_evaluation_likelihood.py::test_"
PAIRS = "evaluation/test_evaluation_pairs.py::test_"
LAMBADA = "evaluation/test_evaluation_lambada.py::test_"
BOUND = "evaluation/test_evaluation_bound.py::test_"
HARNESS = "evaluation/test_evaluation_harness.py::test_"
TASK_INDEX = "evaluation/test_evaluation_task_index.py::test_"
CACHE = "models/test_models_reveal.py::test_"
EVALUATION_NELBO = "evaluation/test_evaluation_nelbo.py::test_"
CLI_TEACHERS = "cli/test_cli_teachers.py::test_"
TRAIN_REVEAL = "training/test_training_reveal.py::test_"
FRONTIER = "evaluation/test_evaluation_frontier.py::test_"
REPORT_CELLS = "report/test_report_cells.py::test_"
REPORT_BLOCKS = "report/test_report_blocks.py::test_"
REPORT_MATCHED = "report/test_report_matched.py::test_"
REPORT_QUALITY = "report/test_report_quality.py::test_"
REPORT_PAGE = "report/test_report_page.py::test_"
BATCHES = "evaluation/test_evaluation_batches.py::test_"
SCORING = "evaluation/test_evaluation_scoring.py::test_"
JUDGE = "evaluation/test_evaluation_judge.py::test_"
JUDGE_SAMPLES = "evaluation/test_evaluation_judge_samples.py::test_"
DIVERSITY = "evaluation/test_evaluation_diversity.py::test_"
ERRORS = "evaluation/test_evaluation_errors.py::test_"
SELF_BLEU = "evaluation/test_evaluation_self_bleu.py::test_"
FEATURES = "evaluation/test_evaluation_features.py::test_"
MAUVE = "evaluation/test_evaluation_mauve.py::test_"
PAIR = "report/test_report_pair.py::test_"
SHIPPED = "models/test_models_shipped.py::test_"
SHIPPED_VERBS = "cli/test_cli_shipped.py::test_"
EXPORT = "models/test_models_export.py::test_"
REMOTE = "models/test_models_remote.py::test_"
PROGRAM = "models/test_models_program.py::test_"
SAVING = "models/test_models_saving.py::test_"
CARD = "report/test_report_card.py::test_"
PUSH = "cli/test_cli_push.py::test_"
PARITY = "models/test_formats_parity.py::test_"
ACCOUNT = "models/test_formats_account.py::test_"
SOURCE = "models/test_formats_source.py::test_"
CONVERT = "cli/test_cli_convert.py::test_"
PICKLES = "models/test_models_pickles.py::test_"
LIGHTNING = "models/test_models_lightning.py::test_"
PUBLISHED = "models/test_models_published.py::test_"


MUTANTS = [
    Mutant(
        "the constant condition lies where its weights are kept",
        "models/blocks.py",
        "exact, device = torch.promote_types(dtype, torch.float32), ids.device",
        "exact, device = torch.promote_types(dtype, torch.float32), self.mlp[0].weight.device",
        (PLACEMENT + "a_model_has_its_law_wherever_its_weights_are_kept",),
    ),
    Mutant(
        "a mask of attention lies where the embedding is kept",
        "models/mdlm.py",
        "dtype=self.dtype, device=z.device",
        "dtype=self.dtype, device=self.backbone.vocab_embed.embedding.device",
        (PLACEMENT + "a_model_has_its_law_wherever_its_weights_are_kept",),
    ),
    Mutant(
        "an offloaded model computes nowhere",
        "models/blocks.py",
        "return super().device if place is None else torch.device(place)",
        "return super().device",
        (
            PLACEMENT + "an_offloaded_model_generates_the_same_texts",
            PLACEMENT + "an_offloaded_model_does_not_hold_its_weights",
        ),
    ),
    Mutant(
        "the head of an offloaded model is not read in",
        "models/placement.py",
        "with align_module_device(linear):",
        "if align_module_device:",
        (PLACEMENT + "the_head_of_an_offloaded_model_is_read_in_for_losses",),
    ),
    Mutant(
        "a model that is not plain is folded and packed",
        "models/mdlm.py",
        "        if not is_plain(self):\n            return self\n        folded",
        "        folded",
        (
            PLACEMENT + "a_model_that_is_offloaded_is_its_own_fast_form",
            PEFT + "the_fast_form_of_a_model_with_adapters_keeps_them",
        ),
    ),
    Mutant(
        "adapters count as plain weights",
        "models/placement.py",
        'or hasattr(m, "base_layer") for m',
        "for m",
        (PEFT + "the_fast_form_of_a_model_with_adapters_keeps_them",),
    ),
    Mutant(
        "weights that are elsewhere are folded",
        "models/fold.py",
        "if not is_plain(model):",
        "if False:",
        (PLACEMENT + "folding_and_resizing_an_offloaded_model_is_refused",),
    ),
    Mutant(
        "asked rows stay on the device they were made for",
        "models/attention.py",
        "return Asked(*(x.to(device, non_blocking=non_blocking) for x in parts))",
        "return Asked(*parts)",
        (PLACEMENT + "asked_rows_go_with_the_other_inputs_of_a_block_to_its_device",),
    ),
    Mutant(
        "new ids begin as the sum of the old",
        "models/resize.py",
        "torch.float64).mean(0)",
        "torch.float64).sum(0)",
        (RESIZE + "a_new_id_is_at_most_as_likely_as_an_old_one_is_on_average",),
    ),
    Mutant(
        "MASK moves behind the new ids",
        "models/resize.py",
        "linear.out_features = model.config.vocab_size = ids",
        "linear.out_features = model.config.vocab_size = ids; model.mask_token_id = ids - 1",
        (RESIZE + "old_ids_keep_their_scores_and_mask_its_id_when_ids_are_added",),
    ),
    Mutant(
        "resizing parts tied rows",
        "models/resize.py",
        "is_tied = linear.weight is embedding.embedding",
        "is_tied = False",
        (RESIZE + "tied_rows_stay_tied",),
    ),
    Mutant(
        "MASK may be cut off",
        "models/resize.py",
        "if ids <= mask:",
        "if False:",
        (RESIZE + "a_vocabulary_that_cannot_be_is_refused",),
    ),
    Mutant(
        "a plan in bfloat16 needs a GPU",
        "cli/dry_run.py",
        "if not self.dry_run or torch.accelerator.is_available():",
        "if True:",
        (DRY_RUN + "a_run_in_bfloat16_is_planned_on_a_cpu_without_saying_so",),
    ),
    Mutant(
        "a long probe is begun all the same",
        "cli/dry_run.py",
        "patience > PROBE_SECONDS",
        "False",
        (DRY_RUN + "a_probe_that_would_take_too_long_gives_way_to_gpus",),
    ),
    Mutant(
        "a GPU is used to the full",
        "training/gpu_hours.py",
        "flops / (devices * mfu * peak)",
        "flops / (devices * peak)",
        (DRY_RUN + "hours_of_named_gpus_are_operations_over_a_share_of_their_rates",),
    ),
    Mutant(
        "hours of GPUs are those of float32",
        "training/config.py",
        'bf16=args.bf16, fp16=args.fp16, device=torch.device("cuda")',
        'bf16=False, fp16=args.fp16, device=torch.device("cuda")',
        (DRY_RUN + "bfloat16_counts_for_gpus_where_the_run_asks_for_it",),
    ),
    Mutant(
        "no model on the hub has a known shape",
        "cli/dry_run.py",
        "return self.shape or (KNOWN_SHAPES.get(source) if isinstance(source, str) else None)",
        "return self.shape",
        (DRY_RUN + "the_published_teacher_is_planned_by_name",),
    ),
    Mutant(
        "a given tokenizer is left aside",
        "cli/distill.py",
        "if self.tokenizer is not None:",
        "if False:",
        (PUBLISHED_TEACHER + "a_tokenizer_of_other_ids_is_refused",),
    ),
    Mutant(
        "a name on the hub is a missing folder",
        "models/checkpoints.py",
        'return model if local or name.count("/") != 1 else name',
        "return model",
        (
            PUBLISHED_TEACHER
            + "a_missing_folder_is_named_as_a_folder_and_a_name_on_the_hub_as_such",
        ),
    ),
    Mutant(
        "all sets of masks of a continuation count alike",
        "evaluation/mask_sets.py",
        "size.lgamma() + (whole - size + 1).lgamma() - (whole + 1).lgamma()",
        "-(whole + 1).lgamma()",
        (
            MASK_SETS + "every_set_stands_there_once_with_the_beta_weight_of_its_size",
            LIKELIHOOD + "an_exact_denoiser_by_all_masks_gives_minus_log_p_of_every_continuation",
        ),
    ),
    Mutant(
        "drawn sets count alike, whatever their size",
        "evaluation/mask_sets.py",
        "length / size.double() / samples",
        "2 * length / (length + 1) / samples * torch.ones_like(u[:, 0])",
        (
            MASK_SETS + "a_drawn_set_of_m_of_k_positions_counts_k_over_m_and_shares_the_mean",
            LIKELIHOOD + "drawn_masks_give_the_bound_of_all_masks_in_the_mean",
        ),
    ),
    Mutant(
        "the error of drawn masks forgets that there are two in a pair",
        "evaluation/mask_sets.py",
        "(terms[0::2] - terms[1::2]).square().sum().sqrt()",
        "(terms[0::2] - terms[0::2].mean()).square().sum().sqrt()",
        (LIKELIHOOD + "the_error_of_drawn_masks_is_their_spread_over_seeds",),
    ),
    Mutant(
        "a continuation is greedy under some of its masks",
        "evaluation/masked_passes.py",
        "right = self.done[-1][1]",
        "right = self.done[0][1]",
        (
            LIKELIHOOD
            + "a_continuation_is_greedy_if_each_token_is_the_likeliest_with_all_of_them_masked",
        ),
    ),
    Mutant(
        "another's causal model predicts a token from itself",
        "evaluation/causal_passes.py",
        "start = len(pair.context) - 1 - skipped",
        "start = len(pair.context) - skipped",
        (LIKELIHOOD + "a_causal_model_gives_the_sum_over_passes_for_each_prefix",),
    ),
    Mutant(
        "a context that is too long loses its right end",
        "evaluation/pairs.py",
        "pair.context[max(0, len(pair.context) - left) :]",
        "pair.context[:left]",
        (LIKELIHOOD + "a_context_that_is_too_long_loses_its_left_end_and_that_is_counted",),
    ),
    Mutant(
        "a window of a long text has one token of context, the last one too",
        "evaluation/pairs.py",
        "text[max(0, end - size) : begin]",
        "text[max(0, begin - 1) : begin]",
        (PAIRS + "the_last_window_is_full",),
    ),
    Mutant(
        "the perplexity of a last word is of its tokens",
        "evaluation/lambada.py",
        "losses, right = [each.nll for each in found],",
        "losses, right = [each.nll / each.tokens for each in found],",
        (LAMBADA + "accuracy_and_perplexity_of_a_known_law_are_those_by_hand",),
    ),
    Mutant(
        "few blocks of a text are its first ones",
        "evaluation/bound.py",
        "index * len(blocks) // count",
        "index",
        (BOUND + "fewer_blocks_are_spread_over_the_text",),
    ),
    Mutant(
        "a tag has the tasks of its first folder only",
        "evaluation/task_index.py",
        "tags=known.tags | entry.tags",
        "tags=known.tags",
        (TASK_INDEX + "a_tag_has_the_tasks_of_all_folders",),
    ),
    Mutant(
        "the harness's own task wins over that of a folder",
        "evaluation/task_index.py",
        "    index.update(own)\n",
        "    index |= {name: own[name] for name in own if name not in index}\n",
        (TASK_INDEX + "a_task_of_the_folder_wins_over_the_harness",),
    ),
    Mutant(
        "a visible token sees what is revealed behind it",
        "models/reveal.py",
        "revealed[:, None, :] <= revealed[:, :, None]",
        "revealed[:, None, :] >= 0",
        (
            CACHE + "a_visible_token_sees_those_of_its_own_step_and_before",
            CACHE + "what_is_revealed_later_changes_no_visible_token",
            CACHE + "a_cache_changes_no_law",
        ),
    ),
    Mutant(
        "masked positions see each other",
        "models/reveal.py",
        "sees = ~masked[:, None, :] & (earlier | masked[:, :, None])",
        "sees = earlier | masked[:, :, None]",
        (CACHE + "nobody_sees_a_mask_but_itself", CACHE + "a_cache_changes_no_law"),
    ),
    Mutant(
        "the queries of a pass see each other",
        "models/reveal.py",
        "sees = (slot < seen) | (slot == slots[..., None])",
        "sees = (slot < seen) | (slot <= slots[..., None])",
        (CACHE + "a_cache_changes_no_law",),
    ),
    Mutant(
        "a cache keeps the keys of masked positions",
        "models/reveal.py",
        "self.stored[texts] += fresh",
        "self.stored[texts] += sizes",
        (CACHE + "a_cache_changes_no_law",),
    ),
    Mutant(
        "columns of a cached pass stand at the front of the text",
        "models/reveal.py",
        "self._there(places % self.length)",
        "self._there(torch.arange(width).expand(count, -1))",
        (CACHE + "a_cache_changes_no_law",),
    ),
    Mutant(
        "a cache that grows loses what it kept",
        "models/reveal.py",
        "self.layers[i][:, :, : self._slots] = kept",
        "pass",
        (CACHE + "a_cache_that_grows_changes_no_law",),
    ),
    Mutant(
        "a cache that grows leaves other texts behind the new slots",
        "models/reveal.py",
        "self.layers[i][:, :, self._slots :] = 0",
        "pass",
        (CACHE + "a_text_of_nan_spoils_no_other_when_a_cache_grows",),
    ),
    Mutant(
        "two caches have the same lent memory",
        "models/reveal.py",
        "idle, self._idle = self._idle, []",
        "idle = self._idle",
        (CACHE + "caches_of_one_shape_lie_at_one_place_one_after_another",),
    ),
    Mutant(
        "lent memory keeps what was written into it",
        "models/reveal.py",
        "return [x.zero_() for x in idle]",
        "return idle",
        (CACHE + "caches_of_one_shape_lie_at_one_place_one_after_another",),
    ),
    Mutant(
        "a trunk is compiled for eight shapes",
        "models/blocks.py",
        "MOST_SHAPES = 64",
        "MOST_SHAPES = 8",
        (CACHE + "each_shape_is_compiled_once_and_none_is_left_uncompiled",),
    ),
    Mutant(
        "padding of a cached pass takes the place of a token",
        "models/reveal.py",
        "column, reach - 1)",
        "column, 0)",
        (CACHE + "a_cache_changes_no_law",),
    ),
    Mutant(
        "a draw in pieces takes one piece's uniforms for all",
        "diffusion/categorical.py",
        "parts = zip(logits.split(rows), v.split(rows), strict=True)",
        "parts = zip(logits.split(rows), v.flip(0).split(rows), strict=True)",
        (CATEGORICAL + "a_draw_in_pieces_is_a_draw_at_once",),
    ),
    Mutant(
        "the bound of a model that follows the order tells it none",
        "diffusion/elbo.py",
        "when = u.argsort(1, descending=True).argsort(1)",
        "when = torch.zeros_like(u).long()",
        (EVALUATION_NELBO + "what_is_visible_was_revealed_one_by_one_if_nothing_is_said",),
    ),
    Mutant(
        "a student of another attention teaches itself",
        "cli/distill.py",
        "model if teacher is None else teacher",
        "teacher",
        (CLI_TEACHERS + "the_first_teacher_keeps_the_attention_of_the_model",),
    ),
    Mutant(
        "an option that a run did not know hinders its resume",
        "cli/run_folder.py",
        "if saved.get(key) != config.get(key)]",
        "if saved.get(key, absent) != config.get(key, absent)]",
        (
            "cli/test_cli_run_folder.py::test_an_option_that_a_run_did_not_know_hinders_it_only_if_it_is_given",
        ),
    ),
    Mutant(
        "whole orders: a masked position sees its own step",
        "models/reveal.py",
        "visible, earlier = of_others <= own, of_others < own",
        "visible, earlier = of_others <= own, of_others <= own",
        (CACHE + "in_one_pass_a_masked_position_sees_the_tokens_of_earlier_steps_and_itself",),
    ),
    Mutant(
        "whole orders: padding is seen",
        "models/reveal.py",
        "visible, earlier = (seen & attention_mask[:, None, :] for seen in (visible, earlier))",
        "pass",
        (CACHE + "one_pass_gives_the_rows_of_all_steps",),
    ),
    Mutant(
        "whole orders: masked positions stand behind the text",
        "models/mdlm.py",
        "torch.arange(length, device=x.device).repeat(2)",
        "torch.arange(2 * length, device=x.device)",
        (CACHE + "one_pass_gives_the_rows_of_all_steps",),
    ),
    Mutant(
        "whole orders: rows are those of the tokens",
        "models/mdlm.py",
        "every // length * (2 * length) + length + every % length",
        "every // length * (2 * length) + every % length",
        (CACHE + "one_pass_gives_the_rows_of_all_steps",),
    ),
    Mutant(
        "whole orders: only what is masked at a time is learned",
        "training/pretrain.py",
        "return noise.real if self.whole_orders else noise.masked(self.schedule)",
        "return noise.masked(self.schedule)",
        (TRAIN_REVEAL + "the_loss_of_whole_orders_is_that_of_each_token_in_its_step",),
    ),
    Mutant(
        "whole orders: random orders are learned whole too",
        "training/pretrain.py",
        'return follows and noise_order_of(args, model) == "dilated"',
        "return follows",
        (TRAIN_REVEAL + "dilated_orders_are_learned_whole_where_attention_follows_them",),
    ),
    Mutant(
        "whole orders: any network takes them",
        "training/pretrain.py",
        "if args.whole_orders and not follows:",
        "if False:",
        (TRAIN_REVEAL + "whole_orders_are_for_networks_that_follow_the_order",),
    ),
    Mutant(
        "whole orders: padding is kept as masked",
        "training/pretrain.py",
        "return replace(batch, t=torch.ones_like(batch.t), masks=real)",
        "return replace(batch, t=torch.ones_like(batch.t), masks=torch.ones_like(real))",
        (TRAIN_REVEAL + "an_update_of_whole_orders_is_kept_with_each_token_masked",),
    ),
    Mutant(
        "dilated orders: short texts have as many steps as long ones",
        "training/stream.py",
        "steps = noise.lengths.clamp_max(most)",
        "steps = noise.lengths.clamp(most, most)",
        (TRAIN_REVEAL + "texts_in_dilated_orders_have_the_weight_of_their_tokens",),
    ),
    Mutant(
        "dilated orders: masks have the weight of the process",
        "training/pretrain.py",
        "return 1 / (1 - self.schedule.alpha(noise.t))",
        "return nelbo_weight(noise.t, self.schedule)",
        (TRAIN_REVEAL + "the_loss_of_a_masked_text_has_the_weight_of_its_order",),
    ),
    Mutant(
        "a teacher's parts are steps of the student",
        "training/stream.py",
        "u=1 - schedule.alpha(revealed_at), revealed=step)",
        "u=1 - schedule.alpha(revealed_at), revealed=when)",
        (TRAIN_REVEAL + "tokens_of_one_step_of_a_student_are_of_one_step_whatever_its_parts",),
    ),
    Mutant(
        "masks of attention take no memory",
        "training/memory.py",
        "block += size * length",
        "pass",
        (MEMORY + "what_attention_in_an_order_keeps_is_estimated_within_a_tenth",),
    ),
    Mutant(
        "what another model gained is said of the best student",
        "report/pair_compare.py",
        "if cell.student_steps is not None]",
        "]",
        (
            "report/test_report_pair.py::test_a_model_that_was_taught_no_number_of_steps_is_not_the_best_student",
        ),
    ),
    Mutant(
        "whole orders: a token passes once",
        "training/flops.py",
        "return training_flops(halved, texts=2 * texts,",
        "return training_flops(halved, texts=texts,",
        (FLOPS + "whole_orders_take_what_torch_counts_but_for_pairs_that_do_not_see_each_other",),
    ),
    Mutant(
        "whole orders: the estimate keeps each token once",
        "training/estimate.py",
        "length=passes * length,",
        "length=length,",
        (ESTIMATE + "whole_orders_keep_each_token_twice_for_the_backward_pass",),
    ),
    Mutant(
        "asked rows see what the first row sees",
        "models/blocks.py",
        "return mask.take_along_dim((asked.padded % length)[:, None, :, None], 2)",
        "return mask[:, :, :1]",
        (CACHE + "a_cache_changes_no_law",),
    ),
    Mutant(
        "samplers forget when a token was revealed",
        "sampling/network.py",
        "self._order.view(-1).index_fill_(0, there, self._puts)",
        "pass",
        (CACHE + "a_cache_changes_no_law",),
    ),
    Mutant(
        "the steps of an order come in the order of the uniforms",
        "diffusion/noise.py",
        "((1 - u) * steps[:, None]).floor()",
        "(u * steps[:, None]).floor()",
        (
            TRAIN_REVEAL
            + "the_steps_of_a_text_are_equal_shares_and_the_largest_uniform_comes_first",
            TRAIN_REVEAL + "the_masked_loss_is_of_the_law_in_the_order_that_its_noise_says",
        ),
    ),
    Mutant(
        "a network that follows the order is pretrained as if all came at once",
        "training/pretrain.py",
        "**noise.order_for(denoiser, x.device),",
        "**{},",
        (TRAIN_REVEAL + "the_masked_loss_is_of_the_law_in_the_order_that_its_noise_says",),
    ),
    Mutant(
        "a student that follows the order is distilled as if all came at once",
        "training/distill.py",
        "order = noise.order_for(self.accelerator.unwrap_model(self.model), x.device)",
        "order = {}",
        (TRAIN_REVEAL + "a_bidirectional_teacher_teaches_a_student_that_follows_the_order",),
    ),
    Mutant(
        "what a teacher draws is as old as the prompt",
        "diffusion/rollout.py",
        "own = torch.full_like(rows, z.shape[1] + i)",
        "own = torch.zeros_like(rows)",
        (TRAIN_REVEAL + "what_a_teacher_draws_is_revealed_after_all_that_was_visible",),
    ),
    Mutant(
        "a cache is taken whatever it needs",
        "sampling/generate.py",
        "if needed > there:",
        "if False:",
        (CACHE + "a_cache_that_does_not_fit_is_refused_before_the_first_pass",),
    ),
    Mutant(
        "an answer ends before the last of its stops",
        "evaluation/task_model.py",
        "min((place for place in places",
        "max((place for place in places",
        (HARNESS + "an_answer_ends_before_the_first_of_its_stops",),
    ),
    Mutant(
        "a shipped file is there, whatever it holds",
        "models/shipped.py",
        "if _sha256(file) != digest:",
        "if False:",
        (
            SHIPPED + "every_file_of_a_model_is_checked",
            SHIPPED + "an_empty_file_or_a_pointer_to_large_storage_is_damaged",
        ),
    ),
    Mutant(
        "a pickle may name anything of the standard library",
        "models/formats/pickle_names.py",
        "        raise CodeInPickleError(full)",
        "        pass",
        (
            PICKLES + "no_instruction_calls_what_a_pickle_names",
            PICKLES + "a_name_of_the_standard_library_is_refused_by_name",
            PICKLES + "a_file_with_code_in_it_is_refused_by_name_and_not_run",
            PICKLES + "a_bare_pickle_with_code_in_it_is_refused_by_name",
        ),
    ),
    Mutant(
        "what a pickle names is imported and called",
        "models/formats/pickles.py",
        "self.stack.append(Placeholder(full))",
        "self.stack.append(Placeholder(full, build=getattr(__import__(module), name)))",
        (PICKLES + "no_instruction_calls_what_another_package_names",),
    ),
    Mutant(
        "a dotted name reaches through a module",
        "models/formats/pickle_names.py",
        '{module.split(".")[0], *name.split(".")[:-1]}',
        '{module.split(".")[0]}',
        (PICKLES + "a_dotted_name_does_not_reach_through_a_module",),
    ),
    Mutant(
        "the names of Python 2 go by as those of a package",
        "models/formats/pickles.py",
        "if self.protocol < 3:",
        "if False:",
        (PICKLES + "a_name_of_python_2_is_refused_as_what_it_means_today",),
    ),
    Mutant(
        "an instruction that is not known is passed over",
        "models/formats/pickles.py",
        'raise ValueError(f"the instruction',
        'str(f"the instruction',
        (
            PICKLES + "the_registry_of_extensions_is_not_asked",
            PICKLES + "buffers_from_outside_the_file_are_refused",
        ),
    ),
    Mutant(
        "a function that stands for a name takes a state",
        "models/formats/pickles.py",
        "target.build is None:\n            target.state = state",
        "True:\n            target.state = state",
        (PICKLES + "a_function_of_ours_takes_no_state_items_or_elements",),
    ),
    Mutant(
        "bytes of old protocols are decoded by any codec",
        "models/formats/pickle_names.py",
        'encoding not in ("latin1", "latin-1")',
        "not encoding",
        (PICKLES + "bytes_of_old_protocols_use_no_codec_but_their_own",),
    ),
    Mutant(
        "a shared value is followed wherever it occurs",
        "models/formats/placeholders.py",
        "if id(value) in done:",
        "if False:",
        (PICKLES + "plain_follows_what_holds_itself_and_what_is_shared_once",),
    ),
    Mutant(
        "a leaf of omegaconf stays a placeholder",
        "models/formats/placeholders.py",
        '"_val" in placeholder.state',
        "False",
        (
            PICKLES + "a_node_of_omegaconf_comes_out_as_what_it_holds",
            LIGHTNING + "settings_come_out_plain_and_other_objects_as_placeholders",
        ),
    ),
    Mutant(
        "a TorchScript archive is read like another",
        "models/formats/torch_files.py",
        'if "constants.pkl" in records:',
        "if False:",
        (PICKLES + "a_torchscript_archive_is_refused_because_it_holds_code",),
    ),
    Mutant(
        "writing to a tensor writes to the file that it is mapped from",
        "models/formats/torch_files.py",
        "from_file(str(file), False, file.stat().st_size)",
        "from_file(str(file), True, file.stat().st_size)",
        (PICKLES + "writing_to_a_mapped_tensor_leaves_the_file_alone",),
    ),
    Mutant(
        "a checkpoint is read whole",
        "models/formats/torch_files.py",
        "from_file(str(file), False, file.stat().st_size)",
        "from_file(str(file), False, file.stat().st_size).clone()",
        (LIGHTNING + "what_is_not_asked_for_is_not_read",),
    ),
    Mutant(
        "tensors of one storage come apart",
        "models/formats/torch_files.py",
        "if key not in storages:\n            if",
        "if True:\n            if",
        (PICKLES + "tensors_of_one_storage_stay_tied",),
    ),
    Mutant(
        "the lengths between the storages of the legacy format are read as numbers",
        "models/formats/torch_files.py",
        "begin += 8 ",
        "begin += 0 ",
        (
            PICKLES + "tensors_are_bitwise_what_was_saved",
            LIGHTNING + "weights_and_moving_average_are_those_that_were_saved",
        ),
    ),
    Mutant(
        "a moving average of any form is taken",
        "models/formats/lightning.py",
        "if not isinstance(shadow, list) or",
        "if False and",
        (LIGHTNING + "a_moving_average_of_another_form_is_an_error",),
    ),
    Mutant(
        "a published model is the main branch, whichever was meant",
        "models/published.py",
        "hub.fetch(release.repository, release.revision)",
        "hub.fetch(release.repository, 'baselines_kld_step_60000')",
        (
            PUBLISHED + "a_name_loads_the_weights_of_its_revision",
            PUBLISHED + "mdlm_owt_is_the_main_branch_of_its_repository",
        ),
    ),
    Mutant(
        "rounds of a release are counted from nought",
        "models/published.py",
        'f"baselines_{divergence}_step_{number}0000"',
        'f"baselines_{divergence}_step_{number - 1}0000"',
        (PUBLISHED + "every_release_of_sdtt_has_a_name_and_no_revision_two",),
    ),
    Mutant(
        "a round takes one step from the teacher's",
        "models/published.py",
        "TEACHER_STEPS // 2**self.round",
        "TEACHER_STEPS - self.round",
        (PUBLISHED + "a_round_halves_the_steps_of_the_teachers_1024",),
    ),
    Mutant(
        "the name of a published model hides a local folder",
        "models/published.py",
        "is not None and not Path(name).exists()",
        "is not None",
        (PUBLISHED + "a_local_folder_of_that_name_wins",),
    ),
    Mutant(
        "anything that begins like a published model is taken for one",
        "models/published.py",
        "_LIKE_ONE.fullmatch(name) is not None",
        'name.split("/")[-1].startswith(("sdtt", "mdlm"))',
        (PUBLISHED + "another_source_is_not_taken_for_a_published_one",),
    ),
    Mutant(
        "an empty manifest passes any files",
        "models/shipped.py",
        "if not own:",
        "if False:",
        (SHIPPED + "a_manifest_that_lists_nothing_of_a_model_passes_nothing",),
    ),
    Mutant(
        "the name of a shipped model hides a local folder",
        "models/shipped.py",
        " and not Path(name).exists()",
        "",
        (SHIPPED + "a_local_folder_of_that_name_wins",),
    ),
    Mutant(
        "sdtt generate knows better than the folder how it is sampled",
        "cli/generate.py",
        "sampling = settings_for(model, given.values)",
        "sampling = given.make()",
        (SHIPPED_VERBS + "generate_samples_as_the_folder_says_where_the_flags_do_not",),
    ),
    Mutant(
        "an --overwrite takes the name of a shipped model for a local folder",
        "cli/train.py",
        "Path(resolve(source)).resolve()",
        "source.resolve()",
        (SHIPPED_VERBS + "overwriting_knows_where_a_shipped_model_lies",),
    ),
    Mutant(
        "a process counts its own masked positions only",
        "training/trainer.py",
        "counts = self.accelerator.gather(counts.to(device)).sum(0, keepdim=True).cpu()",
        "counts = counts * self.args.world_size",
        (
            PARALLEL + "two_processes_have_the_losses_of_one[ddp]",
            PARALLEL + "each_of_two_processes_ends_with_the_weights_of_one[0-ddp]",
        ),
    ),
    Mutant(
        "a process without masked positions leaves out the passes of a sharded teacher",
        "training/sharding.py",
        "while is_sharded(self.teacher) and self.passes < passes:",
        "while False:",
        (PARALLEL + "two_processes_have_the_losses_of_one[fsdp_empty]",),
    ),
    Mutant(
        "dropout follows the process and not the place",
        "training/trainer.py",
        'name_dropout(self.args.seed, inputs["place"][0])',
        "pass",
        (
            PARALLEL + "two_processes_have_the_losses_of_one[ddp]",
            PARALLEL + "two_processes_have_the_losses_of_one[ddp_resumed]",
        ),
    ),
    Mutant(
        "the head is a group of its own",
        "training/sharding.py",
        "    fully_shard(model, mesh=mesh)",
        "    fully_shard(model.get_output_embeddings())\n    fully_shard(model, mesh=mesh)",
        (PARALLEL + "the_gradient_of_a_sharded_loss_module_is_that_of_a_plain_one[step]",),
    ),
    Mutant(
        "the optimiser is saved in parts",
        "training/sharding.py",
        "full = whole_tensor(value) if torch.is_tensor(value) else value",
        "full = local(value) if torch.is_tensor(value) else value",
        (PARALLEL + "a_checkpoint_does_not_show_how_many_processes_wrote_it[fsdp]",),
    ),
    Mutant(
        "the next teacher in parts is never the average",
        "training/sharding.py",
        "wanted.get(name, part).detach().to(part.device, part.dtype, copy=True)",
        "part.detach().clone()",
        (PARALLEL + "each_of_two_processes_ends_with_the_weights_of_one[0-fsdp_sharded_teacher]",),
    ),
    Mutant(
        "a global batch is that of a process",
        "training/sharing.py",
        "share = global_batch_size // processes",
        "share = global_batch_size",
        (SHARING + "the_accumulation_follows_from_the_texts_of_an_update",),
    ),
    Mutant(
        "draw in float32",
        "diffusion/categorical.py",
        "law = logits.double().softmax(-1)",
        "law = logits.float().softmax(-1)",
        (
            CATEGORICAL + "a_token_of_chance_one_in_a_billion_has_its_interval",
            CATEGORICAL + "float32_scores_are_drawn_in_float64",
        ),
    ),
    Mutant(
        "draw may take a token of probability 0",
        "diffusion/categorical.py",
        "torch.searchsorted(within, left, right=True)",
        "torch.searchsorted(within, left, right=False)",
        (CATEGORICAL + "v_of_zero_takes_the_first_token_that_can_be",),
    ),
    Mutant(
        "draw may step past the last token",
        "diffusion/categorical.py",
        "torch.minimum(v.to(total)[:, None] * total, torch.nextafter(total, 0 * total))",
        "v.to(total)[:, None] + 2.0**-53",
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
        (DIVERGENCE + "two_coins_by_hand",),
    ),
    Mutant(
        "total variation without its 1/2",
        "diffusion/divergence.py",
        "(student.softmax(-1) - target.softmax(-1)).abs().sum(-1) / 2",
        "(student.softmax(-1) - target.softmax(-1)).abs().sum(-1)",
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
        "the gradient of the reverse KL forgets that q sums to 1",
        "diffusion/divergence.py",
        "return value, ratio.sub_(value[:, None]).mul_(q)",
        "return value, ratio.mul_(q)",
        (
            DIVERGENCE + "the_gradient_written_out_is_that_of_the_definition",
            TILED + "the_tiled_divergence_is_the_dense_one_in_value_and_gradient",
        ),
    ),
    Mutant(
        "a token of weight 0 is not left out",
        "diffusion/divergence.py",
        "(log_a - log_b).masked_fill_(weight == 0, 0)",
        "log_a - log_b",
        (
            DIVERGENCE + "tokens_that_neither_law_allows_add_nothing_to_the_gradient_written_out",
            DIVERGENCE + "a_token_that_only_the_student_allows_has_its_gradient_written_out_too",
        ),
    ),
    Mutant(
        "the mean of two laws may be 0 where one of them is not",
        "diffusion/divergence.py",
        ".clamp_min_(torch.finfo(q.dtype).tiny)",
        "",
        (DIVERGENCE + "the_gradient_of_probabilities_below_the_least_normal_number_is_finite",),
    ),
    Mutant(
        "a canvas of another shape than its mask is taken",
        "sampling/canvas.py",
        "if attention_mask is not None and attention_mask.shape != canvas.shape:",
        "if False:",
        (GENERATE + "a_canvas_that_cannot_be_is_refused_in_one_line",),
    ),
    Mutant(
        "padding is looked up as it stands",
        "sampling/network.py",
        "self.canvas.masked_fill_(~attention_mask, denoiser.mask_token_id)",
        "pass",
        (
            GENERATE + "padding_may_be_any_number",
            GENERATE + "a_padded_text_is_what_it_is_alone",
            REVEAL + "a_token_of_the_text_is_penalised_and_one_of_the_padding_is_not",
        ),
    ),
    Mutant(
        "forced tokens stand over a prompt",
        "sampling/canvas.py",
        "(there != denoiser.mask_token_id) & (there != token)",
        "(there != denoiser.mask_token_id) & (there < 0)",
        (CANVAS + "a_token_is_not_forced_over_another",),
    ),
    Mutant(
        "the generation config of a model says nothing of its texts",
        "sampling/text_settings.py",
        'config: Any = own if hasattr(own, "sample_settings") else None',
        "config: Any = None",
        (GENERATE + "what_is_left_open_is_as_the_generation_config_says",),
    ),
    Mutant(
        "a row of another length is a text too",
        "data/rows.py",
        "if len(ids) != self.length:",
        "if False:",
        ("data/test_data_rows.py::test_a_row_of_another_length_is_refused",),
    ),
    Mutant(
        "beta weighs the wrong side",
        "diffusion/divergence.py",
        "torch.lerp(q, p, beta)",
        "torch.lerp(p, q, beta)",
        (DIVERGENCE + "the_gradient_written_out_is_that_of_the_definition[jsd 0.1]",),
    ),
    Mutant(
        "tiles leave the head without a gradient",
        "diffusion/tiled.py",
        "linear.add_of_weight(grad_weight[:columns], gradient, rows)",
        "pass",
        (
            TILED + "the_tiled_divergence_is_the_dense_one_in_value_and_gradient",
            TILED + "the_tiled_cross_entropy_is_the_dense_one_in_value_and_gradient",
        ),
    ),
    Mutant(
        "the temperature does not reach the gradient",
        "diffusion/tiled.py",
        "            scores /= temperature",
        "            pass",
        (TILED + "the_tiled_divergence_is_the_dense_one_in_value_and_gradient",),
    ),
    Mutant(
        "a backward pass forgets its scale",
        "diffusion/tiled.py",
        "each.mul_(scale).to(dtype)",
        "each.to(dtype)",
        (TILED + "the_tiled_divergence_is_the_dense_one_in_value_and_gradient",),
    ),
    Mutant(
        "sums of bfloat16 products are rounded to bfloat16",
        "diffusion/tiled.py",
        "scores[:, part] = rows @ self.weight[part].to(self.dtype).T",
        "scores[:, part] = rows.to(self.operands) @ self.weight[part].to(self.operands).T",
        (TILED + "sums_of_bfloat16_products_are_float32",),
    ),
    Mutant(
        "the precision of all products stays lowered after a loss",
        "diffusion/tiled.py",
        "        matmul.fp32_precision = before",
        "        pass",
        (TILED + "the_precision_of_other_products_is_left_alone",),
    ),
    Mutant(
        "all rows are one tile",
        "diffusion/tiled.py",
        "size = max(1, tile_numbers(TILE_ELEMENTS, hidden.device) // columns)",
        "size = max(1, len(hidden))",
        (TILED + "no_tensor_is_larger_than_a_tile_or_the_head",),
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
        "sampling/reveal.py",
        "free = z == denoiser.mask_token_id",
        "free = z >= 0",
        (
            ANCESTRAL + "visible_tokens_stay_under_a_denoiser_that_does_not_look",
            ANCESTRAL + "every_masked_row_is_asked_for_once_and_no_other",
        ),
    ),
    Mutant(
        "a pass does not see what was revealed",
        "sampling/network.py",
        "self.canvas.view(-1)[there] = tokens",
        "pass",
        (
            ANCESTRAL + "two_tokens_in_T_steps_are_product_over_T_and_else_the_joint_law",
            ANCESTRAL + "a_pass_sees_what_earlier_steps_revealed",
        ),
    ),
    Mutant(
        "one uniform says both when and what",
        "sampling/generate.py",
        'uniforms(chosen.seed, "sample/token", names, length)',
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
        "module.training = False",
        "pass",
        (GENERATE + "a_student_samples_without_dropout",),
    ),
    Mutant(
        "a draw forgets what stands before its run",
        "diffusion/categorical.py",
        "(level - (ends - runs).gather(1, run))",
        "(level - 0 * (ends - runs).gather(1, run))",
        (CATEGORICAL + "a_draw_from_many_tokens_is_the_inverse_distribution_function",),
    ),
    Mutant(
        "top_k drops the last of the likeliest",
        "diffusion/categorical.py",
        "logits < smallest",
        "logits <= smallest",
        (CATEGORICAL + "top_k_keeps_the_likeliest_tokens",),
    ),
    Mutant(
        "the repetition penalty hangs on the constant of the logits",
        "diffusion/categorical.py",
        "log_p = logits.double().log_softmax(-1)",
        "log_p = logits.double()",
        (CATEGORICAL + "a_seen_token_has_its_probability_raised_to_the_penalty",),
    ),
    Mutant(
        "MASK in the text penalises the last token",
        "diffusion/categorical.py",
        "torch.where(counted, text, logits.shape[-1])",
        "text.clamp_max(logits.shape[-1] - 1)",
        (CATEGORICAL + "mask_in_the_text_counts_for_nothing",),
    ),
    Mutant(
        "a banned token keeps some probability",
        "diffusion/categorical.py",
        'logits = logits.masked_fill(hidden, float("-inf"))',
        "logits = logits.masked_fill(hidden, -20.0)",
        (CATEGORICAL + "a_banned_token_has_no_probability_and_the_others_share_it",),
    ),
    Mutant(
        "cosine counts are those of another curve",
        "sampling/ancestral.py",
        "share = torch.cos(torch.pi / 2 * (1 - share))",
        "share = torch.cos(torch.pi / 2 * (1 - share)) ** 2",
        (ANCESTRAL + "cosine_counts_leave_the_floor_of_the_cosine_masked",),
    ),
    Mutant(
        "fixed counts go from the left",
        "sampling/ancestral.py",
        "fixed_steps(ranks(u, free), masked)",
        "fixed_steps(ranks(torch.zeros_like(u), free), masked)",
        (
            ANCESTRAL + "fixed_counts_take_the_positions_in_the_order_of_u",
            ANCESTRAL + "two_of_four_positions_fall_together_in_two_even_steps_one_time_in_three",
        ),
    ),
    Mutant(
        "fixed counts tell the network the time of the grid",
        "sampling/ancestral.py",
        "share = masked[:, :-1].double() / total.clamp_min(1)",
        "share = grid(steps)[:-1].expand(len(u), -1)",
        (ANCESTRAL + "with_fixed_counts_the_network_is_told_the_share_that_is_masked",),
    ),
    Mutant(
        "first hitting takes the last token first",
        "sampling/first_hitting.py",
        "rank = ranks(u, free)",
        "rank = ranks(1 - u, free)",
        (
            FIRST_HITTING + "it_is_the_limit_of_the_ancestral_sampler_from_the_same_uniforms",
            FIRST_HITTING + "the_network_is_asked_at_the_time_at_which_a_token_is_due",
        ),
    ),
    Mutant(
        "a group of first hitting does not follow in time",
        "sampling/first_hitting.py",
        "rank // settings.tokens_per_pass",
        "rank % settings.tokens_per_pass",
        (
            FIRST_HITTING + "tokens_of_a_group_are_drawn_as_independent",
            FIRST_HITTING + "a_group_is_asked_for_when_its_first_token_is_due",
        ),
    ),
    Mutant(
        "a group is asked for when its second token is due",
        "sampling/first_hitting.py",
        "hits[:, :: settings.tokens_per_pass]",
        "hits.roll(-1, 1)[:, :: settings.tokens_per_pass]",
        (FIRST_HITTING + "a_group_is_asked_for_when_its_first_token_is_due",),
    ),
    Mutant(
        "the analytic step forgets that ratios need not sum to 1",
        "sampling/analytic.py",
        "(total_score(denoiser, hidden) * rho)",
        "(torch.ones(len(hidden)) * rho)",
        (
            ANALYTIC + "a_step_reveals_with_r_times_the_chance_of_the_process",
            ANALYTIC + "unnormalised_ratios_have_the_enumerated_law",
        ),
    ),
    Mutant(
        "the analytic step forgets the steps before",
        "sampling/analytic.py",
        "chance_masked.view(-1)[rows] *= 1 - revealed",
        "chance_masked.view(-1)[rows] = 1 - revealed",
        (ANALYTIC + "a_normalised_denoiser_gives_the_ancestral_text",),
    ),
    Mutant(
        "the last analytic step is like the others",
        "sampling/analytic.py",
        "if index < last else 1.0",
        "if index <= last else 1.0",
        (ANALYTIC + "the_last_step_reveals_what_is_left",),
    ),
    Mutant(
        "raw logits are taken for ratios",
        "sampling/analytic.py",
        'if not getattr(denoiser, "unnormalised_scores", False):',
        "if False:",
        (ANALYTIC + "logits_of_a_denoiser_that_declares_nothing_hold_up_to_a_constant",),
    ),
    Mutant(
        "a dilated step takes neighbours",
        "sampling/dilated.py",
        "order.gather(1, rank % count)",
        "order.gather(1, rank * count // total.clamp_min(1) % count)",
        (
            DILATED + "a_chain_has_the_law_of_an_independent_first_step",
            DILATED + "positions_are_revealed_together_just_where_their_ranks_are_equal_modulo_N",
        ),
    ),
    Mutant(
        "the parts of a dilated step are neighbours among its positions",
        "sampling/dilated.py",
        "place // count % total.clamp(1, parts)",
        "place // count * parts // (total // count + 1)",
        (ORDER + "a_step_of_the_student_is_one_residue_and_its_parts_are_the_finer_ones",),
    ),
    Mutant(
        "the parts of a dilated step go in the order of the steps",
        "sampling/dilated.py",
        "residue_order((u * 2**26).frac(), free, total.clamp(1, parts))",
        "residue_order(u, free, total.clamp(1, parts))",
        (ORDER + "every_order_of_steps_and_of_parts_is_as_likely",),
    ),
    Mutant(
        "a dilated order never begins with nothing visible",
        "training/stream.py",
        "left = ((noise.t * own).floor() + 1).clamp_max(own)",
        "left = (noise.t * own).floor().clamp_min(1)",
        (ORDER + "what_is_masked_are_whole_residues_of_the_students_steps",),
    ),
    Mutant(
        "a text has a dilated order's steps, whatever its tokens",
        "training/stream.py",
        "own = noise.lengths.clamp_max(steps)",
        "own = noise.lengths.clamp(steps, steps)",
        (ORDER + "a_text_of_fewer_tokens_than_steps_has_a_step_for_each",),
    ),
    Mutant(
        "a dilated order holds for log-linear schedules only",
        "training/stream.py",
        "u=1 - schedule.alpha(revealed_at)",
        "u=revealed_at",
        (ORDER + "what_is_masked_are_whole_residues_of_the_students_steps",),
    ),
    Mutant(
        "all rounds meet the dilated order of the first",
        "training/distill.py",
        "super().noise(places, length), self.plan.at(update)",
        "super().noise(places, length), self.plan.at(0)",
        (ORDER + "each_round_meets_the_order_of_its_own_students_steps",),
    ),
    Mutant(
        "prompts take a turn in a dilated order",
        "sampling/dilated.py",
        "rank = rank_of_free(free)",
        "rank = torch.arange(u.shape[1]).repeat(len(u), 1)",
        (DILATED + "prompts_and_infilled_spans_take_no_turn",),
    ),
    Mutant(
        "residues go from the left",
        "sampling/dilated.py",
        "u.gather(1, place).masked_fill(beyond, 2.0)",
        "torch.zeros_like(u).masked_fill(beyond, 2.0)",
        (
            DILATED + "the_order_of_the_residues_is_a_fair_permutation",
            DILATED + "a_chain_has_the_law_of_an_independent_first_step",
        ),
    ),
    Mutant(
        "the order of the residues hangs on the padding",
        "sampling/dilated.py",
        "place = (~free).long().argsort(dim=1, stable=True)",
        "place = free.long().argsort(dim=1, stable=True)",
        (DILATED + "a_padded_text_has_the_plan_that_it_has_alone",),
    ),
    Mutant(
        "a short run always falls in the first steps",
        "sampling/dilated.py",
        "when = torch.where(short, other.gather(1, within.clamp_min(0)), within)",
        "when = within",
        (DILATED + "stratified_takes_each_position_of_a_run_in_each_step_as_often",),
    ),
    Mutant(
        "stratified draws from the whole text",
        "sampling/dilated.py",
        "(run + u).masked_fill(~free, torch.inf)",
        "u.masked_fill(~free, torch.inf)",
        (DILATED + "stratified_takes_one_position_of_each_run_of_neighbours",),
    ),
    Mutant(
        "a dilated step is told the time of the next one",
        "sampling/dilated.py",
        "revealed.cumsum(1)[:, :-1]",
        "revealed.cumsum(1)[:, 1:]",
        (DILATED + "the_network_is_told_the_share_that_is_masked",),
    ),
    Mutant(
        "the margin is the probability",
        "sampling/confidence.py",
        "else best[:, 0] - best[:, 1]",
        "else best[:, 0]",
        (CONFIDENCE + "high_takes_the_surest_first[margin]",),
    ),
    Mutant(
        "the entropy lacks its logarithm",
        "sampling/confidence.py",
        "torch.special.xlogy(p, p).sum(-1)",
        "(p * p).sum(-1)",
        (CONFIDENCE + "high_takes_the_surest_first[entropy]",),
    ),
    Mutant(
        "the score is of the raw law",
        "sampling/confidence.py",
        "p = logits.double()",
        "p = raw.double()",
        (CONFIDENCE + "the_score_is_of_the_law_without_what_is_banned",),
    ),
    Mutant(
        "the least sure is the surest",
        "sampling/confidence.py",
        '1 if settings.order == "high" else -1',
        "1",
        (CONFIDENCE + "low_takes_the_least_sure_first",),
    ),
    Mutant(
        "scores have no noise",
        "sampling/confidence.py",
        "settings.order_temperature * gumbel",
        "0 * gumbel",
        (
            CONFIDENCE + "noise_on_the_scores_changes_the_order",
            CONFIDENCE + "noise_alone_is_the_random_order",
        ),
    ),
    Mutant(
        "a threshold takes the best alone",
        "sampling/confidence.py",
        "return best | (candidates & (key >= settings.threshold))",
        "return best",
        (CONFIDENCE + "a_threshold_takes_all_that_reach_it_and_else_the_best",),
    ),
    Mutant(
        "an entropy bound is for each position alone",
        "sampling/confidence.py",
        "ordered.cumsum(1) - ordered.cummax(1).values",
        "ordered - ordered[:, :1]",
        (
            CONFIDENCE
            + "an_entropy_bound_takes_least_entropies_whose_sum_without_the_largest_is_within_it",
        ),
    ),
    Mutant(
        "blocks are open all at once",
        "sampling/confidence.py",
        "return self.masked & (self.block == current[:, None])",
        "return self.masked.clone()",
        (CONFIDENCE + "blocks_fill_from_the_left",),
    ),
    Mutant(
        "each block has all the steps",
        "sampling/confidence.py",
        "of_block = self.steps // blocks + (self.current < self.steps % blocks).long()",
        "of_block = self.steps + 0 * blocks",
        (CONFIDENCE + "steps_are_shared_among_the_blocks",),
    ),
    Mutant(
        "a step of confidence leaves the dilation",
        "sampling/confidence.py",
        "here = is_open & (wait == wait.amin(1, keepdim=True))",
        "here = is_open",
        (
            CONFIDENCE + "positions_of_a_step_have_equal_ranks_modulo_the_dilation",
            CONFIDENCE + "a_residue_a_step_is_the_dilated_text",
        ),
    ),
    Mutant(
        "residues take no turns",
        "sampling/confidence.py",
        "(self.turn - self.taken[:, None]) % self.turns[:, None]",
        "self.turn % self.turns[:, None]",
        (CONFIDENCE + "residues_take_turns",),
    ),
    Mutant(
        "a stop stops nothing",
        "sampling/reveal.py",
        "[rows // length] > rows % length",
        "[rows // length] >= 0",
        (
            REVEAL + "nothing_behind_a_sampled_stop_is_revealed[ancestral]",
            REVEAL + "a_finished_text_has_no_further_pass[ancestral]",
        ),
    ),
    Mutant(
        "a stop of the prompt ends the text",
        "sampling/reveal.py",
        "device=canvas.device)) & free",
        "device=canvas.device))",
        (
            REVEAL + "a_stop_in_the_prompt_stops_nothing",
            GENERATE + "a_stop_of_the_prompt_ends_nothing",
        ),
    ),
    Mutant(
        "all texts take part in each pass",
        "sampling/network.py",
        "everyone = len(texts) == self.batch",
        "everyone = True",
        (
            REVEAL + "a_pass_over_some_texts_gives_the_rows_of_a_pass_over_all",
            ANCESTRAL + "a_pass_holds_only_texts_that_reveal_something",
        ),
    ),
    Mutant(
        "each empty text has a first pass of its own",
        "sampling/network.py",
        "return free.all(1)",
        "return torch.zeros_like(free[:, 0])",
        (REVEAL + "all_empty_texts_share_a_first_pass_over_one",),
    ),
    Mutant(
        "empty texts of any length share a pass",
        "sampling/network.py",
        "(free == real).all(1) & (self._uniform | real.all(1))",
        "(free == real).all(1)",
        (REVEAL + "an_empty_padded_text_has_a_pass_of_its_own_where_they_are_not",),
    ),
    Mutant(
        "empty texts are told the time of one of them",
        "sampling/network.py",
        "t[torch.searchsorted(texts, rows // self.length)][begun]",
        "t[:1].expand(int(begun.sum()))",
        (REVEAL + "each_text_is_told_its_own_time[first_hitting]",),
    ),
    Mutant(
        "texts of a compiled pass are told the times of others",
        "sampling/network.py",
        "if everyone:",
        "if len(texts) == self.batch:",
        (REVEAL + "a_compiled_network_sees_few_shapes_and_gives_the_same_texts",),
    ),
    Mutant(
        "tiles are penalised by the first texts",
        "sampling/network.py",
        "None if text is None else text[part]",
        "None if text is None else text[: len(hidden[part])]",
        (REVEAL + "decoding_in_tiles_is_decoding_at_once",),
    ),
    Mutant(
        "a setting of another sampler is dropped in silence",
        "sampling/settings.py",
        "        if strange:",
        "        given = {name: given[name] for name in given.keys() & own}\n        if False:",
        (SETTINGS + "a_setting_of_another_sampler_is_refused",),
    ),
    Mutant(
        "a threshold keeps the default steps",
        "sampling/settings.py",
        'given.keys() & {"steps", "threshold", "entropy_bound"}',
        'given.keys() & {"steps"}',
        (SETTINGS + "a_threshold_or_a_bound_takes_the_place_of_steps",),
    ),
    Mutant(
        "a negative place counts from the padding",
        "sampling/canvas.py",
        "where = sizes + place if place < 0",
        "where = torch.full_like(sizes, length) + place if place < 0",
        (CANVAS + "forced_tokens_stand_at_their_places_and_negative_ones_count_from_each_end",),
    ),
    Mutant(
        "an infill text may hold unknown ids",
        "sampling/canvas.py",
        "        check_ids(model, texts[0], model.config.vocab_size, allow_mask=True)\n",
        "",
        (CANVAS + "an_infill_template_of_another_tokenizer_is_refused",),
    ),
    Mutant(
        "the stop itself is cut off",
        "sampling/generate.py",
        "device=filled.device) > stop[:, None]",
        "device=filled.device) >= stop[:, None]",
        (GENERATE + "a_sampled_stop_is_the_last_token_and_padding_follows",),
    ),
    Mutant(
        "sines of the noise level come before its cosines",
        "models/blocks.py",
        "torch.cat([angles.cos(), angles.sin()], -1)",
        "torch.cat([angles.sin(), angles.cos()], -1)",
        (
            TIME + "a_network_that_is_told_the_time_is_the_published_one_written_out",
            SEDD + "ratios_are_the_published_ones_written_out",
        ),
    ),
    Mutant(
        "asked rows have the condition of the first text",
        "models/blocks.py",
        "return [part.squeeze(1)[there] for part in parts]",
        "return [part.squeeze(1)[0 * there] for part in parts]",
        (TIME + "asked_rows_have_the_condition_of_their_text",),
    ),
    Mutant(
        "a network that is told nothing takes t = 1",
        "models/mdlm.py",
        "masked_share(z, self.mask_token_id, attention_mask) if t is None else t",
        "torch.ones(len(z)) if t is None else t",
        (TIME + "a_network_that_is_told_nothing_counts_its_masks",),
    ),
    Mutant(
        "padding counts as visible text",
        "models/noise_level.py",
        "real = torch.ones_like(z) if attention_mask is None else attention_mask.to(z)",
        "real = torch.ones_like(z)",
        (TIME + "padding_does_not_count",),
    ),
    Mutant(
        "forward keeps its time to itself",
        "models/mdlm.py",
        "asked_rows, attention_mask=attention_mask, t=t, **order)",
        "asked_rows, attention_mask=attention_mask, **order)",
        (
            TIME + "forward_tells_its_times",
            TOLD + "a_student_in_pretraining_is_told_its_time",
            TOLD + "a_student_in_distillation_is_told_the_share_masked_at_its_time",
        ),
    ),
    Mutant(
        "folding takes a model that is told the time for one that is not",
        "models/fold.py",
        'if model.config.conditioning != "constant":',
        'if model.config.conditioning == "none":',
        (TIME + "a_model_that_is_told_the_time_is_packed_without_folding",),
    ),
    Mutant(
        "the published log-linear noise ends without visible tokens",
        "models/noise_level.py",
        "LEAST_VISIBLE = 1e-3",
        "LEAST_VISIBLE = 1e-6",
        (TIME + "the_published_log_linear_level_ends_at_a_thousandth_of_visible_tokens",),
    ),
    Mutant(
        "a geometric level takes the share for the time",
        "models/noise_level.py",
        "return (-torch.log1p(-share)).clamp(sigma_min, sigma_max)",
        "return sigma_min ** (1 - share) * sigma_max**share",
        (
            TIME + "a_geometric_level_is_the_one_that_masks_the_share",
            SEDD + "ratios_are_the_published_ones_written_out",
        ),
    ),
    Mutant(
        "logits of unscaled ratios forget the odds to be masked",
        "models/sedd.py",
        "raw + h[:, width:]",
        "raw",
        (
            SEDD + "logits_are_ratios_times_the_odds_to_be_masked",
            SEDD + "the_total_is_the_sum_of_ratios_times_the_odds_to_be_masked",
            SEDD + "ratios_are_the_published_ones_written_out",
        ),
    ),
    Mutant(
        "the odds to be masked are those to be visible",
        "models/sedd.py",
        "return torch.expm1(sigma).clamp_min(torch.finfo(sigma.dtype).tiny).log()",
        "return -torch.expm1(sigma).clamp_min(torch.finfo(sigma.dtype).tiny).log()",
        (SEDD + "ratios_of_the_process_times_the_odds_to_be_masked_are_the_law_of_a_token",),
    ),
    Mutant(
        "without noise the odds to be masked have no logarithm",
        "models/sedd.py",
        ".clamp_min(torch.finfo(sigma.dtype).tiny).log()",
        ".log()",
        (SEDD + "without_noise_the_logits_are_finite",),
    ),
    Mutant(
        "a score model counts MASK among its tokens",
        "models/sedd.py",
        "return raw - math.log(self.config.vocab_size - 1) if scaled",
        "return raw - math.log(self.config.vocab_size) if scaled",
        (SEDD + "ratios_are_the_published_ones_written_out",),
    ),
    Mutant(
        "the constant of the ratios is taken off in low precision",
        "models/sedd.py",
        "raw = raw.to(torch.promote_types(raw.dtype, torch.float32))",
        "pass",
        (SEDD + "in_bfloat16_logits_lose_nothing_in_their_constant",),
    ),
    Mutant(
        "a score model may be a student",
        "training/teacher.py",
        'if getattr(student, "unnormalised_scores", False):',
        "if False:",
        (TOLD + "a_score_model_as_student_is_refused_by_what_may_be_one",),
    ),
    Mutant(
        "the process tells its own time, whatever its schedule",
        "sampling/ancestral.py",
        "told = 1 - schedule.alpha(times)",
        "told = times",
        (
            SAMPLERS_TELL + "a_step_of_the_process_tells_the_share_that_is_masked_at_its_time",
            SAMPLERS_TELL
            + "the_share_does_not_hang_on_the_name_of_the_schedule_but_on_who_is_masked",
        ),
    ),
    Mutant(
        "the analytic sampler tells its own time, whatever its schedule",
        "sampling/analytic.py",
        "told = 1 - schedule.alpha(times)",
        "told = times",
        (SAMPLERS_TELL + "a_step_of_the_process_tells_the_share_that_is_masked_at_its_time",),
    ),
    Mutant(
        "first hitting tells nothing",
        "sampling/first_hitting.py",
        ", told=hits)",
        ")",
        (SAMPLERS_TELL + "a_step_of_the_process_tells_the_share_that_is_masked_at_its_time",),
    ),
    Mutant(
        "confidence tells a time of its own",
        "sampling/confidence.py",
        "network.ask(rows, texts, None, begun)",
        "network.ask(rows, texts, t, begun)",
        (SAMPLERS_TELL + "a_step_of_no_process_lets_the_denoiser_count",),
    ),
    Mutant(
        "a blank row serves all times",
        "sampling/network.py",
        "if self._uniform and (t is None or not self._is_told_time):",
        "if self._uniform:",
        (SAMPLERS_TELL + "a_blank_row_of_a_denoiser_that_is_told_the_time_is_of_its_own_time",),
    ),
    Mutant(
        "the NELBO tells its own time, whatever its schedule",
        "diffusion/elbo.py",
        "told = (1 - schedule.alpha(t)).float()",
        "told = t.float()",
        (TOLD + "a_student_in_pretraining_is_told_its_time",),
    ),
    Mutant(
        "a rollout tells its own time, whatever its schedule",
        "diffusion/rollout.py",
        "told = (1 - schedule.alpha(times[:, i])).float()",
        "told = times[:, i].float()",
        (TOLD + "a_teacher_is_told_the_share_masked_before_each_of_its_steps",),
    ),
    Mutant(
        "training tells its own time, whatever its schedule",
        "training/stream.py",
        "return (1 - schedule.alpha(self.t)).float()",
        "return self.t.float()",
        (
            TOLD + "a_student_in_pretraining_is_told_its_time",
            TOLD + "a_student_in_distillation_is_told_the_share_masked_at_its_time",
        ),
    ),
    Mutant(
        "a score model under uniform noise is taken",
        "models/formats/layouts.py",
        'if kind != "absorb":',
        "if False:",
        (FORMATS_SEDD + "a_score_model_of_another_law_is_refused",),
    ),
    Mutant(
        "every published score model is taken for scaled",
        "models/formats/layouts.py",
        'config["model"].get("scale_by_sigma", True)',
        "True",
        (FORMATS_SEDD + "a_loaded_score_model_has_the_ratios_written_out",),
    ),
    Mutant(
        "a padded text attends to its padding",
        "models/mdlm.py",
        "                attention_mask=attention_mask,\n            )\n        positions",
        "                attention_mask=None,\n            )\n        positions",
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
        "a ladder's rounds all replace as many steps as the first",
        "training/rounds.py",
        "factors = [teacher // student for teacher, student in pairwise(ladder)]",
        "factors = [ladder[0] // ladder[1]] * (len(ladder) - 1)",
        (ROUNDS + "a_ladder_gives_each_round_the_ratio_of_its_neighbours",),
    ),
    Mutant(
        "a round that ended early leaves its updates to the next",
        "training/rounds.py",
        "done = self.ended_at[-1] if self.ended_at else 0",
        "done = sum(self.lengths[: len(self.ended_at)])",
        (ROUNDS + "a_round_behind_one_that_ended_early_keeps_its_length",),
    ),
    Mutant(
        "where rounds ended is not loaded on resume",
        "training/distill.py",
        'ended_at=tuple(record.get("ended_at", ()))',
        "ended_at=()",
        (EARLY + "a_run_with_early_ends_taken_up_again_ends_as_one_never_stopped",),
    ),
    Mutant(
        "what the held-out texts have shown is not loaded on resume",
        "training/distill.py",
        'self.plateau = Plateau(record.get("lowest"), record.get("stale", 0))',
        "pass",
        (EARLY + "a_run_with_early_ends_taken_up_again_ends_as_one_never_stopped",),
    ),
    Mutant(
        "the least fall is added up",
        "training/early_stop.py",
        "return Plateau(self.lowest, self.stale + 1)",
        "return Plateau(divergence, self.stale + 1)",
        (EARLY + "small_falls_that_add_up_are_one",),
    ),
    Mutant(
        "held-out texts are measured with dropout",
        "training/distill.py",
        "        model.eval()\n        total",
        "        total",
        (EARLY + "a_measurement_knows_no_dropout_and_leaves_the_student_in_training",),
    ),
    Mutant(
        "processes count the text that fills up",
        "training/early_stop.py",
        "yield batches[min(own, len(batches) - 1)], own < len(batches)",
        "yield batches[min(own, len(batches) - 1)], True",
        (EARLY + "processes_count_every_text_once",),
    ),
    Mutant(
        "a warm-up is repeated at the planned start of a round",
        "training/rates.py",
        "(step - plan.start_of(index)) / self.warmup",
        "(step - sum(plan.lengths[:index])) / self.warmup",
        (RATES + "a_warm_up_begins_where_the_round_before_has_ended_early",),
    ),
    Mutant(
        "the rate of a round that begins early is set an update late",
        "training/distill.py",
        "            set_rates(self.lr_scheduler)",
        "            pass",
        (EARLY + "the_rate_of_the_next_round_begins_where_a_round_has_ended_early",),
    ),
    Mutant(
        "the average of a new round keeps the old one",
        "training/ema.py",
        "            shadow.copy_(weights[name].detach())",
        "            pass",
        (OPTIONS + "the_average_begins_anew_at_a_round_where_it_is_asked_to",),
    ),
    Mutant(
        "an update without a masked position is taken with gradients of zero",
        "training/trainer.py",
        "                parameter.grad = None",
        "                parameter.grad = torch.zeros_like(parameter)",
        (
            OPTIONS
            + "an_update_in_which_nothing_is_masked_moves_no_weight_no_moment_and_no_average",
        ),
    ),
    Mutant(
        "a record of one thing drops the record of the loss",
        "training/trainer.py",
        "        self.control.should_log = due  # a record of the loss is not done by this one",
        "        del due",
        (
            OPTIONS + "a_skipped_update_keeps_its_record",
            EARLY + "the_rate_of_the_next_round_begins_where_a_round_has_ended_early",
        ),
    ),
    Mutant(
        "pretraining takes updates that mask nothing",
        "training/pretrain.py",
        "return int(self.taught(self.noise_ahead(places, x.shape[1])).sum())",
        "return items",
        (OPTIONS + "pretraining_skips_an_update_in_which_nothing_is_masked_too",),
    ),
    Mutant(
        "the speed counts padding",
        "training/trainer.py",
        "tokens = self.tokens_of(places, self.stream.length)",
        "tokens = len(places) * self.stream.length",
        (LENGTHS + "the_speed_counts_no_padding",),
    ),
    Mutant(
        "the released grid is the one that was meant",
        "diffusion/noise.py",
        "((1 - t) * end)[:, None]",
        "(1 - weight) * end[:, None]",
        (
            GRIDS + "the_released_grid_visits_three_quarters_and_one_quarter_from_a_half",
            GRIDS + "the_released_grid_is_the_faulty_interpolation_written_out",
        ),
    ),
    Mutant(
        "steps that leave gaps reveal what contiguous ones do",
        "diffusion/noise.py",
        "share = (1 - schedule.alpha(t))[:, None] * stays.cumprod(1)",
        "share = 1 - schedule.alpha(torch.minimum(end, t[:, None]))",
        (
            GRIDS + "the_released_grid_decides_positions_with_the_chances_of_its_steps",
            GRIDS + "a_step_decides_independently_of_the_steps_before_it",
        ),
    ),
    Mutant(
        "padding is masked",
        "training/stream.py",
        "is_masked(self.u, self.t, schedule) & self.real",
        "is_masked(self.u, self.t, schedule)",
        (
            LENGTHS + "padding_is_never_masked",
            LENGTHS + "a_cut_text_has_the_loss_in_a_batch_that_it_has_alone",
        ),
    ),
    Mutant(
        "the student sees the padding",
        "training/stream.py",
        "        return self.real.to(device)",
        "        return None",
        (
            LENGTHS + "a_cut_text_has_the_loss_in_a_batch_that_it_has_alone",
            LENGTHS + "what_stands_in_the_padding_changes_no_loss",
        ),
    ),
    Mutant(
        "the teacher sees the padding",
        "diffusion/denoiser.py",
        "real = None if attention_mask is None else attention_mask[texts]",
        "real = None",
        (LENGTHS + "a_padded_text_has_the_targets_that_it_has_alone",),
    ),
    Mutant(
        "the causal model learns from padding",
        "training/pretrain.py",
        "real = is_real(self.lengths(places, x.shape[1]), x.shape[1])",
        "real = torch.ones_like(x, dtype=torch.bool).cpu()",
        (LENGTHS + "a_cut_text_has_the_loss_in_a_batch_that_it_has_alone",),
    ),
    Mutant(
        "a text may be cut to nothing",
        "training/stream.py",
        "1 + (drawn[:, 1] * length).long()",
        "(drawn[:, 1] * length).long()",
        (LENGTHS + "a_cut_text_is_uniformly_long_from_one_token_to_all",),
    ),
    Mutant(
        "the teacher is not loaded on resume",
        "training/distill.py",
        "            load_teacher(file, self.teacher, student)",
        "            pass",
        (RESTART + "a_distillation_taken_up_again_ends_as_one_that_was_never_stopped",),
    ),
    Mutant(
        "a checkpoint without a manifest counts",
        "training/state.py",
        '        return f"{checkpoint} is incomplete: its saving did not finish (no {MANIFEST})"',
        "        return None",
        (
            RESTART + "a_damaged_checkpoint_is_refused_by_name",
            KILL + "a_run_killed_ends_as_one_that_was_never_stopped",
        ),
    ),
    Mutant(
        "a file that was not saved counts",
        "training/state.py",
        'if name not in record and not path.name.startswith("."):',
        "if False:",
        (RESTART + "a_damaged_checkpoint_is_refused_by_name",),
    ),
    Mutant(
        "incomplete checkpoints count among the kept",
        "training/state.py",
        "complete = [each for each in older if (each / MANIFEST).is_file()]",
        "complete = older",
        (RESTART + "an_incomplete_checkpoint_is_not_counted_among_those_that_are_kept",),
    ),
    Mutant(
        "a folder is deleted before its mark",
        "training/state.py",
        "    (checkpoint / MANIFEST).unlink(missing_ok=True)\n",
        "",
        (RESTART + "a_checkpoint_is_marked_as_deleted_before_it_is",),
    ),
    Mutant(
        "a new folder is filled in place",
        "training/state.py",
        "fresh = not folder.exists()",
        "fresh = False",
        (RESTART + "a_new_folder_appears_whole",),
    ),
    Mutant(
        "a run begun anew is continued from the old one",
        "training/guard.py",
        "for path in abandon_later(self.output, state.global_step):",
        "for path in ():",
        (RESTART + "a_run_that_starts_anew_is_not_continued_from_the_old_ones_checkpoints",),
    ),
    Mutant(
        "losses since the last record are forgotten",
        "training/guard.py",
        "self.trainer._tr_loss += share",
        "pass",
        (
            SIGNALS + "a_record_over_a_stop_holds_the_losses_before_it",
            KILL + "a_run_killed_ends_as_one_that_was_never_stopped",
        ),
    ),
    Mutant(
        "a resumed run keeps the intervals of then",
        "training/guard.py",
        "state.compute_steps(args, state.max_steps)",
        "pass",
        (RESUMED + "other_intervals_of_saves_and_records_hold_from_the_restart_on",),
    ),
    Mutant(
        "gradients are seen behind the clipping",
        "training/trainer.py",
        "        self._watch_gradients()\n        return super()._clip_grad_norm(model)",
        "        norm = super()._clip_grad_norm(model)\n"
        "        self._watch_gradients()\n        return norm",
        (FINITE + "a_gradient_that_is_not_finite_stops_the_run_and_is_named",),
    ),
    Mutant(
        "the last bad update is remembered",
        "training/finite.py",
        "new = ~good & (self._first == 0)",
        "new = ~good",
        (FINITE + "what_is_read_late_names_the_first_bad_update_and_its_gradients",),
    ),
    Mutant(
        "the loss is not watched",
        "training/finite.py",
        "good = self._loss.isfinite() & self._norms.isfinite().all()",
        "good = self._norms.isfinite().all()",
        (FINITE + "a_loss_that_is_not_finite_stops_the_run",),
    ),
    Mutant(
        "a checkpoint is saved unread",
        "training/guard.py",
        "        self.check_finite()\n        first_process",
        "        first_process",
        (FINITE + "what_is_read_late_is_never_saved",),
    ),
    Mutant(
        "a student is saved unread",
        "training/trainer.py",
        "        self.guard.check_finite()\n        model = self.whole_model()",
        "        model = self.whole_model()",
        (FINITE + "a_student_that_is_not_finite_is_never_saved",),
    ),
    Mutant(
        "a skipped update moves the average",
        "training/trainer.py",
        "if self.ema is not None and not self.guard.left_out:",
        "if self.ema is not None:",
        (FINITE + "a_skipped_update_changes_neither_weights_nor_average_nor_moments",),
    ),
    Mutant(
        "a skipped update decays the moments",
        "training/guard.py",
        "parameter.grad = None",
        "parameter.grad.zero_()",
        (FINITE + "a_skipped_update_changes_neither_weights_nor_average_nor_moments",),
    ),
    Mutant(
        "a restart forgets the updates skipped in a row",
        "training/state.py",
        "json.dumps(asdict(self))",
        'json.dumps(asdict(self) | {"skipped_in_a_row": 0})',
        (FINITE + "updates_skipped_in_a_row_count_across_a_restart",),
    ),
    Mutant(
        "handlers stay",
        "training/signals.py",
        "signal.signal(signum, signal.SIG_DFL if handler is None else handler)",
        "pass",
        (SIGNALS + "handlers_are_restored_after_training",),
    ),
    Mutant(
        "a signal saves nothing",
        "training/guard.py",
        "control.should_save = control.should_training_stop = True",
        "control.should_training_stop = True",
        (SIGNALS + "a_signal_ends_a_run_after_the_update_at_hand_with_a_whole_checkpoint",),
    ),
    Mutant(
        "a failed save ends the run",
        "training/guard.py",
        "                words = write_failure(error)\n",
        "                words = None\n",
        (DISK + "a_save_that_fails_costs_nothing_but_itself",),
    ),
    Mutant(
        "a failed save leaves its part",
        "training/guard.py",
        "                if first_process:\n                    remove_checkpoint(checkpoint)\n",
        "",
        (DISK + "a_save_that_fails_keeps_the_last_whole_checkpoint",),
    ),
    Mutant(
        "the last whole checkpoint makes room",
        "training/state.py",
        "max(limit, 2)",
        "max(limit, 1)",
        (DISK + "the_last_whole_checkpoint_makes_no_room_for_another",),
    ),
    Mutant(
        "the checkpoint being saved needs no room",
        "training/disk.py",
        "count = (args.save_total_limit or 1) + 1",
        "count = args.save_total_limit or 1",
        (DISK + "room_for_one_checkpoint_more_than_are_kept_is_enough",),
    ),
    Mutant(
        "each process hears its own signals only",
        "training/guard.py",
        "word, self.stop = self.agreement.largest(word, self.signals.received)",
        "self.stop = self.signals.received",
        (PROCESSES + "a_signal_to_one_process_stops_both_after_the_same_update",),
    ),
    Mutant(
        "a record is written in part",
        "training/records.py",
        "os.truncate(self.path, size)",
        "pass",
        (DISK + "a_record_that_fits_in_part_is_not_written_in_part",),
    ),
    Mutant(
        "a checkpoint of other settings is taken up",
        "training/settings.py",
        "refused = [name for name in changes if name not in free or name in FIXED]",
        "refused = []",
        (RESUMED + "a_checkpoint_of_other_settings_is_refused_and_both_values_are_named",),
    ),
    Mutant(
        "a loaded optimiser keeps the settings of then",
        "training/trainer.py",
        "        if self.changes:\n            apply_changes(",
        "        if False:\n            apply_changes(",
        (RESUMED + "what_is_overridden_takes_effect_from_the_first_update_on",),
    ),
    Mutant(
        "the average in host memory lags behind",
        "training/ema.py",
        "        self._settle()\n        return self._shadow",
        "        return self._shadow",
        (EMA + "the_average_in_host_memory_is_the_other_to_the_last_bit",),
    ),
    Mutant(
        "folding writes into a float64 model",
        "models/fold.py",
        "return own[name].detach().cpu().double()",
        "return own[name].detach().cpu().double().mul_(1.5)",
        (
            FOLD + "a_folded_model_has_the_logits_of_the_other",
            FOLD + "folding_changes_nothing_of_the_model",
        ),
    ),
    Mutant(
        "folding forgets the gate of the MLP's bias",
        "models/fold.py",
        'exact(f"{down}.bias") * gate2',
        'exact(f"{down}.bias")',
        (FOLD + "a_folded_model_has_the_logits_of_the_other",),
    ),
    Mutant(
        "folding takes a scale for 1 + scale",
        "models/fold.py",
        'exact(f"{block}.norm2.weight") * (1 + scale2)',
        'exact(f"{block}.norm2.weight") * scale2',
        (FOLD + "a_folded_model_has_the_logits_of_the_other",),
    ),
    Mutant(
        "folding copies every weight",
        "models/fold.py",
        "state = {name: w.detach() for",
        "state = {name: w.detach().clone() for",
        (FOLD + "a_folded_model_shares_the_weights_that_do_not_change",),
    ),
    Mutant(
        "asked rows have the angles of the first places",
        "models/blocks.py",
        "places = asked.padded % length",
        "places = torch.arange(asked.padded.shape[1]).expand_as(asked.padded)",
        (ROWS + "asked_rows_are_rows_of_the_whole",),
    ),
    Mutant(
        "asked rows come back in the order of their texts",
        "models/attention.py",
        "picked[order] = text[order] * width + within",
        "picked[:] = text[order] * width + within",
        (ROWS + "asked_rows_are_rows_of_the_whole",),
    ),
    Mutant(
        "a pass that asks for no row has no queries",
        "models/attention.py",
        "if len(rows) else 1",
        "if len(rows) else 0",
        (ROWS + "asked_rows_are_rows_of_the_whole",),
    ),
    Mutant(
        "the residual stream is in the precision of the weights",
        "models/blocks.py",
        "return rows.to(torch.promote_types(rows.dtype, torch.float32))",
        "return rows",
        (
            ROWS + "in_bfloat16_the_residual_stream_loses_less_than_a_bfloat16_one",
            ROWS + "in_bfloat16_small_additions_to_a_large_residual_stay",
        ),
    ),
    Mutant(
        "attention by heads lets padding be seen",
        "models/attention.py",
        "scores[..., first:].masked_fill_(hidden[few[0]], torch.finfo(scores.dtype).min)",
        "pass",
        (ROWS + "attention_by_heads_is_attention",),
    ),
    Mutant(
        "attention by heads takes what one query sees for seen by all",
        "models/attention.py",
        "mask.flatten(0, 2).all(0)",
        "mask.flatten(0, 2).any(0)",
        (ROWS + "attention_by_heads_is_attention",),
    ),
    Mutant(
        "queries of asked rows forget their bias",
        "models/linear.py",
        "None if self.bias is None else self.bias[rows]",
        "None",
        (ROWS + "asked_rows_are_rows_of_the_whole",),
    ),
    Mutant(
        "packed weights take another gelu",
        "models/linear.py",
        '{"gelu": "none", "gelu_pytorch_tanh": "tanh"}',
        '{"gelu": "tanh", "gelu_pytorch_tanh": "none"}',
        (PACK + "a_packed_model_has_the_law_of_the_other",),
    ),
    Mutant(
        "packing copies what it does not pack",
        "models/pack.py",
        "packed: Any = copy_with(model, shared)",
        "packed: Any = copy_with(model, lambda weight: nn.Parameter(weight.clone()))",
        (PACK + "a_packed_model_shares_the_memory_of_what_is_not_packed",),
    ),
    Mutant(
        "a copy of a compiled model keeps the compiled trunk",
        "models/blocks.py",
        '{"_compiled_trunk": None, "lent_memory": LentMemory()}',
        '{"lent_memory": LentMemory()}',
        (COMPILE + "a_copy_of_a_compiled_model_is_not_compiled",),
    ),
    Mutant(
        "a saved config wins over an argument",
        "sampling/generation.py",
        "if result[name] is None and name not in skipped",
        "if getattr(other, name) is not None and name not in skipped",
        (
            GENERATION
            + "an_argument_wins_over_a_config_and_that_over_the_models_and_that_over_defaults",
        ),
    ),
    Mutant(
        "another sampler takes the saved one's settings",
        "sampling/generation.py",
        'kept = settings_of(sampler) & ({"steps"} if foreign else set(OF_SAMPLERS))',
        "kept = set(OF_SAMPLERS)",
        (GENERATION + "another_sampler_leaves_the_settings_of_the_saved_one_but_its_steps",),
    ),
    Mutant(
        "a saved length hinders new tokens",
        "sampling/generation.py",
        "skipped = {name for group in decided for name in group}",
        "skipped = set()",
        (
            GENERATION + "new_tokens_asked_for_replace_a_saved_length",
            GENERATION + "steps_asked_for_replace_a_saved_threshold",
        ),
    ),
    Mutant(
        "tokens behind an EOS count",
        "sampling/generation.py",
        "free = free & ((ended.long().cumsum(1) - ended.long()) == 0)",
        "pass",
        (GENERATION + "a_sampled_eos_ends_a_text",),
    ),
    Mutant(
        "passes are counted for the first batch only",
        "sampling/generation.py",
        "self.passes[first + step.texts] += 1",
        "self.passes[step.texts] += 1",
        (GENERATION + "passes_are_counted_for_each_text",),
    ),
    Mutant(
        "padding of a prompt counts as prompt",
        "sampling/generation.py",
        "for token, here in row if here]",
        "for token, here in row if here or True]",
        (GENERATION + "a_padded_prompt_gets_the_text_that_it_gets_alone",),
    ),
    Mutant(
        "a draft holds the prompt",
        "sampling/generation.py",
        "shown = self.draft[:, self.first :]",
        "shown = self.draft",
        (GENERATION + "a_streamer_gets_the_prompt_a_draft_a_step_and_the_text",),
    ),
    Mutant(
        "a backward pass has no gradient of what a layer is given",
        "training/flops.py",
        "body=2 * once.body + 2",
        "body=once.body + 2",
        (FLOPS + "a_pass_and_its_backward_pass_take_what_torch_counts",),
    ),
    Mutant(
        "attention is one product",
        "training/flops.py",
        "attention=4 * pairs",
        "attention=2 * pairs",
        (FLOPS + "a_forward_pass_takes_what_torch_counts",),
    ),
    Mutant(
        "frozen weights count a gradient",
        "training/flops.py",
        "2 * network.body_trained",
        "2 * network.body",
        (FLOPS + "frozen_weights_need_no_gradient_of_their_own",),
    ),
    Mutant(
        "a condition is work of every token",
        "training/flops.py",
        " and id(module) not in once",
        "",
        (FLOPS + "a_constant_condition_is_no_work_of_a_token",),
    ),
    Mutant(
        "a causal token sees those behind it",
        "training/flops.py",
        "(2 if network.causal else 1)",
        "1",
        (FLOPS + "causal_attention_needs_half_the_pairs",),
    ),
    Mutant(
        "draws of the teacher are not counted",
        "training/flops.py",
        "rows=(passes.masked + passes.drawn) * tokens",
        "rows=passes.masked * tokens",
        (FLOPS + "an_update_of_sdtt_adds_the_teachers_passes_to_the_students",),
    ),
    Mutant(
        "teacher passes that decide nothing count",
        "training/flops.py",
        "float((1 - (1 - q) ** length).mean())",
        "1.0 + 0 * float(q.mean())",
        (FLOPS + "teacher_steps_ask_for_the_expected_passes_and_draws",),
    ),
    Mutant(
        "every H100 is the fast one",
        "training/peak.py",
        '(r"\\bH100 PCIe\\b"',
        '(r"\\bH100 PCI\\b"',
        (PEAK + "the_rate_of_a_known_gpu_is_that_of_its_data_sheet",),
    ),
    Mutant(
        "an A10G is an A10",
        "training/peak.py",
        '(r"\\bA10\\b"',
        '(r"\\bA10"',
        (PEAK + "an_unknown_gpu_has_no_rate_and_the_way_out_is_named",),
    ),
    Mutant(
        "a checkpoint holds one moment",
        "training/memory.py",
        "moments * network.trained + averaged",
        "network.trained + averaged",
        (MEMORY + "a_checkpoint_weighs_what_was_estimated",),
    ),
    Mutant(
        "the residual stream is not kept",
        "training/memory.py",
        "(numbers * size + 2 * FLOAT32)",
        "numbers * size",
        (MEMORY + "activations_are_estimated_within_a_tenth_of_what_autograd_keeps",),
    ),
    Mutant(
        "attention that is written out keeps no weights in float32",
        "training/memory.py",
        "weights * eager_heads",
        "size * eager_heads // 2",
        (MEMORY + "activations_are_estimated_within_a_tenth_of_what_autograd_keeps",),
    ),
    Mutant(
        "a condition keeps nothing",
        "training/memory.py",
        "(2 * size + 2 * FLOAT32) * network.width if network.conditioned else 0",
        "0",
        (MEMORY + "activations_are_estimated_within_a_tenth_of_what_autograd_keeps",),
    ),
    Mutant(
        "every process holds all shards",
        "training/memory.py",
        "moments=moments * FLOAT32 * network.trained // shards",
        "moments=moments * FLOAT32 * network.trained",
        (MEMORY + "shards_divide_what_is_held_for_each_weight_and_nothing_else",),
    ),
    Mutant(
        "utilisation is that of one device",
        "training/monitor.py",
        "(peak.flops_per_second * processes)",
        "peak.flops_per_second",
        (MONITOR + "utilisation_is_the_needed_rate_over_that_of_all_devices",),
    ),
    Mutant(
        "agreement is taken from the first positions",
        "training/monitor.py",
        " * len(student) // count",
        "",
        (MONITOR + "agreement_of_many_positions_is_taken_from_all_parts_of_them",),
    ),
    Mutant(
        "an excluded token may be the likeliest",
        "training/monitor.py",
        "exclude(scores, excluded_ids).argmax(-1)",
        "scores.argmax(-1)",
        (MONITOR + "an_excluded_token_is_never_the_likeliest",),
    ),
    Mutant(
        "both sides of the agreement share a head",
        "training/monitor.py",
        "_likeliest(target[rows], teacher_head,",
        "_likeliest(target[rows], student_head,",
        (MONITOR + "each_side_is_projected_by_its_own_head",),
    ),
    Mutant(
        "the EMA distance is absolute",
        "training/monitor.py",
        "(sums[0] / sums[1]).sqrt()",
        "sums[0].sqrt()",
        (MONITOR + "the_ema_distance_is_relative_to_the_weights",),
    ),
    Mutant(
        "records weigh alike in the loss of a round",
        "training/monitor.py",
        'each["step"] - since',
        "1 + 0 * since",
        (
            MONITOR + "records_of_other_rounds_do_not_enter_the_loss_of_a_round",
            MONITOR + "the_loss_of_a_round_is_the_mean_over_its_updates",
        ),
    ),
    Mutant(
        "agreement is measured in every micro-batch",
        "training/trainer.py",
        "return last and self.is_recorded(",
        "return self.is_recorded(",
        (MONITOR + "agreement_is_measured_once_a_record",),
    ),
    Mutant(
        "a record may lie in two rounds",
        "training/trainer.py",
        "control.should_log = args.logging_strategy == IntervalStrategy.STEPS",
        "pass",
        (MONITOR + "a_record_stands_at_the_end_of_each_round",),
    ),
    Mutant(
        "seconds begin anew when a run is taken up",
        "training/trainer.py",
        "self._seconds = past[-1] if past else 0.0",
        "self._seconds = 0.0",
        (MONITOR + "seconds_go_on_when_a_run_is_taken_up",),
    ),
    Mutant(
        "a look takes the place of the record that is due",
        "training/looks.py",
        "self.trainer.record(short | self.trainer.where(), time.perf_counter() - begun)",
        "self.trainer.log(short)",
        (LOOKS + "the_record_that_is_due_at_a_look_is_kept",),
    ),
    Mutant(
        "the time of a look is training time",
        "training/looks.py",
        ", time.perf_counter() - begun)",
        ")",
        (LOOKS + "the_time_of_a_look_is_no_training_time",),
    ),
    Mutant(
        "a look draws from the generator of the training",
        "training/looks.py",
        "begun = time.perf_counter()\n        if isinstance",
        "begun = time.perf_counter() + 0 * draw_samples.__globals__['torch'].rand(1).item()\n"
        "        if isinstance",
        (LOOKS + "looks_change_no_weight",),
    ),
    Mutant(
        "a look at the end of a round is at the next one's steps",
        "training/distill.py",
        "return self.last_round.student_sampling_steps",
        "return self.round.student_sampling_steps",
        (LOOKS + "a_look_follows_the_students_steps_from_round_to_round",),
    ),
    Mutant(
        "a run taken up keeps the looks that it repeats",
        "training/looks.py",
        "            keep_records(self.path, state.global_step)",
        "            keep_records(self.path, 10**9)",
        (LOOKS + "a_run_that_is_looked_at_ends_alike_when_it_is_taken_up",),
    ),
    Mutant(
        "a probe counts one micro-batch of an update",
        "training/probe.py",
        "rate = accumulation * trainer.update_flops().total * real / seconds",
        "rate = trainer.update_flops().total * real / seconds",
        (ESTIMATE + "the_rate_of_a_probe_is_that_of_whole_updates",),
    ),
    Mutant(
        "a probe goes on into the next round",
        "training/probe.py",
        " and not trainer.ends_round(within + 1)",
        "",
        (ESTIMATE + "a_probe_stays_within_the_first_round",),
    ),
    Mutant(
        "the oldest checkpoint goes before the newest is whole",
        "training/estimate.py",
        "args.save_total_limit + 1",
        "args.save_total_limit",
        (ESTIMATE + "the_disk_holds_checkpoints_and_students",),
    ),
    Mutant(
        "a probe writes into the run's folder",
        "cli/dry_run.py",
        ' | {"output_dir": folder})',
        ' | {"output_dir": "o"})',
        (DRY_RUN + "a_dry_run_writes_nothing_and_reads_no_text",),
    ),
    Mutant(
        "a cut frame of Zstandard is taken for a whole one",
        "data/zstandard.py",
        "if self._frame is not None:",
        "if False:",
        (CORPUS + "a_truncated_archive_is_named",),
    ),
    Mutant(
        "a file is read on from the document before",
        "data/files.py",
        "cursor.offset, cursor.lines = end, number",
        "cursor.lines = number",
        (CORPUS + "a_file_is_read_on_from_where_its_cursor_stands",),
    ),
    Mutant(
        "row groups before the start are counted and read",
        "data/parquet.py",
        "start -= rows",
        "pass",
        (CORPUS + "a_parquet_file_is_read_from_any_row_on",),
    ),
    Mutant(
        "every epoch reads the files in one order",
        "data/windows.py",
        'permutation(self._seed, "stream parts", epoch, len(self._parts))',
        'permutation(self._seed, "stream parts", 0, len(self._parts))',
        (STREAMING + "every_epoch_reads_the_files_in_another_order",),
    ),
    Mutant(
        "a window begins again at the beginning of its part",
        "data/windows.py",
        "position = self._start.position",
        "pass",
        (
            STREAMING + "a_window_begins_again_at_its_place",
            STREAMING + "a_stream_of_any_form_goes_on_where_it_stood",
        ),
    ),
    Mutant(
        "documents are dealt in turn, however long they are",
        "data/lanes.py",
        "(load + weight(document), lane)",
        "(load + 1, lane)",
        (STREAMING + "no_lane_is_ahead_of_another_by_more_than_a_document",),
    ),
    Mutant(
        "documents held back are dealt",
        "data/lanes.py",
        "for one in assigned if not one.validation]",
        "for one in assigned]",
        (STREAMING + "documents_held_back_are_not_dealt",),
    ),
    Mutant(
        "a lane that goes on begins its document again",
        "data/lanes.py",
        "begun = self._encoded if number == self._first else 0",
        "begun = 0",
        (STREAMING + "a_stream_goes_on_amid_a_long_document",),
    ),
    Mutant(
        "a lane takes documents again that it has had",
        "data/lanes.py",
        "if number < self._first:",
        "if False:",
        (STREAMING + "a_state_does_not_change_while_the_stream_goes_on",),
    ),
    Mutant(
        "every process serves every lane",
        "data/lanes.py",
        "frozenset((first + i) % lanes for first in firsts for i in range(micro_batch))",
        "frozenset(range(lanes))",
        (STREAMING + "the_lanes_of_an_update_are_divided_among_the_processes",),
    ),
    Mutant(
        "a stream of several processes goes on from the last window of any",
        "data/stream_state.py",
        "min((s.start for s in found)",
        "max((s.start for s in found)",
        (STREAMING + "a_stream_goes_on_with_another_number_of_processes",),
    ),
    Mutant(
        "a checkpoint holds what the reader stands at, not what the update began with",
        "training/stream.py",
        "return self._states[update]",
        "return self.blocks.state()",
        (
            DATA_STATE + "the_state_of_an_update_is_that_at_its_beginning_however_far_was_read",
            DATA_STATE + "a_run_on_a_stream_taken_up_again_ends_as_one_that_was_never_stopped",
        ),
    ),
    Mutant(
        "a run goes on with whatever text there is",
        "training/data_state.py",
        "if saved and here and saved != here:",
        "if False:",
        (DATA_STATE + "a_run_is_not_taken_up_on_other_text_of_the_same_size",),
    ),
    Mutant(
        "a teacher shares what its student trains",
        "training/teacher.py",
        "if _storage(parameter) in trained or parameter.dtype != wanted:",
        "if parameter.dtype != wanted:",
        (
            DISTILL + "the_teacher_of_a_round_is_the_student_at_the_end_of_the_one_before",
            LORA + "the_second_teacher_is_the_student_of_the_first_round_and_stays_it",
        ),
    ),
    Mutant(
        "a teacher copies the base that it could share",
        "training/teacher.py",
        "if _storage(parameter) in trained or parameter.dtype != wanted:",
        "if True:",
        (
            LORA + "base_is_held_once_by_student_teacher_and_average_in_every_round",
            TEACHER + "a_given_teacher_is_not_copied",
        ),
    ),
    Mutant(
        "an average copies the base",
        "training/ema.py",
        "copy.deepcopy(p) if p.requires_grad else p",
        "copy.deepcopy(p)",
        (LORA + "the_next_teacher_may_be_the_average_of_the_adapters",),
    ),
    Mutant(
        "a resumed run forgets what its teacher had learned",
        "training/teacher.py",
        "own[name].copy_(saved[name])",
        "own[name].copy_(own[name])",
        (
            TEACHER + "a_run_is_taken_up_to_the_same_end_whatever_its_teacher",
            LORA + "a_run_with_adapters_is_taken_up_to_the_same_end",
        ),
    ),
    Mutant(
        "the passes of a teacher with a dtype of its own are autocast",
        "training/distill.py",
        'if self.args.teacher_dtype == "same":',
        "if True:",
        (TEACHER + "the_passes_of_a_teacher_run_in_its_own_dtype_whatever_the_autocast",),
    ),
    Mutant(
        "a teacher may be too short for the texts",
        "training/teacher.py",
        "if longest is not None and longest < length:",
        "if False:",
        (TEACHER + "a_teacher_that_reads_shorter_texts_is_refused",),
    ),
    Mutant(
        "a merged student shares its weights with the one that trains on",
        "training/lora.py",
        'value.to("cpu", copy=True) if id(parameter) in wrapped else value.cpu()',
        "value.cpu()",
        (
            LORA + "merging_leaves_the_model_as_it_was",
            LORA + "training_and_saving_leave_the_base_as_it_was",
        ),
    ),
    Mutant(
        "the student's dropout is that of its adapters, too",
        "training/distill.py",
        'isinstance(module, nn.Dropout) and "lora_dropout" not in name',
        "isinstance(module, nn.Dropout)",
        (LORA + "the_dropout_of_adapters_is_its_own",),
    ),
    Mutant(
        "a text stays in a pass that decides nothing of it",
        "diffusion/denoiser.py",
        'if getattr(denoiser, "is_compiled", False):',
        "if True:",
        (ROLLOUT + "a_text_of_which_a_pass_decides_nothing_is_not_in_that_pass",),
    ),
    Mutant(
        "a compiled teacher is asked for any number of texts",
        "diffusion/denoiser.py",
        'if getattr(denoiser, "is_compiled", False):',
        "if False:",
        (ROLLOUT + "a_compiled_teacher_is_asked_for_few_sizes_and_says_the_same",),
    ),
    Mutant(
        "a rollout projects all its rows at once",
        "diffusion/rollout.py",
        "size = max(1, tile_numbers(TILE_NUMBERS, hidden.device) // teacher.head.weight.shape[0])",
        "size = max(1, len(hidden))",
        (ROLLOUT + "no_more_rows_are_projected_at_once_than_a_tile_holds",),
    ),
    Mutant(
        "a masked language model reads the padding",
        "models/adapters.py",
        "torch.ones_like(z) if attention_mask is None else attention_mask.to(z)",
        "torch.ones_like(z)",
        ("models/test_models_adapters.py::test_padding_is_not_read",),
    ),
    Mutant(
        "accelerate compiles the whole forward",
        "training/compiling.py",
        "    plugin.backend = DynamoBackend.NO\n",
        "",
        (COMPILING + "a_run_compiles_one_block_and_a_teacher_for_each_power_of_two",),
    ),
    Mutant(
        "a copy runs the compiled block of the original",
        "models/blocks.py",
        'return super().__getstate__() | {"_compiled": None}',
        "return super().__getstate__()",
        (COMPILING + "a_copy_of_a_model_compiled_for_training_runs_on_its_own_weights",),
    ),
    Mutant(
        "a resumed run acts with the packed form of the teacher that was given",
        "training/distill.py",
        "        self._prepare_acting()  # a packed form has weights of its own\n",
        "",
        (TEACHER + "a_run_with_a_packed_teacher_is_taken_up_to_the_same_end",),
    ),
    Mutant(
        "a trigram is known in any order of its words",
        "evaluation/readability.py",
        "found = _mix(found + ids[i : i + count])",
        "found = found + _mix(ids[i : i + count])",
        (READABILITY + "the_order_of_words_matters",),
    ),
    Mutant(
        "every text weighs the same in the share of trigrams",
        "evaluation/readability.py",
        "share = len(n), k.sum() / n.sum()",
        "share = len(n), (k / n).mean()",
        (READABILITY + "the_share_is_over_all_trigrams_together_and_its_error_that_of_a_ratio",),
    ),
    Mutant(
        "short texts are not counted as left out",
        "evaluation/readability.py",
        "m, len(grams) - m)",
        "m, 0)",
        (READABILITY + "texts_without_three_words_are_left_out_and_counted",),
    ),
    Mutant(
        "the control's line runs between perplexities, not their logarithms",
        "evaluation/frontier.py",
        "nll=(1 - w) * cold.nll + w * warm.nll,",
        "nll=math.log((1 - w) * math.exp(cold.nll) + w * math.exp(warm.nll)),",
        (
            FRONTIER
            + "between_two_temperatures_ln_perplexity_and_temperature_lie_on_a_line_over_entropy",
        ),
    ),
    Mutant(
        "the control's error forgets the student's entropy",
        "evaluation/frontier.py",
        "math.hypot(student.residual_se(self.slope), self.nll_se)",
        "math.hypot(student.nll_se, self.nll_se)",
        (
            FRONTIER + "the_difference_counts_the_students_own_entropy_too",
            PAIR + "the_error_of_the_ratio_counts_that_of_the_students_entropy_through_the_slope",
        ),
    ),
    Mutant(
        "an evaluation begins again where it was cut off",
        "evaluation/runner.py",
        "jobs = tuple(job for job in group.jobs if group.request(job) not in known)",
        "jobs = group.jobs",
        (f"{RUNNER}what_is_measured_is_not_measured_again",),
    ),
    Mutant(
        "processes all do all of it",
        "evaluation/runner.py",
        "for group in groups[share.index :: share.count]:",
        "for group in groups:",
        (f"{RUNNER}processes_share_the_work_and_find_what_one_finds",),
    ),
    Mutant(
        "new weights pass for the old ones",
        "evaluation/jobs.py",
        "who = [self.subject.label, self.subject.source, self.subject.fingerprint]",
        "who = [self.subject.label, self.subject.source]",
        (
            f"{JOBS}a_request_changes_with_settings_weights_and_draws_but_not_with_the_batch_of_"
            "the_judge",
        ),
    ),
    Mutant(
        "students are cooled as well",
        "evaluation/jobs.py",
        "if not taught and how.temperature == 1:",
        "if how.temperature == 1:",
        (f"{JOBS}only_teachers_are_drawn_at_the_temperatures_of_the_control",),
    ),
    Mutant(
        "records of another layout are read",
        "evaluation/records.py",
        "if version != VERSION:",
        "if version < 0:",
        (f"{RECORDS}a_record_of_another_layout_is_refused",),
    ),
    Mutant(
        "a record follows on a line that was cut",
        "evaluation/records.py",
        "if file.tell():",
        "if False:",
        (
            f"{RECORDS}a_line_that_a_kill_cut_short_is_left_out_and_the_next_record_stands_on_its_"
            "own",
        ),
    ),
    Mutant(
        "a replay shows every token at once",
        "evaluation/drawing.py",
        "shown.view(-1)[rows] = step.index",
        "shown.view(-1)[rows] = 0",
        (f"{RUNNER}of_the_first_samples_it_is_kept_which_step_revealed_each_token",),
    ),
    Mutant(
        "a rank is the best of too few subsets",
        "evaluation/best_of.py",
        "np.maximum(candidates - ranks - n + 1, 0)",
        "np.maximum(candidates - ranks - n, 0)",
        (
            BEST_OF + "the_best_of_n_is_the_mean_over_every_subset",
            BEST_OF + "its_expectation_over_candidates_is_that_of_the_best_of_n_new_texts",
        ),
    ),
    Mutant(
        "of equal scores the first is chosen",
        "evaluation/best_of.py",
        "return np.repeat(means, sizes)",
        'return values[np.argsort(scores, kind="stable")]',
        (BEST_OF + "candidates_of_one_score_are_chosen_evenly_whatever_their_order",),
    ),
    Mutant(
        "a jackknife is a spread of independent numbers",
        "evaluation/best_of.py",
        "variance = (candidates - 1) / candidates * (",
        "variance = 1 / candidates * (",
        (
            BEST_OF + "of_one_text_the_error_is_the_standard_error_of_the_mean",
            BEST_OF + "the_error_is_the_spread_over_new_candidates",
        ),
    ),
    Mutant(
        "scoring takes no time",
        "evaluation/best_of.py",
        "(n * seconds_scoring if n > 1 else 0.0)",
        "0.0",
        (BEST_OF + "scoring_takes_its_time_where_there_is_a_choice",),
    ),
    Mutant(
        "settings are timed one after the other",
        "evaluation/timing.py",
        "    for _ in range(runs):\n        for name, call in calls.items():",
        "    for name, call in calls.items():\n        for _ in range(runs):",
        (
            LATENCY + "settings_take_turns_behind_a_run_of_each_to_warm_up",
            LATENCY + "a_machine_that_slows_down_slows_all_settings",
        ),
    ),
    Mutant(
        "what the first run prepares is timed",
        "evaluation/timing.py",
        "        call()\n        after()\n    taken",
        "        after()\n    taken",
        (LATENCY + "what_only_the_first_run_needs_is_not_counted",),
    ),
    Mutant(
        "the compiled form is timed on the network as it is",
        "evaluation/latency.py",
        "write(networks[cell.form], cell, how)",
        "write(model, cell, how)",
        (LATENCY + "the_compiled_form_is_timed_on_a_copy_and_the_model_stays_as_it_is",),
    ),
    Mutant(
        "what NLL and entropy share counts twice",
        "evaluation/frontier.py",
        "- 2 * slope * self.covariance",
        "+ 2 * slope * self.covariance",
        (FRONTIER + "what_nll_and_entropy_share_by_chance_is_no_error",),
    ),
    Mutant(
        "the control is extrapolated to any entropy",
        "evaluation/frontier.py",
        "if not lowest.entropy - TOLERANCE - 1e-9 <= entropy",
        "if not -math.inf <= entropy",
        (
            FRONTIER + "an_entropy_farther_beyond_the_temperatures_is_refused",
            PAIR + "an_entropy_beyond_the_temperatures_is_not_matched",
        ),
    ),
    Mutant(
        "steps are interpolated on a linear scale",
        "evaluation/frontier.py",
        "StepsNeeded(math.exp((1 - w) * math.log(few) + w * math.log(many)))",
        "StepsNeeded((1 - w) * few + w * many)",
        (FRONTIER + "between_two_rungs_ln_perplexity_is_linear_in_the_logarithm_of_steps",),
    ),
    Mutant(
        "a student is compared with the teacher at temperature 1",
        "report/pair_compare.py",
        "[cell.point for cell in cells], student.entropy)",
        "[cell.point for cell in cells], 4.0)",
        (
            PAIR + "a_student_is_beside_the_teacher_at_its_own_entropy",
            PAIR + "a_student_that_is_only_colder_has_gained_nothing",
        ),
    ),
    Mutant(
        "a gain of unknown error is claimed",
        "report/verdict.py",
        "if not abs(self.difference) > NOISE * self.error:",
        "if abs(self.difference) <= NOISE * self.error:",
        (PAIR + "an_unknown_error_claims_nothing",),
    ),
    Mutant(
        "the best student is beside the control of its own order only",
        "report/pair_compare.py",
        "compare(pair, student, orders) for student in students",
        "compare(pair, student, [student.order]) for student in students",
        (PAIR + "the_control_of_the_best_is_the_best_order_of_the_teacher",),
    ),
    Mutant(
        "the errors of seeds are not combined",
        "report/pair_records.py",
        "return math.hypot(*_numbers(group, name)) / len(group)",
        "return _mean(_numbers(group, name))",
        (PAIR + "seeds_of_a_cell_are_averaged_and_their_errors_combined",),
    ),
    Mutant(
        "a report averages the errors of seeds",
        "report/cells.py",
        "return math.hypot(*values) / n",
        "return sum(values) / n",
        (REPORT_CELLS + "seeds_of_a_setting_are_averaged_and_their_errors_combined",),
    ),
    Mutant(
        "a report averages perplexities of seeds instead of their logarithm",
        "report/cells.py",
        'mean["perplexity"] = math.exp(mean[name])',
        "pass",
        (REPORT_CELLS + "the_perplexity_of_several_seeds_is_that_of_their_mean_nll",),
    ),
    Mutant(
        "draws of all precisions stand in one table",
        "report/blocks.py",
        'DRAW = "length", "draw_dtype", "prompts"',
        'DRAW = "length", "prompts"',
        (
            REPORT_BLOCKS + "records_that_do_not_compare_are_parted_and_the_heading_says_why",
            REPORT_QUALITY + "draws_of_other_precision_stand_in_a_table_of_their_own",
        ),
    ),
    Mutant(
        "a student is beside the teacher at temperature 1 rather than at its entropy",
        "report/matched.py",
        'at_entropy(curve_of(cells, teacher, student), student.number("entropy"))',
        "at_entropy(curve_of(cells, teacher, student), 4.0)",
        (
            REPORT_MATCHED + "the_control_lies_between_the_temperatures_at_the_students_entropy",
            REPORT_QUALITY + "a_students_row_holds_its_control_ratio_and_what_may_be_said",
        ),
    ),
    Mutant(
        "the best of n is drawn of cooled texts too",
        "report/tradeoffs.py",
        "[cell for cell in cells if cell.temperature == 1 and cell.top_p == 1] or list(cells)",
        "list(cells)",
        (
            "report/test_report_curves.py::test_best_of_n_is_drawn_of_plain_texts_of_the_last_"
            "student_in_the_best_sampler",
        ),
    ),
    Mutant(
        "a sample may end the script of the page",
        "report/page.py",
        'return text.replace("<"',
        'return text.replace("no such text"',
        (REPORT_PAGE + "a_sample_that_would_end_the_script_does_not",),
    ),
    Mutant(
        "a later window of a long text has no context",
        "evaluation/batches.py",
        "yield Window(text, following - reach, end, following)",
        "yield Window(text, end, end, following)",
        (
            BATCHES + "a_token_has_window_less_stride_of_context_where_there_is_so_much",
            SCORING + "a_long_text_is_scored_as_a_plain_loop_over_its_windows_does",
        ),
    ),
    Mutant(
        "a window without BOS predicts no token beyond its positions",
        "evaluation/batches.py",
        "else window + (not behind_bos)",
        "else window",
        (
            SCORING + "a_judge_takes_as_many_tokens_and_one_in_one_pass",
            SCORING + "a_long_text_is_scored_as_a_plain_loop_over_its_windows_does",
        ),
    ),
    Mutant(
        "the losses of a padded text are taken at the end of its padding",
        "evaluation/scoring.py",
        "ends = [len(row) - 1 for row in rows]",
        "ends = [ids.shape[1] - 1 for row in rows]",
        (JUDGE + "a_text_is_judged_beside_longer_ones_as_it_is_alone",),
    ),
    Mutant(
        "the losses of a bfloat16 judge are rounded to bfloat16",
        "evaluation/scoring.py",
        "cross_entropy(tile.float(), own",
        "cross_entropy(tile, own",
        (SCORING + "losses_of_a_judge_in_bfloat16_are_those_of_its_logits_in_float32",),
    ),
    Mutant(
        "a pass of the judge makes any number of logits",
        "evaluation/scoring.py",
        "min(batch_size, LOGITS_BYTES // each)",
        "min(batch_size, LOGITS_BYTES)",
        (SCORING + "a_pass_never_makes_more_logits_than_it_may",),
    ),
    Mutant(
        "characters that the judge was given as context count as scored",
        "evaluation/judge_samples.py",
        "behind_first=not front",
        "behind_first=False",
        (JUDGE_SAMPLES + "a_token_that_is_context_only_counts_no_characters",),
    ),
    Mutant(
        "a text that begins with its end is cut to nothing",
        "evaluation/judge_samples.py",
        "if i and token == eos_token_id",
        "if token == eos_token_id",
        (JUDGE_SAMPLES + "a_cut_text_ends_with_its_first_end_but_for_one_that_begins_it",),
    ),
    Mutant(
        "ends of texts are lost when samples are read anew",
        "evaluation/judge_samples.py",
        "[*piece, judges.eos_token_id] if ended else piece",
        "piece",
        (JUDGE_SAMPLES + "ids_of_another_tokenizer_are_read_anew_with_their_ends",),
    ),
    Mutant(
        "the error of a ratio takes texts for equally long",
        "evaluation/errors.py",
        "residuals = k - k.sum() / n.sum() * n",
        "residuals = k - k.mean()",
        (ERRORS + "the_error_of_a_ratio_weighs_texts_by_their_size",),
    ),
    Mutant(
        "a text is held against itself in self-BLEU",
        "evaluation/self_bleu.py",
        "group[(index + 1 + i) % len(group)]",
        "group[(index + i) % len(group)]",
        (
            SELF_BLEU + "texts_without_a_common_word_score_nothing",
            SELF_BLEU + "the_score_of_two_texts_is_the_geometric_mean_of_their_common_n_grams",
        ),
    ),
    Mutant(
        "texts too short to repeat count as free of repetition",
        "evaluation/diversity.py",
        "repeated(text, REPEATED) for text in texts if len(text) >= REPEATED",
        "repeated(text, REPEATED) if len(text) >= REPEATED else 0.0 for text in texts",
        (DIVERSITY + "a_text_too_short_to_repeat_anything_does_not_count_as_free_of_repetition",),
    ),
    Mutant(
        "a feature is taken from the padding behind a text",
        "evaluation/features.py",
        "return states[places, last]",
        "return states[:, -1]",
        (FEATURES + "features_of_another_model_are_its_last_hidden_state_at_the_last_token",),
    ),
    Mutant(
        "MAUVE clusters by one seed only",
        "evaluation/mauve.py",
        "                seed=seed,",
        "                seed=0,",
        (MAUVE + "the_mean_and_its_error_are_over_the_seeds_of_k_means",),
    ),
    Mutant(
        "a model without conditioning is exported with its gates shut",
        "models/export.py",
        "torch.cat([zeros, ones, zeros, ones])",
        "torch.cat([zeros, 0 * ones, zeros, ones])",
        (EXPORT + "an_exported_model_comes_back_with_the_same_law",),
    ),
    Mutant(
        "a model that follows the order of revelation is written for code that does not",
        "models/export.py",
        '{"conditioning": "time", "attention": "reveal_causal"}',
        '{"conditioning": "time"}',
        (
            EXPORT + "what_the_reference_cannot_express_is_refused",
            REMOTE + "a_model_whose_law_the_file_does_not_have_gets_no_code",
        ),
    ),
    Mutant(
        "a push asks the hub without a token",
        "cli/push.py",
        "    check_token()\n    kept",
        "    kept",
        (PUSH + "without_the_hub_or_a_token_a_push_ends_in_words",),
    ),
    Mutant(
        "a push that fails leaves its card",
        "cli/push.py",
        "file.unlink(missing_ok=True)",
        "pass",
        (PUSH + "a_push_that_fails_leaves_the_card_that_was_there",),
    ),
    Mutant(
        "the attention bias of a folded model is left out of its export",
        "models/export.py",
        ".double() + first_of_six",
        ".double() + 0 * first_of_six",
        (EXPORT + "a_folded_model_gets_its_attention_bias_back_as_a_shift",),
    ),
    Mutant(
        "any attention bias passes for a shift",
        "models/export.py",
        "if error > max(",
        "if error < -max(",
        (EXPORT + "what_the_reference_cannot_express_is_refused",),
    ),
    Mutant(
        "MASK may be any id in the layout of the reference",
        "models/export.py",
        "if config.mask_token_id != config.vocab_size - 1:",
        "if config.mask_token_id is None:",
        (EXPORT + "what_the_reference_cannot_express_is_refused",),
    ),
    Mutant(
        "the exact GELU passes for the tanh one",
        "models/export.py",
        'TANH_GELU = ("gelu_pytorch_tanh", "gelu_new")',
        'TANH_GELU = ("gelu_pytorch_tanh", "gelu_new", "gelu")',
        (EXPORT + "what_the_reference_cannot_express_is_refused",),
    ),
    Mutant(
        "exported weights are those of the model itself",
        "models/export.py",
        "copy=True",
        "copy=False",
        (EXPORT + "exporting_changes_nothing_of_the_model",),
    ),
    Mutant(
        "a program keeps the dropout of a model in training",
        "models/program.py",
        "with evaluating(model):",
        "if model is not None:",
        (PROGRAM + "exporting_leaves_the_mode_of_the_model",),
    ),
    Mutant(
        "without sdtt the ancestral steps run backwards",
        "models/remote/modeling_mdlm.py",
        "steps - 1 - (u * steps).long()",
        "(u * steps).long()",
        (REMOTE + "without_sdtt_a_seed_gives_the_texts_that_it_gives_with_it",),
    ),
    Mutant(
        "without sdtt the residues of the dilated order are off by one",
        "models/remote/modeling_mdlm.py",
        "torch.arange(len(places)) % count",
        "(torch.arange(len(places)) + 1) % count",
        (REMOTE + "without_sdtt_a_seed_gives_the_texts_that_it_gives_with_it",),
    ),
    Mutant(
        "without sdtt a temperature changes nothing",
        "models/remote/modeling_mdlm.py",
        ".float() / temperature",
        ".float()",
        (REMOTE + "without_sdtt_a_seed_gives_the_texts_that_it_gives_with_it",),
    ),
    Mutant(
        "without sdtt shift and scale of the last norm change places",
        "models/remote/modeling_mdlm.py",
        "shift, scale = modulations(net",
        "scale, shift = modulations(net",
        (REMOTE + "without_sdtt_a_model_has_the_logits_that_it_has_with_it",),
    ),
    Mutant(
        "without sdtt padding is attended to",
        "models/remote/modeling_mdlm.py",
        "visible = None if attention_mask is None else",
        "visible = None if ids is not None else",
        (REMOTE + "without_sdtt_a_model_has_the_logits_that_it_has_with_it",),
    ),
    Mutant(
        "without sdtt saved settings that need it are left out",
        "models/remote/modeling_mdlm.py",
        "for name, without in NOT_HERE.items():",
        "for name, without in ():",
        (REMOTE + "a_saved_setting_that_needs_sdtt_is_refused_rather_than_left_out",),
    ),
    Mutant(
        "a saved config names the code that it came with",
        "models/config.py",
        'fields.pop("auto_map", None)',
        'fields.pop("nothing", None)',
        (SAVING + "a_config_that_was_registered_as_remote_code_is_saved_without_it",),
    ),
    Mutant(
        "a saved config keeps the published return_dict",
        "models/config.py",
        "self.return_dict = True",
        "self.return_dict = self.return_dict",
        (SAVING + "the_config_that_is_saved_keeps_nothing_of_the_code_it_came_with",),
    ),
    Mutant(
        "a card keeps quiet about a control that was not measured",
        "report/card.py",
        "if not _has_control(suite, measured.label):",
        "if not measured.label:",
        (CARD + "a_model_without_a_control_comes_with_the_warning",),
    ),
    Mutant(
        "a card shows every student of the evaluation",
        "report/card.py",
        "or not is_student(c, teacher)]",
        "or c.model]",
        (CARD + "other_students_of_the_evaluation_are_left_out",),
    ),
    Mutant(
        "a card names folders of the machine it was made on",
        "report/provenance.py",
        'return f"{Path(str(source)).name} (local)" if local else str(source)',
        "return str(source)",
        (CARD + "a_card_names_no_folder_of_this_machine",),
    ),
    Mutant(
        "every student tells of the last round",
        "report/provenance.py",
        'if index is None or record.get("round") == index + 1:',
        'if record.get("round") != index:',
        (CARD + "the_student_of_an_earlier_round_tells_of_its_own_round",),
    ),
    Mutant(
        "half a weights file passes for a model",
        "report/provenance.py",
        "if file.stat().st_size != due:",
        "if file.stat().st_size > due:",
        (PUSH + "half_a_weights_file_is_refused",),
    ),
    Mutant(
        "an evaluation counts for a model that it did not measure",
        "cli/push.py",
        "if record.fingerprint == own",
        "if own",
        (PUSH + "an_evaluation_is_taken_for_the_model_whose_files_it_measured",),
    ),
    Mutant(
        "all files of a model's folder are sent",
        "cli/push.py",
        "if path.is_file() and _is_sent(path.name)",
        "if path.is_file()",
        (
            PUSH + "a_push_sends_the_files_of_the_model_and_its_card_and_no_other",
            PUSH + "a_dry_run_shows_files_bytes_and_card_and_writes_nothing",
        ),
    ),
    Mutant(
        "formats: a missing weight is left at random",
        "models/formats/account.py",
        "    if not missing:\n",
        "    if True:\n",
        (ACCOUNT + "missing_keys_are_counted_and_named",),
    ),
    Mutant(
        "formats: a weight of the network that the model lacks is left over",
        "models/formats/account.py",
        "if why is None and name.startswith(ROOT):",
        "if False:",
        (
            ACCOUNT + "a_key_that_the_network_has_and_the_model_does_not_is_an_error",
            ACCOUNT + "a_block_more_than_the_config_says_is_an_error",
        ),
    ),
    Mutant(
        "formats: rotary frequencies of a file are not looked at",
        "models/formats/account.py",
        "if ROTARY.search(own) and not rotary_base_is_ours(stored.read()):",
        "if False:",
        (ACCOUNT + "rotary_frequencies_of_another_base_are_refused",),
    ),
    Mutant(
        "formats: the shape of a weight is not looked at",
        "models/formats/account.py",
        "if stored.shape != tuple(expected[name])]",
        "if False]",
        (ACCOUNT + "misshapen_keys_are_counted_and_named_with_both_shapes",),
    ),
    Mutant(
        "formats: what is left over is forgotten",
        "models/formats/account.py",
        "return Account(taken, left)",
        "return Account(taken, {})",
        (
            ACCOUNT + "the_account_holds_every_key_once",
            CONVERT + "the_account_says_layout_config_counts_bytes_and_what_is_left",
        ),
    ),
    Mutant(
        "formats: wrappers are taken off the front of a name only",
        "models/formats/names.py",
        '".".join(part for part in name.split(".") if part not in WRAPPERS)',
        'name.removeprefix("module.").removeprefix("_orig_mod.")',
        (
            ACCOUNT + "wrappers_at_any_depth_leave_no_trace_in_a_name",
            PARITY + "a_loaded_checkpoint_has_the_law_of_the_network_written_out",
        ),
    ),
    Mutant(
        "formats: of two weights of one name the last wins",
        "models/formats/names.py",
        "        if other != name:\n",
        "        if False:\n",
        (ACCOUNT + "two_weights_of_one_plain_name_are_refused",),
    ),
    Mutant(
        "formats: buffers count among the parameters of an average",
        "models/formats/source.py",
        "if plain(n).startswith(ROOT) and reason(plain(n)) is None]",
        "if plain(n).startswith(ROOT)]",
        (
            SOURCE + "the_moving_average_is_taken_where_there_is_one",
            PARITY + "a_loaded_checkpoint_has_the_law_of_the_network_written_out",
        ),
    ),
    Mutant(
        "formats: the trained weights are taken for the average",
        "models/formats/source.py",
        "return {**weights, **dict(zip(names, average, strict=True))}",
        "return weights",
        (
            SOURCE + "the_moving_average_is_taken_where_there_is_one",
            CONVERT + "raw_weights_of_a_lightning_file_can_be_chosen",
        ),
    ),
    Mutant(
        "formats: an average of another shape is taken",
        "models/formats/source.py",
        "if shadow.shape != weights[name].shape:",
        "if False:",
        (SOURCE + "an_average_of_another_shape_is_refused",),
    ),
    Mutant(
        "formats: a network of another law is taken if its weights fit",
        "models/formats/layouts.py",
        "if both.get(key) in values:",
        "if False:",
        (ACCOUNT + "a_network_of_another_law_is_refused_though_its_weights_fit",),
    ),
    Mutant(
        "formats: time conditioning of a nested config is overlooked",
        "models/formats/layouts.py",
        'each.get("time_conditioning") is True',
        "False",
        (ACCOUNT + "a_network_that_is_told_the_time_is_told_it_here_too",),
    ),
    Mutant(
        "formats: heads are guessed where nothing says them",
        "models/formats/checkpoint.py",
        "        if n_heads is None:\n",
        "        n_heads = n_heads or 2\n        if n_heads is None:\n",
        (ACCOUNT + "heads_that_nothing_says_must_be_given",),
    ),
    Mutant(
        "formats: MASK is the last id of any vocabulary",
        "models/formats/checkpoint.py",
        "if size in WITHOUT_MASK:",
        "if False:",
        (ACCOUNT + "a_vocabulary_whose_last_id_is_a_token_must_name_mask",),
    ),
    Mutant(
        "formats: weights are copied from the file",
        "models/formats/checkpoint.py",
        "stored.read().to(wanted)",
        "stored.read().to(wanted, copy=True)",
        (SOURCE + "nothing_is_read_into_memory_before_it_is_used",),
    ),
    Mutant(
        "formats: a missing shard is passed over",
        "models/formats/files.py",
        "missing = [name for name in names if not (folder / name).is_file()]",
        "missing, names = [], [name for name in names if (folder / name).is_file()]",
        (ACCOUNT + "a_missing_shard_is_named",),
    ),
    Mutant(
        "formats: what is converted is written in its place",
        "models/formats/convert.py",
        'aside = destination.with_name(f".{destination.name}.partial")',
        "aside = destination",
        (CONVERT + "a_destination_is_never_seen_half_written",),
    ),
    Mutant(
        "formats: what a kill left is deleted",
        "models/formats/convert.py",
        "before.rename(destination)",
        "pass",
        (CONVERT + "what_a_kill_between_the_renames_left_is_back_before_anything_else",),
    ),
    Mutant(
        "formats: a folder is replaced with all that is in it",
        "models/formats/convert.py",
        "    if strange:\n",
        "    if False:\n",
        (CONVERT + "a_folder_with_other_things_is_never_replaced",),
    ),
    Mutant(
        "formats: a tokenizer may be longer than the embedding",
        "models/formats/convert.py",
        "if count > size:",
        "if False:",
        (CONVERT + "a_tokenizer_longer_than_the_embedding_is_refused",),
    ),
    Mutant(
        "formats: a tokenizer without MASK goes with any model",
        "models/formats/convert.py",
        "if own == size == count - 1:",
        "if False:",
        (CONVERT + "a_model_without_mask_is_refused",),
    ),
    Mutant(
        "formats: a dry run writes",
        "cli/convert.py",
        "if settings.dry_run or settings.dest is None:",
        "if settings.dest is None:",
        (CONVERT + "a_dry_run_writes_nothing",),
    ),
    Mutant(
        "formats: the precision that is asked for is not written",
        "models/formats/convert.py",
        "model = model.to(dtype)",
        "model = model.to(checkpoint.dtype)",
        (CONVERT + "weights_are_written_in_the_precision_that_is_asked_for",),
    ),
    Mutant(
        "of a repeated flag of several values the last counts",
        "cli/options.py",
        'return given if option.positional else ",".join(given)',
        "return given if option.positional else given[-1]",
        ("cli/test_cli_options.py::test_a_repeated_flag_adds_to_several_values",),
    ),
    Mutant(
        "a refused resume rewrites the record of the run",
        "cli/pretrain.py",
        "check=lambda: check_resume(trainer, run)",
        "check=lambda: None",
        ("cli/test_cli_mistakes.py::test_a_refused_resume_leaves_the_record_of_the_run",),
    ),
    Mutant(
        "a longer pretraining needs a word on its decay",
        "training/settings.py",
        "(FOLLOWING if SETS_DECAY & set(allowed) else set())",
        "set()",
        (
            "training/test_training_pretrain.py::test_a_run_that_gets_longer_needs_no_word_on_its_decay",
        ),
    ),
    Mutant(
        "drafts that a streamer keeps change",
        "sampling/generation.py",
        '.to("cpu", copy=True)',
        '.to("cpu")',
        (GENERATION + "drafts_that_a_streamer_keeps_do_not_change",),
    ),
    Mutant(
        "autocast makes keys of float64 networks bfloat16",
        "models/mdlm.py",
        "if torch.is_autocast_enabled(device.type) and dtype != torch.float64:",
        "if torch.is_autocast_enabled(device.type):",
        (CACHE + "a_cache_is_kept_under_autocast",),
    ),
    Mutant(
        "half precisions are taken for multiplied",
        "models/precision.py",
        "return dtype not in asked or bool(asked[dtype]())",
        "return True",
        (
            "models/test_models_precision.py::test_a_half_precision_is_multiplied_where_the_processor_says_so",
            "training/test_training_peak.py::test_bfloat16_on_a_processor_that_emulates_it_is_told_with_the_way_out",
            "evaluation/test_evaluation_runner.py::test_models_are_measured_in_a_dtype_that_the_processor_multiplies",
        ),
    ),
    Mutant(
        "a model is cast in its place",
        "models/precision.py",
        "return copy_with(model, wider)",
        "return model.float()",
        (
            "models/test_models_precision.py::test_a_model_in_float32_has_the_weights_of_the_other_which_stays",
        ),
    ),
    Mutant(
        "what torch was built for is taken for an accelerator",
        "models/placement.py",
        "check_available=True",
        "check_available=False",
        (PLACEMENT + "a_torch_that_was_built_for_cuda_has_no_accelerator_without_one",),
    ),
    Mutant(
        "slow products are repeated",
        "training/peak.py",
        "len(seconds) <= REPEATS and sum(seconds) < LONGEST",
        "len(seconds) <= REPEATS",
        ("training/test_training_peak.py::test_a_slow_product_is_not_repeated",),
    ),
    Mutant(
        "TF32 counts as float32",
        "training/peak.py",
        'torch.backends.cuda.matmul.fp32_precision == "tf32"',
        "False",
        (
            "training/test_training_peak.py::test_float32_products_on_a_gpu_count_as_tf32_where_they_are_rounded",
        ),
    ),
    Mutant(
        "memory that torch keeps is taken for used",
        "sampling/generate.py",
        "return free + kept - torch.accelerator.memory_allocated(device)",
        "return free",
        (CACHE + "memory_that_torch_keeps_for_later_is_there_for_a_cache",),
    ),
    Mutant(
        "a report takes changed weights for the same model",
        "report/cells.py",
        "return record.source, record.kind, record.taught_steps, files",
        "return record.source, record.kind, record.taught_steps",
        ("report/test_report_cells.py::test_a_model_whose_weights_changed_from_run_to_run_is_two",),
    ),
    Mutant(
        "an edited text is measured already",
        "evaluation/jobs.py",
        "found = [fingerprint_of_text(text, self.data_root) for text in filter(None, texts)]",
        "found = []",
        ("evaluation/test_evaluation_jobs.py::test_a_text_that_was_edited_makes_another_request",),
    ),
    Mutant(
        "records do not tell two judges of one name apart",
        "evaluation/runner.py",
        "**(measured.settings or {}), **_files_of(job)}",
        "**(measured.settings or {})}",
        ("cli/test_cli_evaluate.py::test_the_files_of_a_judge_are_in_the_record",),
    ),
    Mutant(
        "a small last batch weighs in the error as much as the others",
        "evaluation/nelbo.py",
        "standard_error=ratio_error(sums, sizes)",
        "standard_error=ratio_error([s / n for s, n in zip(sums, sizes)], [1] * len(sums))",
        (
            "evaluation/test_evaluation_nelbo.py::test_a_last_batch_of_one_text_does_not_widen_the_error",
        ),
    ),
    Mutant(
        "a tied candidate that is left out stays in the mean of its ties",
        "evaluation/best_of.py",
        "others[tied] = (own.sum() - value) / (size - 1)",
        "del value",
        (
            "evaluation/test_evaluation_best_of.py::test_the_error_is_that_of_leaving_each_candidate_out",
        ),
    ),
    Mutant(
        "a record that is cut in a number is refused",
        "evaluation/records.py",
        "(in_string or in_word or in_number)",
        "(in_string or in_word)",
        ("evaluation/test_evaluation_records.py::test_a_record_cut_anywhere_is_left_out",),
    ),
    Mutant(
        "a path with an equals sign is cut at it",
        "evaluation/subjects.py",
        "if not is_named or Path(text).exists():",
        "if not is_named:",
        ("cli/test_cli_evaluate.py::test_a_folder_with_an_equals_sign_in_its_name_is_a_model",),
    ),
    Mutant(
        "accumulation multiplies gradients of transformers' Trainer",
        "models/blocks.py",
        "items = len(asked) if items is None else items",
        "items = len(asked)",
        (
            "models/test_models_contract.py::test_accumulation_changes_neither_loss_nor_gradient_of_transformers_trainer",
        ),
    ),
    Mutant(
        "a cast reaches the model that shares its memory",
        "models/copying.py",
        "return nn.Parameter(weight.detach(), requires_grad=weight.requires_grad)",
        "return weight",
        (
            "models/test_models_contract.py::test_a_cast_of_a_model_under_another_attention_leaves_the_model",
            PACK + "what_is_done_to_a_packed_model_does_not_reach_the_other",
        ),
    ),
    Mutant(
        "labels of another shape are taken",
        "models/contract.py",
        "if labels.shape != ids.shape:",
        "if False:",
        ("models/test_models_contract.py::test_labels_of_another_shape_are_refused",),
    ),
    Mutant(
        "arguments that are not done are passed over",
        "models/contract.py",
        "strange = [name for name in asking if name not in HARMLESS]",
        "strange = []",
        ("models/test_models_contract.py::test_what_a_masked_model_does_not_do_is_refused",),
    ),
    Mutant(
        "padding alone has no law",
        "models/attention.py",
        "masked_fill_(hidden[few[0]], torch.finfo(scores.dtype).min)",
        'masked_fill_(hidden[few[0]], float("-inf"))',
        ("models/test_models_contract.py::test_a_text_of_padding_alone_has_finite_logits",),
    ),
    Mutant(
        "a packed model is cast",
        "models/blocks.py",
        "if (after.dtype, after.device) != (probe.dtype, probe.device):",
        "if False:",
        (PACK + "a_packed_model_is_for_sampling_only",),
    ),
    Mutant(
        "the saved seed is left out without sdtt",
        "models/remote/modeling_mdlm.py",
        'first_given(seed, saved.get("seed"), 0)',
        "first_given(seed, 0)",
        ("models/test_models_remote.py::test_what_is_saved_counts_as_it_does_with_sdtt",),
    ),
    Mutant(
        "a setting of another kind is taken",
        "sampling/settings.py",
        "if kind is not None and value is not None and not _is(value, kind):",
        "if False:",
        (GENERATION + "a_config_that_cannot_be_is_refused",),
    ),
    Mutant(
        "the noise of an update is drawn twice",
        "training/trainer.py",
        "kept = self._ahead.pop((*places, length), None)",
        "kept = None",
        ("training/test_training_lengths.py::test_the_noise_of_a_micro_batch_is_drawn_once",),
    ),
    Mutant(
        "an update without a target divides by zero",
        "models/blocks.py",
        "return total / (items.clamp_min(1) if isinstance(items, Tensor) else max(items, 1))",
        "return total / items",
        ("models/test_models_contract.py::test_an_update_without_a_target_has_the_loss_zero",),
    ),
    Mutant(
        "transformers counts the labels of a causal model unshifted",
        "models/causal.py",
        'self.loss_type = "ForCausalLM"',
        "pass",
        (
            "models/test_models_contract.py::test_transformers_trainer_counts_the_targets_of_a_causal_model",
        ),
    ),
    Mutant(
        "a packed teacher leaves its dtype",
        "training/teacher.py",
        "keep_dtype=True",
        "keep_dtype=False",
        ("models/test_models_precision.py::test_a_teacher_stays_in_the_dtype_that_it_was_given",),
    ),
    Mutant(
        "records from before the files of a judge were kept stand apart",
        "report/cells.py",
        "if len(files - {None}) > 1}",
        "if len(files) > 1}",
        (
            "report/test_report_cells.py::test_a_record_that_does_not_know_the_files_of_its_judge_stands_with_one_that_does",
        ),
    ),
    Mutant(
        "a run that has not ended is not said to be one",
        "data/tokenizer.py",
        "hint * begun",
        '""',
        (
            "data/test_data_tokenizer.py::test_of_a_run_that_has_not_ended_the_checkpoints_are_named",
        ),
    ),
    Mutant(
        "the score is of the sharpened law",
        "sampling/confidence.py",
        "p = logits.double()",
        "p = transform.sharpened(logits).double()",
        (CONFIDENCE + "a_sharper_law_is_no_surer_one",),
    ),
    Mutant(
        "parts come back in the mode of the whole",
        "sampling/generate.py",
        "for module in in_training:\n            module.training = True",
        "for module in modules:\n            module.training = bool(in_training)",
        (GENERATE + "each_part_is_given_back_in_its_own_mode",),
    ),
    Mutant(
        "a temperature divides scores that may become infinite",
        "diffusion/categorical.py",
        "(logits - logits.amax(-1, keepdim=True)) / value",
        "logits / value",
        (CATEGORICAL + "a_temperature_beyond_float32_leaves_the_likeliest",),
    ),
    Mutant(
        "the baseline's temperature is taken in 16 bits",
        "sampling/autoregressive.py",
        "logits.to(levels.device, torch.promote_types(logits.dtype, torch.float32))",
        "logits.to(levels.device)",
        (
            "sampling/test_sampling_autoregressive.py::test_a_temperature_is_taken_in_float32_at_least",
        ),
    ),
    Mutant(
        "a pattern reads a file as often as it finds it",
        "data/corpus.py",
        "dict.fromkeys(part for one in found for part in _resolve(one))",
        "[part for one in found for part in _resolve(one)]",
        (CORPUS + "a_pattern_that_finds_folders_reads_each_file_once",),
    ),
    Mutant(
        "a tokenizer in Python is known by its vocabulary alone",
        "data/encoding.py",
        '"encodes": looks}',
        '"encodes": len(looks)}',
        (
            "data/test_data_packing.py::test_the_key_knows_what_a_tokenizer_written_in_python_makes_of_capitals",
        ),
    ),
    Mutant(
        "ids that the model does not have are trained on",
        "training/stream.py",
        "(ids < 0) | (ids >= size) | (ids == mask)",
        "ids < -size",
        (
            "training/test_training_stream.py::test_a_text_with_an_id_that_the_model_does_not_have_is_refused",
        ),
    ),
    Mutant(
        "1 and 1.0 are two draws",
        "evaluation/protocol.py",
        "yield float(value) if KINDS.get(name) is float and type(value) is int else value",
        "yield value",
        (f"{JOBS}a_number_without_a_point_asks_for_no_other_draw",),
    ),
    Mutant(
        "the best of n stays where texts are read in another way",
        "evaluation/jobs.py",
        'return judged | read | {"scorer": scorer',
        'return judged | {"scorer": scorer',
        (f"{JOBS}the_best_is_chosen_again_where_texts_are_read_in_another_way",),
    ),
    Mutant(
        "blocks of a bound are as long as each model's texts whatever is asked for",
        "evaluation/jobs.py",
        "    return asked.length\n",
        "    return _length(subject)\n",
        (f"{JOBS}blocks_of_a_bound_may_be_as_long_for_all_models",),
    ),
    Mutant(
        "another tokenizer is the same model",
        "evaluation/subjects.py",
        '"*.safetensors", "tokenizer.json", "*.model", "vocab.*", "merges.txt")',
        '"*.safetensors")',
        (f"{RUNNER}a_model_is_another_one_when_one_of_its_files_changed",),
    ),
    Mutant(
        "a draw ends before the device has finished",
        "evaluation/drawing.py",
        "    wait(loaded.model.device)\n    seconds =",
        "    seconds =",
        (f"{RUNNER}the_seconds_of_a_draw_begin_and_end_when_the_device_has_finished",),
    ),
    Mutant(
        "a text of a causal tokenizer cannot be read",
        "evaluation/texts.py",
        "with_mask(tokenizer),",
        "tokenizer,",
        ("evaluation/test_evaluation_texts.py::test_a_tokenizer_without_a_mask_reads_a_text_too",),
    ),
    Mutant(
        "a median within the spread of the other's runs is a win",
        "report/summary.py",
        'slowest, fastest = cell.number("seconds_most"), other.number("seconds_least")',
        'slowest, fastest = cell.number("seconds"), other.number("seconds")',
        ("report/test_report_summary.py::test_a_time_within_the_spread_of_the_runs_is_no_win",),
    ),
    Mutant(
        "times of texts of two lengths compare",
        "report/measures.py",
        'length = {"length": cell.draw.get("length")}',
        'length = {"length": None}',
        ("report/test_report_summary.py::test_times_of_texts_of_two_lengths_do_not_compare",),
    ),
    Mutant(
        "the demo calls a colder student a better one",
        "report/tables.py",
        "math.exp(PER_NAT * self.entropy_difference)",
        "math.exp(0 * self.entropy_difference)",
        (
            "report/test_report.py::test_a_student_that_is_only_a_little_colder_than_its_control_has_won_nothing",
        ),
    ),
    Mutant(
        "tasks scored by few masks overwrite those by many",
        "report/tasks.py",
        'rows=("task",)',
        'rows=("task", "noise_samples")',
        (
            "report/test_report_measures.py::test_tasks_scored_by_other_numbers_of_masks_stand_apart",
        ),
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


@dataclass(frozen=True)
class Run:
    """A child process at work on a fresh copy of src.

    Attributes:
        name: What it tries.
        folder: Its own, with the copy, what it prints, and its verdict.
        begun: When, in seconds of the monotonic clock.
    """

    name: str
    folder: Path
    begun: float

    def end(self, status: int) -> str:
        """Its verdict; what it printed if it gave none. The folder is gone afterwards."""
        log, result = self.folder / "log", self.folder / "verdict"
        broke = status or not result.exists()
        says = f"the run broke: {log.read_text()[-2000:]}" if broke else result.read_text()
        shutil.rmtree(self.folder)
        return says


def copy_source(folder: Path) -> Path:
    """A copy of src in a folder, but for the shipped weights, which are linked."""
    weights, source = ROOT / "src/sdtt/pair", folder / "src"
    shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns(weights.name))
    (source / "sdtt" / weights.name).symlink_to(weights)
    return source


def fork(name: str, verdict: Callable[[Path], str], folder: Path) -> tuple[int, Run]:
    """Begins a run: the process and what is known of it."""
    run = Run(name, folder, time.monotonic())
    source, log = copy_source(folder), folder / "log"
    child = os.fork()
    if child:
        return child, run
    status = 1
    try:
        with log.open("w") as output:
            for stream in (sys.stdout, sys.stderr):
                os.dup2(output.fileno(), stream.fileno())
            (folder / "verdict").write_text(verdict(source.resolve()))
        status = 0
    except BaseException as error:  # the parent has to hear of anything
        log.write_text(f"{log.read_text()}\n{error!r}")
    finally:
        os._exit(status)


def chosen_mutants(arguments: list[str]) -> list[Mutant]:
    """The mutants that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", help="parts of names: all mutants if there are none")
    parser.add_argument("--quick", action="store_true", help="none whose tests start processes")
    parser.add_argument("--share", default="1/1", help="2/3: every third, from the second on")
    asked = parser.parse_args(arguments)
    chosen = [m for m in MUTANTS if not asked.parts or any(part in m.name for part in asked.parts)]
    if asked.quick:
        slow = (PARALLEL, PROCESSES)
        chosen = [m for m in chosen if not any(test.startswith(slow) for test in m.tests)]
    first, every = map(int, asked.share.split("/"))
    return chosen[first - 1 :: every]


def main(arguments: list[str]) -> int:
    """Run the mutants that are asked for; 1 if one survives."""
    chosen = chosen_mutants(arguments)
    tests = [test for mutant in chosen for test in mutant.tests]
    waiting: list[tuple[str, Callable[[Path], str]]] = [
        ("the code as it is: every named test is green", lambda s: verdict_on_original(s, tests))
    ]
    waiting += [(m.name, lambda source, m=m: verdict_on_mutant(source, m)) for m in chosen]
    total, failed, running = len(waiting), 0, {}
    with tempfile.TemporaryDirectory(prefix="sdtt-mutants-") as temporary:
        os.environ |= ENVIRONMENT | {"HF_HOME": f"{temporary}/huggingface"}
        for module in ALREADY_IMPORTED:
            import_module(module)
        gc.freeze()  # pytest collects garbage at its end: not among all that is imported here
        while waiting or running:
            while waiting and len(running) < (os.cpu_count() or 1):
                name, verdict = waiting.pop(0)
                child, run = fork(name, verdict, Path(temporary) / str(len(waiting)))
                running[child] = run
            child, status = os.wait()
            run = running.pop(child)
            trouble = run.end(status)
            failed += bool(trouble)
            seconds = f"{time.monotonic() - run.begun:.1f} s"
            print(f"{'FAILED' if trouble else 'ok':6} {run.name} ({seconds})", flush=True)
            if trouble:
                print(f"       {trouble}", flush=True)
    print(f"{total - failed} passed, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
