"""unreel: learn representations from unlabelled video, prove what they are worth, and use them."""

__version__ = "0.1.0"
