// The query language over columns in the page: comparisons, `has`, `missing`, and, or, not, sort, limit.
// The server has its own; this is for pages without one, and gives the same answers.

const TOKEN = new RegExp(
  "\\s*(?:(\"(?:[^\"\\\\]|\\\\.)*\"|'(?:[^'\\\\]|\\\\.)*')|\\x60([^\\x60]+)\\x60|([+-]?(?:\\d[\\d_]*\\.?\\d*|\\.\\d+)(?:[eE][+-]?\\d+)?(?![\\w.]))" +
  "|([\\p{L}\\p{Nl}_][\\p{L}\\p{N}_.]*)|(<=|>=|!=|==|[<>=(),-]))", "uy");

export class QueryError extends Error {}

function tokens(text) {
  const found = [];
  TOKEN.lastIndex = 0;
  while (TOKEN.lastIndex < text.length) {
    const rest = text.slice(TOKEN.lastIndex), at = TOKEN.lastIndex + rest.length - rest.trimStart().length;
    if (!rest.trim()) break;
    const match = TOKEN.exec(text);
    if (!match) throw new QueryError(`At character ${at + 1}: "${rest.trim().slice(0, 12)}" cannot be read.`);
    const [, quoted, odd, number, name, sign] = match;
    if (quoted !== undefined) found.push({ kind: "text", value: quoted.slice(1, -1).replace(/\\(.)/g, "$1"), at });
    else if (odd !== undefined) found.push({ kind: "name", value: odd, at });
    else if (number !== undefined) found.push({ kind: "number", value: Number(number.replace(/_/g, "")), at });
    else if (sign !== undefined) found.push({ kind: "sign", value: sign, at });
    else found.push({ kind: "word", value: name, at });
  }
  return found;
}

function nearest(name, names) {
  const common = (a, b) => { let n = 0; while (n < a.length && a[n] === b[n]) n++; return n; };
  return [...names].sort((a, b) => common(b, name) - common(a, name) || a.length - b.length)[0];
}

// Returns {order: Int32Array of rows, in order}. `columns` maps a name to an array of numbers or texts.
export function select(text, columns, n) {
  const list = tokens(text);
  let at = 0;
  const peek = () => list[at];
  const word = (value) => peek()?.kind === "word" && peek().value.toLowerCase() === value;
  const sign = (value) => peek()?.kind === "sign" && peek().value === value;
  const fail = (expected) => {
    const token = peek();
    const where = token ? `At character ${token.at + 1}, "${token.value}"` : "At the end";
    throw new QueryError(`${where}: ${expected}. Write such as: density<1e-3 and max>=2 sort -max limit 20`);
  };
  const column = () => {
    const token = peek();
    if (token?.kind !== "word" && token?.kind !== "name") fail("the name of a column is expected");
    if (!Object.hasOwn(columns, token.value)) {
      fail(`there is no column ${token.value}; the nearest is ${nearest(token.value, Object.keys(columns))}`);
    }
    at++;
    return columns[token.value];
  };
  const empty = (v) => v === null || v === undefined || Number.isNaN(v);
  const factor = () => {
    if (word("not")) { at++; const inner = factor(); return (i) => !inner(i); }
    if (sign("(")) {
      at++;
      const inner = either();
      if (!sign(")")) fail(`")" is expected`);
      at++;
      return inner;
    }
    if (word("missing")) { at++; const values = column(); return (i) => empty(values[i]); }
    const values = column();
    if (word("has")) {
      at++;
      const wanted = peek();
      if (wanted?.kind !== "text") fail('a text in quotes is expected, as "dog"');
      at++;
      const small = String(wanted.value).toLowerCase();
      return (i) => !empty(values[i]) && String(values[i]).toLowerCase().includes(small);
    }
    const operation = peek();
    if (operation?.kind !== "sign" || !"<= >= == != < > =".split(" ").includes(operation.value)) {
      fail("a comparison is expected (< <= > >= = !=), or has");
    }
    at++;
    const given = peek();
    if (given?.kind !== "text" && given?.kind !== "number") fail("a number, or a text in quotes, is expected");
    at++;
    const compare = {
      "<": (a, b) => a < b, "<=": (a, b) => a <= b, ">": (a, b) => a > b, ">=": (a, b) => a >= b,
      "=": (a, b) => a === b, "==": (a, b) => a === b, "!=": (a, b) => a !== b,
    }[operation.value];
    if (given.kind === "text") return (i) => !empty(values[i]) && compare(String(values[i]), given.value);
    const number = given.value;
    return (i) => !empty(values[i]) && compare(values[i], number);
  };
  const both = () => {
    let left = factor();
    while (word("and")) { at++; const a = left, b = factor(); left = (i) => a(i) && b(i); }
    return left;
  };
  const either = () => {
    let left = both();
    while (word("or")) { at++; const a = left, b = both(); left = (i) => a(i) || b(i); }
    return left;
  };
  const keep = !list.length || word("sort") || word("limit") ? () => true : either();
  const keys = [];
  let limit = Infinity;
  if (word("sort")) {
    do {
      at++;
      let direction = 1;
      if (sign("-")) { at++; direction = -1; }
      keys.push([column(), direction]);
    } while (sign(","));
  }
  if (word("limit")) {
    at++;
    limit = peek()?.kind === "number" ? peek().value : NaN;
    if (!Number.isInteger(limit) || limit < 0) fail("a whole number is expected");
    at++;
  }
  if (at < list.length) fail("nothing more is expected here");
  const order = [];
  for (let i = 0; i < n; i++) if (keep(i)) order.push(i);
  if (keys.length) {
    order.sort((a, b) => {
      for (const [values, direction] of keys) {
        const x = values[a], y = values[b];
        if (empty(x) || empty(y)) { // no value comes last
          if (empty(x) !== empty(y)) return empty(x) ? 1 : -1;
          continue;
        }
        if (x < y) return -direction;
        if (x > y) return direction;
      }
      return a - b;
    });
  }
  return order.length > limit ? order.slice(0, limit) : order;
}

// The sort clause of a query, and a query with another one.
const NAME = "-?\\s*(?:`[^`]+`|[^\\s,`]+)";
const SORT = new RegExp(`(^|\\s)sort\\s+(${NAME}(?:\\s*,\\s*${NAME})*)`, "i");

// The name of a column as a query writes it: odd characters, and words of the language, in backticks.
export function quoted(name) {
  const plain = /^[\p{L}_][\p{L}\p{N}_.]*$/u.test(name) && !/^(and|or|not|has|missing|sort|limit)$/i.test(name);
  return plain ? name : `\`${name}\``;
}

export function sortOf(text) {
  const match = SORT.exec(outside(text));
  if (!match) return null;
  const [first] = new RegExp(NAME).exec(match[2]), down = first.startsWith("-");
  return { name: first.replace(/^-?\s*/, "").replace(/\x60/g, ""), down };
}

export function sorted(text, name, down) {
  const clause = `sort ${down ? "-" : ""}${quoted(name)}`;
  const plain = outside(text), match = SORT.exec(plain);
  if (match) {
    const from = match.index + match[1].length, to = match.index + match[0].length;
    return (text.slice(0, from) + clause + text.slice(to)).trim();
  }
  const limit = /(^|\s)limit\s+\d+\s*$/i.exec(plain);
  if (limit) return `${text.slice(0, limit.index).trim()} ${clause} ${text.slice(limit.index).trim()}`.trim();
  return `${text.trim()} ${clause}`.trim();
}

export function narrowed(text, clause) {
  const plain = outside(text), tail = /(^|\s)(sort|limit)\s/i.exec(plain);
  const split = tail ? tail.index : text.length;
  const head = text.slice(0, split).trim(), rest = text.slice(split).trim();
  const mine = /\bor\b/i.test(outside(head)) ? `(${head})` : head;
  return [mine ? `${mine} and ${clause}` : clause, rest].filter(Boolean).join(" ");
}

// The text with what stands in quotes blanked out, so that words in it are not keywords.
function outside(text) {
  return text.replace(/"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'/g, (quoted) => "_".repeat(quoted.length));
}
