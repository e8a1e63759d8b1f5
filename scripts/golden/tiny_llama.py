"""Writes the tiny random Llamas under test/golden/ with transformers: checkpoints to load, and the logits it gives for them.

    tiny-llama/              float32, one file, tied embedding: vocabulary 160, C 48, F 80, 2 layers, 6 heads of 8, 2 KV heads
    tiny-llama-float16/      float16, untied, biases on attention and MLP
    tiny-llama-sharded/      bfloat16 in several files, untied, llama3 rope scaling
    tiny-llama-logits.json   tokens and float32 logits [T,V] of each, from transformers on the CPU
    rope.json                rotary cos and sin at some positions, for every kind of scaling

Run: $(scripts/python-env.sh) scripts/golden/tiny_llama.py
"""
import json
import pathlib
import shutil

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "test" / "golden"
TEXT = """The quick brown fox jumps over the lazy dog. A small model learns from small examples, and the
review of the product was good. The price is 12.50 and the delivery took 3 days; not bad at all!
Positive or negative? The battery died after an hour. I would recommend it to anyone."""
CHAT = (
    "{% for message in messages %}{{ bos_token + message['role'] + ':' + message['content'] + eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}{{ bos_token + 'assistant:' }}{% endif %}"
)


def tokenizer():
    """Byte-level BPE over printable ASCII; any other byte is <unk>."""
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = [chr(c) for c in range(33, 127)] + ["\u0120", "\u010a", "\u0109"]
    trainer = trainers.BpeTrainer(
        vocab_size=160, special_tokens=["<unk>", "<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator([TEXT], trainer)
    assert made.get_vocab_size() == 160
    fast = PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    fast.chat_template = CHAT
    return fast


def model(seed, **options):
    torch.manual_seed(seed)
    common = dict(vocab_size=160, max_position_embeddings=128, bos_token_id=1, eos_token_id=2, initializer_range=0.12)
    made = LlamaForCausalLM(LlamaConfig(**(common | options))).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "norm" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
            elif name.endswith(".bias"):
                parameter.copy_(0.1 * torch.randn_like(parameter))
    return made


def save(name, made, dtype, **options):
    folder = GOLDEN / name
    shutil.rmtree(folder, ignore_errors=True)
    made.to(dtype).save_pretrained(folder, **options)
    tokenizer().save_pretrained(folder)
    made = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = [(7 * i * i + 11 * i + 5) % 160 for i in range(12)]
    with torch.no_grad():
        logits = made(torch.tensor([tokens])).logits[0]
    return {"tokens": tokens, "logits": [[float(f"{x:.8g}") for x in row] for row in logits.tolist()]}


def rope():
    """cos and sin [headDim/2] at chosen positions, from transformers' own rotary embedding."""
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    kinds = {
        "default": dict(rope_type="default", rope_theta=100000.0),
        "linear": dict(rope_type="linear", rope_theta=10000.0, factor=4.0),
        "llama3": dict(
            rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192
        ),
    }
    positions = [0, 1, 2, 17, 255, 1023, 4095]
    out = []
    for name, parameters in kinds.items():
        config = LlamaConfig(hidden_size=256, num_attention_heads=4, max_position_embeddings=8192, rope_parameters=parameters)
        cos, sin = LlamaRotaryEmbedding(config)(torch.zeros(1, 1, 1), torch.tensor([positions]))
        half = lambda t: [[float(f"{x:.9g}") for x in row] for row in t[0, :, :32].tolist()]
        out.append({"kind": name, "rope_parameters": parameters, "positions": positions, "cos": half(cos), "sin": half(sin)})
    return out


def main():
    plain = dict(hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2)
    small = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1)
    llama3 = dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)
    llama3["original_max_position_embeddings"] = 256
    out = {
        "tiny-llama": save("tiny-llama", model(1, tie_word_embeddings=True, **plain), torch.float32),
        "tiny-llama-float16": save(
            "tiny-llama-float16",
            model(2, tie_word_embeddings=False, attention_bias=True, mlp_bias=True, **small),
            torch.float16,
        ),
        "tiny-llama-sharded": save(
            "tiny-llama-sharded",
            model(3, tie_word_embeddings=False, max_position_embeddings=512, rope_parameters=llama3, **small),
            torch.bfloat16,
            max_shard_size="8KB",
        ),
    }
    for name in out:
        out[name]["logits"] = out[name]["logits"][-2:] if name != "tiny-llama" else out[name]["logits"]
    (GOLDEN / "rope.json").write_text(json.dumps(rope(), separators=(",", ":")) + "\n")
    (GOLDEN / "tiny-llama-logits.json").write_text(json.dumps(out, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
