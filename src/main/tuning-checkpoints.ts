/** The checkpoints of a tuning job as its store keeps them: training's tensors and state become one file of the blob store. */
import type { NewCheckpoint, RunCheckpoints } from '../jobs/index.js';
import type { Checkpoints, CheckpointState } from '../tuning/index.js';
import { checkpointPieces, openCheckpointFile } from './checkpoint-file.js';

/** `keepNewest`: how many of the newest stay, at least 1. */
export function tuningCheckpoints(run: RunCheckpoints, keepNewest: number): Checkpoints {
  return {
    save: async (checkpoint) => {
      const { stage, step } = checkpoint.state;
      const saved = await run.save({ step: stepsOver(checkpoint.state), stage, stageStep: step, keepNewest, ...evaluated(checkpoint.state) }, checkpointPieces(checkpoint));
      return saved.name;
    },
    load: async () => {
      const newest = await run.newest();
      return newest === undefined ? undefined : openCheckpointFile(newest.name, newest.path);
    },
  };
}

/** Figures of exactly these weights, where they were evaluated. */
function evaluated({ step, evaluation }: CheckpointState): Pick<NewCheckpoint, 'best' | 'evaluation'> {
  return evaluation?.step === step ? { evaluation: { ...evaluation.values }, best: evaluation.best?.step === step } : {};
}

/** Optimizer steps done, over all stages. */
function stepsOver({ finished, step }: CheckpointState): number {
  return finished.reduce((sum, stage) => sum + stage.steps, step);
}
