/**
 * How the device's time is shared between generation and everything else (training, evaluation). Each of the two has a weight and a virtual
 * time: the milliseconds that its runs took, divided by the weight. The one that is behind goes first, so that under load times are as
 * the weights. A run is never interrupted: whoever comes waits for at most the run that has begun.
 * Invariant: neither gets further ahead than MOST_LEAD_MS of virtual time, so what waits is never starved by what the other did before.
 */

/** Who shares: decode steps and prompts, or segments of training and batches of evaluation. */
export type Share = 'generation' | 'work';

export interface TimeSharing {
  readonly weights: Readonly<Record<Share, number>>;
  /**
   * For whom the device stays free a moment when it is behind and between two runs (a decode loop samples its token then). For those not
   * listed the other fills the gap: no time is lost, and runs alternate.
   */
  readonly awaited: readonly Share[];
}

/** How long the device stays free for the next run of a loop; sampling takes 1 to 3 ms. */
export const AWAITED_MS = 5;
const MOST_LEAD_MS = 100;
/** The share of the second: a tenth. */
const FIRST = 9;

/** Generation that waits goes first, the gaps between its runs are filled; the rest gets at least a tenth while generation never pauses. */
export const GENERATION_FIRST: TimeSharing = { weights: { generation: FIRST, work: 1 }, awaited: [] };
const TRAINING_FIRST: TimeSharing = { weights: { generation: 1, work: FIRST }, awaited: ['work'] };

/** `generation-first`, `training-first`, `weighted` (1:1) or `weighted:G:T` with whole numbers from 1 to 100; undefined for anything else. */
export function parseTimeSharing(text: string): TimeSharing | undefined {
  if (text === 'generation-first') return GENERATION_FIRST;
  if (text === 'training-first') return TRAINING_FIRST;
  const match = /^weighted(?::([1-9]\d?|100):([1-9]\d?|100))?$/.exec(text);
  if (match === null) return undefined;
  return { weights: { generation: Number(match[1] ?? 1), work: Number(match[2] ?? 1) }, awaited: ['generation', 'work'] };
}

/** The account of one device. Times are milliseconds of any monotonic clock. */
export class ShareAccount {
  private readonly virtualMs: Record<Share, number> = { generation: 0, work: 0 };
  private readonly endedMs: Record<Share, number> = { generation: -Infinity, work: -Infinity };

  constructor(private readonly sharing: TimeSharing) {}

  /** Whose turn it is; generation's when both are even. */
  get behind(): Share {
    return this.virtualMs.generation <= this.virtualMs.work ? 'generation' : 'work';
  }

  /** A share that had nothing to run asks for a run: it saves nothing up from the time when it was away. */
  arrive(share: Share, nowMs: number): void {
    if (nowMs - this.endedMs[share] > AWAITED_MS) this.virtualMs[share] = Math.max(this.virtualMs[share], this.virtualMs[other(share)]);
  }

  charge(share: Share, ranMs: number, nowMs: number): void {
    this.endedMs[share] = nowMs;
    this.virtualMs[share] = Math.min(
      this.virtualMs[share] + ranMs / this.sharing.weights[share],
      this.virtualMs[other(share)] + MOST_LEAD_MS,
    );
  }

  /** Milliseconds for which the device should stay free for `share`, which has nothing waiting; 0: not at all. */
  awaitedMs(share: Share, nowMs: number): number {
    return this.sharing.awaited.includes(share) ? Math.max(0, this.endedMs[share] + AWAITED_MS - nowMs) : 0;
  }
}

export const other = (share: Share): Share => (share === 'generation' ? 'work' : 'generation');
