import pytest
import torch

from sdtt.models.placement import accelerator
from sdtt.training.ema import Ema


def models(runs, count):
    return [runs.masked_model(seed) for seed in range(count)]


def test_the_average_in_host_memory_is_the_other_to_the_last_bit(runs):
    start, *course = models(runs, 5)
    averages = {device: Ema(start, 0.9, device) for device in ("same", "cpu")}
    for model in course:
        for average in averages.values():
            average.update(model)
        assert runs.differences(averages["same"].shadow, averages["cpu"].shadow) == []


def test_the_average_in_host_memory_follows_though_nobody_reads_it_meanwhile(runs):
    start, *course = models(runs, 5)
    averages = {device: Ema(start, 0.9, device) for device in ("same", "cpu")}
    for model in course:
        for average in averages.values():
            average.update(model)
    same, cpu = (runs.weights(averages[device].averaged(start)) for device in ("same", "cpu"))
    assert runs.differences(same, cpu) == []


def test_the_average_in_host_memory_takes_the_weights_of_the_moment(runs):
    start, model = models(runs, 2)
    average = Ema(start, 0.5, "cpu")
    average.update(model)
    expected = (
        runs.weights(start)["backbone.vocab_embed.embedding"]
        + runs.weights(model)["backbone.vocab_embed.embedding"]
    ) / 2
    with torch.no_grad():
        model.backbone.vocab_embed.embedding.zero_()
    torch.testing.assert_close(average.shadow["backbone.vocab_embed.embedding"], expected)


def test_a_run_with_its_average_in_host_memory_ends_as_the_other(tmp_path, runs):
    for device in ("same", "cpu"):
        runs.distiller(tmp_path / device, ema_device=device, teacher_from="ema").train()
    same, cpu = (runs.contents(tmp_path / name / "checkpoint-10") for name in ("same", "cpu"))
    assert runs.differences(same, cpu) == []


def test_a_run_may_be_taken_up_with_its_average_elsewhere(tmp_path, runs):
    settings = {"save_steps": 4.0}
    with pytest.raises(runs.Crashed):
        runs.distiller(tmp_path / "cut", callbacks=(runs.CrashAfter(6),), **settings).train()
    runs.distiller(tmp_path / "cut", ema_device="cpu", **settings).train(True)
    runs.distiller(tmp_path / "whole", **settings).train()
    whole, cut = (runs.contents(tmp_path / name / "checkpoint-10") for name in ("whole", "cut"))
    assert runs.differences(whole, cut) == []


@pytest.mark.gpu
def test_the_average_of_a_model_on_a_device_is_the_one_beside_it_to_rounding(runs):
    device = accelerator()
    start, *course = (model.to(device) for model in models(runs, 5))
    averages = {where: Ema(start, 0.9, where) for where in ("same", "cpu")}
    for model in course:
        for average in averages.values():
            average.update(model)
    for name, expected in averages["same"].shadow.items():
        host = averages["cpu"].shadow[name]
        assert host.device.type == "cpu"
        torch.testing.assert_close(host, expected.cpu(), rtol=0, atol=1e-7)
