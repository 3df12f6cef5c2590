// A draft and an answer compared word by word: what of the draft stayed, and what is new.

// Cells of the table of two texts, 2 bytes each. Texts beyond that are shown without marks.
const MOST_CELLS = 10_000_000;
const SEGMENTER = new Intl.Segmenter("en", { granularity: "word" });

// Words, punctuation and spaces of a text, in order.
function segmentsOf(text) {
  return Array.from(SEGMENTER.segment(text), (found) => found.segment);
}

function isSpace(segment) {
  return segment.trim() === "";
}

// Compares a draft with an answer that grows.
//
// Row i of the table has, for each j, the length of the longest common subsequence of the answer's
// first i words and the draft's first j. An answer that grows by a word adds a row.
class Comparison {
  constructor(draft) {
    this.draft = segmentsOf(draft);
    this.draftWords = this.draft.filter((segment) => !isSpace(segment));
    this.answer = [];
    this.answerWords = [];
    this.rows = [new Uint16Array(this.draftWords.length + 1)];
  }

  // Takes the answer as it is now; the words that it shares with its last state keep their rows.
  read(text) {
    this.answer = segmentsOf(text);
    const words = this.answer.filter((segment) => !isSpace(segment));
    let same = 0;
    while (same < words.length && words[same] === this.answerWords[same]) same += 1;
    this.answerWords = words;
    this.rows.length = Math.min(this.rows.length, same + 1);
    if (!this.fits) return;
    for (let i = this.rows.length; i <= words.length; i += 1) this.rows.push(this.row(i));
  }

  get fits() {
    return this.draftWords.length * this.answerWords.length <= MOST_CELLS;
  }

  row(i) {
    const word = this.answerWords[i - 1];
    const above = this.rows[i - 1];
    const found = new Uint16Array(above.length);
    for (let j = 1; j < found.length; j += 1) {
      if (this.draftWords[j - 1] === word) found[j] = above[j - 1] + 1;
      else found[j] = Math.max(above[j], found[j - 1]);
    }
    return found;
  }

  // Returns both texts as runs `{text, changed}`. Until the answer is `whole`, its last word may be
  // the begin of another, and what follows in the draft may still come: neither is marked.
  runs(whole) {
    if (!this.fits) return { draft: plain(this.draft), answer: plain(this.answer) };
    const settled = whole ? this.answerWords.length : Math.max(this.answerWords.length - 1, 0);
    const shared = this.shared(settled);
    const reached = whole ? this.draftWords.length : (shared.draft.at(0) ?? -1) + 1;
    const draft = new Set([...shared.draft, ...after(reached, this.draftWords)]);
    const answer = new Set([...shared.answer, ...after(settled, this.answerWords)]);
    return { draft: runsOf(this.draft, draft), answer: runsOf(this.answer, answer) };
  }

  // The places of the words that the draft shares with the answer's first `i`, the last first.
  shared(i) {
    const found = { draft: [], answer: [] };
    let j = this.draftWords.length;
    while (i > 0 && j > 0) {
      const length = this.rows[i][j];
      if (length === this.rows[i][j - 1]) j -= 1;
      else if (length === this.rows[i - 1][j]) i -= 1;
      else {
        i -= 1;
        j -= 1;
        found.answer.push(i);
        found.draft.push(j);
      }
    }
    return found;
  }
}

function plain(segments) {
  return [{ text: segments.join(""), changed: false }];
}

// The places of the words from `place` on.
function after(place, words) {
  return Array.from(words.keys()).slice(place);
}

// Joins segments into runs. A space is changed if the words on both sides are.
function runsOf(segments, kept) {
  const runs = [];
  let word = 0;
  segments.forEach((segment, place) => {
    let changed = word > 0 && !kept.has(word - 1);
    if (isSpace(segment)) {
      const more = place + 1 < segments.length;
      changed = changed && more && !kept.has(word);
    } else {
      changed = !kept.has(word);
      word += 1;
    }
    const last = runs.at(-1);
    if (last && last.changed === changed) last.text += segment;
    else runs.push({ text: segment, changed });
  });
  return runs;
}
