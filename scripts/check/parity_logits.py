"""Logits of transformers in float32, on the CPU: reads {"models": [{"path", "tokens", "out"}]} from the file named first and writes each
model's logits [T, V] as raw little-endian float32 to its `out`.
"""
import json
import sys

import torch
from transformers import AutoModelForCausalLM

for job in json.load(open(sys.argv[1]))["models"]:
    model = AutoModelForCausalLM.from_pretrained(job["path"], dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        logits = model(torch.tensor([job["tokens"]])).logits[0]
    logits.contiguous().numpy().astype("<f4").tofile(job["out"])
