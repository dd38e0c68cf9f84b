"""The forward pass as a program of torch, which needs neither this package nor transformers."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sdtt.models.mdlm import MDLMForMaskedLM
from sdtt.sampling.generate import evaluating


class Scores(nn.Module):
    """A model as a function of tensors alone: ids in, scores out."""

    def __init__(self, model: MDLMForMaskedLM) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Int[Tensor, "B L"]) -> Float[Tensor, "B L K"]:
        """Log-probabilities up to a constant, -inf at MASK."""
        scores: Tensor = self.model(input_ids).logits
        return scores


def export_program(
    model: MDLMForMaskedLM, batch: int | None = None, length: int | None = None
) -> torch.export.ExportedProgram:
    """The forward pass as a program of torch: texts of one length, in any or in fixed numbers.

    ``torch.export.save(program, file)`` writes it; ``torch.export.load(file).module()`` is a
    function of ids (B, L), int64, that needs torch alone.

    Args:
        model: Conditioned or folded; not packed.
        batch: B, fixed; any number of texts if None.
        length: L, fixed; the model's length by default.

    Raises:
        ValueError: If the model is packed, or a size out of range.
    """
    length = model.config.model_length if length is None else length
    if model.is_packed:
        raise ValueError("a packed model cannot be exported: export the model that it was made of")
    if not 1 <= length <= model.config.model_length or (batch is not None and batch < 1):
        raise ValueError(
            f"batch must be at least 1 and length in [1, {model.config.model_length}], "
            f"got {batch} and {length}"
        )
    ids = torch.zeros(batch or 2, length, dtype=torch.long, device=model.device)
    shapes = None if batch else {"input_ids": {0: torch.export.Dim("batch")}}
    with evaluating(model):
        return torch.export.export(Scores(model), (ids,), dynamic_shapes=shapes)
