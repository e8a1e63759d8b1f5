import { adaptersContract } from './adapters.js';
import { temporaryPostgres } from './temporary-postgres.js';

adaptersContract(temporaryPostgres);
