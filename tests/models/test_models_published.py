"""Claims about published models by name, on a cache of the hub that is laid out by hand.

The code of the hub runs as it does for the real files; these are small, random, and of the layout
of the release.
"""

import json
import re
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from published import Shape, mdlm_config, nested_config, plain_law, random_weights, texts, under
from published import write_folder as write

import sdtt
from sdtt.models.checkpoints import load_model, load_outline, load_tokenizer_of
from sdtt.models.published import RELEASES, fetch_published, published
from sdtt.models.shipped import resolve

BRANCHES = ("baselines_kld_step_60000", "baselines_kld_step_70000", "main", "teacher_1M_sm")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    fetch_published.cache_clear()
    yield tmp_path / "hub"
    fetch_published.cache_clear()


def put(cache, repository, revision, config, weights, commit="c0ffee"):
    """Lays out one revision as the hub's library does; the folder of its files."""
    root = cache / f"models--{repository.replace('/', '--')}"
    (root / "refs").mkdir(parents=True, exist_ok=True)
    (root / "refs" / revision).write_text(commit * 6 + "0000")
    return write(root / "snapshots" / (commit * 6 + "0000"), config, under(weights))


@pytest.fixture
def student(cache):
    """The weights of the stand-in for the student of seven rounds."""
    weights = random_weights()
    put(cache, "jdeschena/sdtt", "baselines_kld_step_70000", nested_config(), weights)
    other = random_weights(seed=1)
    put(cache, "jdeschena/sdtt", "baselines_kld_step_60000", nested_config(), other, "decade")
    return weights


@torch.no_grad()
def assert_law(model, weights):
    z = texts()
    law = model(z).logits[..., :-1].log_softmax(-1)
    torch.testing.assert_close(law, plain_law(weights, z, Shape().heads), rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------- the names


def test_every_release_of_sdtt_has_a_name_and_no_revision_two():
    revisions = {each.revision for each in RELEASES.values() if each.repository == "jdeschena/sdtt"}
    due = {f"baselines_{d}_step_{r}0000" for d in ("kld", "mse", "tvd") for r in range(1, 8)}
    due |= {
        f"scaling_400k_{s}_step_{r * 10000}" for s in ("sm", "md", "large") for r in range(1, 8)
    }
    due |= {f"teacher_400k_{s}_step_400000" for s in ("sm", "md", "large")} | {"teacher_1M_sm"}
    assert revisions == due
    assert len(RELEASES) == len(due) + 1  # mdlm-owt


def test_a_round_halves_the_steps_of_the_teachers_1024():
    assert [RELEASES[f"sdtt-kld-round{r}"].steps for r in range(1, 8)] == [
        *(512, 256, 128, 64, 32, 16, 8)
    ]
    assert RELEASES["mdlm-owt"].steps is None


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("sdtt-kld-round8", "sdtt-kld-round7"),
        ("sdtt-kl-round7", "sdtt-kld-round7"),
        ("mdlm_owt", "mdlm-owt"),
        ("baselines_kld_step_70000", "sdtt published"),
    ],
)
def test_a_wrong_name_is_told_the_nearest(wrong, near):
    with pytest.raises(ValueError, match=f"no published model .*{wrong}.*{near}") as caught:
        published(wrong)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- loading, from the cache


def test_a_name_loads_the_weights_of_its_revision(student):
    assert_law(sdtt.load_published("sdtt-kld-round7"), student)
    assert_law(sdtt.load_published("sdtt-kld-round6"), random_weights(seed=1))


def test_the_revision_by_hand_is_the_same_model(student):
    by_hand = load_model("jdeschena/sdtt", revision="baselines_kld_step_70000")
    assert_law(by_hand, student)


def test_mdlm_owt_is_the_main_branch_of_its_repository(cache):
    weights = random_weights()
    put(cache, "kuleshov-group/mdlm-owt", "main", mdlm_config(), weights)
    assert_law(sdtt.load_published("mdlm-owt"), weights)


def test_dtype_is_that_of_the_file_unless_another_is_asked_for(student):
    assert (
        sdtt.load_published("sdtt-kld-round7").dtype == student["output_layer.linear.weight"].dtype
    )
    model = sdtt.load_published("sdtt-kld-round7", dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_every_loader_takes_such_a_name(student):
    assert_law(load_model("sdtt-kld-round7"), student)
    assert load_outline("sdtt-kld-round7").config.hidden_dim == Shape().width
    with pytest.raises(ValueError, match="none was saved with it; 'sdtt convert sdtt-kld-round7"):
        load_tokenizer_of("sdtt-kld-round7")


def test_a_local_folder_of_that_name_wins(student):
    shutil.copytree(resolve("sdtt-kld-round6"), "sdtt-kld-round7")
    assert resolve("sdtt-kld-round7") == "sdtt-kld-round7"
    assert_law(load_model("sdtt-kld-round7"), random_weights(seed=1))
    fetch_published.cache_clear()
    assert_law(sdtt.load_published("sdtt-kld-round7"), student)  # which says what it means


def test_a_name_that_can_be_no_other_model_is_told_the_nearest_by_every_loader(cache):
    with pytest.raises(ValueError, match=r"no folder\) 'sdtt-kld-round9'; near it: sdtt-kld-round"):
        load_model("sdtt-kld-round9")
    assert not cache.exists()


@pytest.mark.parametrize("source", ["gpt2", "sdtt", "mdlm", "runs/sdtt-kld-round7", "a/mdlm-owt"])
def test_another_source_is_not_taken_for_a_published_one(source, cache):
    assert resolve(source) == source
    assert not cache.exists()


# ---------------------------------------------------------------- what can go wrong on the way


def test_without_a_network_the_line_says_how_to_come_by_the_files(cache):
    with pytest.raises(ValueError, match=r"^sdtt-mse-round3: .*no network.*local folder") as caught:
        sdtt.load_published("sdtt-mse-round3")
    assert "baselines_mse_step_30000" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not cache.exists()


@pytest.mark.usefixtures("student")
def test_half_a_download_is_an_error_that_says_so():
    file = Path(resolve("sdtt-kld-round7")) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model\.safetensors") as caught:
        sdtt.load_published("sdtt-kld-round7")
    assert "\n" not in str(caught.value)


class Hub(BaseHTTPRequestHandler):
    """Knows the branches of one repository, and no other revision of it."""

    def do_GET(self):
        found = self.path.startswith("/api/models/jdeschena/sdtt/refs")
        branches = [
            {"name": b, "ref": f"refs/heads/{b}", "targetCommit": "0" * 40} for b in BRANCHES
        ]
        body = json.dumps({"branches": branches, "tags": [], "converts": []}).encode()
        self.send_response(200 if found else 404)
        if not found:
            self.send_header("X-Error-Code", "RevisionNotFound")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_HEAD(self):
        self.send_response(404)
        self.send_header("X-Error-Code", "RevisionNotFound")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def online(cache, monkeypatch):
    """A hub on this machine, in place of the one out there."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        address + "/{repo_id}/resolve/{revision}/{filename}",
    )
    yield cache
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("online")
def test_a_revision_that_is_not_there_is_told_the_nearest():
    due = r"jdeschena/sdtt on the hub has no revision 'baselines_kld_step_80000'.*: baselines_kld_"
    with pytest.raises(ValueError, match=due) as caught:
        load_model("jdeschena/sdtt", revision="baselines_kld_step_80000")
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("online")
def test_a_release_that_was_taken_back_is_said_to_be():
    with pytest.raises(
        ValueError, match=r"^sdtt-kld-round5: .*no revision 'baselines_kld_step_50000'"
    ):
        sdtt.load_published("sdtt-kld-round5")


# ---------------------------------------------------------------- the table


def table(*words):
    from typer.testing import CliRunner

    from sdtt.cli import app

    return CliRunner().invoke(app, ["published", *words])


def test_the_table_has_a_line_for_every_name_and_asks_no_hub(cache):
    shown = table()
    assert shown.exit_code == 0
    lines = {line.split()[0]: line.split() for line in shown.stdout.splitlines() if line.strip()}
    for name, release in RELEASES.items():
        assert lines[name][1:4] == [release.repository, release.revision or "-", release.size]
    assert not cache.exists()
    assert "could be downloaded where sdtt was written" in shown.stdout


def test_the_table_of_some_has_those_only():
    shown = table("sdtt-kld-round5")
    assert re.findall(r"^sdtt-\S+(?=  )", shown.stdout, re.MULTILINE) == ["sdtt-kld-round5"]
    assert "66.3 / 5.49" in shown.stdout


def test_the_table_refuses_a_wrong_name_in_one_line():
    shown = table("sdtt-kld-round8")
    assert shown.exit_code == 2
    assert "near it: sdtt-kld-round7" in shown.stderr
