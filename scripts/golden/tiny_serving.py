"""Writes the tiny random checkpoints that the serving form is compared on (its attention needs heads of a multiple of 16), with
transformers: checkpoints under test/golden/ and the logits it gives for them.

    tiny-serving/              tied embedding: vocabulary 160, C 64, F 96, 2 layers, 4 heads of 16, 2 KV heads
    tiny-serving-bias/         untied, biases on attention and MLP, C 48 (not a multiple of a quantization block), 3 heads, 1 KV head
    tiny-serving-window/       Mistral, attention over 6 tokens
    tiny-serving-logits.json   tokens and float32 logits [T,V] of each, from transformers on the CPU

Run: $(scripts/python-env.sh) scripts/golden/tiny_serving.py
"""
import json
import shutil

import torch
from tiny_llama import GOLDEN, model, tokenizer
from transformers import AutoModelForCausalLM, MistralConfig, MistralForCausalLM


def mistral(seed, **options):
    torch.manual_seed(seed)
    return MistralForCausalLM(MistralConfig(bos_token_id=1, eos_token_id=2, initializer_range=0.12, **options)).eval()


def save(name, made):
    folder = GOLDEN / name
    shutil.rmtree(folder, ignore_errors=True)
    made.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    made = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    tokens = [(7 * i * i + 11 * i + 5) % 160 for i in range(16)]
    with torch.no_grad():
        logits = made(torch.tensor([tokens])).logits[0]
    return {"tokens": tokens, "logits": [[float(f"{x:.8g}") for x in row] for row in logits.tolist()][-4:]}


def main():
    common = dict(vocab_size=160, num_hidden_layers=2, max_position_embeddings=128)
    plain = dict(hidden_size=64, intermediate_size=96, num_attention_heads=4, num_key_value_heads=2, **common)
    odd = dict(hidden_size=48, intermediate_size=80, num_attention_heads=3, num_key_value_heads=1, **common)
    small = dict(hidden_size=32, intermediate_size=48, num_attention_heads=2, num_key_value_heads=1, **common)
    out = {
        "tiny-serving": save("tiny-serving", model(11, tie_word_embeddings=True, **plain)),
        "tiny-serving-bias": save(
            "tiny-serving-bias", model(12, tie_word_embeddings=False, attention_bias=True, mlp_bias=True, **odd)
        ),
        "tiny-serving-window": save("tiny-serving-window", mistral(13, sliding_window=6, tie_word_embeddings=True, **small)),
    }
    (GOLDEN / "tiny-serving-logits.json").write_text(json.dumps(out, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
