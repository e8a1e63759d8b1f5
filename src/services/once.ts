/**
 * "The same request id gives the first answer again": one mechanism for every call that changes something and is not a job (jobs
 * have their own, inside the job store). Two calls with one id that overlap in this process run one after the other.
 */
import { createHash } from 'node:crypto';
import type { CallContext } from './call.js';
import type { RequestMemory } from './ports.js';

/** Digest of a request's JSON without the id itself; members are sorted, so that equal bodies have equal digests. */
export function bodyDigest(body: unknown): string {
  const sorted = JSON.stringify(body, (_key, value: unknown) =>
    value !== null && typeof value === 'object' && !Array.isArray(value)
      ? Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)))
      : value,
  );
  return createHash('sha256').update(sorted).digest('hex');
}

export class Once {
  private readonly running = new Map<string, Promise<unknown>>();

  constructor(private readonly memory: RequestMemory) {}

  /**
   * Runs `first` and remembers the name that `nameOf` gives its answer; when the id was used before with the same body, returns
   * `again(name)` instead. Without an id, just `first`. INVALID_ARGUMENT / REQUEST_ID_REUSED when the body differs.
   */
  async run<R>(
    context: CallContext,
    request: { readonly requestId: string },
    body: unknown,
    steps: { first: () => Promise<R>; nameOf: (answer: R) => string; again: (name: string) => Promise<R> },
  ): Promise<R> {
    if (request.requestId === '') return steps.first();
    const key = {
      tenant: context.identity.tenant,
      method: context.method,
      requestId: request.requestId.toLowerCase(),
      requestDigest: bodyDigest(body),
    };
    const id = `${key.tenant} ${key.method} ${key.requestId}`;
    const previous = this.running.get(id);
    const run = (async (): Promise<R> => {
      await previous?.catch(() => undefined);
      const earlier = await this.memory.find(key);
      if (earlier !== undefined) return steps.again(earlier);
      const answer = await steps.first();
      await this.memory.record(key, steps.nameOf(answer));
      return answer;
    })();
    this.running.set(id, run);
    try {
      return await run;
    } finally {
      if (this.running.get(id) === run) this.running.delete(id);
    }
  }
}
