/** Time as a value that tests can replace. `nowMs` is wall time; `monotonicMs` only ever rises and is for durations. */
export interface Clock {
  nowMs(): number;
  monotonicMs(): number;
}

export const systemClock: Clock = { nowMs: () => Date.now(), monotonicMs: () => performance.now() };
