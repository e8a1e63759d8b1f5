/**
 * Which layers and neurons a model would miss least. Scores come from hidden states that the caller measures on data, or from
 * the weights alone; nothing here runs a model.
 */

/**
 * Block influence (ShortGPT, Men et al. 2024): 1 − mean cosine of a layer's input and output over tokens. A layer that hardly turns the
 * residual stream scores near 0.
 */
export class BlockInfluence {
  private readonly sums: Float64Array;
  private readonly tokens: Float64Array;

  constructor(layers: number, private readonly hiddenSize: number) {
    this.sums = new Float64Array(layers);
    this.tokens = new Float64Array(layers);
  }

  /** Adds the tokens of input and output [T,C] for which `counted[t]` is true (default all). */
  add(layer: number, input: Float32Array, output: Float32Array, counted?: ArrayLike<boolean | number>): void {
    const c = this.hiddenSize;
    if (layer >= this.sums.length || input.length !== output.length || input.length % c !== 0) {
      throw new RangeError(`BlockInfluence: layer ${layer} of ${this.sums.length}, ${input.length} and ${output.length} elements of width ${c}`);
    }
    for (let token = 0; token < input.length / c; token++) {
      if (counted !== undefined && !counted[token]) continue;
      let [product, inputSquare, outputSquare] = [0, 0, 0];
      for (let i = token * c; i < (token + 1) * c; i++) {
        product += input[i]! * output[i]!;
        inputSquare += input[i]! ** 2;
        outputSquare += output[i]! ** 2;
      }
      const norms = Math.sqrt(inputSquare * outputSquare);
      this.sums[layer]! += norms > 0 ? product / norms : 1;
      this.tokens[layer]!++;
    }
  }

  /** [L], 0 to 2. Throws RangeError for a layer that no token was added for. */
  scores(): number[] {
    return Array.from(this.sums, (sum, layer) => {
      if (this.tokens[layer] === 0) throw new RangeError(`BlockInfluence: no token of layer ${layer}`);
      return 1 - sum / this.tokens[layer]!;
    });
  }
}

/** The `count` indices with the lowest scores, ascending; of equal scores the later layer goes first. */
export function leastImportant(scores: ArrayLike<number>, count: number): number[] {
  return Array.from({ length: scores.length }, (_, i) => i)
    .sort((a, b) => scores[a]! - scores[b]! || b - a)
    .slice(0, count)
    .sort((a, b) => a - b);
}

/** Mean |activation| of every neuron of the feed-forward units, where the activation is what enters down_proj. */
export class NeuronActivity {
  private readonly sums = new Map<number, { readonly sum: Float64Array; tokens: number }>();

  /** Adds activations [T,F] of a layer, of the tokens for which `counted[t]` is true (default all). */
  add(layer: number, activations: Float32Array, neurons: number, counted?: ArrayLike<boolean | number>): void {
    const entry = this.sums.get(layer) ?? { sum: new Float64Array(neurons), tokens: 0 };
    if (entry.sum.length !== neurons || activations.length % neurons !== 0) throw new RangeError(`NeuronActivity: layer ${layer}, ${activations.length} elements of width ${neurons}`);
    this.sums.set(layer, entry);
    const { sum } = entry;
    for (let token = 0; token < activations.length / neurons; token++) {
      if (counted !== undefined && !counted[token]) continue;
      for (let j = 0; j < neurons; j++) sum[j]! += Math.abs(activations[token * neurons + j]!);
      entry.tokens++;
    }
  }

  /** [F] by layer. */
  means(): Map<number, Float64Array> {
    return new Map([...this.sums].map(([layer, { sum, tokens }]) => [layer, sum.map((value) => value / Math.max(1, tokens))]));
  }
}

/** |gate_j|·|up_j|·|down_j| [F]: 2-norms of the rows of gate and up [F,C] and the columns of down [C,F]; a family without a gate has 1 for its norm. */
export function magnitudeImportance(gate: Float32Array | undefined, up: Float32Array, down: Float32Array, neurons: number): Float64Array {
  const gates = gate === undefined ? undefined : rowNorms(gate, neurons);
  const [ups, downs] = [rowNorms(up, neurons), columnNorms(down, neurons)];
  return ups.map((norm, j) => norm * (gates?.[j] ?? 1) * downs[j]!);
}

/** E|activation_j|·|down_j| [F]: how much a neuron adds to the stream on the data that `activity` [F] was measured on. */
export function activationImportance(activity: ArrayLike<number>, down: Float32Array, neurons: number): Float64Array {
  return columnNorms(down, neurons).map((norm, j) => norm * activity[j]!);
}

function rowNorms(matrix: Float32Array, rows: number): Float64Array {
  const columns = matrix.length / rows;
  return Float64Array.from({ length: rows }, (_, row) => {
    let sum = 0;
    for (let i = row * columns; i < (row + 1) * columns; i++) sum += matrix[i]! ** 2;
    return Math.sqrt(sum);
  });
}

function columnNorms(matrix: Float32Array, columns: number): Float64Array {
  const sums = new Float64Array(columns);
  for (let i = 0; i < matrix.length; i++) sums[i % columns]! += matrix[i]! ** 2;
  return sums.map(Math.sqrt);
}
