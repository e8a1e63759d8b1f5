// Classification heads in serving: PEFT's own adapter gives what transformers gives, alone, in batches and in pieces, and generation goes
// on as without the head.
import { readFile } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { AdapterContent, ClassificationHead } from '../../src/adapters/index.js';
import { readHead } from '../../src/adapters/classification-head.js';
import { parsePeftConfig } from '../../src/adapters/peft-config.js';
import { toModules } from '../../src/adapters/peft-tensors.js';
import type { LoricaError } from '../../src/common/errors.js';
import { Engine, type EngineOptions, type ResolvedTarget } from '../../src/engine/index.js';
import { createMetrics } from '../../src/metrics/metrics.js';
import type { Checkpoint } from '../../src/models/checkpoint.js';
import { Runtime } from '../../src/runtime/index.js';
import { parseSafetensors } from '../../src/tensor/safetensors.js';
import { goldenPath, largestDifference, logSoftmax, openTiny } from './support.js';

let runtime: Runtime;
let checkpoint: Checkpoint;
let saved: AdapterContent & { kind: 'lora' };
let expected: number[];
const TOKENS = Array.from({ length: 12 }, (_, i) => (7 * i * i + 11 * i + 5) % 160);

beforeAll(async () => {
  runtime = Runtime.open();
  checkpoint = await openTiny();
  const file = (name: string): Promise<Buffer> => readFile(goldenPath(`peft/classification/${name}`));
  const tensors = new Map(parseSafetensors(await file('adapter_model.safetensors')));
  const head = readHead(tensors.get('base_model.model.score.weight')!, await file('classification_head.json'));
  tensors.delete('base_model.model.score.weight');
  saved = { kind: 'lora', digest: 'sha256:saved', modules: toModules(tensors, parsePeftConfig(await file('adapter_config.json')), 'tiny'), head };
  expected = (JSON.parse(await readFile(goldenPath('peft/expected.json'), 'utf8')) as { classification: { labels: number[] } }).classification.labels;
});

afterAll(async () => {
  await checkpoint.close();
  await runtime.close();
});

function target(content?: AdapterContent): ResolvedTarget {
  const base = { modelId: checkpoint.id, modelDigest: checkpoint.digest };
  return content === undefined ? base : { ...base, adapter: { name: 'tenants/t/adapters/a', tenant: 't', digest: content.digest, load: () => Promise.resolve(content) } };
}

async function withEngine<T>(use: (engine: Engine) => Promise<T>, options: EngineOptions = {}): Promise<T> {
  const engine = new Engine({ runtime, metrics: createMetrics(), models: { checkpoint: () => Promise.resolve(checkpoint) }, options: { servingForm: 'float32', maxContextTokens: 128, ...options } });
  try {
    return await use(engine);
  } finally {
    await engine.stop({ graceMs: 0 });
  }
}

const headless = (): AdapterContent => ({ kind: 'lora', digest: 'sha256:headless', modules: saved.modules });
const headAlone = (): AdapterContent => ({ kind: 'lora', digest: 'sha256:alone', modules: new Map(), head: saved.head! });

test('labels get the log-probabilities of transformers and PEFT', async () => {
  await withEngine(async (engine) => {
    expect(await engine.head(target(saved))).toEqual({ labels: ['no', 'maybe', 'yes'], template: '{text}' });
    const [found] = await engine.classify({ target: target(saved), prompts: [TOKENS] });
    expect(largestDifference(found!, expected)).toBeLessThanOrEqual(1e-5);
  });
});

test('batches of ragged prompts, and prompts in pieces, give each what it gets alone', async () => {
  const prompts = [3, 40, 12, 1, 25].map((length, i) => Array.from({ length }, (_, t) => (t * t * 7 + t * (11 + i) + 5 * i) % 160));
  const alone = await withEngine(async (engine) => Promise.all(prompts.map(async (prompt) => (await engine.classify({ target: target(saved), prompts: [prompt] }))[0]!)));
  for (const scoringBatchTokens of [256, 16]) {
    const together = await withEngine((engine) => engine.classify({ target: target(saved), prompts }), { scoringBatchTokens });
    together.forEach((found, i) => expect(largestDifference(found, alone[i]!)).toBeLessThanOrEqual(1e-5));
  }
});

test('a head alone reads the base, which stays without an adapter and without a second copy', async () => {
  await withEngine(async (engine) => {
    const { labels, weight } = saved.head as ClassificationHead;
    const [found] = await engine.classify({ target: target(headAlone()), prompts: [TOKENS] });
    // The base's final hidden state, by a head that is the identity in one label: logits are linear in the head.
    const { hiddenSize } = checkpoint.config;
    const probe = (column: number): AdapterContent => {
      const values = new Float32Array(2 * hiddenSize);
      values[column] = 1;
      return { kind: 'lora', digest: `sha256:probe-${column}`, modules: new Map(), head: { labels: ['x', 'zero'], template: '{text}', weight: values } };
    };
    const logits = new Float64Array(labels.length);
    for (let column = 0; column < hiddenSize; column++) {
      const [pair] = await engine.classify({ target: target(probe(column)), prompts: [TOKENS] });
      for (let label = 0; label < labels.length; label++) logits[label]! += weight[label * hiddenSize + column]! * (pair![0]! - pair![1]!);
    }
    expect(largestDifference(found!, logSoftmax(logits))).toBeLessThanOrEqual(1e-5);
    const { adapters, models } = engine.residency();
    expect(models).toHaveLength(1);
    expect(adapters.find(({ digest }) => digest === 'sha256:alone')).toMatchObject({ rank: 0, bytes: 4 * 3 * hiddenSize });
  });
});

test('a variant carries a head too', async () => {
  await withEngine(async (engine) => {
    const name = 'model.norm.weight';
    const doubled = (await checkpoint.weights.float32(name)).map((value) => 2 * value);
    const variant: AdapterContent = { kind: 'variant', digest: 'sha256:variant', tensors: new Map([[name, { dtype: 'float32', shape: checkpoint.weights.shape(name), data: doubled }]]), head: saved.head! };
    const [base] = await engine.classify({ target: target(headAlone()), prompts: [TOKENS] });
    const [found] = await engine.classify({ target: target(variant), prompts: [TOKENS] });
    // The final norm's gain doubles every logit.
    expect(largestDifference(found!, logSoftmax(base!.map((value) => 2 * value)))).toBeLessThanOrEqual(1e-5);
  });
});

describe('beside the head', () => {
  test('generation is that of the same adapter without it, and of the base for a head alone', async () => {
    await withEngine(async (engine) => {
      const ids = async (content?: AdapterContent): Promise<number[]> => {
        const found: number[] = [];
        for await (const event of engine.generate({ tenant: 't', target: target(content), promptTokens: TOKENS, sampling: { maxTokens: 8 } })) if (event.kind === 'token') found.push(event.id);
        return found;
      };
      expect(await ids(saved)).toEqual(await ids(headless()));
      expect(await ids(headAlone())).toEqual(await ids());
    });
  });

  test('a target without a head says so and is not classified by one', async () => {
    await withEngine(async (engine) => {
      expect([await engine.head(target()), await engine.head(target(headless()))]).toEqual([undefined, undefined]);
      const refused = await engine.classify({ target: target(headless()), prompts: [TOKENS] }).catch((error: unknown) => error as LoricaError);
      expect(refused).toMatchObject({ code: 'FAILED_PRECONDITION', reason: 'ADAPTER_INCOMPATIBLE' });
      const tooLong = await engine.classify({ target: target(saved), prompts: [new Array<number>(129).fill(5)] }).catch((error: unknown) => error as LoricaError);
      expect(tooLong).toMatchObject({ reason: 'CONTEXT_LENGTH_EXCEEDED' });
    });
  });
});
