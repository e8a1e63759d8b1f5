/** Figures of repeated measurements. */

/** The middle value, or the mean of the two middle ones; NaN of nothing. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  if (sorted.length === 0) return Number.NaN;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** The value below which a share `q` (0 to 1) of the values lies, by linear interpolation; NaN of nothing. */
export function quantile(values: readonly number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  const place = (sorted.length - 1) * q;
  const [below, above] = [sorted[Math.floor(place)], sorted[Math.ceil(place)]];
  return below === undefined || above === undefined ? Number.NaN : below + (above - below) * (place % 1);
}

export interface Spread {
  readonly median: number;
  readonly least: number;
  readonly most: number;
  readonly runs: number;
}

export function spread(values: readonly number[]): Spread {
  return { median: median(values), least: Math.min(...values), most: Math.max(...values), runs: values.length };
}

/** Arrival times of the tokens of one stream, in milliseconds. */
export type Arrivals = readonly number[];

/** Tokens per second of one stream, from its first token to its last. */
export function streamRate(arrivals: Arrivals): number {
  return ((arrivals.length - 1) * 1000) / (arrivals.at(-1)! - arrivals[0]!);
}

/** Tokens per second of all streams together while every one of them runs: from the last first token to the first last token. */
export function jointRate(streams: readonly Arrivals[]): number {
  const from = Math.max(...streams.map((arrivals) => arrivals[0]!));
  const to = Math.min(...streams.map((arrivals) => arrivals.at(-1)!));
  const within = streams.flat().filter((time) => time > from && time <= to).length;
  return to > from ? (within * 1000) / (to - from) : Number.NaN;
}
