/** Jobs: durable, cancellable, watchable; queued in the database and run by the handlers given to the runner. */
export { isTerminal, JOB_COLLECTIONS } from './job.js';
export type { CreateJob, Job, JobContext, JobEvent, JobFailure, JobHandler, JobKind, JobState } from './job.js';
export { JobCheckpoints, type JobCheckpoint, type NewCheckpoint, type RunCheckpoints } from './job-checkpoints.js';
export { jobName, jobNotFound } from './job-rows.js';
export { JobStore, type JobStoreOptions, type ListJobs } from './job-store.js';
export { JobRunner, type JobRunnerOptions } from './job-runner.js';
