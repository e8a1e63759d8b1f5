/**
 * What a job is: a resource with a state, a specification that its kind's handler understands, and a numbered series of events.
 * Nothing here touches the database.
 */
import type { RunCheckpoints } from './job-checkpoints.js';

export type JobKind = 'tuning' | 'evaluation';
export type JobState = 'QUEUED' | 'RUNNING' | 'PAUSED' | 'SUCCEEDED' | 'FAILED' | 'CANCELLED';

/** The collection of a kind in resource names: tenants/{tenant}/{collection}/{id}. */
export const JOB_COLLECTIONS: Readonly<Record<JobKind, string>> = { tuning: 'tuningJobs', evaluation: 'evaluations' };

/** Why a job failed; `code` and `reason` are LoricaError's. The text of a defect is never kept: it reads INTERNAL. */
export interface JobFailure {
  readonly code: string;
  readonly reason: string;
  readonly message: string;
  /** What to do next. */
  readonly hint?: string;
}

export interface Job {
  /** tenants/{tenant}/tuningJobs/{id} or tenants/{tenant}/evaluations/{id} */
  readonly name: string;
  readonly kind: JobKind;
  readonly tenant: string;
  readonly id: string;
  readonly state: JobState;
  /** True once a cancel was asked for; the state follows when the handler has stopped. */
  readonly cancelRequested: boolean;
  /** True once a pause of a running job was asked for; the state follows when the handler has stopped. */
  readonly pauseRequested: boolean;
  readonly spec: unknown;
  readonly result?: unknown;
  readonly error?: JobFailure;
  readonly createTime: Date;
  readonly startTime?: Date;
  readonly endTime?: Date;
  readonly requestId?: string;
  /** How often it was started. */
  readonly attempt: number;
  /** The sequence of its newest event, 0 for none. */
  readonly lastSequence: number;
  readonly etag: string;
}

/** One event; `sequence` begins at 1 and rises by one. A terminal state event is always a job's last. */
export type JobEvent = { readonly job: string; readonly sequence: number; readonly time: Date } & (
  | { readonly type: 'state'; readonly state: JobState; readonly attempt: number; readonly error?: JobFailure }
  | { readonly type: 'progress'; readonly payload: unknown }
);

export function isTerminal(state: JobState): boolean {
  return state === 'SUCCEEDED' || state === 'FAILED' || state === 'CANCELLED';
}

export interface CreateJob {
  readonly kind: JobKind;
  readonly tenant: string;
  /** [a-z][a-z0-9-]{0,62}; made up when absent. */
  readonly id?: string;
  /** JSON. */
  readonly spec: unknown;
  readonly requestId?: string;
  /** Digest of the request's body; the same request id with another digest is refused. Required with requestId. */
  readonly requestDigest?: string;
}

export interface JobContext {
  readonly job: Job;
  /**
   * Aborted when the job is cancelled or paused, when its lease is lost, and when the server stops; the reason is a LoricaError. The handler
   * must then throw; paused (JOB_PAUSED) or stopped with its server (SHUTTING_DOWN), it may save a checkpoint before.
   */
  readonly signal: AbortSignal;
  /** Appends a progress event (JSON). Rejects once the job is no longer this handler's. */
  emit(payload: unknown): Promise<void>;
  readonly checkpoints: RunCheckpoints;
  /** What earlier runs of this job have emitted, newest first, at most `limit`. */
  emitted(limit: number): Promise<readonly unknown[]>;
}

/** Runs one job; what it resolves with (JSON) becomes the job's result. */
export type JobHandler = (context: JobContext) => Promise<unknown>;
