"""Writes tiny random checkpoints of every family under test/golden/families/ with transformers, and the logits that it gives for them.

    FAMILY/               float16, the tokenizer of tiny-llama; vocabulary 160, 2 to 4 layers
    FAMILY.json           200 tokens, and the config.json of every variant: rope scalings, windows, multipliers
    FAMILY.safetensors    per variant the logits of transformers in float32: some columns, and of all columns the log-sum-exp and the largest

The weights are the same for all variants of a family. Run: .venv/bin/python scripts/golden/families.py [FAMILY ...]
"""
import json
import shutil
import sys

import torch
from safetensors.torch import save_file
from tiny_llama import GOLDEN, tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

LENGTH = 200
COLUMN = 10
SIZES = dict(vocab_size=160, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=256)
SPECIAL = dict(bos_token_id=1, eos_token_id=2, pad_token_id=None, initializer_range=0.3)

LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
YARN_SET = YARN | {"beta_fast": 8.0, "beta_slow": 2.0, "truncate": False, "mscale": 0.7, "mscale_all_dim": 1.0}
ROPES = {"linear": {"rope_parameters": LINEAR}, "llama3": {"rope_parameters": LLAMA3}, "yarn": {"rope_parameters": YARN}, "yarn-set": {"rope_parameters": YARN_SET}}


GROUPED = dict(num_attention_heads=4, num_key_value_heads=2, head_dim=16)


def longrope(half):
    short = [1.0 + 0.05 * i for i in range(half)]
    long = [1.5 + 0.9 * i for i in range(half)]
    return {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": short, "long_factor": long, "original_max_position_embeddings": 128}


FAMILIES = {
    "qwen2": (
        dict(tie_word_embeddings=True, initializer_range=0.12),
        ROPES | {"upper-window": dict(use_sliding_window=True, sliding_window=12, max_window_layers=1), "window": dict(use_sliding_window=True, sliding_window=6, max_window_layers=0)},
    ),
    "qwen3": (dict(GROUPED, tie_word_embeddings=False), {"yarn": ROPES["yarn"], "upper-window": dict(use_sliding_window=True, sliding_window=12, max_window_layers=1)}),
    "gpt2": (dict(num_hidden_layers=3, n_inner=80, initializer_range=0.12), {"unscaled": dict(scale_attn_weights=False)}),
    "gemma2": (
        dict(GROUPED, num_hidden_layers=4, sliding_window=12, query_pre_attn_scalar=20, tie_word_embeddings=True, attn_logit_softcapping=4.0, final_logit_softcapping=6.0),
        {"no-caps": dict(attn_logit_softcapping=None, final_logit_softcapping=None)},
    ),
    "gemma3": (
        dict(
            GROUPED, model_type="gemma3_text", num_hidden_layers=4, sliding_window=12, query_pre_attn_scalar=20, tie_word_embeddings=True,
            layer_types=["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
        ),
        {
            "linear": {"rope_parameters": {"full_attention": LINEAR | {"rope_theta": 1e6}, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}},
            "all-local": dict(layer_types=["sliding_attention"] * 4),
            "long-window": dict(sliding_window=512),
            "final-cap": dict(final_logit_softcapping=6.0),
        },
    ),
    "olmo2": (dict(hidden_size=64, num_attention_heads=4, num_key_value_heads=2, intermediate_size=40, tie_word_embeddings=False), {"yarn": ROPES["yarn"]}),
    "granite": (
        dict(GROUPED, tie_word_embeddings=True, embedding_multiplier=3.0, residual_multiplier=0.22, attention_multiplier=0.1, logits_scaling=2.5, attention_bias=True),
        {"plain-numbers": dict(embedding_multiplier=1.0, residual_multiplier=1.0, attention_multiplier=1.0, logits_scaling=1.0), "llama3": ROPES["llama3"]},
    ),
    "phi3": (
        dict(hidden_size=64, intermediate_size=40, tie_word_embeddings=False, original_max_position_embeddings=256),
        {
            "window": dict(sliding_window=12),
            "partial": {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}},
            "longrope-long": {"rope_parameters": longrope(16), "original_max_position_embeddings": 128},
            "longrope-short": {"rope_parameters": longrope(16) | {"attention_factor": 1.3}, "original_max_position_embeddings": 256, "max_position_embeddings": 1024},
            "phi4": dict(rope_parameters=longrope(8) | {"partial_rotary_factor": 0.5}, original_max_position_embeddings=128, max_position_embeddings=1024),
        },
    ),
}


def perturbed(model):
    """Norms away from one and biases away from zero, so that each of them counts."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                scale = 0.1 if name.endswith(".bias") else 0.2
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return model


def tokens():
    return [(7 * i * i + 11 * i + 5) % 160 for i in range(LENGTH)]


def logits(folder, changes):
    """A variant's config.json, and of its logits every COLUMN-th column, the log-sum-exp and the largest column of all, at 200 positions."""
    config = AutoConfig.from_pretrained(folder)
    # Which layers have a window follows from other settings, unless the family's layers are given.
    settings = {key: value for key, value in config.to_dict().items() if key != "layer_types" or "use_sliding_window" not in changes}
    changed = type(config)(**(settings | changes))
    model = AutoModelForCausalLM.from_pretrained(folder, config=changed, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        out = model(torch.tensor([tokens()])).logits[0]
    parts = {"logits": out[:, ::COLUMN].contiguous(), "logSumExp": out.logsumexp(-1), "largest": out.argmax(-1)}
    return json.loads(changed.to_json_string()), parts


def write(family):
    options, variants = FAMILIES[family]
    folder = GOLDEN / "families" / family
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(sum(map(ord, family)))
    # GPT-2 knows neither key/value heads of their own nor this name of the inner width.
    sizes = {key: value for key, value in SIZES.items() if family != "gpt2" or key not in ("num_key_value_heads", "intermediate_size")}
    config = AutoConfig.for_model(**({"model_type": family} | sizes | SPECIAL | options))
    model = perturbed(AutoModelForCausalLM.from_config(config, dtype=torch.float32))
    model.to(torch.float16).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    configs, tensors = {}, {}
    for name, changes in ({"plain": {}} | variants).items():
        configs[name], parts = logits(folder, changes)
        tensors |= {f"{name}/{part}": values for part, values in parts.items()}
    (folder.parent / f"{family}.json").write_text(json.dumps({"tokens": tokens(), "column": COLUMN, "configs": configs}, separators=(",", ":")) + "\n")
    save_file(tensors, folder.parent / f"{family}.safetensors")
    print(family, {name: round(tensors[f"{name}/logSumExp"][-1].item(), 4) for name in configs})


def main():
    torch.set_num_threads(1)
    for family in sys.argv[1:] or FAMILIES:
        write(family)


if __name__ == "__main__":
    main()
