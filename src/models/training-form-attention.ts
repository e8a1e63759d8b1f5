/**
 * Attention of the training form: causal grouped-query attention from products and a softmax, with a gradient of its own.
 * Activations come and go as [B*T, features]; heads of a group lie side by side, [B, KV, (H/KV)*T, D], so that products over a group
 * sum its queries by themselves. Invariant: nothing is kept that the probabilities and q, k, v do not give again.
 */
import { customVjp } from '../autodiff/index.js';
import { ops, type Dim, type Value } from '../onnx/index.js';
import type { DecoderConfig } from './config.js';
import { normalized } from './training-form-norm.js';
import { ATTENTION_DROPOUT_MASK, dropped } from './training-form-dropout.js';
import { TOKENS } from './training-form-linear.js';

/** What depends only on the micro-batch's shape; see ShapeInputs in src/tuning. */
export interface AttentionInputs {
  readonly positions: Value;
  /** Rotary tables, where positions are rotary. */
  readonly cos?: Value;
  readonly sin?: Value;
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
    return ops.reshape(heads, ['B', kvHeads, groupRows(numHeads / kvHeads), headDim]);
  }

  /** [B, KV, g*T, D] back to [B*T, H*D]. */
  private ungrouped(x: Value): Value {
    const { heads, headDim } = this.config;
    return ops.reshape(ops.transpose(ops.reshape(x, ['B', heads, 'T', headDim]), [0, 2, 1, 3]), [TOKENS, heads * headDim]);
  }

  /**
   * softmax(α·q·kᵀ + mask)·v on grouped heads, out as [B*T, H*D]. With P the probabilities and O the output:
   * dV = Pᵀ·dO, dS = P ∘ (dO·Vᵀ − Σ_D dO∘O), dQ = α·dS·K, dK = α·dSᵀ·Q; products over a group sum its queries by themselves. With
   * dropout M (0 or its scale): O = (M∘P)·V, dV = (M∘P)ᵀ·dO, dS = P ∘ (M ∘ dO·Vᵀ − Σ_D dO∘O). With a soft cap c scores are
   * c·t, t = tanh(α·q·kᵀ/c), and dS gets the factor 1 − t².
   */
  private attend(q: Value, k: Value, v: Value): Value {
    const { heads, kvHeads, headDim } = this.config;
    const group = heads / kvHeads;
    const { attentionScale: alpha = headDim ** -0.5, attentionSoftcap: cap } = this.config;
    const masked = (value: Value): Value => dropped(value, ATTENTION_DROPOUT_MASK, ['B', kvHeads, groupRows(group), 'T'], this.dropoutScale);
    const byQuery = (value: Value): Value => ops.reshape(value, ['B', kvHeads, groupRows(group), 'T']);
    let t: Value;
    let p: Value;
    let kept: Value;
    let output: Value;
    const [o] = customVjp(
      [q, k, v],
      () => {
        const products = ops.reshape(ops.fusedMatMul(q, k, { transB: true, alpha: alpha / (cap ?? 1) }), ['B', kvHeads, group, 'T', 'T']);
        if (cap !== undefined) t = ops.tanh(products);
        const scores = cap === undefined ? products : ops.mul(t, cap);
        p = byQuery(ops.softmax(ops.add(scores, this.inputs.mask), -1));
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
        const dCapped = ops.mul(p, ops.sub(masked(ops.fusedMatMul(dOutput, v, { transB: true })), delta));
        const dScores = cap === undefined ? dCapped : ops.mul(dCapped, ops.sub(1, byQuery(ops.mul(t, t))));
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
