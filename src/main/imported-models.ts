/**
 * Which models were imported through the API: `<dataDir>/models.json`, written whole or not at all. Paths belong to this machine, so
 * they are kept beside its data and not in the shared database.
 */
import { open, readFile, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { LoricaError } from '../common/errors.js';

export interface ImportedModel {
  readonly path: string;
  /** 'sha256:…' when it was imported. */
  readonly digest: string;
}

export class ImportedModels {
  private constructor(
    private readonly file: string,
    private entries: ReadonlyMap<string, ImportedModel>,
  ) {}

  /** DATA_LOSS / STORAGE_FAILED when the file is damaged. */
  static async open(dataDir: string): Promise<ImportedModels> {
    const file = join(dataDir, 'models.json');
    let text: string;
    try {
      text = await readFile(file, 'utf8');
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return new ImportedModels(file, new Map());
      throw error;
    }
    try {
      return new ImportedModels(file, new Map(Object.entries(JSON.parse(text) as Record<string, ImportedModel>)));
    } catch (cause) {
      throw new LoricaError('DATA_LOSS', 'STORAGE_FAILED', `${file} is damaged`, {
        hint: 'Remove it and import the models again; adapters are not affected.',
        cause,
      });
    }
  }

  all(): ReadonlyMap<string, ImportedModel> {
    return this.entries;
  }

  async set(id: string, model: ImportedModel): Promise<void> {
    await this.write(new Map([...this.entries, [id, model]]));
  }

  async delete(id: string): Promise<void> {
    await this.write(new Map([...this.entries].filter(([key]) => key !== id)));
  }

  private async write(entries: ReadonlyMap<string, ImportedModel>): Promise<void> {
    const temporary = `${this.file}.${process.pid}.tmp`;
    try {
      const handle = await open(temporary, 'w');
      try {
        await handle.writeFile(`${JSON.stringify(Object.fromEntries(entries), null, 2)}\n`);
        await handle.sync();
      } finally {
        await handle.close();
      }
      await rename(temporary, this.file);
    } catch (error) {
      await rm(temporary, { force: true });
      throw error;
    }
    this.entries = entries;
  }
}
