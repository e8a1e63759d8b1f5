import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { AdapterRegistry, type AdapterContent, type AdapterVersion, type FilePiece, type LoraModule } from '../../src/adapters/index.js';
import { formatPeftConfig, parsePeftConfig } from '../../src/adapters/peft-config.js';
import { BlobLedger, type Database, openFolderBlobStore } from '../../src/storage/index.js';
import { encodeSafetensors, parseSafetensors, readSafetensorsHeader } from '../../src/tensor/safetensors.js';
import { loraOf, moduleOf, replay } from '../contract/adapters.js';
import { collect, temporaryFolder, temporaryPglite, type Temporary } from '../storage/temporary.js';

const golden = (path: string): string => fileURLToPath(new URL(`../golden/${path}`, import.meta.url));
const config = (settings: object): Uint8Array => Buffer.from(JSON.stringify({ peft_type: 'LORA', r: 4, lora_alpha: 8, ...settings }));

/** (scaling b a) x with x_i = cos(i), in float64. */
function product({ rank, scaling, a, b }: LoraModule): number[] {
  const input = a.length / rank;
  const hidden = Array.from({ length: rank }, (_, r) =>
    a.subarray(r * input, (r + 1) * input).reduce((sum, value, index) => sum + value * Math.cos(index), 0),
  );
  return Array.from(
    { length: b.length / rank },
    (_, row) => scaling * hidden.reduce((sum, value, r) => sum + value * (b[row * rank + r] ?? NaN), 0),
  );
}

describe('adapters that PEFT saved', () => {
  let database: Temporary<Database>;
  let folder: Temporary<string>;
  let registry: AdapterRegistry;
  const shapes = new Map<string, Map<string, readonly number[]>>();
  beforeAll(async () => {
    [database, folder] = [await temporaryPglite(), await temporaryFolder()];
    const blobs = await openFolderBlobStore(folder.value);
    registry = new AdapterRegistry(database.value, blobs, new BlobLedger(database.value, blobs));
    for (const base of ['tiny-llama', 'tiny-serving']) {
      const { tensors } = await readSafetensorsHeader(golden(`${base}/model.safetensors`));
      shapes.set(base, new Map([...tensors].map(([name, { shape }]) => [name, shape])));
    }
  });
  afterAll(async () => {
    await database.dispose();
    await folder.dispose();
  });

  const importPieces = (adapter: string, pieces: readonly FilePiece[], base = 'tiny-llama'): Promise<AdapterVersion> =>
    registry.importFiles({
      tenant: 'acme',
      adapter,
      baseModel: `models/${base}`,
      baseDigest: 'sha256:tiny',
      fit: () => ({ shapes: shapes.get(base)!, required: new Set<string>() }),
      pieces: replay(pieces),
      maxBytes: 1e6,
    });
  const saved = async (name: string): Promise<FilePiece[]> =>
    Promise.all(
      ['adapter_config.json', 'adapter_model.safetensors'].map(async (file) => ({
        file,
        data: await readFile(golden(`peft/${name}/${file}`)),
      })),
    );
  const modulesOf = (content: AdapterContent): ReadonlyMap<string, LoraModule> =>
    'modules' in content ? content.modules : new Map<string, LoraModule>();

  test.each(['plain', 'patterns'])('%s: adds to each layer what PEFT adds, and comes out as it went in', async (name) => {
    const expected =
      (JSON.parse(await readFile(golden('peft/expected.json'), 'utf8')) as Record<string, Record<string, number[]>>)[name] ?? {};
    const version = await importPieces(name, await saved(name));
    const modules = modulesOf(await registry.load(version));
    expect([...modules.keys()].sort()).toEqual(Object.keys(expected).sort());
    expect(modules.size).toBeGreaterThan(3);
    for (const [module, values] of Object.entries(expected)) {
      const ours = product(modules.get(module) as LoraModule);
      ours.forEach((value, index) => expect(Math.abs(value - (values[index] ?? NaN))).toBeLessThan(2e-6));
    }
    const again = await importPieces(`${name}-again`, await collect(registry.exportFiles(version)));
    expect(again.digest).toBe(version.digest);
  });

  test('classification: the head comes with its labels and its template, and out as it went in', async () => {
    const head = { file: 'classification_head.json', data: await readFile(golden('peft/classification/classification_head.json')) };
    const pieces = await saved('classification');
    const version = await importPieces('classification', [...pieces, head], 'tiny-serving');
    const content = await registry.load(version);
    expect(content.head).toMatchObject({ labels: ['no', 'maybe', 'yes'], template: '{text}' });
    expect([modulesOf(content).size, content.head?.weight.length]).toEqual([2, 3 * 64]);
    const out = await collect(registry.exportFiles(version));
    expect((await importPieces('classification-again', out, 'tiny-serving')).digest).toBe(version.digest);
    const settings = JSON.parse(Buffer.concat(out.filter(({ file }) => file === 'adapter_config.json').map(({ data }) => data)).toString()) as object;
    expect(settings).toMatchObject({ task_type: 'SEQ_CLS', modules_to_save: ['score'] });
    // Without the file that PEFT does not write, labels have transformers' names.
    const unnamed = await registry.load(await importPieces('unnamed', pieces, 'tiny-serving'));
    expect(unnamed.head?.labels).toEqual(['LABEL_0', 'LABEL_1', 'LABEL_2']);
    expect(unnamed.digest).not.toBe(version.digest);
  });

  test('heads that do not fit their files or their base are refused by what is wrong', async () => {
    const [settings, weights] = (await saved('classification')) as [FilePiece, FilePiece];
    const labels = (id2label: unknown, more: object = {}): FilePiece => ({ file: 'classification_head.json', data: Buffer.from(JSON.stringify({ id2label, ...more })) });
    const refused = (...pieces: FilePiece[]): Promise<unknown> => importPieces('refused', pieces, 'tiny-serving').catch((error: unknown) => error);
    const field = (name: string): object => ({ code: 'INVALID_ARGUMENT', violations: [{ field: expect.stringContaining(name) }] });
    expect(await refused(settings, weights, labels({ 0: 'a', 1: 'b' }))).toMatchObject(field('id2label'));
    expect(await refused(settings, weights, labels({ 0: 'a', 1: 'b', 2: 'a' }))).toMatchObject(field('id2label[2]'));
    expect(await refused(settings, weights, labels({ 0: 'a', 2: 'b', 3: 'c' }))).toMatchObject(field('classification_head.json'));
    expect(await refused(settings, weights, labels({ 0: 'a', 1: 'b', 2: 'c' }, { prompt_template: 'x' }))).toMatchObject(field('prompt_template'));
    const causal = { file: settings.file, data: Buffer.from(settings.data.toString().replace('SEQ_CLS', 'CAUSAL_LM').replace(/"modules_to_save": \[[^\]]*\]/, '"modules_to_save": null')) };
    expect(await refused(causal, weights)).toMatchObject(field('task_type'));
    const tensors = new Map(parseSafetensors(weights.data));
    tensors.set('base_model.model.score.weight', { dtype: 'float32', shape: [3, 5], data: new Float32Array(15) });
    expect(await refused(settings, { file: weights.file, data: encodeSafetensors(tensors) })).toMatchObject({ reason: 'ADAPTER_INCOMPATIBLE', violations: [{ field: 'score.weight', description: 'has 15 elements, [3,64] has 192' }] });
    tensors.delete('base_model.model.score.weight');
    expect(await refused(settings, { file: weights.file, data: encodeSafetensors(tensors) })).toMatchObject(field('task_type'));
  });

  test('tensors that are no LoRA matrices, lack a partner or have another rank are named', async () => {
    const [settings, weights] = (await saved('plain')) as [FilePiece, FilePiece];
    const tensors = parseSafetensors(weights.data);
    const [first, second] = [...tensors.keys()].sort() as [string, string];
    const refused = (change: (map: typeof tensors) => void): Promise<unknown> => {
      const changed = new Map(tensors);
      change(changed);
      return importPieces('refused', [settings, { file: weights.file, data: encodeSafetensors(changed) }]).catch((error: unknown) => error);
    };
    const q0 = 'base_model.model.model.layers.0.self_attn.q_proj';
    expect([first, second]).toEqual([`${q0}.lora_A.weight`, `${q0}.lora_B.weight`]);
    const unfit = (field: string, description: string): object => ({
      reason: 'ADAPTER_INCOMPATIBLE',
      violations: [{ field, description: expect.stringContaining(description) }],
    });
    expect(await refused((map) => map.delete(first))).toMatchObject(unfit(q0, 'has no lora_A.weight'));
    expect(await refused((map) => map.set(`${q0}.lora_magnitude_vector.weight`, map.get(first) as never))).toMatchObject(
      unfit(`${q0}.lora_magnitude_vector.weight`, 'is not a LoRA matrix'),
    );
    expect(await refused((map) => map.set(first, { ...(map.get(first) as never as object), shape: [2, 96] } as never))).toMatchObject(
      unfit(q0, 'adapter_config.json says rank 4'),
    );
  });
});

describe('adapter_config.json', () => {
  test.each<[string, object, string]>([
    ['DoRA', { use_dora: true }, 'use_dora is a feature that is not supported'],
    ['another method', { peft_type: 'IA3' }, 'peft_type is "IA3"'],
    ['trained biases', { bias: 'all' }, 'bias is "all"'],
    ['whole modules', { modules_to_save: ['lm_head'] }, 'modules_to_save is ["lm_head"]; only the head of the task "SEQ_CLS"'],
    ['a head without its task', { modules_to_save: ['score'] }, 'modules_to_save is ["score"]'],
    ['a changed base', { init_lora_weights: 'pissa_niter_4' }, 'init_lora_weights is "pissa_niter_4"'],
    ['transposed weights', { fan_in_fan_out: true }, 'fan_in_fan_out is a feature'],
    ['another task', { task_type: 'TOKEN_CLS' }, 'task_type is "TOKEN_CLS"'],
    ['a feature of the future', { use_tomorrow: { x: 1 } }, 'use_tomorrow is a feature'],
    ['no rank', { r: 0 }, 'r is 0'],
    ['no alpha', { lora_alpha: '16' }, 'lora_alpha is "16"'],
    ['a pattern that could take for ever', { rank_pattern: { '(a+)+b': 2 } }, 'rank_pattern["(a+)+b"] is a pattern that is not supported'],
    ['too many wildcards', { alpha_pattern: { '.*.*.*.*x': 2 } }, 'alpha_pattern[".*.*.*.*x"] is a pattern that is not supported'],
  ])('refuses %s by name', (_, settings, text) => {
    expect(() => parsePeftConfig(config(settings))).toThrow(
      expect.objectContaining({
        reason: 'ADAPTER_INCOMPATIBLE',
        message: expect.stringContaining(`adapter_config.json: ${text.split(' ')[0] ?? ''}`),
      }),
    );
    expect(() => parsePeftConfig(config(settings))).toThrow(text);
  });

  test('names everything that it refuses at once; what is no JSON object is refused', () => {
    expect(() => parsePeftConfig(config({ use_dora: true, bias: 'all', r: -1 }))).toThrow(/bias.*use_dora.*r is -1/);
    for (const bytes of ['[]', '{', '3', '\u00ff'])
      expect(() => parsePeftConfig(Buffer.from(bytes, 'latin1'))).toThrow('adapter_config.json is not a JSON object');
  });

  test('scaling is alpha / r, or alpha / sqrt(r) when rank-stabilized; patterns match whole name ends, the first one wins', () => {
    const patterns = {
      rank_pattern: { q_proj: 2, 'layers.1.self_attn.v_proj': 3, '^model.layers.0.mlp.up_proj': 5 },
      alpha_pattern: { 'layers.1.self_attn.q_proj': 32, '(q|k)_proj': 12 },
    };
    const plain = parsePeftConfig(config(patterns));
    expect(
      ['0.self_attn.q_proj', '1.self_attn.v_proj', '11.self_attn.v_proj', '0.mlp.up_proj', '0.self_attn.my_q_proj'].map((end) =>
        plain.rank(`model.layers.${end}`),
      ),
    ).toEqual([2, 3, 4, 5, 4]);
    expect(plain.rank('extra.model.layers.0.mlp.up_proj')).toBe(4);
    expect(
      ['1.self_attn.q_proj', '0.self_attn.q_proj', '0.self_attn.k_proj', '0.self_attn.v_proj'].map((end) =>
        plain.scaling(`model.layers.${end}`, 4),
      ),
    ).toEqual([8, 3, 3, 2]);
    expect(parsePeftConfig(config({ use_rslora: true })).scaling('x', 16)).toBe(2);
  });

  test('is written so that it reads back to the same ranks and scalings', () => {
    const modules = [
      moduleOf('model.layers.0.self_attn.q_proj', 4, [6, 6]),
      moduleOf('model.layers.1.self_attn.q_proj', 2, [6, 6]),
      { ...moduleOf('model.layers.1.mlp.up_proj', 4, [6, 6]), scaling: Math.fround(1 / 3) },
    ];
    const written = formatPeftConfig(modules, 'models/tiny');
    expect(written).toMatchObject({ r: 4, lora_alpha: 8, target_modules: modules.map(({ module }) => module).sort() });
    const read = parsePeftConfig(Buffer.from(JSON.stringify(written)));
    for (const { module, rank, scaling } of modules)
      expect([read.rank(module), Math.fround(read.scaling(module, rank))]).toEqual([rank, scaling]);
    const [first] = modules as [LoraModule];
    expect(formatPeftConfig([...loraOf(first).modules.values()], 'x')).toMatchObject({
      target_modules: ['q_proj'],
      layers_to_transform: [0],
      rank_pattern: {},
      alpha_pattern: {},
    });
  });
});
