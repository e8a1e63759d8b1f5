/** Rotary position tables (RoFormer, arXiv 2104.09864) in the half-rotated layout of Hugging Face, with the scalings a config can name. */
import type { DecoderConfig, RopeScaling } from './config-decoder.js';

/**
 * cos and sin of position × frequency, each [positions, headDim/2] row-major. Frequencies and angles are rounded to float32 as
 * in the reference implementation, so that the tables agree with it to the last bit or two at any position.
 */
export function ropeTables(
  config: Pick<DecoderConfig, 'headDim' | 'ropeTheta' | 'ropeScaling'>,
  positions: number,
): { cos: Float32Array; sin: Float32Array } {
  const half = config.headDim / 2;
  const frequencies = ropeFrequencies(config);
  const cos = new Float32Array(positions * half);
  const sin = new Float32Array(positions * half);
  for (let position = 0, at = 0; position < positions; position++) {
    for (let i = 0; i < half; i++, at++) {
      const angle = Math.fround(position * (frequencies[i] as number));
      cos[at] = Math.cos(angle);
      sin[at] = Math.sin(angle);
    }
  }
  return { cos, sin };
}

/** Radians per position, [headDim/2], scaling applied. */
export function ropeFrequencies(config: Pick<DecoderConfig, 'headDim' | 'ropeTheta' | 'ropeScaling'>): Float32Array {
  const half = config.headDim / 2;
  const out = new Float32Array(half);
  for (let i = 0; i < half; i++) {
    out[i] = 1 / Math.fround(config.ropeTheta ** Math.fround((2 * i) / config.headDim));
    if (config.ropeScaling !== undefined) out[i] = scale(config.ropeScaling, out[i] as number, i);
  }
  return out;
}

function scale(scaling: RopeScaling, frequency: number, index: number): number {
  switch (scaling.kind) {
    case 'linear':
      return frequency / scaling.factor;
    case 'divisors':
      return frequency / (scaling.divisors[index] as number);
    case 'llama3': {
      const wavelength = (2 * Math.PI) / frequency;
      const original = scaling.originalMaxPositionTokens;
      if (wavelength > original / scaling.lowFrequencyFactor) return frequency / scaling.factor;
      if (wavelength < original / scaling.highFrequencyFactor) return frequency;
      const kept = (original / wavelength - scaling.lowFrequencyFactor) / (scaling.highFrequencyFactor - scaling.lowFrequencyFactor);
      return ((1 - kept) * frequency) / scaling.factor + kept * frequency;
    }
  }
}
