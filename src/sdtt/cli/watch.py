"""Replays in the terminal how a text was revealed."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

HIDDEN = "░"


@dataclass(frozen=True)
class Frame:
    """A text after one step.

    Attributes:
        title: Which sample and which step.
        ids: Its tokens.
        state: For each token "prompt", "old", "new" or "masked".
    """

    title: str
    ids: tuple[int, ...]
    state: tuple[str, ...]


STYLES = {"prompt": "bold", "old": "", "new": "bold black on green", "masked": "dim"}


def frames(
    name: str, canvas: Sequence[int], steps: Sequence[dict[int, int]], mask_token_id: int
) -> Iterator[Frame]:
    """The text before the first step, and after each.

    Args:
        name: Of the sample, for the titles.
        canvas: Its ids before the first step, MASK where a token is wanted.
        steps: Place to token, for each step.
        mask_token_id: The id of MASK.
    """
    ids = list(canvas)
    state = ["masked" if token == mask_token_id else "prompt" for token in ids]
    yield Frame(f"{name}, before the first step", tuple(ids), tuple(state))
    for number, revealed in enumerate(steps, start=1):
        state = ["old" if each == "new" else each for each in state]
        for place, token in revealed.items():
            ids[place], state[place] = token, "new"
        yield Frame(f"{name}, step {number} of {len(steps)}", tuple(ids), tuple(state))


def picture(frame: Frame, tokenizer: Any) -> Text:
    """A frame in colours: runs of one state are decoded together."""
    text = Text()
    pairs = zip(frame.state, frame.ids, strict=True)
    for state, run in groupby(pairs, key=lambda pair: pair[0]):
        ids = [token for _, token in run]
        words = HIDDEN * len(ids) if state == "masked" else tokenizer.decode(ids)
        text.append(words, style=STYLES[state])
    return text


def replay(
    shown: Iterator[Frame],
    tokenizer: Any,
    *,
    seconds: float,
    console: Console | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Shows frames one after the other; where stdout is no terminal, below each other.

    Args:
        shown: The frames of one sample.
        tokenizer: Makes words of ids.
        seconds: How long each is shown.
        console: Where; stdout by default.
        sleep: Waits.
    """
    console = console or Console()
    if not console.is_terminal:
        for frame in shown:
            console.print(Panel(picture(frame, tokenizer), title=frame.title))
        return
    with Live(console=console, auto_refresh=False) as live:
        for frame in shown:
            live.update(Panel(picture(frame, tokenizer), title=frame.title), refresh=True)
            sleep(seconds)
