/** Rows of the jobs table as Jobs, names, and the list filter. */
import { randomBytes } from 'node:crypto';
import { invalidFields, LoricaError } from '../common/errors.js';
import { notFound } from '../storage/index.js';
import { JOB_COLLECTIONS, type Job, type JobFailure, type JobKind, type JobState } from './job.js';

const STATES: readonly JobState[] = ['QUEUED', 'RUNNING', 'PAUSED', 'SUCCEEDED', 'FAILED', 'CANCELLED'];

export interface JobRow {
  name: string;
  ordinal: number;
  kind: JobKind;
  tenant: string;
  id: string;
  state: JobState;
  cancel_requested: boolean;
  pause_requested: boolean;
  spec: unknown;
  result: unknown;
  error: JobFailure | null;
  request_id: string | null;
  create_time: Date;
  start_time: Date | null;
  end_time: Date | null;
  attempt: number;
  lost: number;
  dispatch_id: string | null;
  turn: number;
  last_sequence: number;
  revision: number;
}

export const JOB_COLUMNS =
  'name, ordinal, kind, tenant, id, state, cancel_requested, pause_requested, spec, result, error, request_id, create_time, start_time, end_time, attempt, lost, dispatch_id, turn, last_sequence, revision';

export function toJob(row: JobRow): Job {
  return {
    name: row.name,
    kind: row.kind,
    tenant: row.tenant,
    id: row.id,
    state: row.state,
    cancelRequested: row.cancel_requested,
    pauseRequested: row.pause_requested,
    spec: row.spec,
    ...(row.result === null ? {} : { result: row.result }),
    ...(row.error === null ? {} : { error: row.error }),
    createTime: row.create_time,
    ...(row.start_time === null ? {} : { startTime: row.start_time }),
    ...(row.end_time === null ? {} : { endTime: row.end_time }),
    ...(row.request_id === null ? {} : { requestId: row.request_id }),
    attempt: row.attempt,
    lastSequence: row.last_sequence,
    etag: `"${row.revision}"`,
  };
}

export function jobName(kind: JobKind, tenant: string, id: string): string {
  return `tenants/${tenant}/${JOB_COLLECTIONS[kind]}/${id}`;
}

/** An id nobody has: the kind's prefix and 60 random bits. */
export function newJobId(kind: JobKind): string {
  const alphabet = 'abcdefghijklmnopqrstuvwxyz234567';
  return `${kind === 'tuning' ? 'tune' : 'eval'}-${Array.from(randomBytes(12), (byte) => alphabet[byte & 31]).join('')}`;
}

export function jobNotFound(name: string): LoricaError {
  return notFound(name.includes('/evaluations/') ? 'EVALUATION_NOT_FOUND' : 'JOB_NOT_FOUND', name);
}

/** The states that a list filter lets through. Its grammar: nothing, or `state = "RUNNING"`, several joined by OR. */
export function filterStates(filter: string): readonly JobState[] {
  if (filter.trim() === '') return STATES;
  return filter.split(/\s+OR\s+/).map((term) => {
    const state = /^\s*state\s*=\s*"?([A-Z]+)"?\s*$/.exec(term)?.[1];
    const known = STATES.find((candidate) => candidate === state);
    if (known === undefined) {
      throw invalidFields([
        {
          field: 'filter',
          description: `cannot read ${JSON.stringify(term)}: write state = "RUNNING", joined by OR; states are ${STATES.join(', ')}`,
        },
      ]);
    }
    return known;
  });
}

/** What of a thrown value a job keeps and shows. The text of a defect stays in the log. */
export function failureOf(error: unknown): JobFailure {
  if (error instanceof LoricaError) return { code: error.code, reason: error.reason, message: error.message, ...(error.hint === undefined ? {} : { hint: error.hint }) };
  return { code: 'INTERNAL', reason: 'INTERNAL', message: 'an internal error stopped this job; the server log has the details' };
}
