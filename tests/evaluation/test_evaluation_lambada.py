import json
import lzma
import math

import pytest
import torch

from sdtt.data.tokenizer import train_tokenizer
from sdtt.diffusion.denoiser import Head, exclude
from sdtt.evaluation.lambada import lambada, last_word, method_of, passages, read_passages
from sdtt.evaluation.mask_sets import Noise
from sdtt.models.causal import CausalConfig, CausalLM

PASSAGES = ["the small cat saw a red bird", "the bird saw a small cat", "a bird saw the tinsel"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["the small cat saw a red bird sing in the tree. " * 9], 300)


@pytest.fixture(scope="module")
def law(tokenizer):
    """One law for any place: half of it is " cat", a quarter " bird", the rest is shared."""
    size = tokenizer.mask_token_id
    chances = torch.full((size,), 0.25 / (size - 2), dtype=torch.float64)
    for word, chance in ((" cat", 0.5), (" bird", 0.25)):
        (token,) = tokenizer.encode(word)
        chances[token] = chance
    return chances


class Blind:
    """A denoiser of that law; it notes what it is shown."""

    def __init__(self, law):
        self.bias = torch.cat([law, law[:1]]).log()
        self.mask_token_id = len(law)
        self.excluded_ids = (len(law),)
        self.shown = []

    def hidden(self, z, rows=None, *, attention_mask=None, t=None):  # noqa: ARG002
        self.shown += z.tolist()
        return torch.zeros(len(rows), 1, dtype=torch.float64)

    @property
    def head(self):
        return Head(torch.zeros(len(self.bias), 1, dtype=torch.float64), self.bias)

    def logits(self, h):
        return exclude(self.head.scores(h), self.excluded_ids)


def causal(law, **shape):
    default = {"model_length": 16, "hidden_dim": 16, "n_blocks": 1, "n_heads": 2}
    model = CausalLM(CausalConfig(vocab_size=len(law) + 1, bos_token_id=0, **default | shape))
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.cat([law, law[:1]]).log())
    return model.eval()


def losses_by_hand(tokenizer, law):
    words = [tokenizer.encode(f" {text.split()[-1]}") for text in PASSAGES]
    return [-sum(math.log(law[token]) for token in word) for word in words]


@pytest.mark.parametrize("make", [Blind, causal])
def test_accuracy_and_perplexity_of_a_known_law_are_those_by_hand(tokenizer, law, make):
    found = lambada(make(law), tokenizer, PASSAGES)
    nll = losses_by_hand(tokenizer, law)
    assert found.accuracy == pytest.approx(1 / 3)  # only " cat" is the likeliest
    assert found.nll == pytest.approx(sum(nll) / 3, rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(sum(nll) / 3), rel=1e-4)
    assert (found.examples, found.estimated, found.noise_se) == (3, 0, 0)


def test_the_errors_are_those_of_means_over_passages(tokenizer, law):
    found = lambada(Blind(law), tokenizer, PASSAGES)
    nll = torch.tensor(losses_by_hand(tokenizer, law), dtype=torch.float64)
    assert found.accuracy_se == pytest.approx(1 / 3)  # of 1, 0, 0: sqrt(1/3) / sqrt(3)
    assert found.nll_se == pytest.approx(nll.std().item() / math.sqrt(3), rel=1e-6)
    assert found.perplexity_se == pytest.approx(found.perplexity * found.nll_se)


def test_the_whole_last_word_is_masked_and_nothing_else(tokenizer, law):
    blind = Blind(law)
    lambada(blind, tokenizer, ["the bird saw a tinsel"])
    word = len(tokenizer.encode(" tinsel"))
    assert word > 1
    masked = {sum(token == blind.mask_token_id for token in text) for text in blind.shown}
    assert masked == set(range(1, word + 1))
    context = tokenizer.encode("the bird saw a")
    assert all(text[: len(context)] == context for text in blind.shown)


def test_long_words_are_estimated_and_counted(tokenizer, law):
    texts = ["the bird saw a tinsel", "the bird saw a cat"]
    found = lambada(Blind(law), tokenizer, texts, noise=Noise(samples=8, exact_tokens=1))
    word = tokenizer.encode(" tinsel")
    assert found.estimated == 1
    # all of its letters are equally likely, so that every mask gives the same
    assert found.nll == pytest.approx(
        -(len(word) * math.log(law[word[0]]) + math.log(0.5)) / 2, rel=1e-6
    )


def test_contexts_that_do_not_fit_are_counted(tokenizer, law):
    found = lambada(causal(law, model_length=4), tokenizer, PASSAGES[:2])
    assert found.cut == 2


def test_the_last_word_has_its_space_and_the_text_no_other_end(tokenizer):
    pair = last_word(tokenizer, "the cat saw a bird \n")
    assert tokenizer.decode(pair.context) == "the cat saw a"
    assert tokenizer.decode(pair.continuation) == " bird"


def test_a_passage_of_one_word_is_refused(tokenizer):
    with pytest.raises(ValueError, match="needs two words, got 'bird'"):
        last_word(tokenizer, "bird")


def test_no_passage_is_refused(tokenizer, law):
    with pytest.raises(ValueError, match="there are no passages"):
        lambada(Blind(law), tokenizer, [])


def test_the_method_is_known_before_anything_is_scored(law):
    assert method_of(causal(law)) == "autoregressive"
    assert method_of(Blind(law)) == "exact"
    assert method_of(Blind(law), Noise(exact_tokens=0)) == "monte_carlo"


def test_both_forms_are_read_from_their_files(tmp_path):
    folder = tmp_path / "lambada"
    folder.mkdir()
    rows = "".join(json.dumps({"text": text}) + "\n" for text in ("one\n\ntwo", "three four"))
    (folder / "lambada_openai_test.jsonl.xz").write_bytes(lzma.compress(rows.encode()))
    lines = b"one two .\nthree four\n"
    (folder / "lambada_test_plain_text.txt.xz").write_bytes(lzma.compress(lines))
    assert passages("openai", data_root=tmp_path) == ["one\n\ntwo", "three four"]
    assert passages("original", data_root=tmp_path) == ["one two .", "three four"]
    assert passages("original", data_root=tmp_path, limit=1) == ["one two ."]


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="no form 'plain' of LAMBADA; there are openai, original"):
        passages("plain")


def test_a_plain_file_has_a_passage_a_line(tmp_path):
    (tmp_path / "a.txt").write_text("one two\n\nthree four\n")
    assert read_passages(tmp_path / "a.txt") == ["one two", "three four"]
