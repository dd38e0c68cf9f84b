"""Claims about the rate that utilisation is a share of."""

from logging import Logger

import pytest
import torch
from transformers.utils import logging
from transformers.utils.import_utils import enable_tf32

from sdtt.training.peak import _measured, peak_rate, precision_of

GPU, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "precision", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989.4),
        ("NVIDIA H100 PCIe", "bfloat16", 756.0),
        ("NVIDIA A100-SXM4-80GB", "tf32", 156.0),
        ("NVIDIA A100-SXM4-80GB", "float32", 19.5),
        ("NVIDIA L4", "float16", 121.0),
        ("NVIDIA L40S", "bfloat16", 362.0),
    ],
)
def test_the_rate_of_a_known_gpu_is_that_of_its_data_sheet(name, precision, tera):
    assert peak_rate(GPU, precision, name=name).flops_per_second == pytest.approx(tera * 1e12)


@pytest.mark.parametrize("name", ["NVIDIA A10G", "NVIDIA GH200 480GB", "Something New"])
def test_an_unknown_gpu_has_no_rate_and_the_way_out_is_named(name):
    peak = peak_rate(GPU, "bfloat16", name=name)
    assert peak.flops_per_second is None
    assert name in peak.source
    assert "peak_tflops" in peak.source


def test_a_given_rate_goes_before_all_others():
    assert peak_rate(GPU, "bfloat16", 12.5, "NVIDIA H100").flops_per_second == 12.5e12


def test_a_cpu_is_measured_once():
    first, second = peak_rate(CPU, "float32"), peak_rate(CPU, "float32")
    assert first == second
    assert first.flops_per_second > 1e8  # a pocket calculator's, many times over


@pytest.fixture
def new_process():
    """Precisions as a new process has them; afterwards they are again what they were."""
    places = (torch.backends, torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    before = [place.fp32_precision for place in places]
    for place in places:
        place.fp32_precision = "none"
    yield
    for place, value in zip(places, before, strict=True):
        place.fp32_precision = value


@pytest.mark.usefixtures("new_process")
@pytest.mark.parametrize("way", ["torch", "transformers"])
def test_float32_products_on_a_gpu_count_as_tf32_where_they_are_rounded(way):
    names = [precision_of(bf16=False, fp16=False, device=GPU)]
    if way == "torch":
        torch.set_float32_matmul_precision("high")
    else:
        enable_tf32(True)
    names += [precision_of(bf16=False, fp16=False, device=each) for each in (GPU, CPU)]
    assert names == ["float32", "tf32", "float32"]


def test_bfloat16_on_a_processor_that_emulates_it_is_told_with_the_way_out(
    tmp_path, runs, caplog, processor
):
    def told(output, *, multiplies_halves, **settings):
        processor(multiplies_halves=multiplies_halves)
        caplog.clear()
        Logger.warning_once.cache_clear()
        runs.distiller(tmp_path / output, **settings)
        return [line for line in caplog.messages if "no products of bfloat16" in line]

    logging.enable_propagation()
    try:
        (line,) = told("emulated", multiplies_halves=False, bf16=True)
        (teacher,) = told("teacher", multiplies_halves=False, teacher_dtype="bfloat16")
        quiet = told("full", multiplies_halves=False)
        quiet += told("able", multiplies_halves=True, bf16=True)
    finally:
        logging.disable_propagation()
    assert "--no-bf16" in line
    assert "--override-on-resume bf16" in line
    assert "--teacher-dtype same" in teacher
    assert quiet == []


def test_a_slow_product_is_not_repeated(monkeypatch):
    made = []

    def slow(a, b):  # noqa: ARG001
        made.append(a.dtype)

    clock = iter(range(0, 100, 2))
    monkeypatch.setattr("sdtt.training.peak._measured", _measured.__wrapped__)  # nothing is kept
    monkeypatch.setattr("sdtt.training.peak.torch.mm", slow)
    monkeypatch.setattr("sdtt.training.peak.time.perf_counter", lambda: float(next(clock)))
    peak = peak_rate(CPU, "float16")
    assert made == [torch.float16]
    assert peak.flops_per_second == pytest.approx(2 * 1024**3 / 2)
