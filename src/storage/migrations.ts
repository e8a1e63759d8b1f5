/**
 * Every table of every layer, as numbered migrations that only ever grow. A released migration is never edited.
 * Invariant: the number in schema_version says which of them the database holds; each is applied whole or not at all.
 * (pg-boss keeps its own tables in its own schema, with its own version.)
 */
import { LoricaError } from '../common/errors.js';
import type { Database } from './database.js';

const MIGRATIONS: readonly { readonly name: string; readonly sql: string }[] = [
  {
    name: 'blob references and request ids',
    sql: `
      CREATE TABLE blob_references (sha256 text NOT NULL, owner text NOT NULL, PRIMARY KEY (sha256, owner));
      CREATE INDEX blob_references_owner ON blob_references (owner);
      CREATE TABLE request_ids (
        tenant text NOT NULL, method text NOT NULL, request_id text NOT NULL,
        digest text NOT NULL, response_name text NOT NULL, create_time timestamptz NOT NULL,
        PRIMARY KEY (tenant, method, request_id));
      CREATE INDEX request_ids_age ON request_ids (create_time);`,
  },
  {
    name: 'tenants and API keys',
    sql: `
      CREATE TABLE tenants (
        id text PRIMARY KEY, ordinal bigint GENERATED ALWAYS AS IDENTITY, display_name text NOT NULL, create_time timestamptz NOT NULL DEFAULT now());
      CREATE TABLE api_keys (
        id text PRIMARY KEY, ordinal bigint GENERATED ALWAYS AS IDENTITY, tenant text NOT NULL REFERENCES tenants (id),
        key_sha256 text NOT NULL UNIQUE, roles text NOT NULL, create_time timestamptz NOT NULL DEFAULT now(), revoke_time timestamptz);`,
  },
  {
    name: 'jobs',
    sql: `
      CREATE TABLE jobs (
        name text PRIMARY KEY, ordinal bigint GENERATED ALWAYS AS IDENTITY, kind text NOT NULL, tenant text NOT NULL, id text NOT NULL,
        state text NOT NULL, cancel_requested boolean NOT NULL DEFAULT false,
        spec json NOT NULL, result json, error json, request_id text,
        create_time timestamptz NOT NULL DEFAULT now(), start_time timestamptz, end_time timestamptz,
        attempt integer NOT NULL DEFAULT 0, lost integer NOT NULL DEFAULT 0,
        dispatch_id uuid, worker text, lease_until timestamptz,
        last_sequence bigint NOT NULL DEFAULT 0, revision bigint NOT NULL DEFAULT 1);
      CREATE INDEX jobs_list ON jobs (tenant, kind, ordinal DESC);
      CREATE INDEX jobs_leases ON jobs (lease_until) WHERE state = 'RUNNING';
      CREATE TABLE job_events (
        job text NOT NULL REFERENCES jobs (name) ON DELETE CASCADE, sequence bigint NOT NULL, time timestamptz NOT NULL DEFAULT now(),
        event json NOT NULL, PRIMARY KEY (job, sequence));`,
  },
  {
    name: 'datasets',
    sql: `
      CREATE TABLE datasets (
        tenant text NOT NULL, id text NOT NULL, ordinal bigint GENERATED ALWAYS AS IDENTITY, format text NOT NULL, kind text NOT NULL,
        sha256 text NOT NULL, statistics json NOT NULL, findings json NOT NULL, warning_count bigint NOT NULL,
        create_time timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (tenant, id));`,
  },
  {
    name: 'adapters, versions and aliases',
    sql: `
      CREATE TABLE adapters (
        tenant text NOT NULL, id text NOT NULL, ordinal bigint GENERATED ALWAYS AS IDENTITY, display_name text NOT NULL, description text NOT NULL,
        labels json NOT NULL, create_time timestamptz NOT NULL DEFAULT now(), update_time timestamptz NOT NULL DEFAULT now(),
        revision bigint NOT NULL DEFAULT 1, PRIMARY KEY (tenant, id));
      CREATE TABLE adapter_versions (
        tenant text NOT NULL, adapter text NOT NULL, digest text NOT NULL, ordinal bigint GENERATED ALWAYS AS IDENTITY, kind text NOT NULL,
        base_model text NOT NULL, base_digest text NOT NULL, manifest text NOT NULL, bytes bigint NOT NULL, parameter_count bigint NOT NULL,
        tuning_job text, metadata json NOT NULL, create_time timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (tenant, adapter, digest), FOREIGN KEY (tenant, adapter) REFERENCES adapters (tenant, id));
      CREATE TABLE adapter_aliases (
        tenant text NOT NULL, adapter text NOT NULL, alias text NOT NULL, ordinal bigint GENERATED ALWAYS AS IDENTITY, digest text NOT NULL,
        update_time timestamptz NOT NULL DEFAULT now(), revision bigint NOT NULL,
        PRIMARY KEY (tenant, adapter, alias), FOREIGN KEY (tenant, adapter, digest) REFERENCES adapter_versions (tenant, adapter, digest));
      CREATE TABLE adapter_alias_moves (
        ordinal bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant text NOT NULL, adapter text NOT NULL, alias text NOT NULL,
        from_digest text, to_digest text NOT NULL, reason text NOT NULL, undone boolean NOT NULL DEFAULT false, time timestamptz NOT NULL DEFAULT now());
      CREATE INDEX adapter_alias_moves_alias ON adapter_alias_moves (tenant, adapter, alias, ordinal DESC);`,
  },
  {
    name: 'turns, pauses and checkpoints of jobs',
    sql: `
      ALTER TABLE jobs ADD COLUMN pause_requested boolean NOT NULL DEFAULT false, ADD COLUMN turn bigint NOT NULL DEFAULT 0;
      CREATE INDEX jobs_turns ON jobs (kind, tenant) WHERE state IN ('QUEUED', 'RUNNING');
      CREATE TABLE job_checkpoints (
        job text NOT NULL REFERENCES jobs (name) ON DELETE CASCADE, step bigint NOT NULL, stage integer NOT NULL, stage_step bigint NOT NULL,
        bytes bigint NOT NULL, sha256 text NOT NULL, best boolean NOT NULL, evaluation json NOT NULL,
        create_time timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (job, step));`,
  },
  {
    name: 'word vectors',
    sql: `
      CREATE TABLE embeddings (
        tenant text NOT NULL, id text NOT NULL, ordinal bigint GENERATED ALWAYS AS IDENTITY, format text NOT NULL, words bigint NOT NULL,
        continuations bigint NOT NULL, dimension bigint NOT NULL, files json NOT NULL, create_time timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (tenant, id));`,
  },
];

/** Any constant will do: processes that migrate one database wait for each other. */
const MIGRATION_LOCK = 7_041_776;

/** Brings the database to the newest version. FAILED_PRECONDITION when a newer release has written it. */
export async function migrate(database: Database): Promise<void> {
  await database.transaction(async (tx) => {
    await tx.query('SELECT pg_advisory_xact_lock($1)', [MIGRATION_LOCK]);
    await tx.execute(
      'CREATE TABLE IF NOT EXISTS schema_version (version integer PRIMARY KEY, name text NOT NULL, apply_time timestamptz NOT NULL DEFAULT now())',
    );
    const [row] = await tx.query<{ version: number | null }>('SELECT max(version) AS version FROM schema_version');
    const applied = row?.version ?? 0;
    if (applied > MIGRATIONS.length) {
      throw new LoricaError(
        'FAILED_PRECONDITION',
        'STORAGE_FAILED',
        `the database has schema version ${applied}, this release knows ${MIGRATIONS.length}`,
        {
          hint: 'Run the release that wrote it, or a newer one.',
        },
      );
    }
    for (const [index, migration] of MIGRATIONS.entries()) {
      if (index < applied) continue;
      await tx.execute(migration.sql);
      await tx.query('INSERT INTO schema_version (version, name) VALUES ($1, $2)', [index + 1, migration.name]);
    }
  });
}
