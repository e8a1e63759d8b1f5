import { datasetsContract } from './datasets.js';
import { temporaryPostgres } from './temporary-postgres.js';

datasetsContract(temporaryPostgres);
