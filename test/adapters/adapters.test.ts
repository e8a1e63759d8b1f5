import { adaptersContract } from '../contract/adapters.js';
import { temporaryPglite } from '../storage/temporary.js';

adaptersContract(temporaryPglite);
