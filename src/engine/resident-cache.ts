/**
 * What was loaded for targets (LoRA adapters, variants), by digest and model, least recently used first out. Loading happens once
 * however many ask. Invariants: what is in use or waited for is never dropped, even above the limits; after `close` nothing stays.
 */
import { LoricaError } from '../common/errors.js';

export interface Resident {
  readonly kind: 'lora' | 'variant';
  readonly name: string;
  readonly digest: string;
  readonly bytes: number;
  /** Sequences and scorings that use it now. */
  users: number;
  lastUsedMs: number;
  dispose(): void;
}

export interface ResidentLimits {
  /** Of all LoRA adapters together. */
  readonly loraBytes: number;
  readonly variants: number;
}

interface Loading<T> {
  /** Users to be once it is there. */
  waiting: number;
  readonly loaded: Promise<T>;
}

export class ResidentCache<T extends Resident> {
  readonly #loading = new Map<string, Loading<T>>();
  readonly #resident = new Map<string, T>();
  #closed = false;

  constructor(private readonly limits: ResidentLimits, private readonly onChange: (size: number) => void = () => undefined) {}

  /** What is under `key`, loaded if need be, with one more user. Every acquire is paired with a release. */
  async acquire(key: string, load: () => Promise<T>): Promise<T> {
    const resident = this.#resident.get(key);
    if (resident !== undefined) {
      resident.users++;
      resident.lastUsedMs = Date.now();
      return resident;
    }
    let loading = this.#loading.get(key);
    if (loading === undefined) {
      loading = { waiting: 0, loaded: this.#load(key, load) };
      this.#loading.set(key, loading);
    }
    loading.waiting++;
    return loading.loaded;
  }

  release(resident: T): void {
    resident.users--;
    resident.lastUsedMs = Date.now();
    this.#evict();
  }

  /** Drops what has this digest; false when it is in use or not resident. */
  drop(digest: string): boolean {
    const found = [...this.#resident].filter(([, resident]) => resident.digest === digest);
    if (found.length === 0 || found.some(([, resident]) => resident.users > 0)) return false;
    for (const [key] of found) this.#remove(key);
    return true;
  }

  list(): readonly T[] {
    return [...this.#resident.values()];
  }

  /** Drops everything. What still loads is dropped when it comes; those who wait for it get SHUTTING_DOWN. */
  close(): void {
    this.#closed = true;
    for (const key of [...this.#resident.keys()]) this.#remove(key);
  }

  async #load(key: string, load: () => Promise<T>): Promise<T> {
    try {
      const resident = await Promise.resolve().then(load);
      if (this.#closed) {
        resident.dispose();
        throw new LoricaError('UNAVAILABLE', 'SHUTTING_DOWN', 'the server is shutting down');
      }
      // Counted before anyone who waits goes on, so that nothing can drop it in between.
      resident.users += this.#loading.get(key)!.waiting;
      resident.lastUsedMs = Date.now();
      this.#resident.set(key, resident);
      this.onChange(this.#resident.size);
      this.#evict();
      return resident;
    } finally {
      this.#loading.delete(key);
    }
  }

  #evict(): void {
    const oldestFirst = [...this.#resident].sort(([, a], [, b]) => a.lastUsedMs - b.lastUsedMs);
    let bytes = 0;
    let variants = 0;
    for (const [, resident] of oldestFirst) {
      if (resident.kind === 'lora') bytes += resident.bytes;
      else variants++;
    }
    for (const [key, resident] of oldestFirst) {
      const over = resident.kind === 'lora' ? bytes > this.limits.loraBytes : variants > this.limits.variants;
      if (!over || resident.users > 0) continue;
      if (resident.kind === 'lora') bytes -= resident.bytes;
      else variants--;
      this.#remove(key);
    }
  }

  #remove(key: string): void {
    const resident = this.#resident.get(key);
    this.#resident.delete(key);
    resident?.dispose();
    this.onChange(this.#resident.size);
  }
}
