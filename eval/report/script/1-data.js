// Data, and the little that all parts use

const source = document.getElementById("data");
const D = JSON.parse(source.textContent), FOLDER = source.dataset.folder;
const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
const still = matchMedia("(prefers-reduced-motion: reduce)");
const url = name => `${FOLDER}/${name}`;
const clamp = (x, low, high) => Math.min(Math.max(x, low), high);
const base = D.groups.findIndex(group => group.name === D.base);
const number = x => x === null || x === undefined ? "–" : Math.abs(x) >= 1000 ? x.toFixed(0) : String(+x.toPrecision(4));

/** An element; `on…` are listeners, `class` and others attributes. All text is set as text, never as HTML. */
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, each] of Object.entries(value)) node.style.setProperty(key, each);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter(child => child !== null && child !== undefined));
  return node;
}
const button = (text, label, press, more = {}) =>
  el("button", {type: "button", "aria-label": label, title: label, onclick: press, ...more}, text);

const rows = D.rows.map((row, index) => ({...row, index, cells: []}));
for (const cell of D.cells) rows[cell.row].cells.push(cell);
const column = name => D.columns.findIndex(each => each.name === name);

// State, which the address holds after #, so that a link restores it

const DEFAULTS = {q: "", tag: "", by: D.quality, order: "", arm: String(base === 0 && D.groups[1] ? 1 : 0), outcome: "",
  across: D.axes.length ? D.axes[D.axes.length - 1].name : "", prompt: "", frame: "0", view: "", a: "", b: ""};
const state = {...DEFAULTS};
/** Groups stand in links by their names: in a page that is made again, with more of them, their numbers change. */
const GROUPS = ["arm", "a", "b"];
function read() {
  const hash = location.hash.slice(1);
  Object.assign(state, DEFAULTS);
  if (hash.includes("=")) for (const [name, value] of new URLSearchParams(hash)) if (name in state) {
    const group = D.groups.findIndex(each => each.name === value);
    if (!GROUPS.includes(name)) state[name] = value;
    else if (group >= 0) state[name] = String(group);
  }
}
function write() {
  const kept = new URLSearchParams();
  const chosen = state.order || state.outcome ? ["arm", "by"] : [];  // what a filter is of, also where it is the default here
  for (const [name, value] of Object.entries(state)) {
    if (value !== DEFAULTS[name] || chosen.includes(name)) kept.set(name, GROUPS.includes(name) ? D.groups[+value].name : value);
  }
  const text = kept.toString();
  history.replaceState(null, "", text ? `#${text}` : location.pathname.split("/").pop() + location.search);
}
