/**
 * Requests that wait for a slot: bounded as a whole, first come first served within a tenant, and taken from the tenants in turn,
 * so that one tenant's burst delays its own requests only. Nor can it take every place: a tenant may have three times as many waiting as places
 * are free (dynamic thresholds, Choudhury and Hahne, IEEE/ACM Trans. Networking 1998), so that some are left for whoever comes next.
 */
import { LoricaError } from '../common/errors.js';

/** One tenant alone may fill this to one: three quarters of the places. */
const WAITING_PER_FREE_PLACE = 3;

export class WaitingQueue<T extends { readonly tenant: string }> {
  readonly #limit: number;
  /** Insertion order is the order of turns: a tenant that was served moves to the end. */
  readonly #lines = new Map<string, T[]>();
  #length = 0;

  constructor(limit: number) {
    this.#limit = limit;
  }

  get length(): number {
    return this.#length;
  }

  /** Adds an item; OVERLOADED when the queue is full or the tenant has its share of it. `retryAfterMs` is a guess for the client. */
  push(item: T, retryAfterMs: () => number): void {
    const line = this.#lines.get(item.tenant);
    const own = line?.length ?? 0;
    const free = this.#limit - this.#length;
    if (own >= WAITING_PER_FREE_PLACE * free) {
      const waiting = free > 0 ? `${own} requests of this tenant` : `${this.#length} requests`;
      throw new LoricaError('RESOURCE_EXHAUSTED', 'OVERLOADED', `${waiting} are waiting already`, {
        hint: 'Try again later, or raise the number of sequences or replicas.',
        retryAfterMs: Math.max(1, Math.round(retryAfterMs())),
      });
    }
    if (line === undefined) this.#lines.set(item.tenant, [item]);
    else line.push(item);
    this.#length++;
  }

  /** Takes the first item of the first tenant in turn that `fits`; an item that does not fit keeps its place. */
  take(fits: (item: T) => boolean = () => true): T | undefined {
    for (const [tenant, line] of this.#lines) {
      const item = line[0];
      if (item === undefined || !fits(item)) continue;
      this.#lines.delete(tenant);
      line.shift();
      if (line.length > 0) this.#lines.set(tenant, line);
      this.#length--;
      return item;
    }
    return undefined;
  }

  /** Takes an item out, wherever it stands; false when it is not waiting. */
  remove(item: T): boolean {
    const line = this.#lines.get(item.tenant);
    const at = line?.indexOf(item) ?? -1;
    if (line === undefined || at < 0) return false;
    line.splice(at, 1);
    if (line.length === 0) this.#lines.delete(item.tenant);
    this.#length--;
    return true;
  }
}
