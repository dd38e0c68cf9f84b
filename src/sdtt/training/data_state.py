"""The data in a checkpoint: where a stream stands, or which text the run has."""

import json
from pathlib import Path

from sdtt.data.lanes import lanes_of_process
from sdtt.data.stream_state import StreamState
from sdtt.training.stream import Stream

DATA = "data.json"
STREAM_FILES = "data-*.safetensors"


def serve_own_lanes(stream: Stream, *, process: int, processes: int, micro_batch: int) -> None:
    """Keeps a stream to the lanes that this process will ask for."""
    if stream.is_streamed:
        lanes = stream.blocks.settings.lanes
        stream.blocks.serve(
            lanes_of_process(
                process=process, processes=processes, micro_batch=micro_batch, lanes=lanes
            )
        )


def save_data_state(
    stream: Stream, checkpoint: Path, *, update: int, process: int, processes: int
) -> None:
    """Writes what the data of a run needs to go on; to be called by every process.

    ``data.json`` holds the digest of the text (the SHA-256 of its ids; none where the blocks
    cannot say it), or how many processes write a ``data-<process>.safetensors``, the state of the
    lanes that they serve.

    Args:
        stream: The data of the run.
        checkpoint: The folder of the checkpoint.
        update: Updates that are done.
        process: Which process this is.
        processes: How many there are.
    """
    checkpoint.mkdir(parents=True, exist_ok=True)
    if stream.is_streamed:
        stream.state_at(update).save(checkpoint / f"data-{process}.safetensors")
    if process == 0:
        record = {"processes": processes} if stream.is_streamed else {"digest": _digest(stream)}
        (checkpoint / DATA).write_text(json.dumps(record), encoding="utf-8")


def load_data_state(stream: Stream, checkpoint: Path) -> None:
    """Takes a stream to where a checkpoint was saved, whatever the number of processes was.

    Raises:
        ValueError: The checkpoint is of a run on another text, or on one that was not streamed as
            this one is.
    """
    path = checkpoint / DATA
    record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if stream.is_streamed != ("processes" in record):
        then, now = ("without", "with") if stream.is_streamed else ("with", "without")
        raise ValueError(
            f"cannot resume {checkpoint}: its run was begun {then} --stream, and this is one {now} "
            "it; resume it as it was begun"
        )
    if stream.is_streamed:
        files = [checkpoint / f"data-{n}.safetensors" for n in range(record["processes"])]
        found = [StreamState.load(file) for file in files if file.is_file()]
        if not found:
            raise ValueError(f"{checkpoint} is damaged: it holds no {STREAM_FILES}")
        stream.go_on_from(StreamState.merge(found))
        return
    saved, here = record.get("digest"), _digest(stream)
    if saved and here and saved != here:
        raise ValueError(
            f"cannot resume {checkpoint}: its run was begun on other text than --data holds now "
            f"(SHA-256 of the ids {saved[:12]} then, {here[:12]} now); give the text that it began "
            "with, or start another run in another --output"
        )


def _digest(stream: Stream) -> str | None:
    digest: str | None = getattr(stream.blocks, "digest", None)
    return digest
