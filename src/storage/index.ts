/** Storage: the database and blob ports with their implementations, and the small services every store shares. */
export type { Database } from './database.js';
export { openDatabase, type DatabaseOptions } from './open-database.js';
export { isUniqueViolation } from './database-errors.js';
export type { BlobInfo, BlobStore, StagedBlob } from './blob-store.js';
export { openFolderBlobStore } from './folder-blob-store.js';
export { makeFolder } from './make-folder.js';
export { BlobLedger } from './blob-ledger.js';
export { RequestIds, requestDigestOf, type RequestKey } from './request-ids.js';
export { listNewest, pageCursor, toPage, type Page, type PageCursor, type PageRequest } from './page.js';
export { isResourceId, notFound, requireResourceId } from './names.js';
