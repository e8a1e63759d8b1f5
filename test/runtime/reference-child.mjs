// The reference: runs models through onnxruntime-node's public API in a process of its own (its binding and ours must not both create
// environments in one process). argv[2] is a JSON file of [{name, model, inputs: {name: {dtype, shape, data}}}], bytes in base64.
// Prints one JSON object: case name -> output name -> {dtype, shape, data}.
import { Buffer } from 'node:buffer';
import { readFileSync } from 'node:fs';
import process from 'node:process';
import { InferenceSession, Tensor } from 'onnxruntime-node';

const ARRAYS = {
  float32: Float32Array, float64: Float64Array, float16: Uint16Array, int8: Int8Array, uint8: Uint8Array, int16: Int16Array,
  uint16: Uint16Array, int32: Int32Array, uint32: Uint32Array, int64: BigInt64Array, uint64: BigUint64Array, bool: Uint8Array,
};

function decode({ dtype, shape, data }) {
  const bytes = Uint8Array.from(Buffer.from(data, 'base64'));
  return new Tensor(dtype, new ARRAYS[dtype](bytes.buffer), shape);
}

function encode({ type, dims, data }) {
  return { dtype: type, shape: dims, data: Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString('base64') };
}

const results = {};
for (const { name, model, inputs } of JSON.parse(readFileSync(process.argv[2], 'utf8'))) {
  const session = await InferenceSession.create(Buffer.from(model, 'base64'));
  const outputs = await session.run(Object.fromEntries(Object.entries(inputs).map(([key, value]) => [key, decode(value)])));
  results[name] = Object.fromEntries(Object.entries(outputs).map(([key, value]) => [key, encode(value)]));
}
process.stdout.write(JSON.stringify(results) + '\n');
