/**
 * Unigram segmentation as Rust `tokenizers` computes it (models/unigram/model.rs, `encode_optimized`; the method is Kudo's, arXiv:1804.10959):
 * one pass over the starts, the best score of a path kept for each end. Where paths score alike up to rounding the sums and the order of
 * comparison decide, so both are the reference's: score of the piece + score of the path, replaced by strictly greater ones only. A lattice
 * that adds the next piece before it compares rounds two different paths to one. Must not split or normalize text.
 */

/** Of a piece that isn't in the vocabulary, below the vocabulary's lowest score. */
const UNKNOWN_PENALTY = 10;

export interface UnigramVocabulary {
  /** Pieces with their log probabilities; the id is the index. */
  readonly vocab: readonly (readonly [piece: string, score: number])[];
  readonly unk_id: number;
}

/** A node of a trie over code points. */
interface TrieNode {
  readonly next: Map<string, TrieNode>;
  /** Of the piece that ends here. */
  id?: number;
}

/** The best path that ends at a place: its score, where its last piece starts, and that piece's id. */
interface PathEnd {
  readonly score: number;
  readonly start: number;
  readonly id: number;
}

const START: PathEnd = { score: 0, start: -1, id: -1 };

/** Splits text into the pieces of the best path; neighbours that are unknown come as one piece. */
export function unigramSegmenter({ vocab, unk_id: unknownId }: UnigramVocabulary): (text: string) => string[] {
  const root: TrieNode = { next: new Map() };
  let lowest = Infinity;
  vocab.forEach(([piece, score], id) => {
    insert(root, piece, id);
    if (score < lowest) lowest = score;
  });
  const unknownScore = lowest - UNKNOWN_PENALTY;
  return (text) => {
    const characters = Array.from(text);
    const ends = new Array<PathEnd | undefined>(characters.length + 1);
    ends[0] = START;
    const offer = (end: number, score: number, start: number, id: number): void => {
      const best = ends[end];
      if (best === undefined || score > best.score) ends[end] = { score, start, id };
    };
    for (let start = 0; start < characters.length; start++) {
      // Every place is reached: a single character is a piece or unknown.
      const soFar = ends[start]!.score;
      let single = false;
      let node: TrieNode | undefined = root;
      for (let end = start + 1; end <= characters.length; end++) {
        node = node.next.get(characters[end - 1]!);
        if (node === undefined) break;
        if (node.id === undefined) continue;
        offer(end, vocab[node.id]![1] + soFar, start, node.id);
        if (end === start + 1) single = true;
      }
      if (!single) offer(start + 1, unknownScore + soFar, start, unknownId);
    }
    return backwards(characters, ends as readonly PathEnd[], unknownId);
  };
}

function insert(root: TrieNode, piece: string, id: number): void {
  let node = root;
  for (const character of piece) {
    let next = node.next.get(character);
    if (next === undefined) node.next.set(character, (next = { next: new Map() }));
    node = next;
  }
  node.id = id;
}

/** The pieces along the best path, first to last. */
function backwards(characters: readonly string[], ends: readonly PathEnd[], unknownId: number): string[] {
  const pieces: string[] = [];
  for (let end = characters.length; end > 0; ) {
    let { start } = ends[end]!;
    if (ends[end]!.id === unknownId) while (start > 0 && ends[start]!.id === unknownId) ({ start } = ends[start]!);
    pieces.push(characters.slice(start, end).join(''));
    end = start;
  }
  return pieces.reverse();
}
