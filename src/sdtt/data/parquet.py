"""Rows of a Parquet file, from any row on."""

from collections.abc import Iterator
from pathlib import Path

ROWS = 1024
"""Rows that are decoded at once."""


def read_rows(path: Path, columns: tuple[str, ...], start: int = 0) -> Iterator[dict[str, object]]:
    """Yield the rows of a file, with the first of `columns` that it has.

    Row groups that lie wholly before `start` are not read.

    Args:
        path: The file.
        columns: Columns wanted, the dearest first.
        start: Rows to leave out.

    Yields:
        A row each: {column: value}; all its columns where none of those wanted is there, so that
        an error can name them.

    Raises:
        ValueError: The file is damaged, or no Parquet.
    """
    import pyarrow  # takes a tenth of a second, and most sources do not need it
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            there = file.schema_arrow.names
            wanted = [name for name in columns if name in there][:1] or None
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if start >= rows:
                    start -= rows
                    continue
                for batch in file.iter_batches(ROWS, row_groups=[group], columns=wanted):
                    yield from batch.slice(start).to_pylist()
                    start = max(start - len(batch), 0)
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"{path} is cut short or damaged ({reason}): fetch it again") from error
