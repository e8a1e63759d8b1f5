/**
 * Float32 weights [out, in] into the integer forms of training-form-weights.ts, and 'int8' and 'int4' back. Pure arithmetic, in pieces between
 * turns of the event loop. 'int8' holds the numbers that the serving form's int8 weights hold; 'int4' rounds as GGUF's Q4_0 does.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { quantizeInt8, ZERO_POINT } from './quantize.js';
import { FROZEN_BLOCK, NIBBLE_ZERO, type IntegerForm } from './training-form-weights.js';

// Looked up once: a global in a hot loop costs ten times the loop where code runs in a context of its own, as under jest.
const { abs, fround, max, min, round } = Math;

export interface IntegerWeight {
  readonly values: Int8Array | Uint8Array;
  readonly scales: Float32Array;
}

/** About 2 ms of work between turns of the event loop. */
const ELEMENTS_PER_TURN = 1 << 20;

/** Shapes as `integerShapes` says; the weight's must fit the form (`heldForm`). */
export async function integerWeight(form: IntegerForm, weight: Float32Array, out: number, input: number): Promise<IntegerWeight> {
  switch (form) {
    case 'int8': {
      const { values, scales } = await quantizeInt8(weight, out, input);
      const signed = new Int8Array(values.length);
      for (let i = 0; i < values.length; i++) signed[i] = values[i]! - ZERO_POINT;
      return { values: signed, scales };
    }
    case 'int4':
      return quantizeInt4(weight, out, input);
    case 'int8ByInput':
      return byInput(weight, out, input);
    case 'int8ByOutput':
      return byOutput(weight, out, input);
  }
}

/** Per block: scale = the element furthest from zero / −8, so that it is exact; value = round(w / scale) + 8, at most 15. */
async function quantizeInt4(weight: Float32Array, out: number, input: number): Promise<IntegerWeight> {
  const values = new Uint8Array((out / 2) * input);
  const scales = new Float32Array((out * input) / FROZEN_BLOCK);
  for (let start = 0, block = 0; start < weight.length; start += FROZEN_BLOCK, block++) {
    let furthest = 0;
    for (let i = start; i < start + FROZEN_BLOCK; i++) if (abs(weight[i]!) > abs(furthest)) furthest = weight[i]!;
    const scale = fround(furthest / -NIBBLE_ZERO);
    scales[block] = scale;
    const inverse = scale === 0 ? 0 : 1 / scale;
    const half = start >= values.length;
    for (let i = start, at = half ? start - values.length : start; i < start + FROZEN_BLOCK; i++, at++) {
      const nibble = min(15, max(0, round(weight[i]! * inverse) + NIBBLE_ZERO));
      values[at] = half ? values[at]! | (nibble << 4) : nibble;
    }
    if ((start / FROZEN_BLOCK) % (ELEMENTS_PER_TURN / FROZEN_BLOCK) === 0) await nextTurn();
  }
  return { values, scales };
}

async function byInput(weight: Float32Array, out: number, input: number): Promise<IntegerWeight> {
  const scales = new Float32Array(input);
  for (let at = 0; at < weight.length; ) for (let i = 0; i < input; i++, at++) scales[i] = max(scales[i]!, abs(weight[at]!));
  for (let i = 0; i < input; i++) scales[i]! /= 127;
  await nextTurn();
  const values = new Int8Array(out * input);
  for (let at = 0; at < weight.length; ) for (let i = 0; i < input; i++, at++) values[at] = scales[i] === 0 ? 0 : round(weight[at]! / scales[i]!);
  await nextTurn();
  return { values, scales };
}

async function byOutput(weight: Float32Array, out: number, input: number): Promise<IntegerWeight> {
  const scales = new Float32Array(out);
  const values = new Int8Array(out * input);
  for (let n = 0, start = 0; n < out; n++, start += input) {
    let largest = 0;
    for (let i = 0; i < input; i++) largest = max(largest, abs(weight[start + i]!));
    const scale = fround(largest / 127);
    scales[n] = scale;
    for (let i = 0; i < input; i++) values[i * out + n] = scale === 0 ? 0 : round(weight[start + i]! / scale);
  }
  await nextTurn();
  return { values, scales };
}

/** The float32 weight [out, in] that 'int8' or 'int4' stands for, as the graph computes it. */
export function dequantizedFrozen(form: 'int8' | 'int4', { values, scales }: IntegerWeight): Float32Array {
  const half = values.length;
  const weight = new Float32Array(form === 'int8' ? half : 2 * half);
  for (let i = 0; i < weight.length; i++) {
    const integer = form === 'int8' ? values[i]! : (i < half ? values[i]! & 15 : values[i - half]! >> 4) - NIBBLE_ZERO;
    weight[i] = integer * scales[(i / FROZEN_BLOCK) | 0]!;
  }
  return weight;
}
