/**
 * The blob port: immutable bytes under their own sha256 (64 lower-case hex digits).
 * Invariant: a digest either names complete, durable bytes or nothing; a failed or abandoned write leaves nothing behind.
 */
export interface BlobInfo {
  readonly sha256: string;
  readonly bytes: number;
}

/** Bytes received and durable, not yet visible under their digest. Exactly one of commit and discard is called. */
export interface StagedBlob extends BlobInfo {
  /** Makes the bytes visible; a blob that is already there is kept. */
  commit(): Promise<void>;
  discard(): Promise<void>;
}

export interface BlobStore {
  /** Takes bytes in; when `bytes` throws, nothing is left. RESOURCE_EXHAUSTED / STORAGE_FULL when the disk is full. */
  stage(bytes: AsyncIterable<Uint8Array> | Iterable<Uint8Array> | Uint8Array): Promise<StagedBlob>;
  /** stage and commit. */
  put(bytes: AsyncIterable<Uint8Array> | Iterable<Uint8Array> | Uint8Array): Promise<BlobInfo>;
  /** All bytes, verified against the digest. DATA_LOSS / DIGEST_MISMATCH when they differ or are absent. */
  read(sha256: string): Promise<Uint8Array>;
  /** The bytes in order; after the last one the digest is checked and DATA_LOSS / DIGEST_MISMATCH thrown if it differs. */
  stream(sha256: string): AsyncIterable<Uint8Array>;
  /** The local file that holds the bytes, where there is one. Not verified; never to be written. */
  path?(sha256: string): string;
  has(sha256: string): Promise<boolean>;
  /** Removes the bytes; absent ones are no error. */
  delete(sha256: string): Promise<void>;
}
