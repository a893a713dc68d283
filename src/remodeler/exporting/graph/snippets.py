"""What graphs are called, and how one is run in its runtime: Python for a card."""

NAMES = {"onnx": "ONNX", "executorch": "ExecuTorch"}

ONNX = """
import numpy as np
import onnxruntime
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")  # where this file lies
session = onnxruntime.InferenceSession("model.onnx")
sizes = {each.name: each.shape for each in session.get_inputs()}
names = [each.name for each in session.get_outputs()]
new = ids = np.array([tokenizer("Once upon a time")["input_ids"]], np.int64)
past = {name: np.zeros((1, size[1], 0, size[3]), np.float32) for name, size in sizes.items() if "past" in name}
for _ in range(32):
    places = np.arange(ids.shape[1])[None, -new.shape[1] :]
    given = {"input_ids": new, "attention_mask": np.ones_like(ids), "position_ids": places}
    given = {name: value for name, value in given.items() if name in sizes}
    found = dict(zip(names, session.run(None, given | past)))
    past = {name: found[name.replace("input.", "output.", 1)] for name in past}
    new = found["logits"][:, -1:].argmax(-1)
    if new[0, 0] == tokenizer.eos_token_id:
        break
    ids = np.concatenate([ids, new], 1)
print(tokenizer.decode(ids[0]))
"""

EXECUTORCH = """
import torch
from executorch.runtime import Runtime
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")  # where this file lies
method = Runtime.get().load_program("model.pte").load_method("forward")
sizes = [method.metadata.input_tensor_meta(each).sizes() for each in range(method.metadata.num_inputs())]
new = ids = torch.tensor([tokenizer("Once upon a time")["input_ids"]])
past = [torch.zeros(1, size[1], 0, size[3]) for size in sizes if len(size) == 4]
for _ in range(32):
    places = torch.arange(ids.shape[1])[None, -new.shape[1] :].contiguous()
    given = [new, torch.ones_like(ids), places][: len(sizes) - len(past)]
    logits, *past = method.execute([*given, *past])[-1 - len(past) :]
    new = logits[:, -1:].argmax(-1)
    if new[0, 0] == tokenizer.eos_token_id:
        break
    ids = torch.cat([ids, new], 1)
print(tokenizer.decode(ids[0]))
"""

CODE = {"onnx": ONNX, "executorch": EXECUTORCH}
