/** A decoder whose layers differ in width, in the training form: against float64, and its gradients against differences. */
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { gaussian, labelledStream } from '../../src/common/random-streams.js';
import { weightShapes, type DecoderConfig } from '../../src/models/config.js';
import { Runtime } from '../../src/runtime/index.js';
import { layOut, tokenRow } from '../../src/tuning/batches.js';
import { ModelPass } from '../../src/tuning/model-pass.js';
import { selectTrainable } from '../../src/tuning/selection.js';
import { TrainingHost } from '../../src/tuning/training-host.js';
import { WorkingModel } from '../../src/tuning/working-model.js';
import { float64Decoder } from '../models/float64-decoder.js';

const CONFIG: DecoderConfig = {
  family: 'llama', vocabSize: 23, hiddenSize: 16, intermediateSize: 24, intermediateSizes: [8, 24, 20], layers: 3, heads: 4, kvHeads: 2, headDim: 4,
  maxPositionTokens: 32, ropeTheta: 10000, rmsNormEpsilon: 1e-5, tieWordEmbeddings: true, attentionBias: false, mlpBias: true, eosTokenIds: [1],
};
const shapes = weightShapes(CONFIG);
const tensors = new Map([...shapes].map(([name, shape]) => {
  const draw = gaussian(labelledStream(5, name));
  return [name, Float32Array.from({ length: shape.reduce((n, d) => n * d, 1) }, () => 0.3 * draw() + (name.includes('norm') ? 1 : 0))];
}));
const weights = { shape: (name: string) => shapes.get(name)!, float32: (name: string) => Promise.resolve(tensors.get(name)!.slice()) };

let runtime: Runtime;
beforeAll(() => {
  runtime = Runtime.open();
});
afterAll(() => runtime.close());

test('logits and gradients of layers of 8, 24 and 20 neurons', async () => {
  expect([shapes.get('model.layers.0.mlp.gate_proj.weight'), shapes.get('model.layers.2.mlp.down_proj.weight'), shapes.get('model.layers.2.mlp.up_proj.bias')]).toEqual([[8, 16], [16, 20], [20]]);
  const lease = new TrainingHost(runtime).lease({ key: 'widths', config: CONFIG, weights });
  const model = await new WorkingModel(lease).begin(selectTrainable(CONFIG, { kind: 'components', components: ['feedForward'] }), 0, true);
  const pass = await ModelPass.create(lease, model, { savedActivations: 'linear', maxLengthTokens: 16 });
  const tokens = [3, 9, 4, 20, 11, 7];
  const expected = float64Decoder(CONFIG, (name) => tensors.get(name)).logits(tokens);
  const found = await pass.logits(tokens, [0, 3, 5]);
  [0, 3, 5].forEach((position, i) => expected[position]!.forEach((value, v) => expect(Math.abs(found[i * 23 + v]! - value)).toBeLessThan(1e-5)));

  const row = tokenRow({ tokens, lossMask: tokens.map((_, i) => i > 1) })!;
  await pass.gradients(layOut([row]), 1, false, undefined);
  const loss = (name: string, at: number, by: number): number => {
    const moved = tensors.get(name)!.slice();
    moved[at]! += by;
    const rows = float64Decoder(CONFIG, (n) => (n === name ? moved : tensors.get(n))).logits(tokens);
    return tokens.slice(1).reduce((sum, token, t) => (t < 1 ? sum : sum + Math.log(rows[t]!.reduce((total, x) => total + Math.exp(x), 0)) - rows[t]![token]!), 0);
  };
  for (const layer of [0, 1, 2]) {
    for (const tensor of ['gate_proj.weight', 'up_proj.bias', 'down_proj.weight']) {
      const name = `model.layers.${layer}.mlp.${tensor}`;
      const at = tensors.get(name)!.length - 3;
      const step = Math.abs(Math.fround(tensors.get(name)![at]! + 2 ** -10) - tensors.get(name)![at]!);
      const slope = (loss(name, at, step) - loss(name, at, -step)) / (2 * step);
      expect(Math.abs(model.parameters.gradient(name).f32()[at]! - slope)).toBeLessThan(1e-3 * Math.max(1, Math.abs(slope)));
    }
  }
  pass.dispose();
  await lease.release();
});
