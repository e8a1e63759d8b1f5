/**
 * What was loaded for targets (LoRA adapters, variants), by digest and model, least recently used first out. Loading happens once
 * however many ask. Invariant: what is in use is never dropped, even above the limits.
 */
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

export class ResidentCache<T extends Resident> {
  readonly #loading = new Map<string, Promise<T>>();
  readonly #resident = new Map<string, T>();

  constructor(private readonly limits: ResidentLimits, private readonly onChange: (size: number) => void = () => undefined) {}

  /** What is under `key`, loaded if need be, with one more user. Every acquire is paired with a release. */
  async acquire(key: string, load: () => Promise<T>): Promise<T> {
    let loading = this.#loading.get(key);
    if (loading === undefined) {
      loading = load().then((resident) => {
        this.#resident.set(key, resident);
        this.onChange(this.#resident.size);
        return resident;
      });
      this.#loading.set(key, loading);
      loading.catch(() => this.#loading.delete(key));
    }
    const resident = await loading;
    resident.users++;
    resident.lastUsedMs = Date.now();
    this.#evict();
    return resident;
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

  clear(): void {
    for (const key of [...this.#resident.keys()]) this.#remove(key);
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
    this.#loading.delete(key);
    resident?.dispose();
    this.onChange(this.#resident.size);
  }
}
