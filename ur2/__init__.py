"""ur2: train language models to reason, and to search only when searching helps."""

__version__ = "0.1.0"
