"""minitext: text classification in plain PyTorch, every step in plain sight."""

__version__ = "0.1.0"
