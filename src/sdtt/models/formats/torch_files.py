"""Files of ``torch.save``, memory mapped, read without ``torch.load`` and without running anything.

``torch.load`` hands some archives to the interpreter of TorchScript, which runs what they hold, and
writes a file where it is asked to compare sources. Here a file is a table of storages and a pickle
that ``sdtt.models.formats.pickles`` reads; tensors are views of the mapped file.
"""

import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdtt.models.formats.pickle_names import CodeInPickleError
from sdtt.models.formats.pickles import unpickle
from sdtt.models.formats.placeholders import Placeholder

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""The first pickle of a file in the format before 1.6 (and of today's on request)."""

STORAGES = {
    "Bool": torch.bool,
    "Byte": torch.uint8,
    "Char": torch.int8,
    "Short": torch.int16,
    "Int": torch.int32,
    "Long": torch.int64,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Float": torch.float32,
    "Double": torch.float64,
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
}

DTYPES = {str(each): each for each in vars(torch).values() if isinstance(each, torch.dtype)}


@dataclass(frozen=True)
class TorchFile:
    """What a file holds.

    Attributes:
        content: What was saved: containers, numbers, strings, tensors, and placeholders.
        placeholders: The classes and functions that stand unloaded in it, as ``module.name``.
    """

    content: Any
    placeholders: tuple[str, ...]


@dataclass(frozen=True)
class _Storage:
    """Bytes of the file, and what they are bytes of."""

    dtype: torch.dtype
    data: torch.UntypedStorage


def read_torch_file(file: Path) -> TorchFile:
    """Reads what ``torch.save`` wrote, calling nothing that is named in it.

    Tensors are on the CPU, and of a zip file they are mapped: what is never used is never read.
    Writing to one changes neither the file nor another reader's.

    Args:
        file: Of ``torch.save``, in the zip format or the legacy one.

    Raises:
        ValueError: If there is no such file, it is not of ``torch.save``, cut short or damaged,
            written on a big-endian machine, or has code in it: TorchScript, or a name of Python's
            library whose call is not known to be harmless.
    """
    if not file.is_file():
        what = "is a folder, not a file" if file.is_dir() else "does not exist"
        raise ValueError(f"{file} {what}; give the .ckpt or .pt file itself")
    not_loaded: set[str] = set()
    try:
        with file.open("rb") as stream:
            zipped = stream.read(4) == b"PK\x03\x04"
            stream.seek(0)
            read = _read_zip if zipped else _read_legacy
            content = read(file, stream, not_loaded)
    except (zipfile.BadZipFile, NotImplementedError, zlib.error) as error:
        raise ValueError(f"cannot read {file}: it is damaged ({error})") from error
    except CodeInPickleError as error:
        raise ValueError(
            f"{file} is refused: it names {error}, code of Python's own library, which loading it "
            "elsewhere would run; ask its author for a safetensors file"
        ) from error
    except ValueError as error:
        raise ValueError(f"cannot read {file}: {error}") from error
    return TorchFile(content, tuple(sorted(not_loaded)))


# ---------------------------------------------------------------- the zip format


def _read_zip(file: Path, stream: BytesIO | BufferedReader, not_loaded: set[str]) -> Any:
    try:
        archive = zipfile.ZipFile(stream)
    except zipfile.BadZipFile as error:
        raise ValueError("it is cut short or damaged, as half a download is") from error
    records = _records(archive)
    mapped = torch.UntypedStorage.from_file(str(file), False, file.stat().st_size)
    storages: dict[str, _Storage] = {}

    def persistent(named: Any) -> _Storage:
        dtype, key, nbytes = _storage_named(named)
        if key not in storages:
            info = records.get(f"data/{key}")
            if info is None or not _is_stored(info) or info.file_size < nbytes:
                raise ValueError(
                    f"the record data/{key} is missing, short, compressed or encrypted"
                )
            start = _data_offset(stream, info)
            data = mapped[start : start + nbytes]
            if data.nbytes() != nbytes:
                raise ValueError(f"the record data/{key} ends behind the end of the file")
            aligned = start % 16 == 0  # torch aligns to 64; others may not, and kernels may care
            storages[key] = _Storage(dtype, data if aligned else data.clone())
        return storages[key]

    try:
        pickled = BytesIO(archive.read(records["data.pkl"]))
        return unpickle(pickled, NAMES, persistent, not_loaded)
    except EOFError as error:
        raise ValueError(f"it is damaged ({error})") from error


def _records(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """What lies in an archive, by name, known to be of ``torch.save`` on a usual machine."""
    records = {info.filename.partition("/")[2]: info for info in archive.infolist()}
    if "data.pkl" not in records:
        raise ValueError("it is a zip file, but not of torch.save: it has no data.pkl")
    if "constants.pkl" in records:
        raise ValueError("it is a TorchScript archive, which holds code; save a state_dict instead")
    for name in ("data.pkl", "byteorder"):
        if name in records and not _is_stored(records[name]):
            raise ValueError(f"its {name} is compressed or encrypted, which torch.save does not do")
    if "byteorder" in records and archive.read(records["byteorder"]) != b"little":
        raise ValueError("it was written on a big-endian machine; save it again on a usual one")
    return records


def _is_stored(info: zipfile.ZipInfo) -> bool:
    """Whether a record's bytes lie in the file as they are."""
    return info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1  # 1: encrypted


def _data_offset(stream: BytesIO | BufferedReader, info: zipfile.ZipInfo) -> int:
    """Where the bytes of a record begin: behind its local header, which has lengths of its own."""
    stream.seek(info.header_offset)
    header = stream.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise ValueError(f"the record {info.filename} is not where the directory says")
    name, extra = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
    return info.header_offset + 30 + name + extra


# ---------------------------------------------------------------- the legacy format


def _read_legacy(file: Path, stream: BytesIO | BufferedReader, not_loaded: set[str]) -> Any:
    size, storages = file.stat().st_size, dict[str, _Storage]()

    def persistent(named: Any) -> _Storage:
        dtype, key, nbytes = _storage_named(named)
        if key not in storages:
            if nbytes > size:  # before any memory is asked for
                raise ValueError(f"its storage {key} is larger than the file")
            storages[key] = _Storage(dtype, torch.UntypedStorage(nbytes))
        return storages[key]

    def part() -> Any:
        return unpickle(stream, NAMES, persistent, not_loaded)

    _check_magic(part)
    part(), part()  # the version of the format, and the sizes of C types
    content, keys = part(), part()
    is_list = isinstance(keys, list) and all(type(key) is str for key in keys)
    if not is_list or set(keys) != storages.keys():
        raise ValueError("it is damaged: not every tensor has its numbers")
    begin = stream.tell()
    mapped = torch.UntypedStorage.from_file(str(file), False, size)
    for key in keys:
        begin += 8  # the number of elements, which the pickle has said
        data = storages[key].data
        if begin + data.nbytes() > size:
            raise ValueError("it is cut short, as half a download is")
        data.copy_(mapped[begin : begin + data.nbytes()], False)
        begin += data.nbytes()
    return content


def _check_magic(part: Callable[[], Any]) -> None:
    try:
        magic = part()
    except CodeInPickleError:
        raise
    except ValueError:
        magic = None
    if magic != LEGACY_MAGIC:
        raise ValueError("it is not a file of torch.save")


# ---------------------------------------------------------------- tensors


def _storage_named(named: Any) -> tuple[torch.dtype, str, int]:
    """The type of a storage's elements, its key, and its bytes."""
    kind, dtype, key, _, count, *view = named if isinstance(named, tuple) else ("",)
    if kind != "storage" or not isinstance(dtype, torch.dtype) or any(view):
        raise ValueError("a persistent id that is not of a storage")
    if type(key) is not str or type(count) is not int or count < 0:
        raise ValueError("a storage without a key or a size")
    return dtype, key, count * dtype.itemsize


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    """A view of a storage; torch refuses one that reaches beyond it."""
    return _tensor_of(storage, offset, size, stride, storage.dtype)


def _tensor_v3(
    storage: Any, offset: Any, size: Any, stride: Any, _: Any, __: Any, dtype: Any, *___: Any
) -> Tensor:
    return _tensor_of(storage, offset, size, stride, dtype)


def _tensor_of(storage: Any, offset: Any, size: Any, stride: Any, dtype: Any) -> Tensor:
    if not isinstance(storage, _Storage) or not isinstance(dtype, torch.dtype):
        raise TypeError("a tensor of what is no storage")
    whole = torch.empty(0, dtype=dtype).set_(storage.data)
    return whole.as_strided(size, stride, offset)


def _parameter(data: Any, *_: Any) -> Tensor:
    """The tensor alone: gradients, hooks and attributes belong to who trains."""
    if not isinstance(data, Tensor):
        raise TypeError("a parameter of what is no tensor")
    return data


def _tensor_of_type(build: Any, _: Any, arguments: Any, *__: Any) -> Any:
    """A tensor of a subclass, or with attributes, as a plain one."""
    known = isinstance(build, Placeholder) and build.build in (_tensor, _tensor_v3, _parameter)
    return build.build(*arguments) if known else Placeholder("torch.Tensor", arguments)


_BUILD: Mapping[str, Callable[..., Any]] = {
    "torch.Size": lambda sizes=(): torch.Size(sizes),
    "torch._tensor._rebuild_from_type_v2": _tensor_of_type,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
}

NAMES: Mapping[str, Any] = {
    **_BUILD,
    **DTYPES,
    **{f"torch.{name}Storage": dtype for name, dtype in STORAGES.items()},
    "torch.storage.UntypedStorage": torch.uint8,
}
"""What a file of tensors names, and what stands for it here."""
