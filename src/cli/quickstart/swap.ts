/**
 * The swap under traffic: a generation streams from the alias; while it runs the alias is moved by compare-and-set; the stream must end
 * on the version that it began with, and a request made while it still runs must be served by the new one. All of it is asserted.
 */
import { LoricaError } from '../../common/errors.js';
import type { ServedBy, StreamGenerateResponse } from '../../client/index.js';
import { ADAPTER_NAME, ALIAS, aliasTarget, pinned, type Session } from './session.js';

const PROMPT = 'Review: The delivery was quick, but after two weeks the battery';
const STREAM_TOKENS = 160;
/** The alias moves once the stream has given this many tokens. */
const TOKENS_BEFORE_MOVE = 8;
/** A generation that ends sooner shows nothing; then the next seed is tried. */
const LEAST_STREAM_TOKENS = 48;
const SEEDS = 16;

export interface SwapReport {
  readonly streamVersion: string;
  readonly tokensBeforeMove: number;
  readonly tokensAfterMove: number;
  readonly nextVersion: string;
  /** From the call that moves the alias to its answer. */
  readonly moveMs: number;
  /** Whether the stream's text is, to the letter, that of a stream pinned to the version it began with. */
  readonly sameText: boolean;
  readonly text: string;
  /** Of the pinned stream, alone on the server. */
  readonly tokensPerSecond: number;
}

interface StreamReport {
  readonly servedBy: ServedBy;
  readonly text: string;
  readonly tokens: number;
  /** Between the first and the last token. */
  readonly tokensPerSecond: number;
}

/** Reads a stream to its end. `onToken` is called with the number of tokens so far, after each. */
async function readStream(stream: AsyncIterable<StreamGenerateResponse>, onToken: (count: number) => void = () => undefined): Promise<StreamReport> {
  let servedBy: ServedBy | undefined;
  let text = '';
  let tokens = 0;
  let first = 0;
  let last = 0;
  for await (const { event } of stream) {
    if (event?.$case === 'start') servedBy = event.value.servedBy;
    else if (event?.$case === 'token') {
      text += event.value.text;
      last = performance.now();
      if (tokens === 0) first = last;
      tokens += 1;
      onToken(tokens);
    } else if (event?.$case === 'end') text += event.value.text;
  }
  if (servedBy === undefined) throw new LoricaError('INTERNAL', 'INTERNAL', 'the stream did not say what serves it');
  return { servedBy, text, tokens, tokensPerSecond: tokens > 1 ? ((tokens - 1) * 1000) / (last - first) : 0 };
}

/** Points the alias at a version, whatever it pointed to. */
export async function setAlias({ client, signal }: Session, version: string): Promise<void> {
  await client.adapters.setAdapterAlias({ name: `${ADAPTER_NAME}/aliases/${ALIAS}`, version }, { signal });
}

/** A stream of the pinned version that is long enough to move an alias under, and the sampling that gives it. */
async function longStream({ client, signal }: Session, target: string): Promise<StreamReport & { sampling: { maxTokens: number; temperature: number; seed: number } }> {
  for (let seed = 0; seed < SEEDS; seed++) {
    const sampling = { maxTokens: STREAM_TOKENS, temperature: seed === 0 ? 0 : 0.8, seed };
    const report = await readStream(client.generate.streamGenerate({ target, input: { $case: 'prompt', value: PROMPT }, sampling }, { signal }));
    if (report.tokens >= LEAST_STREAM_TOKENS) return { ...report, sampling };
  }
  throw new LoricaError('INTERNAL', 'INTERNAL', `none of ${SEEDS} generations was ${LEAST_STREAM_TOKENS} tokens long`);
}

export async function swapUnderTraffic(session: Session, from: string, to: string): Promise<SwapReport> {
  const { client, signal } = session;
  const input = { $case: 'prompt' as const, value: PROMPT };
  const { sampling, ...expected } = await longStream(session, pinned(from));
  const alias = await client.adapters.getAdapterAlias({ name: `${ADAPTER_NAME}/aliases/${ALIAS}` }, { signal });

  let tokensSoFar = 0;
  let reached: () => void = () => undefined;
  const begun = new Promise<void>((resolve) => (reached = resolve));
  const running = readStream(client.generate.streamGenerate({ target: aliasTarget, input, sampling }, { signal }), (count) => {
    tokensSoFar = count;
    if (count === TOKENS_BEFORE_MOVE) reached();
  });
  await Promise.race([begun, running]);
  const moveFrom = performance.now();
  await client.adapters.setAdapterAlias({ name: alias.name, version: to, etag: alias.etag }, { signal });
  const moveMs = performance.now() - moveFrom;
  const tokensBeforeMove = tokensSoFar;
  const next = await client.generate.generate({ target: aliasTarget, input, sampling: { maxTokens: 4, temperature: 0 } }, { signal });
  const streamed = await running;

  const check = (holds: boolean, what: string): void => {
    if (!holds) throw new LoricaError('INTERNAL', 'INTERNAL', `the swap went wrong: ${what}`);
  };
  check(sameVersion(streamed.servedBy.adapterVersion, from), `the running stream was served by ${streamed.servedBy.adapterVersion}, not ${from}`);
  check(streamed.tokens > tokensBeforeMove, 'the stream was over before the alias moved');
  check(sameVersion(next.servedBy?.adapterVersion ?? '', to), `the next request was served by ${next.servedBy?.adapterVersion ?? 'nothing'}, not ${to}`);
  return {
    streamVersion: from,
    tokensBeforeMove,
    tokensAfterMove: streamed.tokens - tokensBeforeMove,
    nextVersion: to,
    moveMs,
    sameText: streamed.text === expected.text,
    text: streamed.text,
    tokensPerSecond: expected.tokensPerSecond,
  };
}

function sameVersion(a: string, b: string): boolean {
  return a.slice(a.lastIndexOf('/') + 1) === b.slice(b.lastIndexOf('/') + 1);
}
