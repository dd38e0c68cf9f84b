"""`sdtt push` against a hub that runs here, and what it refuses before it asks one."""

import base64
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard

import sdtt
from sdtt.cli.push import COMMAND, send
from sdtt.evaluation.records import Record, append
from sdtt.evaluation.subjects import fingerprint_of
from sdtt.models.mdlm import MDLMConfig, MDLMForMaskedLM

SOURCE = Path(sdtt.__file__).parents[1]


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's interface as an upload asks for; the server keeps what it got."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.asked.append((self.path, self.headers.get("authorization"), body))
        if self.headers.get("authorization") != "Bearer hf_good":
            return self.answer({"error": "Invalid credentials in Authorization header"}, 401)
        home = f"http://127.0.0.1:{self.server.server_port}/me/small"
        if self.path.endswith("/create"):
            return self.answer({"url": home})
        if "/preupload/" in self.path:
            files = [file["path"] for file in json.loads(body)["files"]]
            mode = {"uploadMode": "regular", "shouldIgnore": False}
            return self.answer({"files": [{"path": path} | mode for path in files]})
        if "/commit/" in self.path:
            done = {"success": True, "commitOid": "0" * 40, "commitUrl": f"{home}/commit/0"}
            return self.answer(done)
        return self.answer({"errors": [], "warnings": []})

    def do_GET(self) -> None:
        self.answer({"error": "not here"}, 404)

    do_HEAD = do_GET

    def answer(self, content: dict, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_) -> None:
        pass


@pytest.fixture(scope="module")
def hub():
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.asked = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def student_in(folder):
    """A student in its run, beside what is nobody's business."""
    torch.manual_seed(0)
    shape = {"vocab_size": 11, "hidden_dim": 8, "n_blocks": 1, "n_heads": 2, "model_length": 12}
    model = MDLMForMaskedLM(MDLMConfig(**shape))
    model.config.sdtt_sampling_steps = 4
    model.save_pretrained(folder / "students/4")
    (folder / "students/4/optimizer.pt").write_bytes(b"secret")
    (folder / "students/4/run.yaml").write_text("data: /home/me/letters\n")
    (folder / "students/4/notes.txt").write_text("secret")
    return folder / "students/4"


@pytest.fixture
def folder(tmp_path):
    return student_in(tmp_path / "run")


# One process for all that is asked of the hub, for which it must be online.
PUSH = """
import contextlib, io, json, os, sys
from huggingface_hub import constants
from transformers import AutoModelForMaskedLM
from sdtt.cli import main

folder, *scenarios = sys.argv[1:]
results = {}
for scenario in scenarios:
    token, *words = scenario.split()
    if words[-1].startswith("http"):
        constants.ENDPOINT = words.pop()
    os.environ["HF_TOKEN"] = token
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            if words == ["itself"]:
                AutoModelForMaskedLM.from_pretrained(folder).push_to_hub("me/small")
            else:
                sys.argv = ["sdtt", "push", folder, *words]
                main()
        except SystemExit as end:
            code = end.code
    results[scenario] = {"code": code, "stdout": out.getvalue(), "stderr": err.getvalue()}
print(json.dumps(results))
"""


def pushed(folder, endpoint, *scenarios):
    """What comes of `sdtt push` in a process whose hub is at the endpoint."""
    given = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": endpoint, "PYTHONPATH": str(SOURCE)}
    process = [sys.executable, "-c", PUSH, str(folder), *scenarios]
    done = subprocess.run(
        process, env=os.environ | given, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


SCENARIOS = {
    "plain": "hf_good me/small --license mit",
    "private": "hf_good me/hidden --private",
    "itself": "hf_good itself",
    "refused": "hf_bad me/small",
    "away": "hf_good me/small http://127.0.0.1:9",
}


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    return student_in(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def results(hub, student):
    """Of each scenario, in this order."""
    found = pushed(student, f"http://127.0.0.1:{hub.server_port}", *SCENARIOS.values())
    return {name: found[words] for name, words in SCENARIOS.items()}


def commits(hub):
    """The files of each commit that the hub got."""
    for body in [body for path, _, body in hub.asked if "/commit/" in path]:
        lines = [json.loads(line) for line in body.splitlines()]
        files = [line["value"] for line in lines if line["key"] == "file"]
        yield {file["path"]: base64.b64decode(file["content"]) for file in files}


def test_a_push_sends_the_files_of_the_model_and_its_card_and_no_other(hub, results, student):
    assert results["plain"]["code"] == 0, results["plain"]["stderr"]
    due = {"README.md", "config.json", "generation_config.json", "model.safetensors"}
    sent = next(commits(hub))
    assert set(sent) == due
    assert all(sent[name] == (student / name).read_bytes() for name in due)
    assert ModelCard(sent["README.md"].decode()).data.license == "mit"
    assert results["plain"]["stdout"].splitlines()[-1].endswith("/me/small")


def test_a_private_repository_is_asked_for_by_its_flag(hub, results):
    assert results["private"]["code"] == 0, results["private"]["stderr"]
    made = [json.loads(body) for path, _, body in hub.asked if path.endswith("/create")]
    is_private = {
        each["name"]: each.get("private") or each.get("visibility") == "private" for each in made
    }
    assert is_private == {"small": False, "hidden": True}


def test_a_model_pushes_itself_as_models_of_transformers_do(hub, results, student):
    assert results["itself"]["code"] == 0, results["itself"]["stderr"]
    sent = list(commits(hub))[2]
    assert sent["model.safetensors"] == (student / "model.safetensors").read_bytes()
    assert "auto_map" not in json.loads(sent["config.json"])


def test_a_token_that_the_hub_refuses_is_one_line(results):
    assert results["refused"]["code"] == 2
    assert results["refused"]["stderr"].splitlines()[-1] == (
        "error: the hub refuses to take me/small: Invalid credentials in Authorization header; "
        "nothing of me/small was changed"
    )


def test_a_hub_out_of_reach_is_one_line(results):
    assert results["away"]["code"] == 2
    assert results["away"]["stderr"].splitlines()[-1].startswith("error: cannot reach the hub (")


@pytest.mark.parametrize(
    ("token", "words"),
    [("x", "cannot reach the hub ("), (None, "no token of the hub is known: run 'hf auth login'")],
    ids=["offline mode", "no token"],
)
def test_without_the_hub_or_a_token_a_push_ends_in_words(invoke, folder, monkeypatch, token, words):
    if token is None:
        monkeypatch.delenv("HF_TOKEN", raising=False)
    else:
        monkeypatch.setenv("HF_TOKEN", token)
    result = invoke(COMMAND, "fake", str(folder), "me/small")
    assert result.exit_code == 2
    assert words in result.stderr
    assert not (folder / "README.md").exists()


@pytest.mark.parametrize("before", [None, b"mine\r\n"])
def test_a_push_that_fails_leaves_the_card_that_was_there(invoke, folder, monkeypatch, before):
    monkeypatch.setenv("HF_TOKEN", "x")
    card = folder / "README.md"
    if before is not None:
        card.write_bytes(before)
    words = ("fake", str(folder), "me/small", "--license", "mit", "--new-card")
    assert "cannot reach the hub" in invoke(COMMAND, *words).stderr
    assert (card.read_bytes() if card.exists() else None) == before


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionError("gone"), "gone"),
        (json.JSONDecodeError("Expecting value", "<html>", 0), "its answer is no JSON"),
    ],
)
def test_a_hub_that_fails_once_the_repository_is_made_says_so(monkeypatch, error, reason):
    def upload(*_, **__):
        raise error

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda *_, **__: None)
    monkeypatch.setattr("huggingface_hub.HfApi.create_branch", upload)
    with pytest.raises(ValueError, match=f"{reason}.*repository me/x is there, but nothing was"):
        send(Path(), "me/x", [], private=False, revision="main")


def test_a_dry_run_shows_files_bytes_and_card_and_writes_nothing(invoke, folder):
    before = sorted(folder.iterdir())
    result = invoke(COMMAND, "fake", str(folder), "me/small", "--dry-run")
    assert result.exit_code == 0, result.stderr
    listed = [line.split() for line in result.stdout.partition("\n---\n")[0].splitlines()]
    sizes = {line[2]: int(line[0].replace(",", "")) for line in listed if line}
    card = result.stdout.partition("\n\n")[2].removesuffix("\n")
    assert sizes.pop("README.md") == len(card.encode())
    assert sizes == {name: (folder / name).stat().st_size for name in sizes}
    assert set(sizes) == {"config.json", "generation_config.json", "model.safetensors"}
    assert "dry run: nothing was sent to me/small" in result.stderr
    assert sorted(folder.iterdir()) == before


def test_the_files_of_any_tokenizer_are_sent(invoke, folder):
    own = {"vocab.txt", "spiece.model", "chat_template.json"}
    for name in (*own, "optimizer.pt", "run.yaml"):
        (folder / name).write_text("x")
    result = invoke(COMMAND, "fake", str(folder), "me/small", "--dry-run")
    listed = {line.split()[-1] for line in result.stdout.partition("\n\n")[0].splitlines()}
    assert own <= listed
    assert listed.isdisjoint({"optimizer.pt", "run.yaml"})


def test_a_card_that_is_there_is_kept_unless_it_may_be_replaced(invoke, folder):
    (folder / "README.md").write_text("mine")
    words = "fake", str(folder), "me/small", "--dry-run"
    assert "\nmine\n" in invoke(COMMAND, *words).stdout
    assert "\nmine\n" not in invoke(COMMAND, *words, "--new-card").stdout


def test_what_a_card_that_is_kept_would_not_say_is_refused(invoke, folder):
    (folder / "README.md").write_text("mine")
    result = invoke(COMMAND, "fake", str(folder), "me/small", "--dry-run", "--license", "mit")
    assert result.exit_code == 2
    assert "would be sent as it is, without --license: add --new-card" in result.stderr


def test_an_evaluation_is_taken_for_the_model_whose_files_it_measured(invoke, folder, tmp_path):
    perplexity = {"metric": "perplexity", "kind": "diffusion", "draw": {"steps": 4}}
    result = {"perplexity": 20.0, "nll": 3.0, "entropy": 4.0}
    for model, fingerprint in (("this", fingerprint_of(str(folder))), ("that", "0")):
        record = Record(model=model, result=result, fingerprint=fingerprint, **perplexity)
        append(tmp_path / "evaluation/records.jsonl", record)
    words = "fake", str(folder), "me/small", "--dry-run", "--evaluation"
    shown = invoke(COMMAND, *words, str(tmp_path / "evaluation"))
    assert "this model is called **this**" in shown.stdout, shown.stderr
    (tmp_path / "evaluation/records.jsonl").unlink()
    append(tmp_path / "evaluation/records.jsonl", record)
    refused = invoke(COMMAND, *words, str(tmp_path / "evaluation"))
    assert refused.exit_code == 2
    assert "did not measure the files of" in refused.stderr
    named = invoke(COMMAND, *words, str(tmp_path / "evaluation"), "--label", "that")
    assert "this model is called **that**" in named.stdout


@pytest.mark.parametrize("name", ["small", "me/small/er", "me/sm all", "/me"])
def test_what_is_no_name_on_the_hub_is_refused(invoke, folder, name):
    result = invoke(COMMAND, "fake", str(folder), name, "--dry-run")
    assert result.exit_code == 2
    assert "is no name on the hub: that is OWNER/NAME" in result.stderr


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--label", "a"), "--label is a name in an evaluation: give --evaluation FOLDER"),
        (("--teacher", "a"), "--teacher is a name in an evaluation: give --evaluation FOLDER"),
        (("--base-model", "not a name"), "--base-model 'not a name' is no name on the hub"),
        (("--dataset", "a/b,/home/me/x"), "--dataset '/home/me/x' is no name on the hub"),
    ],
)
def test_what_no_card_can_say_is_refused(invoke, folder, flags, says):
    result = invoke(COMMAND, "fake", str(folder), "me/small", "--dry-run", *flags)
    assert result.exit_code == 2
    assert says in result.stderr


def test_a_model_without_a_tokenizer_is_sent_with_a_note(invoke, folder):
    words = "fake", str(folder), "me/small", "--dry-run"
    assert "no tokenizer lies in" in invoke(COMMAND, *words).stderr
    (folder / "tokenizer.json").write_text("{}")
    assert "no tokenizer" not in invoke(COMMAND, *words).stderr


def test_a_card_that_is_no_text_is_named(invoke, folder):
    (folder / "README.md").write_bytes(b"a\xff")
    result = invoke(COMMAND, "fake", str(folder), "me/small", "--dry-run")
    assert result.exit_code == 2
    assert "README.md is no UTF-8 text at its byte 1" in result.stderr


def test_half_a_weights_file_is_refused(invoke, folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    result = invoke(COMMAND, "fake", str(folder), "me/small", "--dry-run")
    assert result.exit_code == 2
    assert "it is cut short" in result.stderr
