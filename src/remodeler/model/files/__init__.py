"""The files of a model: which hold its weights, tensor by tensor, and what a folder is instead."""
