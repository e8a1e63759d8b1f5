/**
 * Collects broken rules of a request's fields, so that one answer names them all. Paths are written as in the proto files
 * (snake_case, `stages[0].trainable`). Nothing here knows a message; what a rule means is said where it is applied.
 */
import { invalidFields, type FieldViolation } from '../common/errors.js';

const ID = /^[a-z][a-z0-9-]{0,62}$/;
const MODEL_ID = /^[a-z0-9][a-z0-9._-]{0,62}$/;
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;
const SHA256 = /^[0-9a-f]{64}$/;

export class Fields {
  readonly violations: FieldViolation[] = [];

  add(field: string, description: string): void {
    this.violations.push({ field, description });
  }

  check(field: string, holds: boolean, description: string): void {
    if (!holds) this.add(field, description);
  }

  /** Throws INVALID_ARGUMENT / INVALID_FIELD when a rule is broken. */
  done(): void {
    if (this.violations.length > 0) throw invalidFields(this.violations);
  }

  /** A whole number from `least` to `most`; undefined passes. */
  integer(field: string, value: number | undefined, least: number, most: number): void {
    if (value === undefined) return;
    this.check(
      field,
      Number.isSafeInteger(value) && value >= least && value <= most,
      `must be a whole number from ${least} to ${most}, not ${value}`,
    );
  }

  /** least ≤ value ≤ most, ends excluded where asked; undefined passes, NaN never does. */
  number(field: string, value: number | undefined, least: number, most: number, excluded: { least?: boolean; most?: boolean } = {}): void {
    if (value === undefined) return;
    const low = excluded.least === true ? value > least : value >= least;
    const high = excluded.most === true ? value < most : value <= most;
    const range = `${excluded.least === true ? 'greater than' : 'at least'} ${least}${most === Infinity ? '' : ` and ${excluded.most === true ? 'less than' : 'at most'} ${most}`}`;
    this.check(field, low && high && Number.isFinite(value), `must be ${range}, not ${value}`);
  }

  id(field: string, value: string, options: { optional?: boolean } = {}): void {
    if (value === '' && options.optional === true) return;
    this.check(
      field,
      ID.test(value),
      value === '' ? 'is required' : 'must be lower-case letters, digits and hyphens, 1 to 63, starting with a letter',
    );
  }

  modelId(field: string, value: string, options: { optional?: boolean } = {}): void {
    if (value === '' && options.optional === true) return;
    this.check(
      field,
      MODEL_ID.test(value),
      value === '' ? 'is required' : 'must be lower-case letters, digits, dots, underscores and hyphens, 1 to 63',
    );
  }

  requestId(field: string, value: string): void {
    this.check(field, value === '' || UUID.test(value), 'must be a UUID');
  }

  sha256(field: string, value: string): void {
    this.check(field, value === '' || SHA256.test(value), 'must be 64 lower-case hex digits');
  }

  page(pageSize: number): void {
    this.check('page_size', pageSize >= 0 && pageSize <= 1000, `must be from 0 (the default, 50) to 1000, not ${pageSize}`);
  }

  /** Every value once; a repeated one is named with its index. */
  distinct(field: string, values: readonly (string | number)[]): void {
    values.forEach((value, i) => {
      if (values.indexOf(value) < i) this.add(`${field}[${i}]`, `repeats ${JSON.stringify(value)}`);
    });
  }
}
