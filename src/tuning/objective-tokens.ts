/**
 * Cross entropy at positions of rows of tokens: next-token prediction. Its terms are the tokens that count.
 */
import { layOut, pack, type TokenRow } from './batches.js';
import type { Objective } from './objective.js';

/** `packing`: several rows one after another in one row of a micro-batch, where a pass is made for it. */
export function tokenObjective(rows: readonly TokenRow[], { packing }: { readonly packing: boolean }): Objective {
  const lengths = rows.map((row) => row.inputs.length);
  return {
    lengths,
    longestTokens: lengths.reduce((most, length) => Math.max(most, length), 1),
    terms: (row) => rows[row]!.lossTokens,
    gradients: async (pass, indices, { scale, adding, signal, randomOf }) => {
      const chosen = indices.map((row) => rows[row]!);
      const batch = packing ? pack(chosen) : layOut(chosen);
      const lossSum = await pass.gradients(batch, scale, adding, signal, (place, module) => randomOf(indices[place]!, module));
      return { lossSum, tokens: batch.fedTokens };
    },
    loss: (pass, indices, signal) => pass.loss(layOut(indices.map((row) => rows[row]!)), signal),
  };
}
