/** Rotary position tables (RoFormer, arXiv 2104.09864) in the half-rotated layout of Hugging Face, with the scalings a config can name. */
import type { DecoderConfig, Rope, RopeScaling } from './config-decoder.js';

/** What the tables follow from; a layer's AttentionKind has rotary settings of its own. */
export type RopeConfig = Rope & Pick<DecoderConfig, 'headDim' | 'rotaryDim'>;

/**
 * cos and sin of position × frequency, each [positions, rotaryDim/2] row-major. Frequencies and angles are rounded to float32 as
 * in the reference implementation, so that the tables agree with it to the last bit or two at any position. LongRoPE has other
 * frequencies for contexts beyond the original one: the length of the table decides, for all of its positions.
 */
export function ropeTables(config: RopeConfig, positions: number): { cos: Float32Array; sin: Float32Array } {
  const frequencies = ropeFrequencies(config, positions);
  const half = frequencies.length;
  const { ropeScaling } = config;
  const magnitude = ropeScaling !== undefined && 'magnitude' in ropeScaling ? ropeScaling.magnitude : 1;
  const cos = new Float32Array(positions * half);
  const sin = new Float32Array(positions * half);
  for (let position = 0, at = 0; position < positions; position++) {
    for (let i = 0; i < half; i++, at++) {
      const angle = Math.fround(position * (frequencies[i] as number));
      cos[at] = Math.cos(angle) * magnitude;
      sin[at] = Math.sin(angle) * magnitude;
    }
  }
  return { cos, sin };
}

/** Radians per position, [rotaryDim/2], scaling applied, in a context of that many positions. */
export function ropeFrequencies(config: RopeConfig, positions = 1): Float32Array {
  const { ropeScaling, ropeTheta, headDim, rotaryDim = headDim } = config;
  const half = rotaryDim / 2;
  const out = new Float32Array(half);
  for (let i = 0; i < half; i++) {
    const wavelength = Math.fround(ropeTheta ** Math.fround((2 * i) / rotaryDim));
    // The reference rounds LongRoPE's product, not its quotient.
    const divisor = ropeScaling?.kind === 'longrope' ? longropeDivisors(ropeScaling, positions)[i]! : 1;
    out[i] = 1 / Math.fround(Math.fround(divisor) * wavelength);
    if (ropeScaling !== undefined) out[i] = scale(ropeScaling, out[i] as number, i, half, ropeTheta);
  }
  return out;
}

function longropeDivisors(scaling: RopeScaling & { kind: 'longrope' }, positions: number): readonly number[] {
  return positions > scaling.originalMaxPositionTokens ? scaling.longDivisors : scaling.shortDivisors;
}

function scale(scaling: RopeScaling, frequency: number, index: number, half: number, theta: number): number {
  switch (scaling.kind) {
    case 'linear':
      return frequency / scaling.factor;
    case 'divisors':
      return frequency / (scaling.divisors[index] as number);
    case 'longrope':
      return frequency;
    case 'llama3': {
      const wavelength = (2 * Math.PI) / frequency;
      const original = scaling.originalMaxPositionTokens;
      if (wavelength > original / scaling.lowFrequencyFactor) return frequency / scaling.factor;
      if (wavelength < original / scaling.highFrequencyFactor) return frequency;
      const kept = (original / wavelength - scaling.lowFrequencyFactor) / (scaling.highFrequencyFactor - scaling.lowFrequencyFactor);
      return ((1 - kept) * frequency) / scaling.factor + kept * frequency;
    }
    case 'yarn': {
      const [low, high] = yarnRange(scaling, 2 * half, theta);
      const interpolated = Math.min(1, Math.max(0, (index - low) / (high - low)));
      return (frequency / scaling.factor) * interpolated + frequency * (1 - interpolated);
    }
  }
}

/** Indices of the frequencies that turn betaFast and betaSlow times in the original context: where the ramp begins and ends. */
function yarnRange(scaling: RopeScaling & { kind: 'yarn' }, dimensions: number, theta: number): readonly [number, number] {
  const index = (turns: number): number => (dimensions * Math.log(scaling.originalMaxPositionTokens / (turns * 2 * Math.PI))) / (2 * Math.log(theta));
  const [first, last] = [index(scaling.betaFast), index(scaling.betaSlow)];
  const low = Math.max(scaling.wholeRange ? Math.floor(first) : first, 0);
  const high = Math.min(scaling.wholeRange ? Math.ceil(last) : last, dimensions - 1);
  return low === high ? [low, high + 0.001] : [low, high];
}
