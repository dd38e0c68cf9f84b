"""Questions for the task `gutenberg_continuation`: how does a page of a book go on?

    python studies/continuations.py --data $SDTT_DATA/gutenberg --output FILE

Each question is 48 words of a book of the test split and four choices of 12 words: those that
follow, and three from other places of the same book, so that neither author nor subject tells them
apart.
"""

import argparse
import json
from pathlib import Path
from random import Random
from typing import Any

from sdtt.data.corpus import documents

CONTEXT, CHOICE, CHOICES = 48, 12, 4


def question(words: list[str], random: Random) -> dict[str, Any]:
    """One question of a book's words."""
    span = CONTEXT + CHOICE
    place = random.randrange(len(words) - span)
    true = " ".join(words[place + CONTEXT : place + span])
    others: list[str] = []
    while len(others) < CHOICES - 1:
        start = random.randrange(len(words) - CHOICE)
        if not place - CHOICE < start < place + span:
            others.append(" ".join(words[start : start + CHOICE]))
    answer = random.randrange(CHOICES)
    return {
        "context": " ".join(words[place : place + CONTEXT]),
        "choices": [*others[:answer], true, *others[answer:]],
        "answer": answer,
    }


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--questions", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    books = [str(text).split() for text in documents([options.data / "test.jsonl.xz"], unwrap=True)]
    books = [words for words in books if len(words) > 10 * (CONTEXT + CHOICE)]
    random = Random(options.seed)
    rows = [question(books[number % len(books)], random) for number in range(options.questions)]
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    print(f"{len(rows)} questions of {len(books)} books in {options.output}")


if __name__ == "__main__":
    main()
