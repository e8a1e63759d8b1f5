/**
 * Attention of the training form: causal grouped-query attention from products and a softmax, with a gradient of its own.
 * Activations come and go as [B*T, features]; heads of a group lie side by side, [B, KV, (H/KV)*T, D], so that products over a group
 * sum its queries by themselves. Invariant: nothing is kept that the probabilities and q, k, v do not give again.
 */
import { customVjp } from '../autodiff/index.js';
import { ops, type Dim, type Value } from '../onnx/index.js';
import type { DecoderConfig } from './config.js';
import { ATTENTION_DROPOUT_MASK, dropped } from './training-form-dropout.js';
import { TOKENS } from './training-form-linear.js';

/** What depends only on the micro-batch's shape; see ShapeInputs in src/tuning. */
export interface AttentionInputs {
  readonly positions: Value;
  readonly cos: Value;
  readonly sin: Value;
  readonly mask: Value;
}

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

  /** Rotary positions on [B*T, n*D] → [B, T, n*D]. */
  private rotate(x: Value, numHeads: number): Value {
    const { positions, cos, sin } = this.inputs;
    const rows = ops.reshape(x, ['B', 'T', numHeads * this.config.headDim]);
    return ops.rotaryEmbedding(rows, positions, cos, sin, { numHeads });
  }

  /** Heads of a group side by side: [.., n*D] → [B, KV, (n/KV)*T, D]. */
  private grouped(x: Value, numHeads: number): Value {
    const { headDim, kvHeads } = this.config;
    const heads = ops.transpose(ops.reshape(x, ['B', 'T', numHeads, headDim]), [0, 2, 1, 3]);
    return ops.reshape(heads, ['B', kvHeads, groupRows(numHeads / kvHeads), headDim]);
  }

  /** [B, KV, g*T, D] back to [B*T, H*D]. */
  private ungrouped(x: Value): Value {
    const { heads, headDim } = this.config;
    return ops.reshape(ops.transpose(ops.reshape(x, ['B', heads, 'T', headDim]), [0, 2, 1, 3]), [TOKENS, heads * headDim]);
  }

  /**
   * softmax(q·kᵀ/√D + mask)·v on grouped heads, out as [B*T, H*D]. With P the probabilities and O the output:
   * dV = Pᵀ·dO, dS = P ∘ (dO·Vᵀ − Σ_D dO∘O), dQ = dS·K/√D, dK = dSᵀ·Q/√D; products over a group sum its queries by themselves. With
   * dropout M (0 or its scale): O = (M∘P)·V, dV = (M∘P)ᵀ·dO, dS = P ∘ (M ∘ dO·Vᵀ − Σ_D dO∘O).
   */
  private attend(q: Value, k: Value, v: Value): Value {
    const { heads, kvHeads, headDim } = this.config;
    const group = heads / kvHeads;
    const alpha = headDim ** -0.5;
    const masked = (value: Value): Value => dropped(value, ATTENTION_DROPOUT_MASK, ['B', kvHeads, groupRows(group), 'T'], this.dropoutScale);
    let p: Value;
    let kept: Value;
    let output: Value;
    const [o] = customVjp(
      [q, k, v],
      () => {
        const scores = ops.reshape(ops.fusedMatMul(q, k, { transB: true, alpha }), ['B', kvHeads, group, 'T', 'T']);
        p = ops.reshape(ops.softmax(ops.add(scores, this.inputs.mask), -1), ['B', kvHeads, groupRows(group), 'T']);
        kept = masked(p);
        output = this.ungrouped(ops.matMul(kept, v));
        return [output];
      },
      ([d], [needsQ, needsK, needsV]) => {
        const dOutput = this.grouped(d!, heads);
        const dv = needsV === true ? ops.fusedMatMul(kept, dOutput, { transA: true }) : null;
        if (needsQ !== true && needsK !== true) return [null, null, dv];
        const perHead = ops.reduceSum(ops.reshape(ops.mul(d!, output), ['B', 'T', heads, headDim]), [3]);
        const delta = ops.reshape(ops.transpose(perHead, [0, 2, 1, 3]), ['B', kvHeads, groupRows(group), 1]);
        const dScores = ops.mul(p, ops.sub(masked(ops.fusedMatMul(dOutput, v, { transB: true })), delta));
        return [needsQ === true ? ops.fusedMatMul(dScores, k, { alpha }) : null, needsK === true ? ops.fusedMatMul(dScores, q, { transA: true, alpha }) : null, dv];
      },
    );
    return o!;
  }
}

/** Rows of g query heads over the same keys. */
function groupRows(group: number): Dim {
  return group === 1 ? 'T' : `${group}*T`;
}
