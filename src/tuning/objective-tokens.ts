/**
 * Cross entropy at positions of rows of tokens: next-token prediction, or a classification head at each row's last token. Its terms are
 * the positions that count.
 */
import { layOut, pack, type TokenRow } from './batches.js';
import type { HeadChoice } from './head-pass.js';
import type { Objective } from './objective.js';

/** `packing`: several rows one after another in one row of a micro-batch, where a pass is made for it. */
export function tokenObjective(rows: readonly TokenRow[], { packing, head = 'languageModel' }: { readonly packing: boolean; readonly head?: HeadChoice }): Objective {
  const lengths = rows.map((row) => row.inputs.length);
  return {
    head,
    lengths,
    longestTokens: lengths.reduce((most, length) => Math.max(most, length), 1),
    terms: (row) => rows[row]!.lossTokens,
    gradients: async (pass, indices, { scale, adding, signal, randomOf }) => {
      const chosen = indices.map((row) => rows[row]!);
      const batch = packing ? pack(chosen) : layOut(chosen);
      const losses = await pass.gradients(batch, scale, adding, signal, (place, module) => randomOf(indices[place]!, module));
      return { lossSum: total(losses), tokens: batch.fedTokens };
    },
    measure: async (pass, indices, signal) => ({ lossSum: total(await pass.losses(layOut(indices.map((row) => rows[row]!)), signal)) }),
  };
}

function total(values: Float32Array): number {
  return values.reduce((sum, value) => sum + value, 0);
}
