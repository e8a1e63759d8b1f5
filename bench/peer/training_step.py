"""
The peer of `npm run bench -- tune`: one training step of PyTorch + PEFT on the shape of SmolLM2-135M, inside a function, so that the
last step's logits are freed before the next. Weights and tokens are random; the work does not depend on them.
  python training_step.py '{"method": "lora", "dtype": "float32", "rank": 16, "rows": 4, "length": 256, "lossShare": 1, "threads": 2}'
Answers every line "N" on standard input with the seconds of N steps and the process's peak memory, as one line of JSON.
"""

import json
import resource
import statistics
import sys
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

settings = json.loads(sys.argv[1])
torch.set_num_threads(settings["threads"])
torch.manual_seed(0)
dtype = getattr(torch, settings["dtype"])


def product_gigaflops():
    """Median rate of one product of the step, x [1024, 576] times W^T [1536, 576], as in bench/product-rate.ts."""
    x, weight = torch.randn(1024, 576), torch.randn(1536, 576)
    rates = []
    for run in range(45):
        began = time.perf_counter()
        torch.nn.functional.linear(x, weight)
        rates.append(2 * 1024 * 576 * 1536 / (time.perf_counter() - began) / 1e9)
    return statistics.median(rates[5:])


config = LlamaConfig(
    hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3, vocab_size=49152,
    tie_word_embeddings=True, max_position_embeddings=8192, rope_theta=1e5,
)
rate = product_gigaflops()
model = LlamaForCausalLM(config).to(dtype)
if settings["method"] == "lora":
    lora = LoraConfig(r=settings["rank"], lora_alpha=2 * settings["rank"], target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, lora)
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
tokens = torch.randint(0, config.vocab_size, (settings["rows"], settings["length"]))
labels = tokens.clone()
labels[:, : round(settings["length"] * (1 - settings["lossShare"]))] = -100


def step():
    began = time.perf_counter()
    model(input_ids=tokens, labels=labels).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return time.perf_counter() - began


step()
print(json.dumps({"productGigaflops": rate}), flush=True)
for line in sys.stdin:
    before = time.process_time()
    seconds = [step() for _ in range(int(line))]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "processorSeconds": time.process_time() - before, "peakMemoryBytes": peak}), flush=True)
