"""Writes test/golden/blocks.gguf, one tensor of every storage type that we read, with the `gguf` package, and
test/golden/blocks.safetensors, what the same package dequantizes them to, with the values that the Q8_0 tensor was quantized from as q8_0.source.

Run: $(scripts/python-env.sh) scripts/golden/gguf_blocks.py
"""
import pathlib

import gguf
import numpy
from gguf.quants import dequantize, quantize
from safetensors.numpy import save_file

OUT = pathlib.Path(__file__).resolve().parents[2] / "test" / "golden"
TYPES = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]
# The package can't write these: their blocks are random bytes, with the float16 scales at the given places set to ordinary numbers.
K_TYPES = {"Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}


def main():
    random = numpy.random.default_rng(7)
    writer = gguf.GGUFWriter(OUT / "blocks.gguf", "llama")
    writer.add_string("test.text", "Grüße 🙂")
    writer.add_array("test.list", [1, -2, 3])
    writer.add_float64("test.double", 0.1)
    writer.add_uint64("test.large", 2**63 + 1)
    expected = {}
    for name in TYPES:
        kind = gguf.GGMLQuantizationType[name]
        values = (random.standard_normal((5, 96)) * 10.0 ** random.integers(-4, 3, (5, 1))).astype(numpy.float32)
        data = values if name == "F32" else values.astype(numpy.float16) if name == "F16" else quantize(values, kind)
        writer.add_tensor(name.lower(), data, raw_dtype=kind)
        expected[name.lower()] = numpy.ascontiguousarray(dequantize(data, kind).astype(numpy.float32).reshape(5, 96))
        if name == "Q8_0":
            expected["q8_0.source"] = values
    for name, scales in K_TYPES.items():
        kind = gguf.GGMLQuantizationType[name]
        size = gguf.GGML_QUANT_SIZES[kind][1]
        data = random.integers(0, 256, (4, size), dtype=numpy.uint8)
        for at in scales:
            halves = (random.standard_normal(4) * 10.0 ** random.integers(-4, 1, 4)).astype(numpy.float16)
            data[:, at : at + 2] = halves.view(numpy.uint8).reshape(4, 2)
        writer.add_tensor(name.lower(), data, raw_dtype=kind)
        expected[name.lower()] = numpy.ascontiguousarray(dequantize(data, kind).astype(numpy.float32).reshape(4, 256))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file(expected, OUT / "blocks.safetensors")


if __name__ == "__main__":
    main()
