import { datasetsContract } from '../contract/datasets.js';
import { temporaryPglite } from '../storage/temporary.js';

datasetsContract(temporaryPglite);
