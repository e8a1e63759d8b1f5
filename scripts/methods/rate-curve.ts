/**
 * A method over learning rates: which rate is best, how far `auto` is from it, and what is forgotten at one and the same target loss. Pure functions of
 * measured points.
 */
import type { Quality } from './server.js';

export interface RatePoint {
  /** Of the rate of `auto`. */
  readonly factor: number;
  readonly rate: number;
  readonly steps: number;
  /** Undefined where the job diverged. */
  readonly quality: Quality | undefined;
}

/** Points in order of rate; one of them has the factor 1. */
export type RateCurve = readonly RatePoint[];

export interface Verdict {
  readonly best: RatePoint;
  readonly auto: RatePoint;
  /** Loss of `auto` over the best loss. */
  readonly lossRatio: number;
  /** The best rate is within this factor of `auto` either way. */
  readonly rateFactor: number;
  readonly within: boolean;
}

/** What counts as close: the best rate at most twice or half of it, or a loss at most 5 % above the best. */
const [RATE_MARGIN, LOSS_MARGIN] = [2, 1.05];
/** Nats that the source domain may lose: beyond, a model knows little but how often each answer comes, which alone gives a low loss. */
const MOST_FORGOTTEN = 1;

const lossOf = ({ quality }: RatePoint): number => quality?.loss ?? Infinity;

/** The point of the lowest target loss among those that lose at most 1 nat on the source domain. */
export function bestOf(base: Quality, curve: RateCurve): RatePoint {
  const losses = (point: RatePoint): number => (point.quality === undefined || point.quality.sourceLoss > base.sourceLoss + MOST_FORGOTTEN ? Infinity : lossOf(point));
  return curve.reduce((best, point) => (losses(point) < losses(best) ? point : best));
}

export function verdictOf(base: Quality, curve: RateCurve): Verdict {
  const auto = curve.find(({ factor }) => factor === 1);
  if (auto === undefined) throw new Error('the curve has no point at auto');
  const best = bestOf(base, curve);
  const lossRatio = lossOf(auto) / lossOf(best);
  const rateFactor = Math.max(best.factor, 1 / best.factor);
  return { best, auto, lossRatio, rateFactor, within: rateFactor <= RATE_MARGIN || lossRatio <= LOSS_MARGIN };
}

/**
 * Measures `factors` of auto, and goes on by the step between the last two for as long as the best lies at an end, up to `reach` times auto and
 * its inverse. Factors ascend and hold 1, which is measured first, for the others' rates follow from it.
 */
export async function climb(base: Quality, factors: readonly number[], reach: number, measurePoint: (factor: number, autoRate: number | undefined) => Promise<RatePoint>): Promise<RateCurve> {
  const auto = await measurePoint(1, undefined);
  const curve: RatePoint[] = [];
  for (const factor of factors) curve.push(factor === 1 ? auto : await measurePoint(factor, auto.rate));
  for (;;) {
    const best = bestOf(base, curve).factor;
    const [low, next, beforeLast, high] = [curve[0]!, curve[1]!, curve.at(-2)!, curve.at(-1)!].map(({ factor }) => factor) as [number, number, number, number];
    const up = (high * high) / beforeLast;
    const down = (low * low) / next;
    if (best === high && up <= reach) curve.push(await measurePoint(up, auto.rate));
    else if (best === low && down >= 1 / reach) curve.unshift(await measurePoint(down, auto.rate));
    else return curve;
  }
}

/**
 * The least source loss at which a rate between the measured ones reaches `loss`: straight lines between neighbours, over the logarithm of the target
 * loss, from the base on. Undefined where no rate reaches it.
 */
export function sourceLossAt(base: Quality, curve: RateCurve, loss: number): number | undefined {
  const line = [base, ...curve.flatMap(({ quality }) => (quality === undefined ? [] : [quality]))];
  const found = line.slice(1).flatMap((to, i) => {
    const from = line[i]!;
    const share = from.loss === to.loss ? 1 : Math.log(from.loss / loss) / Math.log(from.loss / to.loss);
    return share >= 0 && share <= 1 ? [from.sourceLoss + share * (to.sourceLoss - from.sourceLoss)] : [];
  });
  return found.length === 0 ? undefined : Math.min(...found);
}

export interface EqualLoss {
  readonly loss: number;
  /** Source loss by the method's id. */
  readonly sourceLoss: Readonly<Record<string, number>>;
}

/** The lowest target loss that every method reaches, and multiples of it below the base's. */
export function atEqualLoss(base: Quality, curves: ReadonlyMap<string, RateCurve>, multiples: readonly number[] = [1, 1.25, 1.5, 2, 4]): EqualLoss[] {
  const least = Math.max(...[...curves.values()].map((curve) => lossOf(bestOf(base, curve))));
  return multiples
    .map((multiple) => multiple * least)
    .filter((loss) => loss < base.loss)
    .map((loss) => ({ loss, sourceLoss: Object.fromEntries([...curves].map(([id, curve]) => [id, sourceLossAt(base, curve, loss)!])) }));
}
