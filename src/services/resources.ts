/** Domain resources as messages: datasets, models, adapters. One direction only; nothing is looked up. */
import type { Adapter, AdapterAlias, AdapterVersion } from '../adapters/index.js';
import { FINDING_RULES, type Dataset, type DatasetStatistics, type Finding, type FindingCode } from '../datasets/index.js';
import { DatasetFindingCode } from '../gen/lorica/v1/dataset_finding_code.js';
import * as proto from '../gen/lorica/v1/resources.js';
import { modelName, versionName } from './names.js';
import type { ModelInfo } from './ports.js';

export const EXAMPLE_KINDS = {
  completion: proto.ExampleKind.EXAMPLE_KIND_COMPLETION,
  messages: proto.ExampleKind.EXAMPLE_KIND_MESSAGES,
  text: proto.ExampleKind.EXAMPLE_KIND_TEXT,
  label: proto.ExampleKind.EXAMPLE_KIND_LABEL,
  preference: proto.ExampleKind.EXAMPLE_KIND_PREFERENCE,
} as const;

export const SEVERITIES = {
  warning: proto.FindingSeverity.FINDING_SEVERITY_WARNING,
  error: proto.FindingSeverity.FINDING_SEVERITY_ERROR,
} as const;

const ORIGINS = {
  configured: proto.ModelOrigin.MODEL_ORIGIN_CONFIGURED,
  imported: proto.ModelOrigin.MODEL_ORIGIN_IMPORTED,
  embedded: proto.ModelOrigin.MODEL_ORIGIN_EMBEDDED,
} as const;

export const ADAPTER_KINDS = {
  lora: proto.AdapterKind.ADAPTER_KIND_LORA,
  variant: proto.AdapterKind.ADAPTER_KIND_VARIANT,
} as const;

export function findingCode(code: FindingCode): DatasetFindingCode {
  return DatasetFindingCode[`DATASET_FINDING_CODE_${code}`];
}

export function findingMessage(finding: Finding): proto.DatasetFinding {
  const { line, severity, path, message } = finding;
  // Datasets that were stored before there were codes have findings without one.
  const code = finding.code as FindingCode | undefined;
  return {
    line,
    severity: SEVERITIES[severity],
    path,
    description: message,
    code: code === undefined ? DatasetFindingCode.DATASET_FINDING_CODE_UNSPECIFIED : findingCode(code),
    fix: code === undefined ? '' : FINDING_RULES[code].fix,
    relatedLine: finding.relatedLine ?? 0,
    relatedDataset: finding.relatedDataset ?? '',
  };
}

export function datasetMessage(dataset: Dataset): proto.Dataset {
  const statistics: DatasetStatistics = dataset.statistics;
  return {
    name: dataset.name,
    format: proto.DatasetFormat.DATASET_FORMAT_JSONL,
    kind: EXAMPLE_KINDS[dataset.kind],
    rows: statistics.rows,
    bytes: statistics.bytes,
    sha256: dataset.sha256,
    labelRows: { ...statistics.labels },
    createTime: dataset.createTime,
    duplicateRows: statistics.duplicateRows,
    characters: statistics.characters,
    longestRowCharacters: statistics.longestRowCharacters,
    findings: dataset.findings.map(findingMessage),
    warningCount: dataset.warningCount,
    etag: dataset.etag,
  };
}

export function modelMessage(model: ModelInfo): proto.Model {
  const { id, origin, ...rest } = model;
  return { name: modelName(id), origin: ORIGINS[origin], ...rest };
}

export function adapterMessage(adapter: Adapter): proto.Adapter {
  const { name, displayName, description, labels, createTime, updateTime, etag } = adapter;
  return { name, displayName, description, labels: { ...labels }, createTime, updateTime, etag };
}

export function adapterVersionMessage(version: AdapterVersion): proto.AdapterVersion {
  return {
    name: version.name,
    digest: version.digest,
    kind: ADAPTER_KINDS[version.kind],
    baseModel: modelName(version.baseModel),
    baseDigest: version.baseDigest,
    bytes: version.bytes,
    tuningJob: version.tuningJob ?? '',
    createTime: version.createTime,
    parameters: version.parameterCount,
    metadata: { ...version.metadata },
  };
}

export function adapterAliasMessage(alias: AdapterAlias): proto.AdapterAlias {
  return {
    name: alias.name,
    version: versionName(alias.tenant, alias.adapter, alias.digest),
    updateTime: alias.updateTime,
    etag: alias.etag,
  };
}
