import pytest

from sdtt.data.corpus import documents
from sdtt.data.detokenise import detokenised

WORKED = [
    ("wikitext", " \n = Robert Boulter = \n \n", "\n= Robert Boulter =\n\n"),
    ("wikitext", "a guest @-@ starring role in 2 @,@ 000 .", "a guest-starring role in 2,000 ."),
    ("wikitext", 'He , as " Craig " ( 2004 ) , won . So', 'He, as "Craig" (2004), won. So'),
    ("wikitext", "Teddy 's Story ; ten [ a ] : b ! c ? d", "Teddy's Story; ten [a]: b! c? d"),
    ("wikitext", "\n = = = Early = = = \n", "\n=== Early ===\n"),
    ("ptb", "mr. <unk> 's firm does n't make N N", "mr. ?'s firm doesn't make 1 N"),
    ("ptb", "a $ N N loss of N N a year", "a $1 1 loss of 1 1 a year"),
    ("lm1b", "He did , too . She ? No !", "He did, too. She? No!"),
    ("lm1b", 'It \'s " new " ( at $ 5 ) here .', 'It\'s "new" (at $5) here.'),
    ("lm1b", "See http : / / example.org / a .", "See http://example.org/a."),
]


@pytest.mark.parametrize(("rule", "text", "expected"), WORKED)
def test_words_apart_become_text_as_people_write_it(rule, text, expected):
    assert detokenised(text, rule) == expected


def test_documents_are_detokenised_as_they_are_read(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("well , yes . ")
    assert list(documents(path, detokenise="wikitext")) == ["well, yes. "]


def test_an_unknown_rule_is_refused_before_anything_is_read(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("well")
    with pytest.raises(ValueError, match="no rule 'c4' to detokenise by, only wikitext"):
        documents(path, detokenise="c4")
