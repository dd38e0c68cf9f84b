"""Benchmark texts as people write them: the published rules that undo a word tokenizer.

WikiText, Penn Treebank and LM1B are distributed with spaces between words and punctuation. Models
of plain text are scored on them after these rules, as published zero-shot bounds are (Megatron-LM's
rules for WikiText; SEDD and MDLM for all three). A rule is a list of (pattern, replacement) that
are applied in order, so it cannot be perfect: a space that belongs there may go.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence

Rule = Sequence[tuple[str, str]]

WIKITEXT: Rule = (
    (r"s '", "s'"),
    (r" @([-,.])@ ", r"\1"),
    (r" ([:;.!?,]) ", r"\1 "),
    (r"\(\s*([^)]*?)\s*\)", r"(\1)"),
    (r"\[\s*([^\]]*?)\s*\]", r"[\1]"),
    (r"\{\s*([^}]*?)\s*\}", r"{\1}"),
    (r"\"\s*([^\"]*?)\s*\"", r'"\1"'),
    (r"'\s*([^']*?)\s*'", r"'\1'"),
    (r"= = = =", "===="),
    (r"= = =", "==="),
    (r"= =", "=="),
    (r" ° ", "°"),
    (r" \n", "\n"),
    (r"\n ", "\n"),
    (r" N ", " 1 "),
    (r" 's", "'s"),
)
"""Hyphens and separators between @, brackets, quotes, headings. Of the published rule one line is
left out that never matches (it was meant for digits behind an apostrophe)."""

PTB: Rule = (
    (r" 's", "'s"),
    (r"s ' ", "s' "),
    (r" n't", "n't"),
    (r" \n ", "\n"),
    (r"\\/", "/"),
    (r" N (?=N )", " 1 "),
    (r" N ", " 1 "),
    (r"\$ 1", "$1"),
    (r"# 1", "#1"),
    (r"<unk>", "?"),
)
"""Numbers are N there and words that are rare <unk>; they become 1 and ?."""

LM1B: Rule = (
    (r"http : / / ", "http://"),
    (r"https : / / ", "https://"),
    (r" '(\w+)", r"'\1"),
    (r" (\w+) \.(?= |$)", r" \1."),
    (r" ([?!])(?= |$)", r"\1"),
    (r" ([,:;]) ", r"\1 "),
    (r" / ", "/"),
    (r'" ([^"]+) "', r'"\1"'),
    (r"' ([^']+) '", r"'\1'"),
    (r"\( ([^()]+) \)", r"(\1)"),
    (r"\[ ([^\[\]]+) \]", r"[\1]"),
    (r"([$£]) ", r"\1"),
)
"""Sentences of news."""

RULES: Mapping[str, Rule] = {"wikitext": WIKITEXT, "ptb": PTB, "lm1b": LM1B}


def detokenised(text: str, rule: str) -> str:
    """The text after one of ``RULES``."""
    for pattern, replacement in RULES[rule]:
        text = re.sub(pattern, replacement, text)
    return text


def check_rule(rule: str) -> None:
    """Refuses a rule that is not there.

    Raises:
        ValueError: If it is none of ``RULES``.
    """
    if rule not in RULES:
        raise ValueError(f"there is no rule {rule!r} to detokenise by, only {', '.join(RULES)}")


def rule_digest(rule: str) -> str:
    """Hash what a rule says (sha256, hexadecimal), so that a cache knows when it has changed.

    Raises:
        ValueError: If it is none of ``RULES``.
    """
    check_rule(rule)
    return hashlib.sha256(repr(RULES[rule]).encode()).hexdigest()
