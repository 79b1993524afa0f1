"""The forward passes, one file a model family."""

from serving.models.llama import Llama, Segment, StepInput

__all__ = ["Llama", "Segment", "StepInput"]
