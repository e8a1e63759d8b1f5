/**
 * DatasetService.ValidateDataset: reads the request, streams findings, stores the redacted copy where one is asked for, ends with the report.
 * Invariant: a call that fails or is cancelled stores nothing.
 */
import type { Dataset, DatasetStore, Redactions, ValidationReport } from '../datasets/index.js';
import { FINDING_CODES, FINDING_RULES, type CodeCount } from '../datasets/index.js';
import type {
  DatasetFindingCount,
  DatasetReport,
  ValidateDatasetRequest,
  ValidateDatasetResponse,
} from '../gen/lorica/v1/dataset_service.js';
import { ExampleKind } from '../gen/lorica/v1/resources.js';
import { LossScope } from '../gen/lorica/v1/tuning.js';
import type { CallContext } from './call.js';
import { defined } from './defined.js';
import { Fields } from './fields.js';
import { modelName, parseModelName, parseName } from './names.js';
import type { MeterRequest, RowMeters } from './ports.js';
import { datasetMessage, EXAMPLE_KINDS, findingCode, findingMessage, SEVERITIES } from './resources.js';
import { readLossScope } from './tuning-objective.js';
import { readLabelTemplate } from './tuning-specification.js';

export interface ValidationDependencies {
  readonly datasets: DatasetStore;
  readonly meters: RowMeters;
  readonly maxDatasetBytes: number;
}

interface Asked {
  readonly dataset: string;
  readonly compareWith: readonly string[];
  readonly meter: MeterRequest | undefined;
  readonly redactedId: string;
}

const MOST_COMPARED = 8;
const MOST_TOKENS = 1_048_576;

export async function* validateDataset(
  request: ValidateDatasetRequest,
  { identity, signal }: CallContext,
  { datasets, meters, maxDatasetBytes }: ValidationDependencies,
): AsyncGenerator<ValidateDatasetResponse> {
  const { tenant } = identity;
  const asked = read(request, identity);
  const dataset = await datasets.get(tenant, asked.dataset);
  const compareWith: Dataset[] = [];
  for (const id of asked.compareWith) compareWith.push(await datasets.get(tenant, id));
  // Said before the work, and again by the upload.
  if (asked.redactedId !== '') await datasets.requireFree(tenant, asked.redactedId);
  const meter = asked.meter === undefined ? undefined : await meters.open(asked.meter, signal);
  let report: ValidationReport | undefined;
  try {
    for await (const event of datasets.validate(dataset, { compareWith, signal, ...(meter === undefined ? {} : { meter }) })) {
      if ('severity' in event) yield { event: { $case: 'finding', value: findingMessage(event) } };
      else report = event;
    }
  } finally {
    await meter?.close();
  }
  const value = reportMessage(report!, asked.meter?.baseModel ?? '');
  if (asked.redactedId !== '') {
    const copy = await datasets.redact(dataset, asked.redactedId, { maxBytes: maxDatasetBytes, signal });
    value.redactedDataset = datasetMessage(copy.dataset);
    value.redactions = redactionCounts(copy.redactions);
  }
  yield { event: { $case: 'report', value } };
}

function read(request: ValidateDatasetRequest, identity: CallContext['identity']): Asked {
  const fields = new Fields();
  const dataset = parseName('dataset', 'name', request.name, identity, fields);
  fields.check('compare_with', request.compareWith.length <= MOST_COMPARED, `must be at most ${MOST_COMPARED} datasets`);
  fields.distinct('compare_with', request.compareWith);
  const others = request.compareWith.map((name, i) => parseName('dataset', `compare_with[${i}]`, name, identity, fields));
  others.forEach((other, i) => fields.check(`compare_with[${i}]`, other === undefined || other.name !== dataset?.name, 'must be another dataset'));
  fields.id('redacted_dataset_id', request.redactedDatasetId, { optional: true });
  const meter = readMeter(request, fields);
  fields.done();
  return {
    dataset: dataset!.ids[0]!,
    compareWith: others.map((other) => other!.ids[0]!),
    meter,
    redactedId: request.redactedDatasetId,
  };
}

function readMeter(request: ValidateDatasetRequest, fields: Fields): MeterRequest | undefined {
  fields.integer('max_length_tokens', request.maxLengthTokens, 2, MOST_TOKENS);
  const loss = readLossScope(request.lossScope, 'loss_scope', fields);
  const labelTemplate = readLabelTemplate(request.labelTemplate, 'label_template', fields);
  if (request.baseModel !== '') {
    const baseModel = parseModelName('base_model', request.baseModel, fields) ?? '';
    return defined({ baseModel, maxLengthTokens: request.maxLengthTokens, loss, labelTemplate });
  }
  const alone = 'needs base_model';
  fields.check('max_length_tokens', request.maxLengthTokens === undefined, alone);
  fields.check('loss_scope', request.lossScope === LossScope.LOSS_SCOPE_UNSPECIFIED, alone);
  fields.check('label_template', request.labelTemplate === undefined, alone);
  return undefined;
}

function reportMessage(report: ValidationReport, baseModel: string): DatasetReport {
  const { statistics, sha256, errorCount, warningCount, kind, overlapRows } = report;
  return {
    rows: statistics.rows,
    bytes: statistics.bytes,
    sha256,
    errorCount,
    warningCount,
    labelRows: { ...statistics.labels },
    kind: kind === undefined ? ExampleKind.EXAMPLE_KIND_UNSPECIFIED : EXAMPLE_KINDS[kind],
    findingCounts: report.findingCounts.map(countMessage),
    duplicateRows: statistics.duplicateRows,
    overlapRows,
    labelBalance: report.labelBalance,
    tokens: report.tokens === undefined ? undefined : { ...report.tokens, baseModel: modelName(baseModel) },
    redactedDataset: undefined,
    redactions: [],
  };
}

function countMessage({ code, count }: CodeCount): DatasetFindingCount {
  return { code: findingCode(code), severity: SEVERITIES[FINDING_RULES[code].severity], count };
}

function redactionCounts(redactions: Redactions): DatasetFindingCount[] {
  const counts = new Map<string, number>(redactions);
  return FINDING_CODES.flatMap((code) => (counts.has(code) ? [countMessage({ code, count: counts.get(code)! })] : []));
}
