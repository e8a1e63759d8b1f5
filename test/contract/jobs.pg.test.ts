import { jobControlContract } from './job-control.js';
import { jobsContract } from './jobs.js';
import { temporaryPostgres } from './temporary-postgres.js';

jobsContract(temporaryPostgres);
jobControlContract(temporaryPostgres);
