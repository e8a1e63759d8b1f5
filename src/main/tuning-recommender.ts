/**
 * Recommendations for the models of this server: their shapes, the machine's threads and the memory that it has left are looked up here. None needs more
 * than a job may take here.
 */
import { availableParallelism } from 'node:os';
import type { DecoderConfig } from '../models/config.js';
import type { TuningRecommender } from '../services/index.js';
import { recommendTuning } from '../tuning/index.js';

interface Models {
  checkpoint(id: string): Promise<{ readonly config: DecoderConfig }>;
}

export function tuningRecommender(models: Models, { threads, jobLimitBytes }: { readonly threads: number | undefined; readonly jobLimitBytes: number }): TuningRecommender {
  return {
    recommend: async ({ memoryLimitBytes: asked = process.availableMemory(), ...question }) => {
      const memoryLimitBytes = Math.min(asked, jobLimitBytes);
      const { config } = await models.checkpoint(question.baseModel);
      return { recommendation: recommendTuning({ ...question, config, memoryLimitBytes, threads: threads ?? availableParallelism() }), memoryLimitBytes };
    },
  };
}
