"""Golden training values of the tiny checkpoints under test/golden: gradients and AdamW loss curves from PyTorch, transformers and PEFT.

    .venv/bin/python scripts/golden/tiny_llama_training.py

Writes test/golden/tiny-llama-training.json (rows, settings, losses, gradient norms) and .safetensors (gradients of the first step,
initial LoRA matrices). One optimizer step covers all rows, so that the order of rows doesn't matter. Everything is float32 on the CPU.
"""
import json
import math
import pathlib

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "test" / "golden"
STEPS, WARMUP, RATE, DECAY, CLIP = 20, 4, 4e-3, 0.05, 1.0
RANK, ALPHA = 4, 8.0


def rows(vocabulary):
    """Six rows of different lengths; the loss counts from a different position of each."""
    generator = torch.Generator().manual_seed(11)
    result = []
    for length, start in ((9, 4), (23, 1), (16, 15), (30, 12), (5, 2), (24, 20)):
        tokens = torch.randint(3, vocabulary, (length,), generator=generator).tolist()
        result.append({"tokens": tokens, "lossMask": [i >= start for i in range(length)]})
    return result


def load(checkpoint="tiny-llama"):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_pretrained(GOLDEN / checkpoint, dtype=torch.float32, attn_implementation="eager")


def lora():
    model = get_peft_model(load(), LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM"))
    generator = torch.Generator().manual_seed(7)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(0, 0.1, generator=generator)
    return model


def only(selected, checkpoint="tiny-llama"):
    model = load(checkpoint)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(selected(name))
    return model


def local(name):
    return name.removeprefix("base_model.model.").replace(".default.", ".")


def loss_sum(model, row):
    tokens = torch.tensor([row["tokens"]])
    logits = model(input_ids=tokens).logits[0, :-1]
    losses = torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="none")
    return losses[torch.tensor(row["lossMask"][1:])].sum()


def rate(step):
    """Linear warm-up that reaches the peak at its last step, then half a cosine; `step` counts from 1."""
    if step <= WARMUP:
        return RATE * step / WARMUP
    return RATE * (1 + math.cos(math.pi * (step - 1 - WARMUP) / (STEPS - WARMUP))) / 2


def train(model, data, tensors, label):
    trained = {local(name): p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=RATE, weight_decay=DECAY)
    count = sum(sum(row["lossMask"][1:]) for row in data)
    losses, norms = [], []
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        total = sum(loss_sum(model, row) for row in data) / count
        total.backward()
        if step == 1:
            for name, parameter in trained.items():
                tensors[f"{label}/gradient/{name}"] = parameter.grad.detach().clone().contiguous()
        norms.append(torch.nn.utils.clip_grad_norm_(trained.values(), CLIP).item())
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        optimizer.step()
        losses.append(total.item())
    return {"losses": losses, "gradientNorms": norms, "parameters": sorted(trained)}


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    data, tensors = rows(load().config.vocab_size), {}
    adapted = lora()
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            tensors[f"lora/initial/{local(name)}"] = parameter.detach().clone().contiguous()
    cases = {
        "lora": adapted,
        "full": only(lambda name: True),
        "lastLayer": only(lambda name: name.startswith("model.layers.1.") or name == "model.norm.weight"),
        "attention": only(lambda name: ".self_attn." in name),
        "tiny-llama-float16": only(lambda name: True, "tiny-llama-float16"),
        "tiny-serving-window": only(lambda name: True, "tiny-serving-window"),
    }
    result = {
        "rows": data,
        "settings": {"steps": STEPS, "warmupSteps": WARMUP, "learningRate": RATE, "weightDecay": DECAY, "maxGradientNorm": CLIP, "rank": RANK, "alpha": ALPHA},
        "torch": torch.__version__,
        "cases": {label: train(model, data, tensors, label) for label, model in cases.items()},
    }
    save_file(tensors, GOLDEN / "tiny-llama-training.safetensors")
    (GOLDEN / "tiny-llama-training.json").write_text(json.dumps(result) + "\n")
    for label, case in result["cases"].items():
        print(label, case["losses"][0], case["losses"][-1], case["gradientNorms"][0])


if __name__ == "__main__":
    main()
