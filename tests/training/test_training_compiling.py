"""`torch_compile`: blocks of fixed shape are compiled, once, and the weights come out the same."""

import copy

import jaxtyping
import pytest
import torch
from torch._dynamo.utils import counters

from sdtt.training.lora import LoraSettings, with_adapters
from sdtt.training.pretrain import MDLMTrainer

SHAPE = {"n_blocks": 2, "hidden_dim": 32}
EXACT = {"optim": "sgd", "learning_rate": 0.3, "loss_dtype": "float64"}
FEW = {"rounds": 2, "steps_per_round": 3, "start_steps": 16, "per_device_train_batch_size": 8}
TRACED = {"torch_compile_backend": "eager"}
"""What would be compiled is traced, and run as it is: quick."""


@pytest.fixture
def unchecked():
    """Without the check of annotations, through which torch.compile does not see; none compiled."""
    jaxtyping.config.update("jaxtyping_disable", True)
    torch._dynamo.reset()
    counters.clear()
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def network(runs):
    return runs.masked_model(**SHAPE).double()


def with_lora(runs):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return with_adapters(runs.masked_model(**SHAPE), LoraSettings(lora_rank=2)).double()


def distilled(runs, output, model, **settings):
    trainer = runs.distiller(output, model, **FEW | EXACT | settings)
    trainer.train()
    return trainer, runs.weights(model)


def farthest(one, other):
    return max((one[name] - other[name]).abs().max().item() for name in one)


def test_nothing_is_compiled_unless_it_is_asked_for(tmp_path, runs):
    trainer, _ = distilled(runs, tmp_path, network(runs), rounds=1, steps_per_round=1)
    assert (trainer.compiled_by, trainer.teacher.is_compiled) == (None, False)


CHECKPOINTED = {"activation_checkpointing": True}
slow = pytest.mark.slow


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("make", "way"),
    [
        (network, {}),
        pytest.param(network, CHECKPOINTED, marks=slow),
        pytest.param(with_lora, {}, marks=slow),
        pytest.param(with_lora, CHECKPOINTED, marks=slow),
    ],
)
def test_a_run_of_traced_blocks_ends_where_a_plain_one_does(tmp_path, runs, make, way):
    _, plain = distilled(runs, tmp_path / "plain", make(runs))
    trainer, ours = distilled(runs, tmp_path / "traced", make(runs), **TRACED, **way)
    assert (trainer.compiled_by, trainer.teacher.is_compiled) == ("eager", True)
    assert counters["stats"]["unique_graphs"] > 1
    assert farthest(ours, plain) < 1e-12


@pytest.mark.usefixtures("unchecked")
def test_a_run_compiles_one_block_and_a_teacher_for_each_power_of_two(tmp_path, runs):
    distilled(runs, tmp_path, network(runs), **TRACED)
    # the number of rows changes in every update, that of texts in every pass, the teacher once
    assert counters["stats"]["unique_graphs"] <= 1 + 4  # 1, 2, 4 and 8 texts
    assert not counters["graph_break"]


@pytest.mark.usefixtures("unchecked")
def test_pretraining_compiles_one_block_and_ends_where_a_plain_one_does(tmp_path, runs):
    ends = []
    for name, settings in (("plain", {}), ("traced", TRACED)):
        model = network(runs)
        runs.pretrainer(MDLMTrainer, tmp_path / name, model, **EXACT, **settings).train()
        ends.append(runs.weights(model))
    assert farthest(*ends) < 1e-12
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.usefixtures("unchecked")
def test_a_copy_of_a_model_compiled_for_training_runs_on_its_own_weights(runs):
    model, plain = network(runs), network(runs)
    model.compile_for_training(backend="eager")
    z = torch.arange(8)[None]
    model.hidden(z)
    twin, graphs = copy.deepcopy(model), counters["stats"]["unique_graphs"]
    for changed in (twin, plain):
        with torch.no_grad():
            changed.backbone.blocks[0].mlp[0].weight.mul_(-1)
    assert torch.equal(twin.hidden(z), plain.hidden(z))
    assert counters["stats"]["unique_graphs"] == graphs


@pytest.mark.usefixtures("unchecked")
def test_passes_without_gradients_are_not_compiled_with_the_training_ones(runs):
    model = network(runs)
    model.compile_for_training(backend="eager")
    with torch.no_grad():
        model.hidden(torch.arange(8)[None], torch.tensor([1, 2]))
    assert counters["stats"]["unique_graphs"] == 0


def test_a_model_without_parts_to_compile_is_refused(tmp_path, runs):
    class Whole(type(runs.masked_model())):
        @property
        def compile_for_training(self):
            raise AttributeError

    model = Whole(runs.masked_model().config)
    with pytest.raises(ValueError, match="Whole cannot be compiled by parts"):
        runs.distiller(tmp_path, model, torch_compile=True)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("make", [network, with_lora])
def test_a_compiled_run_ends_where_a_plain_one_does(tmp_path, runs, make):
    _, plain = distilled(runs, tmp_path / "plain", make(runs))
    _, ours = distilled(runs, tmp_path / "compiled", make(runs), torch_compile=True)
    assert farthest(ours, plain) < 1e-9
