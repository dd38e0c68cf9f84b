"""The modelling file that goes with a model to people who do not have this package."""

from pathlib import Path

MODELLING_FILE = Path(__file__).with_name("modeling_mdlm.py")
"""One file, of torch and transformers alone."""

AUTO_MAP = {
    "AutoConfig": "modeling_mdlm.MDLMConfig",
    "AutoModelForMaskedLM": "modeling_mdlm.MDLMForMaskedLM",
}
"""What a config says of it."""
