"""Reads what exports.ts wrote in a folder (folder/, F32.gguf, F16.gguf, Q8_0.gguf) with transformers and the `gguf` package.
Every tensor must equal the folder's, rounded as the storage says; transformers must find the same config, tensors and logits.
Exits with 1 at the first difference.
"""
import pathlib
import sys

import gguf
import numpy
import torch
from gguf.quants import dequantize, quantize
from transformers import AutoModelForCausalLM, AutoTokenizer

FOLDER, NAME = pathlib.Path(sys.argv[1]), sys.argv[2]


def rounded(values, kind):
    if kind == gguf.GGMLQuantizationType.F32:
        return values
    if kind == gguf.GGMLQuantizationType.F16:
        return values.astype(numpy.float16).astype(numpy.float32)
    return dequantize(quantize(values, kind), kind)


def unpermuted(values, heads):
    return values.reshape(heads, values.shape[0] // heads // 2, 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def main():
    source = AutoModelForCausalLM.from_pretrained(FOLDER / "folder", dtype=torch.float32).eval()
    config = source.config
    state = {name: value.numpy() for name, value in source.state_dict().items()}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    tokens = torch.arange(1, 40)[None] % config.vocab_size
    with torch.no_grad():
        wanted_logits = source(tokens).logits
    text = "The quick brown fox: 12.50 (not bad!)\n\tfine"
    wanted_ids = AutoTokenizer.from_pretrained(FOLDER / "folder").encode(text, add_special_tokens=False)
    for storage in ("F32", "F16", "Q8_0"):
        found = {tensor.name: tensor for tensor in gguf.GGUFReader(FOLDER / f"{storage}.gguf").tensors}
        rounded_state, kinds = {}, set()
        for name, values in state.items():
            base, suffix = name.rsplit(".", 1)
            tensor = found.pop(f"{names.get_name(base)}.{suffix}", None)
            if tensor is None:
                assert name == "lm_head.weight" and config.tie_word_embeddings, name
                continue
            heads = config.num_attention_heads if ".q_proj." in name else config.num_key_value_heads
            got = dequantize(tensor.data, tensor.tensor_type).reshape(values.shape)
            reordered = config.model_type in ("llama", "mistral") and (".q_proj." in name or ".k_proj." in name)
            got = unpermuted(got, heads) if reordered else got
            kinds.add(tensor.tensor_type.name)
            rounded_state[name] = torch.from_numpy(rounded(values, tensor.tensor_type).copy())
            assert numpy.array_equal(got, rounded_state[name].numpy()), (storage, name)
        assert set(found) <= {"rope_freqs.weight"}, set(found)
        loaded = AutoModelForCausalLM.from_pretrained(FOLDER, gguf_file=f"{storage}.gguf", dtype=torch.float32).eval()
        for name, values in loaded.state_dict().items():
            expected = rounded_state.get(name, rounded_state["model.embed_tokens.weight"])
            assert torch.equal(values, expected), (storage, "transformers", name)
        difference = None
        if config.rope_parameters["rope_type"] == "default":
            with torch.no_grad():
                difference = (loaded(tokens).logits - wanted_logits).abs().max().item()
            assert storage != "F32" or difference <= 1e-4, difference
        ids = AutoTokenizer.from_pretrained(FOLDER, gguf_file=f"{storage}.gguf").encode(text, add_special_tokens=False)
        print(NAME, storage, sorted(kinds), "tensors equal; largest logit difference", difference, "ids equal" if ids == wanted_ids else (ids, wanted_ids))


if __name__ == "__main__":
    main()
