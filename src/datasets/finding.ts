/** Makes findings: what a code says of severity is never said twice. */
import type { Finding } from './dataset.js';
import { FINDING_RULES, type FindingCode } from './finding-codes.js';

export function finding(
  code: FindingCode,
  line: number,
  path: string,
  message: string,
  related: { readonly line?: number; readonly dataset?: string } = {},
): Finding {
  return {
    severity: FINDING_RULES[code].severity,
    code,
    line,
    path,
    message,
    ...(related.line === undefined ? {} : { relatedLine: related.line }),
    ...(related.dataset === undefined ? {} : { relatedDataset: related.dataset }),
  };
}
