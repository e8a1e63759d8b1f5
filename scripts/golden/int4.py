"""Writes test/golden/int4/: the weights of a tiny Llama quantized at random and packed as GPTQ and AWQ publish it, and what they stand
for in float32. Packing here is done one value at a time, from the formats' definitions:

    GPTQ  bits j*b .. j*b+b-1 of qweight[i, o] (int32, b bits, 32/b = n values a word) are input i*n+j of output o; those of
          qzeros[g, i] are the zero point of output i*n+j, less one; scales[g, o] float16; g_idx[i] = group of input i
    AWQ   (gemm) qweight[i, w] holds outputs 8w .. 8w+7 of input i, nibble k being output 8w + [0,2,4,6,1,3,5,7][k]; qzeros[g, w] likewise
    both  weight[o, i] = (q - zero) * scale

Run: $(scripts/python-env.sh) scripts/golden/int4.py
"""
import json
import pathlib

import numpy
from safetensors.numpy import save_file

OUT = pathlib.Path(__file__).resolve().parents[2] / "test" / "golden" / "int4"
V, C, F, HEADS, KV, D = 160, 32, 96, 4, 2, 8
LINEARS = {
    "self_attn.q_proj": (HEADS * D, C), "self_attn.k_proj": (KV * D, C), "self_attn.v_proj": (KV * D, C), "self_attn.o_proj": (C, HEADS * D),
    "mlp.gate_proj": (F, C), "mlp.up_proj": (F, C), "mlp.down_proj": (C, F),
}
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def word(values, bits):
    total = sum(int(v) << (bits * k) for k, v in enumerate(values))
    return total - 2**32 if total >= 2**31 else total


def gptq(q, zero, bits, group):
    (outputs, inputs), n = q.shape, 32 // bits
    return {
        "qweight": numpy.array([[word(q[o, i * n : i * n + n], bits) for o in range(outputs)] for i in range(inputs // n)], numpy.int32),
        "qzeros": numpy.array([[word(zero[g, i * n : i * n + n] - 1, bits) for i in range(outputs // n)] for g in range(inputs // group)], numpy.int32),
        "g_idx": numpy.array([i // group for i in range(inputs)], numpy.int32),
    }


def awq(q, zero, group):
    outputs, inputs = q.shape
    pack = lambda row: [word([row[8 * w + k] for k in AWQ_ORDER], 4) for w in range(outputs // 8)]
    return {
        "qweight": numpy.array([pack(q[:, i]) for i in range(inputs)], numpy.int32),
        "qzeros": numpy.array([pack(zero[g]) for g in range(inputs // group)], numpy.int32),
    }


def write(name, method, bits, group, random):
    top = 2**bits
    tensors = {
        "model.embed_tokens.weight": random.standard_normal((V, C)), "model.norm.weight": random.random(C) + 0.5,
        "model.layers.0.input_layernorm.weight": random.random(C) + 0.5, "model.layers.0.post_attention_layernorm.weight": random.random(C) + 0.5,
    }
    tensors = {key: value.astype(numpy.float16) for key, value in tensors.items()}
    expected = {}
    for module, (outputs, inputs) in LINEARS.items():
        size = inputs if group == -1 else group
        q = random.integers(0, top, (outputs, inputs))
        zero = random.integers(1, top, (inputs // size, outputs))
        scale = (random.random((inputs // size, outputs)) * 0.05 + 0.001).astype(numpy.float16)
        parts = gptq(q, zero, bits, size) if method == "gptq" else awq(q, zero, size)
        for part, value in {**parts, "scales": scale}.items():
            tensors[f"model.layers.0.{module}.{part}"] = value
        spread = lambda rows: numpy.repeat(rows, size, axis=0).T
        expected[f"model.layers.0.{module}.weight"] = numpy.ascontiguousarray((q - spread(zero)).astype(numpy.float32) * spread(scale).astype(numpy.float32))
    quantization = {"quant_method": method, "bits": bits, "group_size": group}
    quantization |= {"sym": False, "desc_act": False, "checkpoint_format": "gptq"} if method == "gptq" else {"zero_point": True, "version": "gemm"}
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": V, "hidden_size": C, "intermediate_size": F, "num_hidden_layers": 1,
        "num_attention_heads": HEADS, "num_key_value_heads": KV, "head_dim": D, "max_position_embeddings": 128, "hidden_act": "silu", "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2, "quantization_config": quantization,
    }
    save_file(tensors, OUT / f"{name}.safetensors", metadata={"format": "pt"})
    save_file(expected, OUT / f"{name}-expected.safetensors")
    (OUT / f"{name}.json").write_text(json.dumps(config, indent=1) + "\n")


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    random = numpy.random.default_rng(11)
    write("gptq", "gptq", 4, 16, random)
    write("gptq-8bit-whole", "gptq", 8, -1, random)
    write("awq", "awq", 4, 32, random)


if __name__ == "__main__":
    main()
