"""Golden training values of the families' tiny checkpoints (families.py): gradients and AdamW loss curves from PyTorch, transformers and PEFT.

    .venv/bin/python scripts/golden/family_training.py

Writes under test/golden/family-training/: training.json (rows, settings; of the curves losses and gradient norms), gradients.safetensors (of every
family, trained whole, the gradient of the first step: every 17th element of each tensor, and its 2-norm) and lora.safetensors (initial LoRA
matrices of the curves). Names and layouts are canonical: fused modules of a checkpoint are split, [in, out] weights are turned. GPT-2's LoRA
is on q, k and v one by one, so that its fused module is taken apart before PEFT sees it.
"""
import json

import torch
from families import FAMILIES
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from tiny_llama_training import ALPHA, CLIP, DECAY, GOLDEN, RANK, RATE, STEPS, WARMUP, local, rows, train
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

FOLDER, OUT = GOLDEN / "families", GOLDEN / "family-training"
STRIDE = 17
VARIANTS = {"phi3": "phi4"}
CURVES = ("qwen2", "gpt2")
GPT2 = {
    "transformer.wte": "model.embed_tokens", "transformer.wpe": "model.embed_positions", "transformer.ln_f": "model.norm", "transformer.h.": "model.layers.",
    ".ln_1": ".input_layernorm", ".ln_2": ".post_attention_layernorm", ".attn.c_attn": ".self_attn", ".attn.c_proj": ".self_attn.o_proj",
    ".mlp.c_fc": ".mlp.up_proj", ".mlp.c_proj": ".mlp.down_proj",
}


class Separate(torch.nn.Module):
    """GPT-2's c_attn as three linear layers."""

    def __init__(self, fused):
        super().__init__()
        weights, biases = fused.weight.detach().T.chunk(3), fused.bias.detach().chunk(3)
        for name, weight, bias in zip(("q_proj", "k_proj", "v_proj"), weights, biases):
            self.add_module(name, linear(weight, bias))

    def forward(self, x):
        return torch.cat([self.q_proj(x), self.k_proj(x), self.v_proj(x)], dim=-1)


def linear(weight, bias):
    made = torch.nn.Linear(weight.shape[1], weight.shape[0])
    made.weight.data, made.bias.data = weight.clone().contiguous(), bias.clone()
    return made


def load(family, variant="plain"):
    config = json.loads((FOLDER / f"{family}.json").read_text())["configs"][variant]
    made = AutoConfig.for_model(**config)
    model = AutoModelForCausalLM.from_pretrained(FOLDER / family, config=made, dtype=torch.float32, attn_implementation="eager").eval()
    if family == "gpt2":
        for block in model.transformer.h:
            block.attn.c_attn = Separate(block.attn.c_attn)
            for holder, name in ((block.attn, "c_proj"), (block.mlp, "c_fc"), (block.mlp, "c_proj")):
                conv = getattr(holder, name)
                assert isinstance(conv, Conv1D)
                setattr(holder, name, linear(conv.weight.detach().T, conv.bias.detach()))
    return model


def canonical(family, name, shape, config):
    """The canonical names of a parameter's rows, as (name, number of rows), from the name that transformers gives it."""
    if family == "gpt2":
        for theirs, ours in GPT2.items():
            name = name.replace(theirs, ours)
    if family == "phi3" and ".qkv_proj." in name:
        head = config.hidden_size // config.num_attention_heads
        sizes = [config.num_attention_heads * head, config.num_key_value_heads * head, config.num_key_value_heads * head]
        return [(name.replace("qkv_proj", part), size) for part, size in zip(("q_proj", "k_proj", "v_proj"), sizes)]
    if family == "phi3" and ".gate_up_proj." in name:
        return [(name.replace("gate_up_proj", part), shape[0] // 2) for part in ("gate_proj", "up_proj")]
    return [(name, shape[0])]


def gradients(family, data):
    model = load(family, VARIANTS.get(family, "plain"))
    count = sum(sum(row["lossMask"][1:]) for row in data)
    total = 0
    for row in data:
        tokens = torch.tensor([row["tokens"]])
        losses = torch.nn.functional.cross_entropy(model(input_ids=tokens).logits[0, :-1], tokens[0, 1:], reduction="none")
        total = total + losses[torch.tensor(row["lossMask"][1:])].sum() / count
    total.backward()
    result = {}
    for name, parameter in model.named_parameters():
        parts = canonical(family, name, parameter.shape, model.config)
        for (part, _), gradient in zip(parts, parameter.grad.split([size for _, size in parts])):
            result[f"{family}/{part}"] = gradient.reshape(-1)[::STRIDE].clone().contiguous()
            result[f"{family}/{part}/norm"] = gradient.norm().reshape(1)
    return result, total.item()


def curve(family, data, initial):
    full = train(load(family), data, {}, "full", write=False)
    targets = ["q_proj", "k_proj", "v_proj", "c_proj", "c_fc"] if family == "gpt2" else "all-linear"
    adapted = get_peft_model(load(family), LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets, task_type="CAUSAL_LM"))
    generator = torch.Generator().manual_seed(7)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(0, 0.1, generator=generator)
            [(ours, _)] = canonical(family, local(name), parameter.shape, None)
            initial[f"{family}/{ours}"] = parameter.detach().clone().contiguous()
    lora = train(adapted, data, {}, "lora", write=False)
    return {label: {key: run[key] for key in ("losses", "gradientNorms")} for label, run in (("full", full), ("lora", lora))}


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    data, tensors, initial, first = rows(160), {}, {}, {}
    for family in FAMILIES:
        own, first[family] = gradients(family, data)
        tensors |= own
    curves = {family: curve(family, data, initial) for family in CURVES}
    settings = {"steps": STEPS, "warmupSteps": WARMUP, "learningRate": RATE, "weightDecay": DECAY, "maxGradientNorm": CLIP, "rank": RANK, "alpha": ALPHA, "stride": STRIDE}
    OUT.mkdir(exist_ok=True)
    save_file(tensors, OUT / "gradients.safetensors")
    save_file(initial, OUT / "lora.safetensors")
    (OUT / "training.json").write_text(json.dumps({"rows": data, "settings": settings, "torch": torch.__version__, "variants": VARIANTS, "losses": first, "curves": curves}) + "\n")
    for family, runs in curves.items():
        print(family, {label: (run["losses"][0], run["losses"][-1], run["gradientNorms"][0]) for label, run in runs.items()})


if __name__ == "__main__":
    main()
