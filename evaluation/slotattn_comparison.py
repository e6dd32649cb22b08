"""How runs of the Slot Attention family are compared: as all models that split scenes into slots."""

from .scene_comparison import RULES

__all__ = ["RULES"]
