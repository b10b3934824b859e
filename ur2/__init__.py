"""ur2: reinforcement learning of language models that reason, and search only when searching helps."""

__version__ = "0.1.0"
