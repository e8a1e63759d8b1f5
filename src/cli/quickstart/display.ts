/**
 * What a person sees in a terminal: headings, one progress line that is redrawn (or, where the output is no terminal, a line every
 * tenth), a sparkline of the loss and a table. Text only; nothing here knows what is measured.
 */

const BLOCKS = '▁▂▃▄▅▆▇█';

/** Values as a line of blocks, at most `width` characters; neighbours are averaged where there are more values. */
export function sparkline(values: readonly number[], width = 40): string {
  const finite = values.filter(Number.isFinite);
  if (finite.length === 0) return '';
  const columns = Math.min(width, finite.length);
  const means = Array.from({ length: columns }, (_, column) => {
    const from = Math.floor((column * finite.length) / columns);
    const to = Math.max(from + 1, Math.floor(((column + 1) * finite.length) / columns));
    return finite.slice(from, to).reduce((sum, value) => sum + value, 0) / (to - from);
  });
  const low = Math.min(...means);
  const span = Math.max(...means) - low;
  return means.map((value) => BLOCKS[span === 0 ? 0 : Math.min(7, Math.floor(((value - low) / span) * 8))]).join('');
}

/** `[██████····]`, `done` of `total`. */
export function bar(done: number, total: number, width = 24): string {
  const full = total <= 0 ? 0 : Math.min(width, Math.round((done / total) * width));
  return `[${'█'.repeat(full)}${'·'.repeat(width - full)}]`;
}

/** Columns padded to their widest cell; the first row is the heading. Cells that look like numbers are set right. */
export function table(rows: readonly (readonly string[])[]): string {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => Array.from(row[column] ?? '').length)));
  const numeric = (cell: string): boolean => /^[+-]?[\d.,]+( ?(%|s|ms|MB|tokens\/s))?$/.test(cell);
  const line = (row: readonly string[]): string =>
    row.map((cell, i) => (numeric(cell) ? cell.padStart(widths[i]!) : cell.padEnd(widths[i]!))).join('  ').trimEnd();
  const [heading, ...body] = rows;
  return [line(heading!), widths.map((width) => '─'.repeat(width)).join('  '), ...body.map(line)].join('\n');
}

export interface Screen {
  heading(text: string): void;
  line(text: string): void;
  /** Redraws the progress line; `share` from 0 to 1 decides when a line is printed where there is no terminal. */
  progress(share: number, text: string): void;
  /** Ends the progress line. */
  endProgress(): void;
}

export function createScreen(out: NodeJS.WriteStream): Screen {
  let open = false;
  let printedTenth = -1;
  let last = '';
  const endProgress = (): void => {
    if (open) out.write('\n');
    else if (last !== '') out.write(`  ${last}\n`);
    open = false;
    printedTenth = -1;
    last = '';
  };
  return {
    heading: (text) => {
      endProgress();
      out.write(`\n${out.isTTY ? `\u001b[1m${text}\u001b[0m` : text}\n`);
    },
    line: (text) => {
      endProgress();
      out.write(`  ${text}\n`);
    },
    progress: (share, text) => {
      if (out.isTTY) {
        out.write(`\r\u001b[2K  ${Array.from(text).slice(0, Math.max(20, out.columns - 3)).join('')}`);
        open = true;
        return;
      }
      last = text;
      const tenth = Math.floor(share * 10);
      if (tenth <= printedTenth) return;
      printedTenth = tenth;
      last = '';
      out.write(`  ${text}\n`);
    },
    endProgress,
  };
}
