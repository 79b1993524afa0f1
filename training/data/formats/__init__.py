"""Files of training rows: which formats there are, how each is read, checked and written."""

from hotswap.training.data.formats.example import Example, Place
from hotswap.training.data.formats.reading import iter_examples, read_examples

__all__ = ["Example", "Place", "iter_examples", "read_examples"]
