/** ValidateDataset over gRPC: what the stream carries, what a redacted copy is, and what is refused before anything is read. */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import {
  DatasetFindingCode,
  DatasetFormat,
  ExampleKind,
  FindingSeverity,
  LossScope,
  type DatasetFinding,
  type DatasetReport,
  type LoricaClient,
  type ValidateDatasetRequest,
} from '../../src/client/index.js';
import { FINDING_CODES, FINDING_RULES } from '../../src/datasets/index.js';
import { collect, failure, jsonl, startHarness, type Harness } from './harness.js';

let harness: Harness;
let client: LoricaClient;
beforeAll(async () => {
  harness = await startHarness();
  client = harness.client({ tenant: 'acme' });
});
afterAll(() => harness.close());

const upload = (datasetId: string, rows: readonly unknown[], by = client) =>
  by.datasets.uploadDataset({ parent: 'tenants/-', datasetId, format: DatasetFormat.DATASET_FORMAT_JSONL }, jsonl(rows));

async function validate(request: Partial<ValidateDatasetRequest>): Promise<{ findings: DatasetFinding[]; report: DatasetReport }> {
  const events = (await collect(client.datasets.validateDataset(request))).map(({ event }) => event!);
  const last = events.pop()!;
  if (last.$case !== 'report') throw new Error('the stream must end with the report');
  return { findings: events.flatMap((event) => (event.$case === 'finding' ? [event.value] : [])), report: last.value };
}

test('the codes of the API are those of the datasets, in their order', () => {
  const names = Object.keys(DatasetFindingCode).filter((name) => name.startsWith('DATASET_') && !name.endsWith('UNSPECIFIED'));
  expect(names).toEqual(FINDING_CODES.map((code) => `DATASET_FINDING_CODE_${code}`));
});

test('an upload that is refused carries the codes', async () => {
  const refused = await failure(upload('broken', [{ text: 3 }]));
  expect(refused).toMatchObject({ reason: 'DATASET_INVALID', violations: [{ field: 'line 1: $.text', reason: 'WRONG_TYPE' }] });
});

test('findings with code and fix, and a report of tokens, labels, overlap and counts', async () => {
  await upload('held-out', [{ text: 'A FINE  day', label: 'yes' }, { text: 'rain', label: 'no' }]);
  await upload('train', [
    { text: 'a fine day', label: 'yes' },
    { text: 'mail me: jane@example.com', label: 'no' },
    { text: 'mail me: jane@example.com', label: 'no' },
  ]);
  const { findings, report } = await validate({
    name: 'tenants/-/datasets/train',
    baseModel: 'models/m',
    maxLengthTokens: 12,
    labelTemplate: { promptTemplate: '{text} ->', labelTemplate: ' {label}' },
    compareWith: ['tenants/acme/datasets/held-out'],
  });
  const { DATASET_FINDING_CODE_OVERLAP: OVERLAP, DATASET_FINDING_CODE_PROMPT_TRUNCATED: TRUNCATED } = DatasetFindingCode;
  expect(findings.find(({ code }) => code === OVERLAP)).toEqual({
    line: 1,
    severity: FindingSeverity.FINDING_SEVERITY_WARNING,
    path: '$',
    description: 'is line 1 of tenants/acme/datasets/held-out too',
    code: OVERLAP,
    fix: FINDING_RULES.OVERLAP.fix,
    relatedLine: 1,
    relatedDataset: 'tenants/acme/datasets/held-out',
  });
  expect(findings.map(({ line }) => line)).toEqual(findings.map(({ line }) => line).sort((a, b) => a - b));
  expect(report).toMatchObject({
    rows: 3,
    kind: ExampleKind.EXAMPLE_KIND_LABEL,
    errorCount: 0,
    duplicateRows: 1,
    overlapRows: 1,
    labelRows: { yes: 1, no: 2 },
    labelBalance: { labels: 2, imbalanceRatio: 2 },
    tokens: { baseModel: 'models/m', maxLengthTokens: 12, rows: 3, allMaskedRows: 0 },
    redactions: [],
  });
  expect(report.redactedDataset).toBeUndefined();
  expect(report.findingCounts.find(({ code }) => code === TRUNCATED)?.count).toBe(report.tokens!.truncatedRows);
  expect(report.findingCounts.reduce((sum, { count }) => sum + count, 0)).toBe(report.warningCount);
  expect(report.tokens!.epochTokens).toBeLessThan(report.tokens!.tokens);
});

test('token figures are those that tuning trains on', async () => {
  await upload('pairs', [{ prompt: 'one', completion: ' two' }, { prompt: 'three four', completion: ' five' }]);
  const { report } = await validate({ name: 'tenants/-/datasets/pairs', baseModel: 'models/m' });
  const specification = {
    baseModel: 'models/m',
    adapterId: 'pairs',
    stages: [
      {
        dataset: 'tenants/-/datasets/pairs',
        trainable: { selection: { $case: 'lora' as const, value: { rank: 2 } } },
        length: { $case: 'epochs' as const, value: 1 },
        batchSize: 1,
      },
    ],
  };
  const events = await collect(client.tune.tune({ parent: 'tenants/-', specification }));
  const steps = events.flatMap(({ event }) => (event?.$case === 'step' ? [event.value] : []));
  expect(steps.reduce((sum, { tokens }) => sum + tokens, 0)).toBe(report.tokens!.epochTokens);
});

describe('a redacted copy', () => {
  const rows = [
    { messages: [{ role: 'user', content: 'call 415-555-2671 or a@b.io' }, { role: 'assistant', content: 'yes, a@b.io' }] },
    { messages: [{ role: 'user', content: 'größe 😀' }, { role: 'assistant', content: 'ok' }] },
  ];

  test('is a dataset of its own without what was found; the first stays as it is', async () => {
    const source = await upload('calls', rows);
    const { report } = await validate({ name: source.name, redactedDatasetId: 'calls-clean' });
    expect(report.redactions).toEqual([
      { code: DatasetFindingCode.DATASET_FINDING_CODE_EMAIL_ADDRESS, severity: FindingSeverity.FINDING_SEVERITY_WARNING, count: 2 },
      { code: DatasetFindingCode.DATASET_FINDING_CODE_PHONE_NUMBER, severity: FindingSeverity.FINDING_SEVERITY_WARNING, count: 1 },
    ]);
    expect(report.redactedDataset).toEqual(await client.datasets.getDataset({ name: 'tenants/-/datasets/calls-clean' }));
    // sha256 of the very rows that should be stored.
    const expected = jsonl([
      { messages: [{ role: 'user', content: 'call [PHONE] or [EMAIL]' }, { role: 'assistant', content: 'yes, [EMAIL]' }] },
      rows[1],
    ]);
    expect(report.redactedDataset).toMatchObject({ rows: 2, bytes: expected.length });
    expect((await upload('calls-expected', expected.toString().trim().split('\n').map((line) => JSON.parse(line) as unknown))).sha256).toBe(report.redactedDataset!.sha256);
    expect((await validate({ name: 'tenants/-/datasets/calls-clean' })).report.warningCount).toBe(0);
    expect((await client.datasets.getDataset({ name: source.name })).sha256).toBe(source.sha256);
  });

  test('is refused under an id in use, before any finding', async () => {
    const refused = await failure(validate({ name: 'tenants/-/datasets/calls', redactedDatasetId: 'calls' }));
    expect(refused).toMatchObject({ code: 'ALREADY_EXISTS' });
  });

  test('is not stored when the validation fails', async () => {
    await failure(validate({ name: 'tenants/-/datasets/calls', baseModel: 'models/absent', redactedDatasetId: 'never' }));
    expect(await failure(client.datasets.getDataset({ name: 'tenants/-/datasets/never' }))).toMatchObject({ reason: 'DATASET_NOT_FOUND' });
  });
});

describe('refused', () => {
  test('settings of a model without a model, and all broken fields at once', async () => {
    const refused = await failure(
      validate({
        name: 'tenants/-/datasets/calls',
        maxLengthTokens: 1,
        lossScope: LossScope.LOSS_SCOPE_ALL,
        labelTemplate: { promptTemplate: '{text}', labelTemplate: '{label}' },
        compareWith: ['tenants/-/datasets/calls', 'nonsense'],
        redactedDatasetId: 'Not An Id',
      }),
    );
    expect(new Set(refused.violations.map(({ field, description }) => `${field} ${description}`))).toEqual(
      new Set([
        'compare_with[0] must be another dataset',
        'compare_with[1] must be of the form tenants/{tenant}/datasets/{dataset}',
        'redacted_dataset_id must be lower-case letters, digits and hyphens, 1 to 63, starting with a letter',
        'max_length_tokens must be a whole number from 2 to 1048576, not 1',
        'max_length_tokens needs base_model',
        'loss_scope needs base_model',
        'label_template needs base_model',
      ]),
    );
  });

  test('an unknown model, too long a row, another tenant’s dataset', async () => {
    const name = 'tenants/-/datasets/calls';
    expect(await failure(validate({ name, baseModel: 'models/absent' }))).toMatchObject({ code: 'NOT_FOUND', reason: 'MODEL_NOT_FOUND' });
    expect(await failure(validate({ name, baseModel: 'models/m', maxLengthTokens: 100_000 }))).toMatchObject({
      reason: 'INVALID_FIELD',
      violations: [{ field: 'max_length_tokens', description: 'the model takes at most 128 tokens' }],
    });
    await upload('private', [{ text: 'x' }], harness.client({ tenant: 'other' }));
    expect(await failure(validate({ name, compareWith: ['tenants/other/datasets/private'] }))).toMatchObject({ reason: 'DATASET_NOT_FOUND' });
  });
});

test('a caller that goes away frees the turn for the next', async () => {
  await upload('many', Array.from({ length: 20_000 }, (_, i) => ({ text: `row ${i} 415-555-2671` })));
  const stop = new AbortController();
  const stream = client.datasets.validateDataset({ name: 'tenants/-/datasets/many', baseModel: 'models/m' }, { signal: stop.signal });
  for await (const { event } of stream) {
    expect(event?.$case).toBe('finding');
    break;
  }
  stop.abort();
  const { report } = await validate({ name: 'tenants/-/datasets/calls', baseModel: 'models/m' });
  expect(report.rows).toBe(2);
});
