/**
 * Checkpoints out, held to what reads them: writes a model as a Hugging Face folder and as GGUF in F32, F16 and Q8_0, and has
 * exports.py compare every tensor and the logits through the `gguf` package and transformers.
 *   npm run check:exports [-- MODEL…]     (folders or GGUF files; default: the golden tiny models)
 */
import { execFileSync } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { exportCheckpoint, openCheckpoint } from '../../src/models/checkpoint.js';

const GOLDEN = ['tiny-llama', 'tiny-serving', 'tiny-llama-sharded', 'families/qwen2'].map((name) => join('test', 'golden', name));

async function check(model: string, python: string): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'lorica-exports-'));
  try {
    const checkpoint = await openCheckpoint(model, { knownDigest: 'sha256:not-needed' });
    await exportCheckpoint(checkpoint, join(folder, 'folder'), { kind: 'huggingFace', dtype: 'float32' });
    for (const storage of ['F32', 'F16', 'Q8_0'] as const) {
      await exportCheckpoint(checkpoint, join(folder, `${storage}.gguf`), { kind: 'gguf', storage });
    }
    await checkpoint.close();
    execFileSync(python, ['scripts/check/exports.py', folder, model], {
      stdio: 'inherit',
      env: { ...process.env, TQDM_DISABLE: '1', HF_HUB_OFFLINE: '1' },
    });
  } finally {
    await rm(folder, { recursive: true });
  }
}

const python = execFileSync('scripts/python-env.sh', { encoding: 'utf8' }).trim();
const models = process.argv.slice(2);
for (const model of models.length > 0 ? models : GOLDEN) await check(model, python);
