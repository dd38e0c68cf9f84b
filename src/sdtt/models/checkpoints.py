"""Models from folders, hub names and the package itself, whole or not at all."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from sdtt.diffusion.denoiser import as_denoiser
from sdtt.models.causal import CausalConfig
from sdtt.models.formats import hub
from sdtt.models.formats.checkpoint import read_folder
from sdtt.models.formats.files import has_tokenizer, read_json
from sdtt.models.formats.names import plain
from sdtt.models.formats.source import PICKLES, read_source
from sdtt.models.formats.stored import in_folder
from sdtt.models.mdlm import MDLMConfig
from sdtt.models.placement import accelerator
from sdtt.models.published import fetch_published
from sdtt.models.sedd import SEDDConfig
from sdtt.models.shipped import resolve


def load_model(
    source: str | Path,
    *,
    causal: bool = False,
    dtype: torch.dtype | str = "auto",
    revision: str | None = None,
) -> Any:
    """A model in evaluation mode, with every weight taken from the file.

    Args:
        source: A folder, a Lightning file, the name of a shipped model (``shipped.SHIPPED``) or a
            published one (``published.RELEASES``), or one on the hub; a checkpoint of any layout
            in ``formats.layouts.LAYOUTS``.
        causal: A causal language model, else a masked one.
        dtype: Of the weights; that of the file by default.
        revision: Of a name on the hub: a branch, tag or commit.

    Raises:
        ValueError: If there is no such model, a file is missing or damaged, or a weight is missing,
            misshapen or strange.
    """
    place = check_folder(source, revision)
    if not causal:
        place, revision = _with_files(place, revision)
    if not causal and is_published(place):
        asked = getattr(torch, dtype) if isinstance(dtype, str) and dtype != "auto" else dtype
        return read_source(place).model(None if isinstance(asked, str) else asked)
    _check_files(place)
    auto: Any = AutoModelForCausalLM if causal else AutoModelForMaskedLM
    try:
        model, info = auto.from_pretrained(
            place,
            dtype=dtype,
            revision=revision,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            use_safetensors=True,
            trust_remote_code=False,  # else it asks, and a "y" runs what lies there
        )
    except SafetensorError as error:
        raise ValueError(f"{place}: the weights file is damaged ({error})") from error
    except (OSError, ValueError, KeyError) as error:
        kind = "causal" if causal else "masked"
        config = read_json(Path(place) / "config.json") if Path(place).is_dir() else {}
        other = _of_another_kind(config.get("model_type"), causal=causal)
        reason = other or str(error).strip().splitlines()[0]
        raise ValueError(f"cannot load a {kind} language model from {place}: {reason}") from error
    for trouble in ("missing_keys", "mismatched_keys"):
        if info.get(trouble):
            first = sorted(map(str, info[trouble]))[0]
            raise ValueError(
                f"{place}: {len(info[trouble])} weights are {trouble.split('_')[0]}, such as "
                f"{first}; the file is not of this model"
            )
    return model.eval()


def check_causal(source: str | Path) -> None:
    """Refuses what is no causal language model, by its config alone.

    Raises:
        ValueError: If it is none, or there is no such model.
    """
    reason = _of_another_kind(load_config(source).model_type, causal=True)
    if reason is not None:
        raise ValueError(f"cannot load a causal language model from {source}: {reason}")


def _of_another_kind(kind: str | None, *, causal: bool) -> str | None:
    """What is wrong with a known ``model_type`` where another kind of model is wanted."""
    names = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if causal else MODEL_FOR_MASKED_LM_MAPPING_NAMES
    own = {CausalConfig.model_type} if causal else {MDLMConfig.model_type, SEDDConfig.model_type}
    if kind not in CONFIG_MAPPING or kind in names or kind in own:
        return None
    if causal:
        return f"its model_type is {kind!r}, and a causal one is wanted"
    return (
        f"its model_type is {kind!r}, and a masked one is wanted ('sdtt generate --autoregressive' "
        "draws from causal ones)"
    )


def load_published(name: str, *, dtype: torch.dtype | str = "auto") -> Any:
    """A published model in evaluation mode, downloaded if it is not in the cache of the hub.

    ``sdtt.load_published("sdtt-kld-round7")`` is the student of seven rounds under reverse KL.

    Args:
        name: One of ``published.RELEASES``; ``sdtt published`` lists them.
        dtype: Of the weights; that of the file by default.

    Raises:
        ValueError: If there is none of that name (the nearest are named), it cannot be had, or
            something is wrong with its files.
    """
    return load_model(fetch_published(name), dtype=dtype)


def load_config(source: str | Path, revision: str | None = None) -> Any:
    """The config of a model of transformers, or the one that a published layout becomes.

    Raises:
        ValueError: If there is no such model.
    """
    place, revision = _with_files(check_folder(source, revision), revision)
    if is_published(place):
        return read_source(place).config
    try:
        return AutoConfig.from_pretrained(place, revision=revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"cannot read the model {source}: {reason}") from error


def load_outline(source: str | Path) -> Any:
    """A masked language model of the shape that a config says, on the meta device: no weights.

    Raises:
        ValueError: If there is no such model.
    """
    place, _ = _with_files(check_folder(source), None)
    if is_published(place):
        return read_source(place).outline()
    try:
        config = AutoConfig.from_pretrained(place, trust_remote_code=False)
        with torch.device("meta"):
            return AutoModelForMaskedLM.from_config(config)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"cannot read a masked language model from {place}: {reason}") from error


def is_published(place: str | Path) -> bool:
    """Whether a place holds a checkpoint that is not laid out as transformers has it.

    Args:
        place: A local folder or file, or the name of a model of transformers on the hub.
    """
    path = Path(place)
    if not path.is_dir():
        return path.is_file()
    config = read_json(path / "config.json")
    kind = config.get("model_type")
    if kind == MDLMConfig.model_type and _is_plain(path, config):
        return any(plain(name) != name for name in in_folder(path))  # as a wrapper has saved it
    return not isinstance(kind, str)


def _is_plain(folder: Path, config: dict[str, Any]) -> bool:
    """Whether its weights are all there and as they were trained: no adapter, not quantised."""
    return "quantization_config" not in config and not (folder / "adapter_config.json").is_file()


def _with_files(place: str | Path, revision: str | None) -> tuple[str | Path, str | None]:
    """The folder of a name on the hub whose layout is in our table; else what was given."""
    if Path(place).exists():
        return place, revision
    kind = read_json(hub.fetch_config(str(place), revision)).get("model_type")
    if isinstance(kind, str) and kind != MDLMConfig.model_type:
        return place, revision  # transformers knows it
    return hub.fetch(str(place), revision), None


def _check_files(place: str | Path) -> None:
    """Refuses a folder of transformers with a damaged file, and an MDLM with a wrong key."""
    folder = Path(place)
    if not folder.is_dir():
        return
    config = read_json(folder / "config.json")
    if not _is_plain(folder, config):
        return
    if config.get("model_type") == MDLMConfig.model_type:
        read_folder(folder)
    else:
        in_folder(folder)


def on_accelerator(model: Any) -> Any:
    """The model, on the machine's accelerator where there is one, and known to be a denoiser.

    Raises:
        ValueError: If it is a masked language model that offers no ``Denoiser`` interface.
    """
    as_denoiser(model)
    return model.to(accelerator() or "cpu")


def load_tokenizer_of(source: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer that was saved with a model.

    Raises:
        ValueError: If there is none, or no such model.
    """
    place = check_folder(source)
    if not Path(place).exists():
        hub.fetch_config(str(place))  # which says what is missing, and asks once
    elif not has_tokenizer(Path(place)):
        raise ValueError(
            f"cannot load the tokenizer of the model {source}: none was saved with it; "
            f"'sdtt convert {source} DEST --tokenizer gpt2' puts one beside it (published MDLM and "
            "SDTT checkpoints read GPT-2's ids)"
        )
    return tokenizer_at(place)


def tokenizer_at(place: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or a name on the hub, as it is there.

    Raises:
        ValueError: If there is none.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            place, trust_remote_code=False
        )
    except Exception as error:  # tokenizers raises bare Exceptions
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"cannot load the tokenizer of the model {place}: {reason}") from error
    return tokenizer


def place_of(model: Path) -> str | Path:
    """A name on the hub, OWNER/NAME, as such; else the path.

    What lies in a folder that exists, or begins at the root or at home, is a path.

    Args:
        model: As the command line has it.
    """
    name = str(model)
    local = model.is_absolute() or name.startswith("~") or model.parent.exists()
    return model if local or name.count("/") != 1 else name


def check_folder(source: str | Path, revision: str | None = None) -> str | Path:
    """Refuses a local path that holds no model, and says what is beside it.

    Args:
        source: As ``load_model`` takes it.
        revision: Of a name on the hub.

    Returns:
        The source; of the name of a shipped model its folder.

    Raises:
        FileNotFoundError: If a shipped model lacks a file.
        ValueError: If the folder is missing, has no config or no weights, or is a shipped model
            with a damaged file; or there is a revision of what is no name on the hub.
    """
    source = resolve(source)
    folder = Path(source)
    looks_local = isinstance(source, Path) or folder.exists() or str(source).startswith((".", "/"))
    if not looks_local and str(source).count("/") <= 1:
        return source  # a name on the hub
    if revision is not None:
        raise ValueError(
            f"a revision ({revision!r}) goes with a name on the hub, not with {source}"
        )
    if folder.is_file() and folder.suffix in PICKLES:
        return source
    if not folder.is_dir():
        beside = ", ".join(sorted(p.parent.name for p in folder.parent.glob("*/config.json")))
        hint = f"; beside it there are {beside}" if beside else ""
        raise ValueError(f"there is no model folder {source}{hint}")
    students = sorted(
        (path.name for path in folder.glob("students/*") if path.name.isdigit()), key=int
    )
    if students and not (folder / "config.json").is_file():
        raise ValueError(
            f"{source} is a distillation run; its models are {source}/students/"
            f"{{{','.join(students)}}}"
        )
    for name, pattern in (("config.json", "config.json"), ("weights", "*.safetensors")):
        if not list(folder.glob(pattern)):
            raise ValueError(f"{source} is no complete model folder: it has no {name} ({pattern})")
    return source
