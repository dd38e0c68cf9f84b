"""Models from folders, hub names and the package itself, whole or not at all."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from sdtt.diffusion.denoiser import as_denoiser
from sdtt.models.shipped import resolve


def load_model(
    source: str | Path, *, causal: bool = False, dtype: torch.dtype | str = "auto"
) -> Any:
    """A model in evaluation mode, with every weight taken from the file.

    Args:
        source: A folder, the name of a shipped model (``shipped.SHIPPED``), or one on the hub.
        causal: A causal language model, else a masked one.
        dtype: Of the weights; that of the file by default.

    Raises:
        ValueError: If there is no such model, a file is missing or damaged, or a weight is missing
            or misshapen.
    """
    source = check_folder(source)
    auto: Any = AutoModelForCausalLM if causal else AutoModelForMaskedLM
    try:
        model, info = auto.from_pretrained(
            source,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            use_safetensors=True,
        )
    except SafetensorError as error:
        raise ValueError(f"{source}: the weights file is damaged ({error})") from error
    except (OSError, ValueError, KeyError) as error:
        kind = "causal" if causal else "masked"
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"cannot load a {kind} language model from {source}: {reason}") from error
    for trouble in ("missing_keys", "mismatched_keys"):
        if info.get(trouble):
            first = sorted(map(str, info[trouble]))[0]
            raise ValueError(
                f"{source}: {len(info[trouble])} weights are {trouble.split('_')[0]}, such as "
                f"{first}; the file is not of this model"
            )
    return model.eval()


def load_outline(source: str | Path) -> Any:
    """A masked language model of the shape that a config says, on the meta device: no weights.

    Raises:
        ValueError: If there is no such model.
    """
    source = check_folder(source)
    try:
        config = AutoConfig.from_pretrained(source)
        with torch.device("meta"):
            return AutoModelForMaskedLM.from_config(config)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"cannot read a masked language model from {source}: {reason}") from error


def on_accelerator(model: Any) -> Any:
    """The model, on the machine's accelerator where there is one, and known to be a denoiser.

    Raises:
        ValueError: If it is a masked language model that offers no ``Denoiser`` interface.
    """
    as_denoiser(model)
    return model.to(torch.accelerator.current_accelerator() or "cpu")


def load_tokenizer_of(source: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer that was saved with a model.

    Raises:
        ValueError: If there is none.
    """
    source = check_folder(source)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source)
    except Exception as error:  # tokenizers raises bare Exceptions
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"cannot load the tokenizer of the model {source}: {reason}") from error
    return tokenizer


def check_folder(source: str | Path) -> str | Path:
    """Refuses a local path that holds no model, and says what is beside it.

    Returns:
        The source; of the name of a shipped model its folder.

    Raises:
        FileNotFoundError: If a shipped model lacks a file.
        ValueError: If the folder is missing, has no config or no weights, or is a shipped model
            with a damaged file.
    """
    source = resolve(source)
    folder = Path(source)
    looks_local = isinstance(source, Path) or folder.exists() or str(source).startswith((".", "/"))
    if not looks_local and str(source).count("/") <= 1:
        return source  # a name on the hub
    if not folder.is_dir():
        raise ValueError(f"there is no model folder {source}")
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
