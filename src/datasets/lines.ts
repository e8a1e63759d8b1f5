/**
 * Splits bytes that come in pieces into lines at LF. Invariant: memory is bounded by one line of at most `MAX_LINE_BYTES`, however long the input;
 * what of a longer line comes after the limit is dropped and the line is marked.
 */
export const MAX_LINE_BYTES = 1 << 20;

export interface Line {
  /** From 1. */
  readonly number: number;
  /** Without the LF. A view of the piece it came in, only good until the next piece. */
  readonly bytes: Uint8Array;
  readonly tooLong: boolean;
}

const LF = 0x0a;
const NOTHING = new Uint8Array(0);

export class LineSplitter {
  private number = 0;
  private held: Uint8Array[] = [];
  private heldBytes = 0;
  private tooLong = false;

  /** The lines that end in this piece. */
  *push(piece: Uint8Array): Generator<Line> {
    let start = 0;
    for (let end = piece.indexOf(LF, start); end !== -1; end = piece.indexOf(LF, start)) {
      yield this.line(piece.subarray(start, end));
      start = end + 1;
    }
    this.hold(piece.subarray(start));
  }

  /** The last line, where the input does not end with LF. */
  *end(): Generator<Line> {
    if (this.heldBytes > 0) yield this.line(NOTHING);
  }

  private hold(bytes: Uint8Array): void {
    const room = MAX_LINE_BYTES - this.heldBytes;
    if (bytes.length > room) this.tooLong = true;
    const kept = bytes.slice(0, room);
    if (kept.length === 0) return;
    this.held.push(kept);
    this.heldBytes += kept.length;
  }

  private line(rest: Uint8Array): Line {
    const whole = this.held.length === 0 && rest.length <= MAX_LINE_BYTES;
    if (!whole) this.hold(rest);
    this.number += 1;
    const line = { number: this.number, bytes: whole ? rest : Buffer.concat(this.held, this.heldBytes), tooLong: this.tooLong };
    this.held = [];
    this.heldBytes = 0;
    this.tooLong = false;
    return line;
  }
}
