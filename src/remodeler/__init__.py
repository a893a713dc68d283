"""Remodeler makes new language models out of existing ones, without training from scratch.

Importing the package is free: torch and transformers are loaded by the module that needs them.
"""

__version__ = "0.1.0"
