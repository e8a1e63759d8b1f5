/**
 * Reads typed values off a config.json and collects everything that is wrong with them. Keys are the usual ones; a family that spells
 * one differently says so, and errors name what the file holds.
 */
import type { FieldViolation } from '../common/errors.js';
import type { DecoderConfig } from './config-decoder.js';
import type { HfFormat } from './family.js';

export type Json = Record<string, unknown>;

type Naming = Pick<HfFormat, 'keys' | 'defaults'>;

export class ConfigFields {
  readonly violations: FieldViolation[] = [];

  constructor(
    readonly json: Json,
    private readonly naming: Naming = {},
    private readonly prefix = '',
  ) {}

  /** How the file spells a key. */
  key(field: string): string {
    return this.prefix + (this.naming.keys?.[field] ?? field);
  }

  fail(field: string, description: string): void {
    const violation = { field: this.key(field), description };
    if (!this.violations.some((known) => known.field === violation.field)) this.violations.push(violation);
  }

  /** The value, the family's default where the file has none or null, or undefined. */
  value(field: string): unknown {
    const found = this.json[this.naming.keys?.[field] ?? field];
    const fallback = this.naming.defaults?.[field];
    return found ?? (typeof fallback === 'function' ? fallback(this) : fallback);
  }

  /** Whether the file, or where it is silent the family, gives a value; an explicit null is none. */
  has(field: string): boolean {
    const key = this.naming.keys?.[field] ?? field;
    return key in this.json ? this.json[key] != null : this.naming.defaults?.[field] !== undefined;
  }

  number(field: string, fallback?: number): number {
    const value = this.value(field) ?? fallback;
    if (typeof value === 'number' && Number.isFinite(value) && value > 0) return value;
    this.fail(field, value === undefined ? 'is missing' : `must be a positive number, not ${JSON.stringify(value)}`);
    return 1;
  }

  count(field: string, fallback?: number, most = 2 ** 24): number {
    const value = this.number(field, fallback);
    if (Number.isInteger(value) && value <= most) return value;
    this.fail(field, `must be a whole number of at most ${most}, not ${value}`);
    return 1;
  }

  /** A whole number that may be 0. */
  whole(field: string, fallback: number): number {
    return this.value(field) === 0 ? 0 : this.count(field, fallback);
  }

  numbers(field: string): number[] {
    const value = this.value(field);
    if (Array.isArray(value) && value.every((element) => typeof element === 'number' && Number.isFinite(element) && element > 0)) return value as number[];
    this.fail(field, 'must be a list of positive numbers');
    return [];
  }

  boolean(field: string, fallback: boolean): boolean {
    const value = this.value(field) ?? fallback;
    if (typeof value === 'boolean') return value;
    this.fail(field, `must be true or false, not ${JSON.stringify(value)}`);
    return fallback;
  }

  /** For every layer whether its attention is local: as `layer_types` says, else by `rule`. */
  layerTypes(rule: (layer: number) => boolean): boolean[] {
    const layers = this.count('num_hidden_layers', undefined, 4096);
    const given = this.json['layer_types'];
    if (given == null) return Array.from({ length: layers }, (_, layer) => rule(layer));
    const known = Array.isArray(given) && given.length === layers && given.every((type) => type === 'sliding_attention' || type === 'full_attention');
    if (!known) this.fail('layer_types', `must name ${layers} layers, each sliding_attention or full_attention`);
    return known ? given.map((type) => type === 'sliding_attention') : [];
  }

  /** The sliding window and, where only some layers have it, which. A window as long as the context is none. */
  window(local?: readonly boolean[]): Pick<DecoderConfig, 'slidingWindowTokens' | 'localLayers'> {
    if (!this.has('sliding_window') || local?.every((is) => !is) === true) return {};
    const slidingWindowTokens = this.count('sliding_window');
    if (slidingWindowTokens >= this.count('max_position_embeddings')) return {};
    return { slidingWindowTokens, ...(local?.includes(false) === true && { localLayers: local }) };
  }
}

/** `layer_types` of a config. */
export function writtenLayerTypes(config: DecoderConfig): string[] {
  return Array.from({ length: config.layers }, (_, layer) =>
    (config.localLayers?.[layer] ?? config.slidingWindowTokens !== undefined) ? 'sliding_attention' : 'full_attention',
  );
}
