/** What the adapter registry does on every Database. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { randomUUID } from 'node:crypto';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import {
  AdapterRegistry,
  type AdapterVersion,
  type AliasMove,
  type ClassificationHead,
  type FilePiece,
  type FitOf,
  type LoraInput,
  type LoraModule,
  type VariantArchitecture,
  type VariantInput,
} from '../../src/adapters/index.js';
import { BlobLedger, type BlobStore, type Database, openFolderBlobStore } from '../../src/storage/index.js';
import { hostTensor } from '../../src/tensor/host-tensor.js';
import { collect, type Temporary, temporaryFolder } from '../storage/temporary.js';

const SHAPES = new Map<string, readonly number[]>([
  ['model.embed_tokens.weight', [11, 6]],
  ['model.layers.0.self_attn.q_proj.weight', [6, 6]],
  ['model.layers.0.mlp.down_proj.weight', [6, 8]],
  ['model.layers.1.self_attn.q_proj.weight', [6, 6]],
  ['model.norm.weight', [6]],
]);
const Q0 = 'model.layers.0.self_attn.q_proj';
/** With an architecture: a third layer, whose o_proj the base has no values for. */
const EDITED: VariantArchitecture = { layerOrigins: [0, 1, 1], intermediateSizes: [8, 8, 8], tieWordEmbeddings: true };
const O2 = 'model.layers.2.self_attn.o_proj.weight';
const fit: FitOf = (architecture) => ({
  shapes: new Map([...SHAPES, ...(architecture === undefined ? [] : [[O2, [6, 6]] as const])]),
  required: new Set(architecture === undefined ? [] : [O2]),
});
const BASE = { baseModel: 'models/tiny', baseDigest: 'sha256:base', fit };

/** A module filled with a pattern that depends on `seed`. */
export function moduleOf(module: string, rank: number, [out, input]: readonly [number, number], seed = 0): LoraModule {
  const fill = (length: number, phase: number): Float32Array =>
    Float32Array.from({ length }, (_, index) => (((7 * index + phase + 3 * seed) % 13) - 6) / 8);
  return { module, rank, scaling: 2, a: fill(rank * input, 0), b: fill(out * rank, 1) };
}

export function loraOf(...modules: LoraModule[]): LoraInput {
  return { kind: 'lora', modules: new Map(modules.map((module) => [module.module, module])) };
}

const lora = (seed = 0): LoraInput => loraOf(moduleOf(Q0, 2, [6, 6], seed), moduleOf('model.layers.0.mlp.down_proj', 3, [6, 8], seed));
const variant = (value = 0.5): VariantInput => ({
  kind: 'variant',
  tensors: new Map([
    ['model.norm.weight', hostTensor('float32', [6], new Float32Array(6).fill(value))],
    [`${Q0}.weight`, hostTensor('bfloat16', [6, 6], new Uint16Array(36).fill(0x3f80))],
  ]),
});

const HEAD: ClassificationHead = { labels: ['yes', 'no'], template: 'Is it? {text}', weight: Float32Array.from({ length: 12 }, (_, i) => i / 8) };

const deeper = (architecture = EDITED): VariantInput => ({
  kind: 'variant',
  architecture,
  tensors: new Map([[O2, hostTensor('float32', [6, 6], new Float32Array(36))]]),
});

export async function* replay(pieces: readonly FilePiece[]): AsyncGenerator<FilePiece> {
  for (const piece of pieces) yield await Promise.resolve(piece);
}

export function adaptersContract(open: () => Promise<Temporary<Database>>): void {
  describe('adapters', () => {
    let database: Temporary<Database>;
    let folder: Temporary<string>;
    let blobs: BlobStore;
    let registry: AdapterRegistry;
    let tenant: string;
    beforeAll(async () => {
      database = await open();
    });
    beforeEach(async () => {
      await database.value.execute(
        'DELETE FROM adapter_alias_moves; DELETE FROM adapter_aliases; DELETE FROM adapter_versions; DELETE FROM adapters; DELETE FROM blob_references',
      );
      folder = await temporaryFolder();
      blobs = await openFolderBlobStore(folder.value);
      registry = new AdapterRegistry(database.value, blobs, new BlobLedger(database.value, blobs));
      tenant = `tenant-${randomUUID()}`;
    });
    afterEach(() => folder.dispose());
    afterAll(() => database.dispose());

    const publish = (content: LoraInput | VariantInput = lora(), more: object = {}): Promise<AdapterVersion> =>
      registry.publish({ tenant, adapter: 'a', ...BASE, content, ...more });
    const files = async (): Promise<string[]> =>
      (await readdir(folder.value, { recursive: true, withFileTypes: true })).filter((entry) => entry.isFile()).map((entry) => entry.name);
    const key = (alias: string): { tenant: string; adapter: string; alias: string } => ({ tenant, adapter: 'a', alias });

    describe('versions', () => {
      test('LoRA is published and loaded bit for bit', async () => {
        const content = lora();
        const version = await publish(content, { tuningJob: `tenants/${tenant}/tuningJobs/j`, metadata: { loss: '0.1' } });
        expect(version).toEqual({
          name: `tenants/${tenant}/adapters/a/versions/${version.digest.slice(7)}`,
          tenant,
          adapter: 'a',
          digest: expect.stringMatching(/^sha256:[0-9a-f]{64}$/),
          kind: 'lora',
          baseModel: 'models/tiny',
          baseDigest: 'sha256:base',
          bytes: expect.any(Number),
          parameterCount: 2 * (6 + 6) + 3 * (6 + 8),
          tuningJob: `tenants/${tenant}/tuningJobs/j`,
          metadata: { loss: '0.1' },
          createTime: expect.any(Date),
        });
        const loaded = await registry.load(version);
        expect(loaded).toEqual({ ...content, digest: version.digest, modules: new Map([...content.modules].sort()) });
        expect((await registry.getAdapter(tenant, 'a')).name).toBe(`tenants/${tenant}/adapters/a`);
      });

      test('a variant with an architecture of its own is loaded with it, and its digest covers it', async () => {
        const version = await publish(deeper());
        expect(await registry.load(version)).toEqual({ ...deeper(), digest: version.digest });
        const others = [
          { ...EDITED, layerOrigins: [0, 0, 1] },
          { ...EDITED, intermediateSizes: [8, 8, 9] },
          { ...EDITED, tieWordEmbeddings: false },
        ];
        const digests = await Promise.all(others.map(async (architecture) => (await publish(deeper(architecture))).digest));
        expect(new Set([version.digest, ...digests]).size).toBe(4);
        await expect(publish({ ...variant(), architecture: EDITED })).rejects.toMatchObject({
          reason: 'ADAPTER_INCOMPATIBLE',
          violations: [{ field: O2, description: expect.stringContaining('is missing') }],
        });
      });

      test('a variant is published and loaded bit for bit', async () => {
        const content = variant();
        const version = await publish(content);
        expect(version).toMatchObject({ kind: 'variant', parameterCount: 42 });
        const loaded = await registry.load(version);
        expect(loaded).toEqual({ ...content, digest: version.digest, tensors: expect.any(Map) });
        expect('tensors' in loaded && [...loaded.tensors].sort()).toEqual([...content.tensors].sort());
      });

      test('the digest is that of the content: equal content is one version, any other is another', async () => {
        const first = await publish();
        const again = await publish(lora(), { metadata: { other: 'metadata' } });
        expect(again).toEqual(first);
        expect(await files()).toHaveLength(1);
        const scaled = loraOf(...[...lora().modules.values()].map((module) => ({ ...module, scaling: 3 })));
        const reordered: LoraInput = { kind: 'lora', modules: new Map([...lora().modules].reverse()) };
        const digests = await Promise.all(
          [publish(scaled), publish(lora(1)), publish(lora(), { baseDigest: 'sha256:other' }), publish(variant())].map(
            async (version) => (await version).digest,
          ),
        );
        expect(new Set([first.digest, ...digests]).size).toBe(5);
        expect((await publish(reordered)).digest).toBe(first.digest);
        // A change of this value changes the digest of everything ever published.
        expect(first.digest).toBe('sha256:0b8b9c244be16ae58b79a3d0a723165577919bc934f4c218fea212e790d74ff0');
      });

      test.each<[string, LoraInput | VariantInput]>([
        ['LoRA with a head', { ...lora(), head: HEAD }],
        ['a variant with a head', { ...variant(), head: HEAD }],
        ['a head alone', { kind: 'lora', modules: new Map(), head: HEAD }],
      ])('%s is read back, and travels through files without loss', async (_what, content) => {
        const version = await publish(content);
        expect((await registry.load(version)).head).toEqual(HEAD);
        const pieces = await collect(registry.exportFiles(version));
        expect(pieces.map(({ file }) => file)).toContain('classification_head.json');
        const again = await registry.importFiles({ tenant, adapter: 'travelled', ...BASE, pieces: replay(pieces), maxBytes: 1e6 });
        expect(again.digest).toBe(version.digest);
        // Labels and template are content: they change what a text is given.
        const relabelled = { ...content, head: { ...HEAD, labels: ['no', 'yes'] } };
        const reworded = { ...content, head: { ...HEAD, template: '{text}' } };
        expect(new Set([version.digest, (await publish(relabelled)).digest, (await publish(reworded)).digest]).size).toBe(3);
      });

      test.each<[string, ClassificationHead, string]>([
        ['of another width', { ...HEAD, weight: new Float32Array(10) }, 'has 10 elements, [2,6] has 12'],
        ['with NaN', { ...HEAD, weight: HEAD.weight.map((value, i) => (i === 3 ? Number.NaN : value)) }, 'holds NaN or infinity'],
        ['of one label', { ...HEAD, labels: ['yes'], weight: new Float32Array(6) }, 'has labels: must be 2 to 1000 labels, not 1'],
        ['without a text', { ...HEAD, template: 'x' }, 'has a template without {text}'],
      ])('a head %s is refused', async (_what, head, description) => {
        await expect(publish({ ...lora(), head })).rejects.toMatchObject({ reason: 'ADAPTER_INCOMPATIBLE', violations: [{ field: 'score.weight', description }] });
      });

      test('many publications of the same content at once give one version', async () => {
        const all = await Promise.all(Array.from({ length: 6 }, () => publish()));
        expect(new Set(all.map((version) => JSON.stringify(version))).size).toBe(1);
        expect(await files()).toHaveLength(1);
      });

      test.each<[string, LoraInput | VariantInput, string, string]>([
        [
          'an unknown module',
          loraOf(moduleOf('model.layers.9.self_attn.q_proj', 2, [6, 6])),
          'model.layers.9.self_attn.q_proj',
          'is not a module of the base',
        ],
        ['other shapes', loraOf(moduleOf(Q0, 2, [6, 8])), Q0, 'lora_A has 16 elements, [2,6] has 12'],
        [
          'a module that is no matrix',
          loraOf(moduleOf('model.norm', 1, [6, 1])),
          'model.norm',
          'is not a linear layer of the base (its weight is [6])',
        ],
        ['the embedding', loraOf(moduleOf('model.embed_tokens', 1, [11, 6])), 'model.embed_tokens', 'is not a linear layer'],
        ['an impossible rank', loraOf(moduleOf(Q0, 7, [6, 6])), Q0, 'has rank 7, possible are 1 to 6'],
        ['NaN', loraOf({ ...moduleOf(Q0, 2, [6, 6]), b: new Float32Array(12).fill(NaN, 5, 6) }), Q0, 'holds NaN or infinity'],
        [
          'infinity',
          loraOf({ ...moduleOf(Q0, 2, [6, 6]), a: new Float32Array(12).fill(Infinity, 0, 1).fill(-Infinity, 1, 2) }),
          Q0,
          'holds NaN or infinity',
        ],
        ['no scaling', loraOf({ ...moduleOf(Q0, 2, [6, 6]), scaling: NaN }), Q0, 'has the scaling NaN'],
        ['nothing', loraOf(), 'tensors', 'there are none'],
        [
          'a tensor that the base lacks',
          { kind: 'variant', tensors: new Map([['lm_head.weight', hostTensor('float32', [2], new Float32Array(2))]]) },
          'lm_head.weight',
          'is not a tensor of the base',
        ],
        [
          'another shape',
          { kind: 'variant', tensors: new Map([['model.norm.weight', hostTensor('float32', [2, 3], new Float32Array(6))]]) },
          'model.norm.weight',
          "has the shape [2,3], the base's is [6]",
        ],
        [
          'another dtype',
          { kind: 'variant', tensors: new Map([['model.norm.weight', hostTensor('int32', [6], new Int32Array(6))]]) },
          'model.norm.weight',
          'is int32',
        ],
        [
          'a half-precision infinity',
          { kind: 'variant', tensors: new Map([['model.norm.weight', hostTensor('float16', [6], new Uint16Array(6).fill(0xfc00, 5))]]) },
          'model.norm.weight',
          'holds NaN',
        ],
      ])('%s does not fit and leaves nothing', async (_, content, field, description) => {
        await expect(publish(content)).rejects.toMatchObject({
          code: 'INVALID_ARGUMENT',
          reason: 'ADAPTER_INCOMPATIBLE',
          violations: [{ field, description: expect.stringContaining(description) }],
        });
        expect(await files()).toEqual([]);
        await expect(registry.getAdapter(tenant, 'a')).rejects.toMatchObject({ code: 'NOT_FOUND' });
      });

      test('damage on the disk or in the database is DATA_LOSS', async () => {
        const version = await publish();
        const [name = ''] = await files();
        const path =
          (await readdir(folder.value))
            .map((prefix) => `${folder.value}/${prefix}/${name}`)
            .find((candidate) => candidate.includes(name) && !candidate.includes('incoming')) ?? '';
        const good = await readFile(path);
        const bad = Buffer.from(good);
        bad.writeUInt8(bad.readUInt8(bad.length - 1) ^ 1, bad.length - 1);
        await writeFile(path, bad);
        await expect(registry.load(version)).rejects.toMatchObject({ code: 'DATA_LOSS', reason: 'DIGEST_MISMATCH' });
        await writeFile(path, good);
        await registry.load(version);
        await database.value.execute(`UPDATE adapter_versions SET manifest = replace(manifest, '"scaling":2', '"scaling":4')`);
        await expect(registry.load(version)).rejects.toMatchObject({ code: 'DATA_LOSS', reason: 'DIGEST_MISMATCH' });
      });
    });

    describe('folders', () => {
      const exported = async (version: AdapterVersion): Promise<FilePiece[]> => collect(registry.exportFiles(version));
      const imported = (pieces: readonly FilePiece[], more: object = {}): Promise<AdapterVersion> =>
        registry.importFiles({ tenant, adapter: 'b', ...BASE, pieces: replay(pieces), maxBytes: 1_000_000, ...more });

      test('export and import give the same digest', async () => {
        for (const content of [lora(), variant(), deeper()]) {
          const version = await publish(content);
          const pieces = await exported(version);
          expect([...new Set(pieces.map(({ file }) => file))]).toEqual(
            content.kind === 'lora' ? ['adapter_config.json', 'adapter_model.safetensors'] : ['variant.json', 'model.safetensors'],
          );
          const scattered = pieces.flatMap(({ file, data }) => [
            { file, data: data.subarray(0, 100) },
            { file: 'README.md', data: Buffer.from('let go by') },
            { file, data: data.subarray(100) },
          ]);
          expect((await imported(scattered)).digest).toBe(version.digest);
        }
      });

      test.each([
        ['null', /must hold layer_origins/],
        ['{"layer_origins":[0,-1],"intermediate_sizes":[8],"tie_word_embeddings":true}', /must hold layer_origins/],
        ['{"layer_origins":[0],"intermediate_sizes":[8],"tie_word_embeddings":1}', /must hold layer_origins/],
      ])('an architecture written as %s is refused', async (architecture, why) => {
        const pieces = await exported(await publish(deeper()));
        const damaged = pieces.map(({ file, data }) => {
          if (file !== 'variant.json') return { file, data };
          const settings = JSON.parse(Buffer.from(data).toString('utf8')) as object;
          return { file, data: Buffer.from(JSON.stringify({ ...settings, architecture: JSON.parse(architecture) as unknown })) };
        });
        await expect(imported(damaged)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT', message: expect.stringMatching(why) });
      });

      test('a variant of another base is refused', async () => {
        const pieces = await exported(await publish(variant()));
        await expect(imported(pieces, { baseDigest: 'sha256:other' })).rejects.toMatchObject({
          code: 'INVALID_ARGUMENT',
          reason: 'ADAPTER_INCOMPATIBLE',
        });
      });

      test('missing files, pickles and too many bytes are refused', async () => {
        const pieces = await exported(await publish());
        await expect(imported(pieces.slice(0, 1))).rejects.toMatchObject({
          reason: 'INVALID_FIELD',
          message: expect.stringContaining('got adapter_config.json'),
        });
        await expect(imported([...pieces.slice(0, 1), { file: 'adapter_model.bin', data: new Uint8Array(3) }])).rejects.toMatchObject({
          hint: expect.stringContaining('adapter_model.bin cannot be read'),
        });
        await expect(imported(pieces, { maxBytes: 100 })).rejects.toMatchObject({ code: 'RESOURCE_EXHAUSTED', reason: 'QUOTA_EXCEEDED' });
        const cut = pieces.map(({ file, data }) => ({ file, data: file.endsWith('.json') ? data : data.subarray(0, -1) }));
        await expect(imported(cut)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT', reason: 'CHECKPOINT_CORRUPT' });
        await expect(registry.getAdapter(tenant, 'b')).rejects.toMatchObject({ code: 'NOT_FOUND' });
      });
    });

    describe('resolving', () => {
      test('by alias and by digest', async () => {
        const version = await publish();
        await registry.setAlias({ ...key('production'), digest: version.digest });
        expect(await registry.resolve(tenant, 'a@production')).toEqual(version);
        expect(await registry.resolve(tenant, `a@${version.digest}`)).toEqual(version);
        expect(await registry.getVersion(tenant, 'a', version.digest.slice(7))).toEqual(version);
      });

      test("what does not exist, and what is another tenant's, cannot be told apart", async () => {
        const version = await publish();
        await registry.setAlias({ ...key('production'), digest: version.digest });
        const texts: unknown[] = [];
        for (const [who, reference] of [
          ['stranger', 'a@production'],
          ['stranger', 'nothing@production'],
          ['stranger', `a@${version.digest}`],
          [tenant, 'a@staging'],
          [tenant, 'nothing@production'],
        ] as const) {
          const error: unknown = await registry.resolve(who, reference).catch((caught: unknown) => caught);
          expect(error).toMatchObject({ code: 'NOT_FOUND', reason: 'ADAPTER_NOT_FOUND' });
          texts.push((error as Error).message.replace(who, 'TENANT').replace(reference, 'REFERENCE'));
        }
        expect(new Set(texts)).toEqual(new Set(['tenants/TENANT/adapters/REFERENCE does not exist']));
        const calls = [
          () => registry.getAdapter('stranger', 'a'),
          () => registry.getVersion('stranger', 'a', version.digest),
          () => registry.getAlias('stranger', 'a', 'production'),
          () => registry.listVersions({ tenant: 'stranger', adapter: 'a' }),
        ];
        for (const call of calls) await expect(call()).rejects.toMatchObject({ code: 'NOT_FOUND' });
      });

      test.each(['a', 'a@', '@production', 'a@sha256:12', 'a@sha256:', 'A@production', 'a@b@c', 'a/b@c', ''])(
        '%j names no version',
        async (reference) => {
          await expect(registry.resolve(tenant, reference)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT', reason: 'INVALID_FIELD' });
        },
      );
    });

    describe('aliases', () => {
      let versions: AdapterVersion[];
      let moves: string[];
      const short = (digest: string | undefined): string =>
        digest === undefined ? 'nothing' : `v${versions.findIndex((version) => version.digest === digest) + 1}`;
      beforeEach(async () => {
        versions = [await publish(lora(1)), await publish(lora(2)), await publish(lora(3))];
        moves = [];
        registry.onAliasMoved(({ alias, from, to, reason }: AliasMove) => moves.push(`${reason} ${alias}: ${short(from)} to ${short(to)}`));
      });
      const set = (alias: string, index: number, etag?: string) =>
        registry.setAlias({ ...key(alias), digest: versions[index - 1]?.digest ?? '', ...(etag === undefined ? {} : { etag }) });
      const at = async (alias: string): Promise<string> => short((await registry.getAlias(tenant, 'a', alias)).digest);

      test('move by compare-and-set', async () => {
        const first = await set('production', 1, '');
        expect(first).toMatchObject({ name: `tenants/${tenant}/adapters/a/aliases/production`, digest: versions[0]?.digest });
        const second = await set('production', 2, first.etag);
        expect(second.etag).not.toBe(first.etag);
        for (const etag of [first.etag, '', 'x'])
          await expect(set('production', 3, etag)).rejects.toMatchObject({ code: 'ABORTED', reason: 'ETAG_MISMATCH' });
        await expect(set('new', 1, first.etag)).rejects.toMatchObject({ reason: 'ETAG_MISMATCH' });
        expect(await at('production')).toBe('v2');
        expect(await set('production', 2)).toEqual(second);
        await set('production', 3);
        expect(moves).toEqual(['set production: nothing to v1', 'set production: v1 to v2', 'set production: v2 to v3']);
      });

      test('of many moves at once from one etag, one wins', async () => {
        const { etag } = await set('production', 1);
        const race = await Promise.allSettled([2, 3, 2, 3].map((index) => set('production', index, etag)));
        expect(race.filter((result) => result.status === 'fulfilled')).toHaveLength(1);
        expect(moves).toHaveLength(2);
      });

      test('an etag never comes back, also not for an alias made anew', async () => {
        const first = await set('production', 1);
        await registry.deleteAlias(key('production'));
        const anew = await set('production', 1);
        expect(anew.etag).not.toBe(first.etag);
        await expect(set('production', 2, first.etag)).rejects.toMatchObject({ reason: 'ETAG_MISMATCH' });
      });

      test('promote and roll back, further and further, then forward again', async () => {
        await set('production', 1);
        await set('candidate', 2);
        await registry.promote({ ...key('production'), from: 'candidate' });
        await registry.promote({ ...key('production'), from: versions[2]?.digest ?? '' });
        expect(await at('production')).toBe('v3');
        await registry.rollback(key('production'));
        expect(await at('production')).toBe('v2');
        await registry.rollback(key('production'));
        expect(await at('production')).toBe('v1');
        await expect(registry.rollback(key('production'))).rejects.toMatchObject({
          code: 'FAILED_PRECONDITION',
          message: expect.stringContaining('no earlier version'),
        });
        await set('production', 3);
        await registry.rollback(key('production'));
        expect(await at('production')).toBe('v1');
        expect(moves).toEqual([
          'set production: nothing to v1',
          'set candidate: nothing to v2',
          'promote production: v1 to v2',
          'promote production: v2 to v3',
          'rollback production: v3 to v2',
          'rollback production: v2 to v1',
          'set production: v1 to v3',
          'rollback production: v3 to v1',
        ]);
      });

      test('a rollback by an old etag, or to a deleted version, is refused', async () => {
        const first = await set('production', 1);
        await set('production', 2);
        await expect(registry.rollback({ ...key('production'), etag: first.etag })).rejects.toMatchObject({ reason: 'ETAG_MISMATCH' });
        await registry.deleteVersion(tenant, 'a', versions[0]?.digest ?? '');
        await expect(registry.rollback(key('production'))).rejects.toMatchObject({
          code: 'FAILED_PRECONDITION',
          message: expect.stringContaining('has been deleted'),
        });
        expect(await at('production')).toBe('v2');
      });

      test('nothing points to what does not exist', async () => {
        const unknown = `sha256:${'0'.repeat(64)}`;
        await expect(registry.setAlias({ ...key('production'), digest: unknown })).rejects.toMatchObject({ code: 'NOT_FOUND' });
        await expect(registry.setAlias({ ...key('production'), digest: 'latest' })).rejects.toMatchObject({ code: 'NOT_FOUND' });
        await expect(registry.promote({ ...key('production'), from: 'absent' })).rejects.toMatchObject({ code: 'NOT_FOUND' });
        await expect(registry.rollback(key('absent'))).rejects.toMatchObject({ code: 'NOT_FOUND' });
        await expect(registry.deleteAlias(key('absent'))).rejects.toMatchObject({ code: 'NOT_FOUND' });
        await expect(registry.setAlias({ ...key('Bad Name'), digest: versions[0]?.digest ?? '' })).rejects.toMatchObject({
          code: 'INVALID_ARGUMENT',
        });
        expect((await registry.listAliases({ tenant, adapter: 'a' })).items).toEqual([]);
      });

      test('what an alias points to cannot be deleted', async () => {
        await set('production', 1);
        await expect(registry.deleteVersion(tenant, 'a', versions[0]?.digest ?? '')).rejects.toMatchObject({
          code: 'FAILED_PRECONDITION',
          reason: 'ADAPTER_IN_USE',
          metadata: { aliases: 'production' },
        });
        await expect(registry.deleteAdapter(tenant, 'a')).rejects.toMatchObject({ code: 'FAILED_PRECONDITION', reason: 'ADAPTER_IN_USE' });
        await registry.deleteVersion(tenant, 'a', versions[1]?.digest ?? '');
        expect((await registry.listVersions({ tenant, adapter: 'a' })).items.map(({ digest }) => short(digest))).toEqual(['v3', 'v1']);
        expect(await files()).toHaveLength(2);
        await registry.deleteAlias(key('production'));
        await registry.deleteAdapter(tenant, 'a');
        expect(await files()).toEqual([]);
        await expect(registry.deleteAdapter(tenant, 'a')).rejects.toMatchObject({ code: 'NOT_FOUND' });
      });

      test('a listener that stopped listening hears nothing', async () => {
        const heard: AliasMove[] = [];
        const stop = registry.onAliasMoved((move) => heard.push(move));
        await set('production', 1);
        stop();
        await set('production', 2);
        expect(heard).toHaveLength(1);
      });
    });

    test('adapters are described, changed by compare-and-set and listed in pages', async () => {
      for (const adapter of ['one', 'two', 'three']) await publish(lora(), { adapter });
      await publish(lora(), { tenant: 'another-tenant' });
      const one = await registry.getAdapter(tenant, 'one');
      const described = await registry.updateAdapter(tenant, 'one', { displayName: 'One', labels: { team: 'risk' } }, one.etag);
      expect(described).toMatchObject({ displayName: 'One', description: '', labels: { team: 'risk' } });
      await expect(registry.updateAdapter(tenant, 'one', { description: 'x' }, one.etag)).rejects.toMatchObject({
        code: 'ABORTED',
        reason: 'ETAG_MISMATCH',
      });
      expect(await registry.updateAdapter(tenant, 'one', { description: 'x' })).toMatchObject({
        displayName: 'One',
        description: 'x',
        labels: { team: 'risk' },
      });
      await expect(registry.updateAdapter(tenant, 'one', { displayName: 'x'.repeat(256) })).rejects.toMatchObject({
        code: 'INVALID_ARGUMENT',
      });
      await expect(registry.updateAdapter(tenant, 'absent', {})).rejects.toMatchObject({ code: 'NOT_FOUND' });
      const page = await registry.listAdapters({ tenant, pageSize: 2 });
      const rest = await registry.listAdapters({ tenant, pageToken: page.nextPageToken });
      expect([page, rest].map(({ items }) => items.map(({ id }) => id))).toEqual([['three', 'two'], ['one']]);
      await expect(publish(lora(), { adapter: 'Not An Id' })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT', reason: 'INVALID_FIELD' });
    });
  });
}
