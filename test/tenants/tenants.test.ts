import { tenantsContract } from '../contract/tenants.js';
import { temporaryPglite } from '../storage/temporary.js';

tenantsContract(temporaryPglite);
