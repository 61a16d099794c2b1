// How things look: elements and numbers. No text of the pack or the server is ever read as HTML.

/** An element with properties and children. */
export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

/** Three digits: "87.2 µs", "1.23 ms". */
export function milliseconds(value) {
  const [number, unit] = value >= 0.1 || value === 0 ? [value, "ms"] : [value * 1000, "µs"];
  return `${digits(number)} ${unit}`;
}

export const digits = (number) => number.toFixed(number >= 100 ? 0 : number >= 10 ? 1 : 2);

/** Bytes as the report words them. */
export function size(count) {
  const [unit, one] = count >= 1e6 ? ["MB", 1e6] : count >= 1e3 ? ["kB", 1e3] : ["B", 1];
  return `${digits(count / one)} ${unit}`;
}

/** A list of (name, words) as dt and dd. */
export function pairs(list) {
  return list.flatMap(([name, words]) => [element("dt", { textContent: name }), element("dd", { textContent: words })]);
}

/** One artifact's row, with ``mark``, ``figures`` and ``lines`` to fill in. */
export function row(subject) {
  const mark = element("span", { className: "tag", textContent: "waiting" });
  const runtime = { ort: "ONNX Runtime Web", litert: "LiteRT.js" }[subject.runner];
  const figures = element("dl", { className: "figures", hidden: true });
  const lines = element("ul", { className: "lines", hidden: true });
  const name = element("span", {}, element("b", { textContent: subject.scheme }), ` .${subject.file.split(".").pop()}`);
  const under = element("p", { className: "soft small", textContent: `${runtime}, made for ${subject.target}, ${size(subject.bytes)}` });
  const item = element("li", {}, element("div", { className: "name" }, name, mark), under, figures, lines);
  item.dataset.subject = `${subject.target} ${subject.scheme}`;
  return { item, mark, figures, lines };
}

/** Set a row's mark: kind is "", "good", "bad" or "warn". */
export function mark(held, text, kind = "") {
  Object.assign(held.mark, { textContent: text, className: `tag ${kind}` });
}

/** Add a figure to a row; ``range`` goes under it, a spoiled one is struck out. */
export function figure(held, name, value, range = "", spoiled = false) {
  held.figures.hidden = false;
  const number = spoiled ? element("s", { textContent: value }) : value;
  const under = range ? [element("div", { className: "range", textContent: range })] : [];
  held.figures.append(element("div", {}, element("dt", { textContent: name }), element("dd", {}, number, ...under)));
}

/** Add lines to a row. */
export function lines(held, texts, className = "") {
  held.lines.append(...texts.map((textContent) => element("li", { textContent, className })));
  held.lines.hidden = !held.lines.children.length;
}
