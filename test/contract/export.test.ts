/** Checkpoints out over gRPC and through `lorica export`: what arrives opens as the same model, with an adapter merged in where one is named. */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { exportTarget } from '../../src/cli/export.js';
import { ExportType, type LoricaClient } from '../../src/client/index.js';
import { Xoshiro128 } from '../../src/common/random.js';
import { exportCheckpoint, openCheckpoint } from '../../src/models/checkpoint.js';
import { toHfConfig } from '../../src/models/config.js';
import { hostTensor, type HostTensor } from '../../src/tensor/host-tensor.js';
import { readSafetensorsHeader, readTensor, safetensorsPieces } from '../../src/tensor/safetensors.js';
import { collect, failure, startHarness, TINY, type Harness } from './harness.js';

const MODULE = 'model.layers.1.self_attn.q_proj';
const RANK = 2;
const SCALING = 2;

let harness: Harness;
let client: LoricaClient;
let target: string;
let matrices: { a: Float32Array; b: Float32Array; inputs: number };
const lines: string[] = [];
const options = (out: string) => ({ address: harness.server.address, tenant: 'acme', out: join(harness.folder, out), write: (line: string) => void lines.push(line) });
const leftovers = (): string[] => (existsSync(join(harness.folder, 'exports')) ? readdirSync(join(harness.folder, 'exports')) : []);

async function weightsOf(path: string): Promise<Map<string, Float32Array>> {
  const checkpoint = await openCheckpoint(path);
  const weights = new Map<string, Float32Array>();
  for (const name of checkpoint.weights.names()) weights.set(name, await checkpoint.weights.float32(name));
  await checkpoint.close();
  return weights;
}

beforeAll(async () => {
  harness = await startHarness();
  client = harness.client({ tenant: 'acme' });
  const base = await openCheckpoint(TINY);
  const [outputs, inputs] = base.weights.shape(`${MODULE}.weight`) as [number, number];
  await base.close();
  const random = new Xoshiro128(7n);
  const draw = (count: number): Float32Array => Float32Array.from({ length: count }, () => random.nextUint32() / 2 ** 32 - 0.5);
  matrices = { a: draw(RANK * inputs), b: draw(outputs * RANK), inputs };
  const name = `base_model.model.${MODULE}.lora_`;
  const tensors = new Map<string, HostTensor>([
    [`${name}A.weight`, hostTensor('float32', [RANK, inputs], matrices.a)],
    [`${name}B.weight`, hostTensor('float32', [outputs, RANK], matrices.b)],
  ]);
  const settings = { peft_type: 'LORA', task_type: 'CAUSAL_LM', r: RANK, lora_alpha: RANK * SCALING, target_modules: ['q_proj'], bias: 'none' };
  const files = {
    'adapter_config.json': Buffer.from(JSON.stringify(settings)),
    'adapter_model.safetensors': Buffer.concat([...safetensorsPieces(tensors)]),
  };
  const version = await client.adapters.importAdapter({ parent: 'tenants/-', adapterId: 'mine', baseModel: 'models/m' }, files);
  target = version.name;
});
afterAll(() => harness.close());

describe('a base model', () => {
  test('as a Hugging Face folder in float32 is the same, tensor for tensor', async () => {
    await exportTarget('models/m', { ...options('folder'), format: 'huggingface', type: 'float32' });
    expect(await weightsOf(join(harness.folder, 'folder'))).toEqual(await weightsOf(TINY));
    expect(lines.some((line) => line.includes('model.safetensors'))).toBe(true);
    expect(leftovers()).toEqual([]);
  });

  test('as GGUF opens again, and the header tells the digests', async () => {
    const messages = await collect(client.models.exportCheckpoint({ target: 'models/m', format: { $case: 'gguf', value: { type: ExportType.EXPORT_TYPE_FLOAT32 } } }));
    const header = messages[0]!.payload!;
    expect(header).toMatchObject({ $case: 'header', value: { source: { baseModel: 'models/m', adapterVersion: '' }, files: [{ name: 'm.F32.gguf' }] } });
    await exportTarget('models/m', { ...options('out.gguf'), format: 'gguf', type: 'float32' });
    expect(await weightsOf(join(harness.folder, 'out.gguf'))).toEqual(await weightsOf(TINY));
  });
});

test('an adapter version is merged: W + scaling B A', async () => {
  await exportTarget(target, { ...options('merged'), format: 'huggingface', type: 'float32' });
  const [base, merged] = [await weightsOf(TINY), await weightsOf(join(harness.folder, 'merged'))];
  const { a, b, inputs } = matrices;
  for (const [name, values] of merged) {
    const before = base.get(name)!;
    if (name !== `${MODULE}.weight`) {
      expect(values).toEqual(before);
      continue;
    }
    let worst = 0;
    values.forEach((value, at) => {
      const [row, column] = [Math.floor(at / inputs), at % inputs];
      const change = SCALING * (b[row * RANK]! * a[column]! + b[row * RANK + 1]! * a[inputs + column]!);
      worst = Math.max(worst, Math.abs(value - before[at]! - change));
    });
    expect(worst).toBeLessThan(1e-6);
  }
});

describe('an adapter version with a classification head', () => {
  const labels = ['bad', 'good', 'neither'];
  const template = 'Review: {text}';
  const weight = Float32Array.from({ length: 3 * 64 }, (_, i) => Math.sin(i));
  let headed: string;

  beforeAll(async () => {
    const name = `base_model.model.${MODULE}.lora_`;
    const { a, b, inputs } = matrices;
    const tensors = new Map<string, HostTensor>([
      [`${name}A.weight`, hostTensor('float32', [RANK, inputs], a)],
      [`${name}B.weight`, hostTensor('float32', [b.length / RANK, RANK], b)],
      ['base_model.model.score.weight', hostTensor('float32', [3, 64], weight)],
    ]);
    const settings = { peft_type: 'LORA', task_type: 'SEQ_CLS', r: RANK, lora_alpha: RANK * SCALING, target_modules: ['q_proj'], bias: 'none', modules_to_save: ['score'] };
    const files = {
      'adapter_config.json': Buffer.from(JSON.stringify(settings)),
      'adapter_model.safetensors': Buffer.concat([...safetensorsPieces(tensors)]),
      'classification_head.json': Buffer.from(JSON.stringify({ id2label: { 0: 'bad', 1: 'good', 2: 'neither' }, prompt_template: template })),
    };
    headed = (await client.adapters.importAdapter({ parent: 'tenants/-', adapterId: 'headed', baseModel: 'models/m' }, files)).name;
  });

  test('is a folder of LlamaForSequenceClassification: the merged layers, score.weight, and labels in config.json', async () => {
    await exportTarget(headed, { ...options('headed'), format: 'huggingface', type: 'float32' });
    const folder = join(harness.folder, 'headed');
    expect(readdirSync(folder).sort()).toEqual(['classification_head.json', 'config.json', 'model.safetensors', 'tokenizer.json', 'tokenizer_config.json']);
    const json = (file: string): unknown => JSON.parse(readFileSync(join(folder, file), 'utf8'));
    expect(json('config.json')).toMatchObject({
      architectures: ['LlamaForSequenceClassification'], model_type: 'llama', id2label: { 0: 'bad', 1: 'good', 2: 'neither' }, label2id: { bad: 0, good: 1, neither: 2 },
      pad_token_id: 2, problem_type: 'single_label_classification',
    });
    expect(json('classification_head.json')).toEqual({ id2label: { 0: 'bad', 1: 'good', 2: 'neither' }, prompt_template: template });
    const file = await readSafetensorsHeader(join(folder, 'model.safetensors'));
    expect((await readTensor(file, 'score.weight')).data).toEqual(weight);
    const plain = await weightsOf(join(harness.folder, 'merged'));
    for (const name of file.tensors.keys()) if (name !== 'score.weight') expect((await readTensor(file, name)).data).toEqual(plain.get(name));
    expect([...file.tensors.keys()].sort()).toEqual([...plain.keys(), 'score.weight'].sort());
  });

  test('has no head of the language model where that is a tensor of its own', async () => {
    const base = await openCheckpoint(TINY);
    const untied = { ...base, config: { ...base.config, tieWordEmbeddings: false }, weights: { ...base.weights, float32: (name: string) => base.weights.float32(name === 'lm_head.weight' ? 'model.embed_tokens.weight' : name) } };
    const folder = join(harness.folder, 'untied');
    const change = { kind: 'lora', modules: new Map(), head: { labels, weight } } as const;
    await exportCheckpoint(untied, folder, { kind: 'huggingFace', dtype: 'bfloat16' }, change);
    const names = [...(await readSafetensorsHeader(join(folder, 'model.safetensors'))).tensors.keys()];
    expect(names).toContain('score.weight');
    expect(names).not.toContain('lm_head.weight');
    await exportCheckpoint(untied, join(harness.folder, 'untied-lm'), { kind: 'huggingFace', dtype: 'bfloat16' });
    expect([...(await readSafetensorsHeader(join(harness.folder, 'untied-lm', 'model.safetensors'))).tensors.keys()]).toContain('lm_head.weight');
    await base.close();
  });

  test('is refused by name as GGUF, and as a folder of a family for which transformers has no such class; nothing is left', async () => {
    const gguf = collect(client.models.exportCheckpoint({ target: headed, format: { $case: 'gguf', value: {} } }));
    expect(await failure(gguf)).toMatchObject({ code: 'FAILED_PRECONDITION', reason: 'MODEL_UNSUPPORTED', message: expect.stringContaining('a classification head (3 labels) can not be written as GGUF') });
    expect(leftovers()).toEqual([]);
    const base = await openCheckpoint(TINY);
    const { config } = base;
    await base.close();
    expect(() => toHfConfig({ ...config, family: 'granite' }, 'float32', labels)).toThrow('a classification head in the Granite');
  });
});

describe('refused', () => {
  const ask = (request: Parameters<LoricaClient['models']['exportCheckpoint']>[0], as = client) => failure(collect(as.models.exportCheckpoint(request)));

  test('are unknown targets, other tenants, missing formats and types that a format has not', async () => {
    const gguf = { $case: 'gguf' as const, value: {} };
    expect(await ask({ target: 'models/none', format: gguf })).toMatchObject({ code: 'NOT_FOUND' });
    expect(await ask({ target, format: gguf }, harness.client({ tenant: 'other' }))).toMatchObject({ code: 'NOT_FOUND', reason: 'ADAPTER_NOT_FOUND' });
    expect(await ask({ target: 'models/m' })).toMatchObject({ reason: 'INVALID_FIELD', violations: [{ field: 'format' }] });
    expect(await ask({ target: 'models/m', format: { $case: 'gguf', value: { type: ExportType.EXPORT_TYPE_BFLOAT16 } } })).toMatchObject({ violations: [{ field: 'gguf.type' }] });
    expect(await ask({ target: 'models/m', format: { $case: 'huggingFace', value: { type: ExportType.EXPORT_TYPE_Q8_0 } } })).toMatchObject({ violations: [{ field: 'hugging_face.type' }] });
    expect(leftovers()).toEqual([]);
  });

  test('is writing over something that is there; a caller who leaves leaves nothing on the server', async () => {
    await expect(exportTarget('models/m', { ...options('folder'), format: 'huggingface' })).rejects.toMatchObject({ reason: 'INVALID_FIELD' });
    const stop = new AbortController();
    const stream = client.models.exportCheckpoint({ target: 'models/m', format: { $case: 'huggingFace', value: {} } }, { signal: stop.signal });
    for await (const message of stream) if (message.payload?.$case === 'header') break;
    stop.abort();
    for (let tries = 0; tries < 100 && leftovers().length > 0; tries++) await new Promise((resolve) => setTimeout(resolve, 20));
    expect(leftovers()).toEqual([]);
  });
});
