import { tenantsContract } from './tenants.js';
import { temporaryPostgres } from './temporary-postgres.js';

tenantsContract(temporaryPostgres);
