import { jobsContract } from './jobs.js';
import { temporaryPostgres } from './temporary-postgres.js';

jobsContract(temporaryPostgres);
