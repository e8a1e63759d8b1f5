/**
 * Attention of the training form: causal grouped-query attention from products and a softmax, with a gradient of its own.
 * Activations come and go as [B*T, features]; heads of a group lie side by side, [B, KV, (H/KV)*T, D], so that products over a group
 * sum its queries by themselves. Queries may be taken in blocks, each with the keys up to its end: what no query of a block may see is not computed.
 * Invariant: nothing is kept that the probabilities and q, k, v do not give again.
 */
import { customVjp } from '../autodiff/index.js';
import { canonical, ops, type Dim, type Value } from '../onnx/index.js';
import type { DecoderConfig } from './config.js';
import { normalized } from './training-form-norm.js';
import { ATTENTION_DROPOUT_MASK, maskedBy } from './training-form-dropout.js';
import { TOKENS } from './training-form-linear.js';

/** What depends only on the micro-batch's shape; see ShapeInputs in src/tuning. */
export interface AttentionInputs {
  readonly positions: Value;
  /** Rotary tables, where positions are rotary. */
  readonly cos?: Value;
  readonly sin?: Value;
  /** For each of n blocks of U = T/n queries what is added to their scores, [U,(i+1)*U], of packed rows [B,1,1,U,(i+1)*U]. One block is all T queries. */
  readonly masks: readonly Value[];
}

/** Name of the input that holds the mask of a block of queries. */
export const maskInput = (block: number): string => `mask.${block}`;

/** Keys that block `block` of `blocks` sees: its own rows and those before. */
export function keysOfBlock(block: number, blocks: number): Dim {
  return blocks === 1 ? 'T' : canonical(`${block + 1}*${BLOCK_ROWS}`);
}

/** Rows of a block of queries, where there are several. */
const BLOCK_ROWS = 'U';

/** Lowers attention of one layer. */
export class AttentionLayers {
  constructor(
    private readonly config: DecoderConfig,
    private readonly inputs: AttentionInputs,
    /** What kept probabilities are multiplied by, where some are dropped. */
    private readonly dropoutScale?: number,
  ) {}

  /** q [B*T, H*D], k and v [B*T, KV*D] → [B*T, H*D]. */
  attention(q: Value, k: Value, v: Value): Value {
    const { heads, kvHeads } = this.config;
    return this.attend(this.grouped(this.rotate(q, heads), heads), this.grouped(this.rotate(k, kvHeads), kvHeads), this.grouped(v, kvHeads));
  }

  /** Norm of every head of x [B*T, n*D] with one gain [D], or of the whole row with a gain [n*D]. */
  normed(x: Value, gain: Value, over: 'head' | 'projection'): Value {
    if (over === 'projection') return normalized(this.config, x, gain, undefined).y;
    const { headDim } = this.config;
    const width = x.shape[1] as number;
    const heads = ops.reshape(x, [TOKENS, width / headDim, headDim]);
    return ops.reshape(normalized(this.config, heads, gain, undefined).y, [TOKENS, width]);
  }

  /** Rotary positions on [B*T, n*D] → [B, T, n*D]; x itself where positions are learned. */
  private rotate(x: Value, numHeads: number): Value {
    const { positions, cos, sin } = this.inputs;
    if (cos === undefined || sin === undefined) return x;
    const rows = ops.reshape(x, ['B', 'T', numHeads * this.config.headDim]);
    return ops.rotaryEmbedding(rows, positions, cos, sin, { numHeads });
  }

  /** Heads of a group side by side: [.., n*D] → [B, KV, (n/KV)*T, D]. */
  private grouped(x: Value, numHeads: number): Value {
    const { headDim, kvHeads } = this.config;
    const heads = ops.transpose(ops.reshape(x, ['B', 'T', numHeads, headDim]), [0, 2, 1, 3]);
    return ops.reshape(heads, ['B', kvHeads, groupRows(numHeads / kvHeads, 'T'), headDim]);
  }

  /** [B, KV, g*T, D] back to [B*T, H*D]. */
  private ungrouped(x: Value): Value {
    const { heads, headDim } = this.config;
    return ops.reshape(ops.transpose(ops.reshape(x, ['B', heads, 'T', headDim]), [0, 2, 1, 3]), [TOKENS, heads * headDim]);
  }

  /**
   * softmax(α·q·kᵀ + mask)·v on grouped heads, out as [B*T, H*D], block of queries by block. With P the probabilities and O the output:
   * dV = Pᵀ·dO, dS = P ∘ (dO·Vᵀ − Σ_D dO∘O), dQ = α·dS·K, dK = α·dSᵀ·Q; products over a group sum its queries by themselves, and
   * dK and dV sum over blocks. With dropout M (0 or its scale): O = (M∘P)·V, dV = (M∘P)ᵀ·dO, dS = P ∘ (M ∘ dO·Vᵀ − Σ_D dO∘O). With a
   * soft cap c scores are c·t, t = tanh(α·q·kᵀ/c), and dS gets the factor 1 − t².
   */
  private attend(q: Value, k: Value, v: Value): Value {
    const { heads, kvHeads, headDim, attentionScale: alpha = headDim ** -0.5 } = this.config;
    let blocks: AttendedBlock[];
    let output: Value;
    const [o] = customVjp(
      [q, k, v],
      () => {
        blocks = this.inputs.masks.map((_, i) => this.attendedBlock(i, q, k, v, alpha));
        output = this.ungrouped(this.joined(blocks.map(({ kept, keyed }) => ops.matMul(kept, keyed.v))));
        return [output];
      },
      ([d], [needsQ, needsK, needsV]) => {
        const dOutput = this.grouped(d!, heads);
        const dOutputs = blocks.map((_, i) => this.queries(dOutput, i));
        const dv = needsV === true ? this.overKeys(blocks.map(({ kept }, i) => ops.fusedMatMul(kept, dOutputs[i]!, { transA: true }))) : null;
        if (needsQ !== true && needsK !== true) return [null, null, dv];
        const perHead = ops.reduceSum(ops.reshape(ops.mul(d!, output), ['B', 'T', heads, headDim]), [3]);
        const delta = ops.reshape(ops.transpose(perHead, [0, 2, 1, 3]), ['B', kvHeads, groupRows(heads / kvHeads, 'T'), 1]);
        const dScores = blocks.map((block, i) => block.dScores(ops.fusedMatMul(dOutputs[i]!, block.keyed.v, { transB: true }), this.queries(delta, i)));
        const dq = needsQ === true ? this.joined(blocks.map(({ keyed }, i) => ops.fusedMatMul(dScores[i]!, keyed.k, { alpha }))) : null;
        const dk = needsK === true ? this.overKeys(blocks.map((block, i) => ops.fusedMatMul(dScores[i]!, block.q, { transA: true, alpha }))) : null;
        return [dq, dk, dv];
      },
    );
    return o!;
  }

  private attendedBlock(i: number, q: Value, k: Value, v: Value, alpha: number): AttendedBlock {
    const { heads, kvHeads, attentionSoftcap: cap } = this.config;
    const [group, rows, keys] = [heads / kvHeads, this.blockRows, keysOfBlock(i, this.blocks)];
    const byQuery = (value: Value): Value => ops.reshape(value, ['B', kvHeads, groupRows(group, rows), keys]);
    const queries = this.queries(q, i);
    const keyed = { k: this.keys(k, i), v: this.keys(v, i) };
    const products = ops.reshape(ops.fusedMatMul(queries, keyed.k, { transB: true, alpha: alpha / (cap ?? 1) }), ['B', kvHeads, group, rows, keys]);
    const t = cap === undefined ? undefined : ops.tanh(products);
    const scores = t === undefined ? products : ops.mul(t, cap!);
    const p = byQuery(ops.softmax(ops.add(scores, this.inputs.masks[i]!), -1));
    const masked = this.dropoutOf(i);
    const dScores = (dProbabilities: Value, delta: Value): Value => {
      const dCapped = ops.mul(p, ops.sub(masked(dProbabilities), delta));
      return t === undefined ? dCapped : ops.mul(dCapped, ops.sub(1, byQuery(ops.mul(t, t))));
    };
    return { q: queries, keyed, kept: masked(p), dScores };
  }

  private get blocks(): number {
    return this.inputs.masks.length;
  }

  private get blockRows(): Dim {
    return this.blocks === 1 ? 'T' : BLOCK_ROWS;
  }

  /** Block i of grouped rows [B, KV, g*T, D]: [B, KV, g*U, D]. */
  private queries(x: Value, i: number): Value {
    if (this.blocks === 1) return x;
    const { heads, kvHeads } = this.config;
    const [group, width] = [heads / kvHeads, x.shape[3]!];
    const rows = ops.reshape(x, ['B', kvHeads, group, 'T', width]);
    return ops.reshape(ops.slice(rows, [`${i}*${BLOCK_ROWS}`], [`${i + 1}*${BLOCK_ROWS}`], [3]), ['B', kvHeads, groupRows(group, BLOCK_ROWS), width]);
  }

  /** Of [B, KV, T, D] what block i of queries sees, [B, KV, (i+1)*U, D]. */
  private keys(x: Value, i: number): Value {
    return this.blocks === 1 ? x : ops.slice(x, [0], [keysOfBlock(i, this.blocks)], [2]);
  }

  /** Blocks of queries [B, KV, g*U, D] one after another: [B, KV, g*T, D]. */
  private joined(blocks: readonly Value[]): Value {
    if (blocks.length === 1) return blocks[0]!;
    const { heads, kvHeads } = this.config;
    const [group, width] = [heads / kvHeads, blocks[0]!.shape[3]!];
    const all = ops.concat(blocks.map((block) => ops.reshape(block, ['B', kvHeads, group, BLOCK_ROWS, width])), 3);
    return ops.reshapePromised(all, ['B', kvHeads, groupRows(group, 'T'), width]);
  }

  /** The sum over blocks of what each gives to the keys it sees, [B, KV, (i+1)*U, D]: [B, KV, T, D]. */
  private overKeys(blocks: readonly Value[]): Value {
    if (blocks.length === 1) return blocks[0]!;
    const whole = blocks.map((block, i) => ops.pad(block, 2, 0, i === blocks.length - 1 ? 0 : canonical(`${blocks.length - 1 - i}*${BLOCK_ROWS}`)));
    return ops.reshapePromised(whole.reduce((sum, block) => ops.add(sum, block)), ['B', this.config.kvHeads, 'T', blocks[0]!.shape[3]!]);
  }

  /** Dropout of block i's probabilities, [B, KV, g*U, (i+1)*U]. */
  private dropoutOf(i: number): (value: Value) => Value {
    const { dropoutScale } = this;
    if (dropoutScale === undefined) return (value) => value;
    const { heads, kvHeads } = this.config;
    const { graph } = this.inputs.positions;
    const [group, shape] = [heads / kvHeads, ['B', kvHeads, groupRows(heads / kvHeads, 'T'), 'T']];
    const mask = graph.has(ATTENTION_DROPOUT_MASK) ? graph.value(ATTENTION_DROPOUT_MASK) : graph.input(ATTENTION_DROPOUT_MASK, 'uint8', shape);
    if (this.blocks === 1) return (value) => maskedBy(value, mask, dropoutScale);
    const keys = keysOfBlock(i, this.blocks);
    const rows = ops.slice(ops.reshape(mask, ['B', kvHeads, group, 'T', 'T']), [`${i}*${BLOCK_ROWS}`, 0], [`${i + 1}*${BLOCK_ROWS}`, keys], [3, 4]);
    const own = ops.reshape(rows, ['B', kvHeads, groupRows(group, BLOCK_ROWS), keys]);
    return (value) => maskedBy(value, own, dropoutScale);
  }
}

/** A block of queries with the keys that it sees. */
interface AttendedBlock {
  readonly q: Value;
  readonly keyed: { readonly k: Value; readonly v: Value };
  /** Probabilities after dropout. */
  readonly kept: Value;
  /** Gradient of α·q·kᵀ (over the cap) from that of `kept` and Σ_D dO∘O. */
  readonly dScores: (dProbabilities: Value, delta: Value) => Value;
}

/** Rows of g query heads over the same keys. */
function groupRows(group: number, rows: Dim): Dim {
  return group === 1 ? rows : canonical(`${group}*${rows}`);
}
