"""Logits of transformers in float32, on the CPU: reads {"models": [{"path", "tokens", "out", "variant"?}]} from the file named first and writes
each model's logits [T, V] as raw little-endian float32 to its `out`. `variant` ({"file", "name"}) says which config of a family's golden file is
the checkpoint's: it is written again from here, because JavaScript spells 6.0 as 6 and transformers takes no such float.
"""
import json
import pathlib
import sys

import torch
from transformers import AutoModelForCausalLM

for job in json.load(open(sys.argv[1]))["models"]:
    if "variant" in job:
        config = json.load(open(job["variant"]["file"]))["configs"][job["variant"]["name"]]
        (pathlib.Path(job["path"]) / "config.json").write_text(json.dumps(config))
    model = AutoModelForCausalLM.from_pretrained(job["path"], dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        logits = model(torch.tensor([job["tokens"]])).logits[0]
    logits.contiguous().numpy().astype("<f4").tofile(job["out"])
