/**
 * What tuning jobs and evaluations share as resources: creation with request ids, states and errors as messages, and the watch
 * stream (what happened, what happens, heartbeats, the final resource). A watcher that leaves changes nothing for the job.
 */
import { isTerminal, type Job, type JobEvent, type JobState, type JobStore } from '../jobs/index.js';
import { LoricaError, type ErrorReason } from '../common/errors.js';
import * as errors from '../gen/lorica/v1/errors.js';
import * as proto from '../gen/lorica/v1/resources.js';
import { shuttingDown } from './call.js';
import { Fields } from './fields.js';
import { bodyDigest } from './once.js';

const STATES: Readonly<Record<JobState, proto.JobState>> = {
  QUEUED: proto.JobState.JOB_STATE_QUEUED,
  RUNNING: proto.JobState.JOB_STATE_RUNNING,
  PAUSED: proto.JobState.JOB_STATE_PAUSED,
  SUCCEEDED: proto.JobState.JOB_STATE_SUCCEEDED,
  FAILED: proto.JobState.JOB_STATE_FAILED,
  CANCELLED: proto.JobState.JOB_STATE_CANCELLED,
};

export const HEARTBEAT_MS = 15_000;

/** The fields that both kinds of job have. */
export function jobFields(
  job: Job,
): Pick<proto.TuningJob, 'name' | 'state' | 'createTime' | 'startTime' | 'endTime' | 'error' | 'etag' | 'attempt' | 'cancelRequested'> {
  return {
    name: job.name,
    state: STATES[job.state],
    createTime: job.createTime,
    startTime: job.startTime,
    endTime: job.endTime,
    error:
      job.error === undefined
        ? undefined
        : { code: job.error.code, reason: reasonMessage(job.error.reason as ErrorReason), message: job.error.message, hint: job.error.hint ?? '' },
    etag: job.etag,
    attempt: job.attempt,
    cancelRequested: job.cancelRequested,
  };
}

/** Compiles only while the message's list of reasons holds every reason of the code. */
export function reasonMessage(reason: ErrorReason): errors.ErrorReason {
  const name: `${errors.ErrorReason}` = `ERROR_REASON_${reason}`;
  return errors.errorReasonFromJSON(name);
}

/** The request id of a creation with the digest of its body; undefined without an id. A repeat reattaches before anything is checked again. */
export function repeatOf(
  request: { readonly requestId: string },
  body: unknown,
): { readonly requestId: string; readonly requestDigest: string } | undefined {
  return request.requestId === '' ? undefined : { requestId: request.requestId.toLowerCase(), requestDigest: bodyDigest(body) };
}

/** What a watch yields; the services give each its message. */
export type Watched =
  | { readonly kind: 'job'; readonly job: Job; readonly sequence: number; readonly time: Date }
  | { readonly kind: 'progress'; readonly payload: unknown; readonly sequence: number; readonly time: Date }
  | { readonly kind: 'heartbeat'; readonly sequence: number; readonly time: Date }
  | { readonly kind: 'result'; readonly job: Job; readonly sequence: number; readonly time: Date };

/**
 * Events after `afterSequence`, then live ones; first the job as it is, last the job as it ended. Throws the signal's reason when
 * the caller leaves, and UNAVAILABLE / SHUTTING_DOWN when the server drains (the job is queued again then).
 */
export async function* watchJob(
  store: JobStore,
  name: string,
  afterSequence: number,
  signal: AbortSignal,
  draining: AbortSignal,
  heartbeatMs = HEARTBEAT_MS,
): AsyncGenerator<Watched> {
  const fields = new Fields();
  fields.check('after_sequence', afterSequence >= 0, `must be 0 or more, not ${afterSequence}`);
  fields.done();
  const job = await store.get(name);
  let sequence = afterSequence;
  yield { kind: 'job', job, sequence, time: new Date() };
  const stop = AbortSignal.any([signal, draining]);
  const events = store.events(name, afterSequence, stop);
  let next = events.next();
  try {
    for (;;) {
      const event = await within(next, heartbeatMs);
      if (event === undefined) {
        yield { kind: 'heartbeat', sequence, time: new Date() };
        continue;
      }
      if (event.done === true) break;
      next = events.next();
      sequence = event.value.sequence;
      yield* watched(store, name, event.value);
    }
  } finally {
    // Not awaited: the iterator may be waiting; it leaves at the next event or when the signal aborts.
    next.catch(() => undefined);
    void events.return(undefined).catch(() => undefined);
  }
  signal.throwIfAborted();
  const ended = await store.get(name);
  if (!isTerminal(ended.state) && draining.aborted) throw shuttingDown();
  yield { kind: 'result', job: ended, sequence, time: ended.endTime ?? new Date() };
}

async function* watched(store: JobStore, name: string, event: JobEvent): AsyncGenerator<Watched> {
  const { sequence, time } = event;
  if (event.type === 'progress') yield { kind: 'progress', payload: event.payload, sequence, time };
  else if (!isTerminal(event.state)) yield { kind: 'job', job: await store.get(name), sequence, time };
}

/** The promise's value, or undefined when `ms` pass first. */
async function within<T>(promise: Promise<T>, ms: number): Promise<T | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<undefined>((resolve) => {
    timer = setTimeout(resolve, ms, undefined);
  });
  try {
    return await Promise.race([promise, timeout]);
  } finally {
    clearTimeout(timer);
  }
}

/** ABORTED / ETAG_MISMATCH unless `given` is empty or the resource's own. */
export function checkEtag(name: string, given: string, actual: string): void {
  if (given === '' || given === actual) return;
  throw new LoricaError('ABORTED', 'ETAG_MISMATCH', `${name} has changed since its etag was read`, {
    hint: 'Read it again and repeat the call with the new etag.',
  });
}
