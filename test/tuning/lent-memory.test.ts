/** Activations in the gradients' memory: what is lent never overlaps, ends before it is written over, and changes no bit of a gradient. */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { labelledStream } from '../../src/common/random-streams.js';
import { openCheckpoint, type Checkpoint } from '../../src/models/checkpoint.js';
import { weightShapes } from '../../src/models/config.js';
import { Runtime } from '../../src/runtime/index.js';
import { layOut, tokenRow } from '../../src/tuning/batches.js';
import { LentMemory, type LayerPlace } from '../../src/tuning/lent-memory.js';
import { layerBytes, lentBytes } from '../../src/tuning/memory-plan.js';
import { ModelPass } from '../../src/tuning/model-pass.js';
import { selectTrainable } from '../../src/tuning/selection.js';
import type { TrainableSelection } from '../../src/tuning/specification.js';
import { TrainingHost } from '../../src/tuning/training-host.js';
import { parameterShapes, WorkingModel } from '../../src/tuning/working-model.js';

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

describe('what is lent', () => {
  test('lies where only lower layers write, apart from all else that is lent, and off the gaps', () => {
    const random = labelledStream(3, 'lent');
    for (let round = 0; round < 200; round++) {
      const places: LayerPlace[] = [];
      let size = 0;
      for (let i = 0; i < 12; i++) {
        const elements = 1 + random.nextBelow(90);
        places.push({ start: size, elements, layer: random.nextBelow(4) });
        size += Math.ceil(elements / 16) * 16;
      }
      const gradients = runtime.empty('float32', [size]);
      const memory = new LentMemory(gradients, places);
      const layerAt = new Int8Array(size).fill(127);
      for (const { start, elements, layer } of places) layerAt.fill(layer, start, start + elements);
      const seen = new Uint8Array(size);
      for (let i = 0; i < 20; i++) {
        const until = random.nextBelow(5);
        const lent = memory.lend(1 + random.nextBelow(4), 1 + random.nextBelow(20), until);
        if (lent === undefined) continue;
        const first = Number(lent.address - gradients.address) / 4;
        expect(first % 16).toBe(0);
        for (let at = first; at < first + lent.byteLength / 4; at++) {
          expect(seen[at]).toBe(0);
          expect(layerAt[at]).toBeLessThan(until);
          seen[at] = 1;
        }
        lent.dispose();
      }
      gradients.dispose();
    }
  });

  test('is as much as there is room for, and can be lent again', () => {
    const gradients = runtime.empty('float32', [96]);
    const memory = new LentMemory(gradients, [{ start: 0, elements: 32, layer: 0 }, { start: 32, elements: 64, layer: 1 }]);
    const lend = (rows: number, until: number): boolean => {
      const lent = memory.lend(rows, 16, until);
      lent?.dispose();
      return lent !== undefined;
    };
    expect([lend(1, 0), lend(3, 1), lend(2, 1), lend(1, 1), lend(4, 2), lend(1, 2)]).toEqual([false, false, true, false, true, false]);
    memory.takeBack();
    expect([lend(6, 2), lend(1, 2)]).toEqual([true, false]);
    gradients.dispose();
  });
});

describe('a pass that lends', () => {
  const ROWS = Array.from({ length: 4 }, (_, row) => {
    const tokens = Array.from({ length: 9 + 5 * row }, (_unused, i) => (7 * row + 3 * i) % 40);
    return tokenRow({ tokens, lossMask: tokens.map(() => true) })!;
  });

  test.each<[string, TrainableSelection]>([
    ['full', { kind: 'full' }],
    ['last layer', { kind: 'lastLayers', layers: 1 }],
    ['feed-forward', { kind: 'components', components: ['feedForward'] }],
    ['LoRA', { kind: 'lora', rank: 4 }],
  ])('%s: gives the gradients of one that does not, bit for bit', async (_label, trainable) => {
    const { config, weights } = checkpoint;
    const plan = selectTrainable(config, trainable);
    for (const savedActivations of ['linear', 'layer'] as const) {
      const results: Map<string, Buffer>[] = [];
      for (const alwaysWrites of [false, true]) {
        const lease = new TrainingHost(runtime).lease({ key: 'lent', config, weights });
        const model = await new WorkingModel(lease).begin(plan, 1, true);
        const pass = await ModelPass.create(lease, model, { savedActivations, maxLengthTokens: 32, alwaysWrites });
        // The second micro-batch finds what the first left in the gradients.
        for (const rows of [ROWS.slice(2), ROWS]) await pass.gradients(layOut(rows), 0.01, false, undefined);
        results.push(new Map(model.parameters.names.map((name) => [name, Buffer.from(model.parameters.gradient(name).f32().slice().buffer)])));
        if (alwaysWrites) await expect(pass.gradients(layOut(ROWS), 0.01, true, undefined)).rejects.toThrow('added');
        pass.dispose();
        model.parameters.disposeGradients();
        await lease.release();
      }
      expect(results[1]).toEqual(results[0]);
    }
  });

  test('full: takes as much less memory as is foretold', async () => {
    const { config, weights } = checkpoint;
    const plan = selectTrainable(config, { kind: 'full' });
    const shapes = weightShapes(config);
    const batch = layOut(ROWS);
    const taken: number[] = [];
    for (const alwaysWrites of [false, true]) {
      const lease = new TrainingHost(runtime).lease({ key: 'lent', config, weights });
      const model = await new WorkingModel(lease).begin(plan, 1, true);
      const pass = await ModelPass.create(lease, model, { savedActivations: 'linear', maxLengthTokens: 32, alwaysWrites });
      const allocated: number[] = [];
      const { empty } = runtime;
      runtime.empty = function counted(...given) {
        const tensor = empty.apply(this, given);
        allocated.push(tensor.byteLength);
        return tensor;
      };
      await pass.gradients(batch, 0.01, false, undefined);
      runtime.empty = empty;
      taken.push(allocated.reduce((sum, bytes) => sum + bytes, 0));
      pass.dispose();
      model.parameters.disposeGradients();
      await lease.release();
    }
    const foretold = lentBytes(layerBytes({ config, trained: parameterShapes(plan, shapes) }, 'linear'), batch.rows * batch.length);
    expect(foretold).toBeGreaterThan(0);
    expect(taken[0]! - taken[1]!).toBeGreaterThan(0.8 * foretold);
    expect(taken[0]! - taken[1]!).toBeLessThan(1.2 * foretold);
  });
});
