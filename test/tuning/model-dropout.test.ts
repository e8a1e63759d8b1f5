/** Dropout of attention, residual additions and embeddings: gradients under fixed masks, and masks that batching never changes. */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { openCheckpoint, type Checkpoint } from '../../src/models/checkpoint.js';
import type { DropoutRates } from '../../src/models/architecture.js';
import { Runtime } from '../../src/runtime/index.js';
import { layOut, pack, tokenRow, type MicroBatch, type TokenRow } from '../../src/tuning/batches.js';
import { dropoutStream, modelDropout } from '../../src/tuning/dropout.js';
import { ModelPass } from '../../src/tuning/model-pass.js';
import type { Parameters } from '../../src/tuning/parameters.js';
import { selectTrainable } from '../../src/tuning/selection.js';
import type { TrainableSelection } from '../../src/tuning/specification.js';
import { bareBase } from '../../src/tuning/starting-model.js';
import { TrainingHost } from '../../src/tuning/training-host.js';
import { WorkingModel } from '../../src/tuning/working-model.js';

const { abs, max } = Math;
let runtime: Runtime;
let checkpoint: Checkpoint;
beforeAll(async () => {
  runtime = Runtime.open();
  checkpoint = await openCheckpoint('test/golden/tiny-llama');
});
afterAll(async () => {
  await checkpoint.close();
  await runtime.close();
});

const ROWS: TokenRow[] = [[5, 9, 33, 70, 12, 4], [8, 60, 2, 41], [7, 7, 19, 22, 90, 13, 3]].map((tokens) => tokenRow({ tokens, lossMask: tokens.map((_, i) => i > 1) })!);
/** Rows of a micro-batch by their index in the data. */
const streams = (rows: readonly number[]) => (row: number, place: string) => dropoutStream(11, 0, 1, rows[row]!, place);

interface Pass {
  readonly parameters: Parameters;
  /** Sum of the losses. */
  gradients(batch: MicroBatch, rows: readonly number[], adding?: boolean): Promise<number>;
}

async function withPass<T>(dropout: DropoutRates, packed: boolean, use: (pass: Pass) => Promise<T>, trainable: TrainableSelection = { kind: 'full' }, maxLengthTokens = 32): Promise<T> {
  const { config, weights, digest } = checkpoint;
  const lease = new TrainingHost(runtime).lease({ key: digest, config, weights });
  const model = await new WorkingModel(lease, undefined, { ...bareBase(config), dropout }).begin(selectTrainable(config, trainable), 1, true);
  const pass = await ModelPass.create(lease, model, { savedActivations: 'linear', maxLengthTokens, packed });
  try {
    return await use({ parameters: model.parameters, gradients: async (batch, rows, adding = false) => (await pass.gradients(batch, 1, adding, undefined, streams(rows))).reduce((sum, loss) => sum + loss, 0) });
  } finally {
    pass.dispose();
    await lease.release();
  }
}

const ALL = { attention: 0.3, residual: 0.25, embedding: 0.4 };

describe('dropout of the model', () => {
  test.each<[string, DropoutRates]>([['attention', { attention: 0.4 }], ['residual', { residual: 0.4 }], ['embedding', { embedding: 0.4 }], ['all three', ALL]])(
    '%s: gradients are those of central differences under the same masks',
    async (_name, dropout) => {
      await withPass(dropout, false, async ({ parameters, gradients }) => {
        const batch = layOut(ROWS);
        const rows = [0, 1, 2];
        await gradients(batch, rows);
        const { config } = checkpoint;
        const names = ['model.embed_tokens.weight', 'model.layers.0.self_attn.q_proj.weight', 'model.layers.0.self_attn.v_proj.weight', 'model.layers.0.mlp.up_proj.weight', `model.layers.${config.layers - 1}.self_attn.o_proj.weight`, 'model.layers.0.input_layernorm.weight'];
        const found = names.map((name) => parameters.gradient(name).f32().slice());
        for (const [i, name] of names.entries()) {
          const values = parameters.value(name).f32();
          const gradient = found[i]!;
          const at = gradient.reduce((best, g, j) => (abs(g) > abs(gradient[best]!) ? j : best), 0);
          const original = values[at]!;
          const step = 2 ** -7;
          const lossAt = async (value: number): Promise<number> => {
            values[at] = value;
            return gradients(batch, rows);
          };
          const slope = ((await lossAt(original + step)) - (await lossAt(original - step))) / (2 * step);
          values[at] = original;
          expect(abs(slope - gradient[at]!)).toBeLessThan(5e-3 * max(1, abs(slope)));
        }
      });
    },
  );

  test('cutting a micro-batch, packing its rows or taking queries in blocks changes no mask', async () => {
    const all = async (packed: boolean, cut: readonly (readonly number[])[], maxLengthTokens = 32): Promise<{ loss: number; gradients: Float32Array }> =>
      withPass(ALL, packed, async ({ parameters, gradients }) => {
        let loss = 0;
        for (const [i, rows] of cut.entries()) loss += await gradients((packed ? pack : layOut)(rows.map((row) => ROWS[row]!)), rows, i > 0);
        return { loss, gradients: parameters.gradients.f32().slice() };
      }, { kind: 'full' }, maxLengthTokens);
    const whole = await all(false, [[0, 1, 2]]);
    const size = whole.gradients.reduce((most, g) => max(most, abs(g)), 0);
    for (const [packed, cut, longest] of [[false, [[2], [0, 1]], 32], [true, [[0, 1, 2]], 32], [true, [[1, 2], [0]], 32], [false, [[0, 1, 2]], 512], [true, [[1, 2], [0]], 256]] as const) {
      const other = await all(packed, cut, longest);
      expect(abs(other.loss - whole.loss)).toBeLessThan(1e-4);
      const difference = other.gradients.reduce((most, g, i) => max(most, abs(g - whole.gradients[i]!)), 0);
      expect(difference).toBeLessThan(1e-5 * size);
    }
  });

  test('layers below the lowest trained one drop too, and without rates nothing does', async () => {
    const last = checkpoint.config.layers - 1;
    const loss = (dropout: DropoutRates): Promise<number> =>
      withPass(dropout, false, ({ gradients }) => gradients(layOut(ROWS), [0, 1, 2]), { kind: 'layers', indices: [last] });
    expect(await loss({})).toBe(await loss({ residual: 0 }));
    expect(abs((await loss(ALL)) - (await withPass(ALL, false, ({ gradients }) => gradients(layOut(ROWS), [0, 1, 2]))))).toBeLessThan(1e-4);
    expect(abs((await loss(ALL)) - (await loss({})))).toBeGreaterThan(1e-3);
    expect(modelDropout(checkpoint.config, {}).size).toBe(0);
  });
});
