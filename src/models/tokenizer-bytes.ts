/**
 * The bytes of every token, and UTF-8 text from them piece by piece. Text leaves only in whole characters: bytes of an
 * incomplete one wait for the next token. No cleaning up of spaces: the bytes are the text.
 */
import type { DecodeOptions, IncrementalDecoder } from './tokenizer-types.js';
import type { BytesRule, TokenizerSpec } from './tokenizer-spec.js';

/** Byte of every character of GPT-2's byte-level alphabet: printable bytes stand for themselves, the others are moved up from 256. */
export const BYTE_OF_CHARACTER: ReadonlyMap<string, number> = (() => {
  const map = new Map<string, number>();
  let moved = 256;
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    map.set(String.fromCharCode(printable ? byte : moved++), byte);
  }
  return map;
})();

const SPACE = 0x20;

export class TokenBytes {
  private readonly bytes: Uint8Array;
  /** Token `id` is bytes[starts[id] .. starts[id+1]). */
  private readonly starts: Uint32Array;
  private readonly special = new Set<number>();
  readonly size: number;

  constructor(spec: TokenizerSpec) {
    const texts: (string | undefined)[] = [];
    for (const [token, id] of Object.entries(spec.vocab)) texts[id] = token;
    const added = new Set<number>();
    for (const token of spec.addedTokens) {
      texts[token.id] = token.content;
      added.add(token.id);
      if (token.special) this.special.add(token.id);
    }
    this.size = texts.length;
    this.stripFirstSpace = spec.bytes.kind === 'words' || (spec.bytes.kind === 'pieces' && spec.bytes.stripFirstSpace);
    const chunks: Buffer[] = [];
    this.starts = new Uint32Array(texts.length + 1);
    for (let id = 0, at = 0; id < texts.length; id++) {
      const text = texts[id] ?? '';
      const chunk = bytesOf(text, added.has(id), spec.bytes);
      chunks.push(chunk);
      this.starts[id + 1] = at += chunk.length;
    }
    this.bytes = Buffer.concat(chunks);
  }

  /** Whether decoding drops one space at the very beginning, which encoding had put there. */
  readonly stripFirstSpace: boolean;

  isSpecial(id: number): boolean {
    return this.special.has(id);
  }

  /** Bytes of a token; none for an id without a token. */
  of(id: number): Uint8Array {
    return id >= 0 && id < this.size ? this.bytes.subarray(this.starts[id], this.starts[id + 1]) : new Uint8Array(0);
  }
}

function bytesOf(token: string, added: boolean, rule: BytesRule): Buffer {
  if (rule.kind === 'words') return Buffer.from(word(token, rule), 'utf8');
  if (rule.kind === 'pieces') return piece(token, rule.byteFallback);
  return added ? Buffer.from(token, 'utf8') : byteLevel(token);
}

function byteLevel(token: string): Buffer {
  const out: number[] = [];
  for (const character of token) {
    const byte = BYTE_OF_CHARACTER.get(character);
    if (byte === undefined) return Buffer.from(token, 'utf8');
    out.push(byte);
  }
  return Buffer.from(out);
}

function piece(token: string, byteFallback: boolean): Buffer {
  const byte = byteFallback ? /^<0x([0-9A-Fa-f]{2})>$/.exec(token) : null;
  return byte === null ? Buffer.from(token.replaceAll('▁', ' '), 'utf8') : Buffer.from([parseInt(byte[1] as string, 16)]);
}

/** English contractions and punctuation that WordPiece decoders draw to the word before, in the order in which they do. */
const DRAWN = [' .', ' ?', ' !', ' ,', " ' ", " n't", " 'm", " do not", " 's", " 've", " 're"];

/** A token as it reads after others. */
function word(token: string, { prefix, cleanUp }: { readonly prefix: string; readonly cleanUp: boolean }): string {
  const text = token.startsWith(prefix) ? token.slice(prefix.length) : ` ${token}`;
  if (!cleanUp) return text;
  return DRAWN.reduce((cleaned, from) => cleaned.replaceAll(from, from === " ' " ? "'" : from === ' do not' ? " don't" : from.slice(1)), text);
}

/** A decoder for one stream of tokens. */
export function incrementalDecoder(tokens: TokenBytes, options: DecodeOptions = {}): IncrementalDecoder {
  const utf8 = new TextDecoder('utf-8', { ignoreBOM: true });
  let first = tokens.stripFirstSpace;
  return {
    push(id) {
      if (options.skipSpecialTokens === true && tokens.isSpecial(id)) return '';
      let bytes = tokens.of(id);
      if (first && bytes.length > 0) {
        first = false;
        if (bytes[0] === SPACE) bytes = bytes.subarray(1);
      }
      return utf8.decode(bytes, { stream: true });
    },
    flush: () => utf8.decode(),
  };
}
