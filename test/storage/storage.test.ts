import { storageContract } from '../contract/storage.js';
import { temporaryPglite } from './temporary.js';

storageContract(temporaryPglite);
