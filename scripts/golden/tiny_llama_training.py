"""Golden training values of the tiny checkpoints under test/golden: gradients and AdamW loss curves from PyTorch, transformers and PEFT.

    .venv/bin/python scripts/golden/tiny_llama_training.py

Writes test/golden/tiny-llama-training.json (rows, settings, losses, gradient norms) and .safetensors (gradients of the first step,
initial LoRA matrices). One optimizer step covers all rows, so that the order of rows doesn't matter. Everything is float32 on the CPU.
Gradients of a part of the model are not written again: they are those of the whole model. Dropout masks are drawn here by the rule that
src/tuning/dropout.ts documents, in Python.
"""
import hashlib
import json
import math
import pathlib

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "test" / "golden"
STEPS, WARMUP, RATE, DECAY, CLIP = 100, 10, 2e-3, 0.05, 1.0
RANK, ALPHA = 4, 8.0
RANKS, ALPHAS = {"q_proj": 2, "model.layers.1.mlp.down_proj": 6}, {"v_proj": 3.0, "mlp.up_proj": 16.0}
DROPOUT, SEED = 0.2, 5
LAYER_DECAY, GROUPS, LEAST = 0.5, {"norm": 3.0, "v_proj": 0.25}, 0.1


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


def lora(**options):
    model = get_peft_model(load(), LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM", **options))
    generator = torch.Generator().manual_seed(7)
    for name, parameter in model.named_parameters():
        if "lora_magnitude" in name:
            parameter.data.mul_(1 + 0.1 * torch.randn(parameter.shape, generator=generator))
        elif "lora_" in name:
            parameter.data.normal_(0, 0.1, generator=generator)
    return model


def only(selected, checkpoint="tiny-llama"):
    model = load(checkpoint)
    return choose(model, selected)


def choose(model, selected):
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(selected(name))
    return model


def local(name):
    return name.removeprefix("base_model.model.").replace(".default.", ".")


def numbers(label):
    """xoshiro128** from SplitMix64 of the first 8 bytes of SHA-256, as src/common/random.ts says."""
    seed = int.from_bytes(hashlib.sha256(label.encode()).digest()[:8], "little")

    def split_mix(index):
        z = (seed + 0x9E3779B97F4A7C15 * (index + 1)) % 2**64
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        return z ^ z >> 31

    first, second = split_mix(0), split_mix(1)
    a, b, c, d = first % 2**32, first >> 32, second % 2**32, second >> 32
    while True:
        x = b * 5 % 2**32
        yield (x << 7 | x >> 25) * 9 % 2**32
        shifted = b << 9 & 0xFFFFFFFF
        c ^= a
        d ^= b
        b ^= c
        a ^= d
        c ^= shifted
        d = (d << 11 | d >> 21) & 0xFFFFFFFF


class Mask(torch.nn.Module):
    """Dropout whose mask follows from the seed, the step, the row and the module; 16 bits an element."""

    where = (0, 0)

    def __init__(self, module):
        super().__init__()
        self.module, self.threshold = module, round(DROPOUT * 65536)

    def forward(self, x):
        stream = numbers(f"{SEED}:dropout/0/{Mask.where[0]}/{Mask.where[1]}/{self.module}")
        words = [next(stream) for _ in range((x.numel() + 1) // 2)]
        halves = torch.tensor([half for word in words for half in (word & 0xFFFF, word >> 16)][: x.numel()])
        return x * (halves >= self.threshold).float().reshape(x.shape) * (65536 / (65536 - self.threshold))


def masked(model):
    for name, module in model.named_modules():
        if hasattr(module, "lora_dropout"):
            module.lora_dropout["default"] = Mask(local(name))
    return model


def loss_sum(model, row, index, step):
    Mask.where = (step, index)
    tokens = torch.tensor([row["tokens"]])
    logits = model(input_ids=tokens).logits[0, :-1]
    losses = torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="none")
    return losses[torch.tensor(row["lossMask"][1:])].sum()


def rate(step, steps, least=0.0):
    """Linear warm-up that reaches the peak at its last step, then half a cosine to `least`; `step` counts from 1."""
    if step <= WARMUP:
        return RATE * step / WARMUP
    return RATE * (least + (1 - least) * (1 + math.cos(math.pi * (step - 1 - WARMUP) / (steps - WARMUP))) / 2)


def one(name):
    return 1.0


def factor(name):
    """0.5 a layer below the top one; the (tied) embedding lies below them all. Then the multiplier of the first group that matches."""
    depth = 2 if "embed_tokens" in name else 1 if ".layers.0." in name else 0
    return LAYER_DECAY**depth * next((value for part, value in GROUPS.items() if part in name), 1.0)


def adamw(groups):
    return torch.optim.AdamW(groups, lr=RATE, weight_decay=DECAY)


def train(model, data, tensors, label, steps=STEPS, multiplier=one, least=0.0, write=True, make=adamw, peak=RATE):
    trained = {local(name): p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = make([{"params": [p], "factor": multiplier(name)} for name, p in trained.items()])
    count = sum(sum(row["lossMask"][1:]) for row in data)
    losses, norms = [], []
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        total = sum(loss_sum(model, row, i, step) for i, row in enumerate(data)) / count
        total.backward()
        if step == 1 and write:
            for name, parameter in trained.items():
                tensors[f"{label}/gradient/{name}"] = parameter.grad.detach().clone().contiguous()
        norms.append(torch.nn.utils.clip_grad_norm_(trained.values(), CLIP).item())
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps, least) * group["factor"] * peak / RATE
        optimizer.step()
        losses.append(total.item())
    return {"losses": losses, "gradientNorms": norms, "parameters": sorted(trained)}


def last_layer(name):
    return name.startswith("model.layers.1.") or name == "model.norm.weight"


def attention(name):
    return ".self_attn." in name


def staged(data, tensors):
    """Half of the steps each: the last layer on the first rows, then attention on the others, with an optimizer of its own."""
    model = only(last_layer)
    first = train(model, data[:3], tensors, "staged", STEPS // 2, write=False)
    second = train(choose(model, attention), data[3:], tensors, "staged", STEPS // 2, write=False)
    return {key: first[key] + second[key] for key in first}


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    data, tensors = rows(load().config.vocab_size), {}
    adapted = {"lora": lora(), "patterns": lora(rank_pattern=RANKS, alpha_pattern=ALPHAS, use_rslora=True), "dora": lora(use_dora=True), "dropout": masked(lora())}
    for label, model in adapted.items():
        for name, parameter in model.named_parameters():
            if "lora_" in name and label != "dropout":
                tensors[f"{label}/initial/{local(name)}"] = parameter.detach().clone().contiguous()
    result = {
        "rows": data,
        "settings": {
            "steps": STEPS, "warmupSteps": WARMUP, "learningRate": RATE, "weightDecay": DECAY, "maxGradientNorm": CLIP, "rank": RANK, "alpha": ALPHA,
            "ranks": RANKS, "alphas": ALPHAS, "dropout": DROPOUT, "seed": SEED, "layerDecay": LAYER_DECAY, "groups": GROUPS, "leastRatio": LEAST,
        },
        "torch": torch.__version__,
        "cases": {
            **{label: train(model, data, tensors, label, 20 if label == "dropout" else STEPS) for label, model in adapted.items()},
            "full": train(only(lambda name: True), data, tensors, "full"),
            "lastLayer": train(only(last_layer), data, tensors, "lastLayer", write=False),
            "attention": train(only(attention), data, tensors, "attention", write=False),
            "feedForward": train(only(lambda name: ".mlp." in name), data, tensors, "feedForward", write=False),
            "rates": train(only(lambda name: True), data, tensors, "rates", multiplier=factor, least=LEAST, write=False),
            "staged": staged(data, tensors),
            "tiny-llama-float16": train(only(lambda name: True, "tiny-llama-float16"), data, tensors, "tiny-llama-float16"),
            "tiny-serving-window": train(only(lambda name: True, "tiny-serving-window"), data, tensors, "tiny-serving-window"),
        },
    }
    save_file(tensors, GOLDEN / "tiny-llama-training.safetensors")
    (GOLDEN / "tiny-llama-training.json").write_text(json.dumps(result) + "\n")
    for label, case in result["cases"].items():
        print(label, case["losses"][0], case["losses"][-1], case["gradientNorms"][0])


if __name__ == "__main__":
    main()
