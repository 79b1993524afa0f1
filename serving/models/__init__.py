"""The forward passes behind one contract, and the choice between them."""

from serving.models.step import AdapterRows, Model, Segment, StepInput, StepOutput

__all__ = ["AdapterRows", "Model", "Segment", "StepInput", "StepOutput"]
