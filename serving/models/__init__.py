"""The forward passes behind one contract, and the choice between them."""

from hotswap.serving.models.step import AdapterRows, Model, Segment, StepInput, StepOutput

__all__ = ["AdapterRows", "Model", "Segment", "StepInput", "StepOutput"]
