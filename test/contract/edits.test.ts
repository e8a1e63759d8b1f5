/** Architecture edits and pretrained embeddings over gRPC: upload, tune, serve beside the base and LoRA, evaluate, export. */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  DatasetFormat,
  EmbeddingHead,
  EmbeddingsFormat,
  JobState,
  LayerInitialization,
  NeuronImportance,
  type ArchitectureEdits,
  type DeepPartial,
  type LoricaClient,
  type TuningJob,
  type TuningJobEvent,
  type TuningStage,
} from '../../src/client/index.js';
import { hostTensor } from '../../src/tensor/host-tensor.js';
import { writeSafetensors } from '../../src/tensor/safetensors.js';
import { collect, failure, jsonl, startHarness, type Harness } from './harness.js';

let harness: Harness;
let client: LoricaClient;

const ROWS = Array.from({ length: 24 }, (_, i) => ({ text: i % 2 === 0 ? `good ${i}` : `bad ${i}`, label: i % 2 === 0 ? 'yes' : 'no' }));
const TEMPLATE = { promptTemplate: '{text} ->', labelTemplate: ' {label}' };
const LETTERS = Array.from({ length: 26 }, (_, i) => String.fromCharCode(97 + i));
const vectorOf = (i: number): number[] => Array.from({ length: 6 }, (_, j) => Math.sin(1 + i * 6 + j));
const GLOVE = Buffer.from(LETTERS.map((letter, i) => `${letter} ${vectorOf(i).join(' ')}\n`).join(''));
const WORD2VEC = Buffer.concat([Buffer.from('26 6\n'), ...LETTERS.map((letter, i) => Buffer.concat([Buffer.from(`${letter} `), Buffer.from(Float32Array.from(vectorOf(i)).buffer), Buffer.from('\n')]))]);

beforeAll(async () => {
  harness = await startHarness();
  client = harness.client({ tenant: 'acme' });
  await client.datasets.uploadDataset({ parent: 'tenants/-', datasetId: 'reviews', format: DatasetFormat.DATASET_FORMAT_JSONL }, jsonl(ROWS));
});
afterAll(() => harness.close());

const upload = (embeddingsId: string, files: Readonly<Record<string, Uint8Array>>) => client.embeddings.uploadEmbeddings({ parent: 'tenants/-', embeddingsId }, files);

/** A BERT checkpoint's files: pieces with rows of 6. */
async function bertFiles(): Promise<Record<string, Buffer>> {
  const folder = await mkdtemp(join(tmpdir(), 'lorica-bert-'));
  const pieces = ['[PAD]', '[CLS]', ...LETTERS, '##s', '##d'];
  const data = Float32Array.from({ length: pieces.length * 6 }, (_, i) => Math.cos(i));
  await writeSafetensors(join(folder, 'model.safetensors'), new Map([['bert.embeddings.word_embeddings.weight', hostTensor('float32', [pieces.length, 6], data)]]));
  const tensors = await readFile(join(folder, 'model.safetensors'));
  await rm(folder, { recursive: true });
  return { 'config.json': Buffer.from('{}'), 'vocab.txt': Buffer.from(`${pieces.join('\n')}\n`), 'model.safetensors': tensors };
}

type Stage = DeepPartial<TuningStage>;
const stage = (more: Stage): Stage => ({
  dataset: 'tenants/-/datasets/reviews',
  trainable: { selection: { $case: 'full', value: {} } },
  optimizer: { learningRate: 0.002 },
  length: { $case: 'steps', value: 8 },
  batchSize: 24,
  labelTemplate: TEMPLATE,
  ...more,
});
const request = (adapterId: string, ...stages: Stage[]) => ({ parent: 'tenants/-', specification: { baseModel: 'models/m', adapterId, alias: 'production', seed: 5, stages } });

async function tune(adapterId: string, ...stages: Stage[]): Promise<{ job: TuningJob; events: TuningJobEvent[]; losses: number[] }> {
  const events = await collect(client.tune.tune(request(adapterId, ...stages)));
  const end = events.at(-1)!.event!;
  if (end.$case !== 'result') throw new Error('the stream must end with the result');
  expect(end.value.error).toBeUndefined();
  expect(end.value.state).toBe(JobState.JOB_STATE_SUCCEEDED);
  return { job: end.value, events, losses: events.flatMap(({ event }) => (event?.$case === 'step' ? [event.value.loss] : [])) };
}

const generate = async (target: string): Promise<{ text: string; adapterDigest: string }> => {
  const answer = await client.generate.generate({ target, input: { $case: 'prompt', value: 'good' }, sampling: { temperature: 0, maxTokens: 8 } });
  return { text: answer.text, adapterDigest: answer.servedBy!.adapterDigest };
};

describe('word vectors', () => {
  test('of every format are described, listed newest first, and found by their tenant alone', async () => {
    expect(await upload('glove', { 'vectors.txt': GLOVE })).toMatchObject({
      name: 'tenants/acme/embeddings/glove', format: EmbeddingsFormat.EMBEDDINGS_FORMAT_GLOVE, words: 26, continuations: 0, dimension: 6, bytes: GLOVE.length,
    });
    expect(await upload('binary', { 'vectors.bin': WORD2VEC })).toMatchObject({ format: EmbeddingsFormat.EMBEDDINGS_FORMAT_WORD2VEC_BINARY, words: 26, dimension: 6 });
    const bert = await upload('bert', await bertFiles());
    expect(bert).toMatchObject({ format: EmbeddingsFormat.EMBEDDINGS_FORMAT_BERT, words: 26, continuations: 2, dimension: 6 });
    expect(bert.files.map(({ name }) => name)).toEqual(['model.safetensors', 'vocab.txt']);
    const { embeddings } = await client.embeddings.listEmbeddings({ parent: 'tenants/-' });
    expect(embeddings.map(({ name }) => name.split('/').at(-1))).toEqual(['bert', 'binary', 'glove']);
    expect(await client.embeddings.getEmbeddings({ name: bert.name })).toEqual(bert);
    const other = harness.client({ tenant: 'umbrella' });
    expect(await failure(other.embeddings.getEmbeddings({ name: bert.name }))).toMatchObject({ code: 'NOT_FOUND', reason: 'EMBEDDINGS_NOT_FOUND' });
    expect(await failure(upload('glove', { 'other.txt': GLOVE }))).toMatchObject({ code: 'ALREADY_EXISTS' });
    expect(await readdir(join(harness.folder, 'embeddings'))).toEqual([]);
  });

  test.each<[string, Record<string, Buffer>, string]>([
    ['a number that is none', { 'v.txt': Buffer.from('a 1 2 3\nb 1 x 3\nc 1 2 3\n') }, 'v.txt is damaged: line 2: '],
    ['a line too short', { 'v.txt': Buffer.from('a 1 2 3\nb 1 2 3\nc 1 2\n') }, 'v.txt is damaged: line 3: '],
    ['two files', { 'a.txt': GLOVE, 'b.txt': GLOVE }, 'there are 2 files (a.txt, b.txt) and none of them is safetensors'],
    ['no files', {}, 'there is no file'],
    ['a BERT checkpoint without a vocabulary', { 'model.safetensors': Buffer.alloc(64) }, 'the folder has neither vocab.txt nor tokenizer.json'],
  ])('%s is refused by name and line, and nothing is kept', async (_name, files, message) => {
    const refused = await failure(upload('broken', files));
    expect(refused).toMatchObject({ code: 'INVALID_ARGUMENT', reason: 'EMBEDDINGS_INVALID', message: expect.stringContaining(message) });
    expect(refused.message).not.toContain(harness.folder);
    expect(await failure(client.embeddings.getEmbeddings({ name: 'tenants/-/embeddings/broken' }))).toMatchObject({ code: 'NOT_FOUND' });
    expect(await readdir(join(harness.folder, 'embeddings'))).toEqual([]);
  });

  test('deleted ones are gone, and a job can not name them', async () => {
    await upload('short-lived', { 'v.txt': GLOVE });
    await client.embeddings.deleteEmbeddings({ name: 'tenants/-/embeddings/short-lived' });
    const named = client.tune.createTuningJob(request('a', stage({ embeddings: { source: 'tenants/-/embeddings/short-lived' } })));
    expect(await failure(named)).toMatchObject({ code: 'NOT_FOUND', reason: 'EMBEDDINGS_NOT_FOUND' });
  });
});

describe('edits of the model', () => {
  const edits: DeepPartial<ArchitectureEdits> = {
    insert: [{ at: 1, count: 1, initialize: LayerInitialization.LAYER_INITIALIZATION_COPY }, { at: 2, initialize: LayerInitialization.LAYER_INITIALIZATION_FRESH }],
    growFeedForward: [{ neurons: 32, layers: [0] }],
    pruneFeedForward: [{ neurons: 16, layers: [1], importance: NeuronImportance.NEURON_IMPORTANCE_ACTIVATION }],
    dropout: { attention: 0.1, residual: 0.05, embedding: 0.05 },
  };

  test('with word vectors, in two stages: tuned, served beside the base and LoRA, evaluated, exported and imported', async () => {
    const { job, events, losses } = await tune(
      'edited',
      stage({ architecture: edits, embeddings: { source: 'tenants/-/embeddings/glove' } }),
      stage({ trainable: { selection: { $case: 'layers', value: { indices: [1, 3] } } } }),
    );
    expect(losses).toHaveLength(16);
    expect(losses.at(-1)!).toBeLessThan(losses[0]!);
    const reports = events.flatMap(({ event }) => (event?.$case === 'embeddings' ? [event.value] : []));
    expect(reports).toEqual([job.result!.embeddings]);
    const report = reports[0]!;
    expect(report).toMatchObject({ words: 26, dimension: 6 });
    expect(report.tokens!.exact).toBeGreaterThan(20);
    expect(report.tokens!.exact + report.tokens!.lowerCase + report.tokens!.prefix + report.tokens!.kept).toBe(160);
    expect(report.dataShares!.exact).toBeGreaterThan(0.1);
    expect(job.specification!.stages[0]!.embeddings!.source).toBe('tenants/acme/embeddings/glove');

    await tune('plain', stage({ trainable: { selection: { $case: 'lora', value: { rank: 4 } } } }));
    const targets = ['models/m', 'tenants/-/adapters/plain@production', 'tenants/-/adapters/edited@production'];
    const alone = [];
    for (const target of targets) alone.push(await generate(target));
    expect(await Promise.all(targets.map(generate))).toEqual(alone);
    expect(new Set(alone.map(({ adapterDigest }) => adapterDigest)).size).toBe(3);

    const evaluation = await collect(
      client.evaluate.evaluate({
        parent: 'tenants/-',
        specification: { dataset: 'tenants/-/datasets/reviews', targets, task: { $case: 'classification', value: { template: TEMPLATE } }, resamples: 2000 },
      }),
    );
    const ended = evaluation.at(-1)!.event!;
    if (ended.$case !== 'result') throw new Error('the stream must end with the result');
    expect(ended.value.error).toBeUndefined();
    expect(ended.value.result!.targets.map(({ servedBy }) => servedBy!.adapterDigest)).toEqual(alone.map(({ adapterDigest }) => adapterDigest));

    const files: Record<string, Buffer> = {};
    for (const { payload } of await collect(client.adapters.exportAdapter({ name: targets[2]! })))
      if (payload?.$case === 'chunk')
        files[payload.value.file] = Buffer.concat([files[payload.value.file] ?? Buffer.alloc(0), payload.value.chunk!.data]);
    expect(JSON.parse(files['variant.json']!.toString())).toMatchObject({
      architecture: { layer_origins: [0, 0, 1, 1], intermediate_sizes: [128, 128, 80, 80], tie_word_embeddings: false },
    });
    const imported = await client.adapters.importAdapter({ parent: 'tenants/-', adapterId: 'copy', baseModel: 'models/m' }, files);
    expect(imported.digest).toBe(alone[2]!.adapterDigest);
  });

  test('layers removed by measured importance, and a BERT checkpoint whose rows the tied head follows', async () => {
    const removed = await tune('removed', stage({ architecture: { removeLeastImportant: 1 } }));
    expect(removed.losses.at(-1)!).toBeLessThan(removed.losses[0]!);
    const bert = await tune('bert', stage({ embeddings: { source: 'tenants/-/embeddings/bert', head: EmbeddingHead.EMBEDDING_HEAD_TIED } }));
    expect(bert.losses.at(-1)!).toBeLessThan(bert.losses[0]!);
    expect(bert.job.result!.embeddings).toMatchObject({ words: 26, continuations: 2 });
    for (const adapter of ['removed', 'bert']) expect((await generate(`tenants/-/adapters/${adapter}@production`)).adapterDigest).toMatch(/^sha256:/);
  });

  test.each<[string, Stage[], string]>([
    ['a later stage', [stage({}), stage({ architecture: { remove: [0] } })], 'specification.stages[1].architecture'],
    ['word vectors in a later stage', [stage({}), stage({ embeddings: { source: 'tenants/-/embeddings/glove' } })], 'specification.stages[1].embeddings'],
    ['no edit', [stage({ architecture: {} })], 'specification.stages[0].architecture'],
    ['a place beyond the model', [stage({ architecture: { insert: [{ at: 3 }] } })], 'specification.stages[0].architecture.insert[0].at'],
    ['a neighbour beyond the model', [stage({ architecture: { insert: [{ at: 0, copyOf: 2 }] } })], 'specification.stages[0].architecture.insert[0].copy_of'],
    ['all layers removed', [stage({ architecture: { remove: [0, 1] } })], 'specification.stages[0].architecture.remove'],
    ['too many neurons removed', [stage({ architecture: { pruneFeedForward: [{ neurons: 96 }] } })], 'specification.stages[0].architecture.prune_feed_forward[0].neurons'],
    ['a rate of 1', [stage({ architecture: { dropout: { residual: 1 } } })], 'specification.stages[0].architecture.dropout.residual'],
    ['a layer that the edited model lacks', [stage({ architecture: { remove: [0] }, trainable: { selection: { $case: 'layers', value: { indices: [1] } } } })], 'specification.stages[0].trainable.indices[0]'],
    ['a source that is no name', [stage({ embeddings: { source: '/etc/passwd' } })], 'specification.stages[0].embeddings.source'],
  ])('%s is refused by its field', async (_name, stages, field) => {
    const refused = await failure(client.tune.createTuningJob(request('refused', ...stages)));
    expect(refused).toMatchObject({ code: 'INVALID_ARGUMENT', violations: expect.arrayContaining([expect.objectContaining({ field })]) });
  });
});
