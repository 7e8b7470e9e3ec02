// The gallery

const gallery = $("#gallery"), list = gallery && $(".rows", gallery);
const stage = $("dialog.stage"), ballot = $("dialog.ballot");
let shown = [], drawn = 0, active = null;
const BATCH = 24;

const score = (row, group, index) => {
  const cell = row.cells.find(each => each.group === group);
  const value = cell && index >= 0 ? cell.scores[index] : null;
  return value === null || value === undefined ? null : value;
};
/** By how much a group is better than the base in a row; null where that cannot be said. */
const gain = (row, group, index) => {
  const [one, other] = [score(row, group, index), score(row, base, index)];
  return one === null || other === null ? null : (D.columns[index].sign || 1) * (one - other);
};
function filtered() {
  const words = state.q.toLowerCase().split(/\s+/).filter(Boolean), index = column(state.by), arm = +state.arm;
  const sign = index < 0 ? 1 : D.columns[index].sign || 1;
  const found = rows.filter(row => {
    const text = row.prompt.toLowerCase();
    if (!words.every(word => text.includes(word)) || (state.tag && !row.tags.includes(state.tag))) return false;
    if (!state.outcome) return true;
    const by = gain(row, arm, index);
    return by !== null && {win: by > 0, loss: by < 0, tie: by === 0}[state.outcome];
  });
  const spread = row => {
    const values = row.cells.map(cell => cell.scores[index]).filter(value => value !== null && value !== undefined);
    return values.length > 1 ? Math.max(...values) - Math.min(...values) : null;
  };
  const own = row => { const value = score(row, arm, index); return value === null ? null : sign * value; };
  const down = x => x === null ? null : -x;
  const keys = {best: own, worst: row => down(own(row)), gain: row => gain(row, arm, index),
    loss: row => down(gain(row, arm, index)), spread};
  const key = keys[state.order];
  if (!key) return found;
  return found.map(row => [key(row), row]).sort(([a, one], [b, other]) =>
    (a === null) - (b === null) || b - a || one.index - other.index).map(([, row]) => row);
}

function figure(row, cell, small) {
  const group = D.groups[cell.group], index = column(state.by);
  const value = index < 0 ? null : cell.scores[index], by = gain(row, cell.group, index);
  const mark = by === null || !by || cell.group === base || !D.columns[index].sign ? "" : by > 0 ? "win" : "lose";
  const name = el("span", {class: "name"}, group.name);
  const caption = el("figcaption", {}, name, value === null || value === undefined ? null
    : el("span", {class: `score ${mark}`, title: D.columns[index].label}, `${{win: "▲ ", lose: "▼ ", "": ""}[mark]}${number(value)}`));
  const like = cell.file ? cell : row.cells.find(each => each.file) || {width: 3, height: 1};
  const ratio = {"--ratio": `${like.width} / ${like.height}`};
  const screen = cell.file
    ? el("button", {type: "button", class: `screen${cell.width <= 160 ? " small" : ""}`, style: ratio,
        "aria-label": `${group.name}: open large`, onclick: () => open(row, cell.group)},
        el("img", {src: url(cell.still), alt: `${group.name}, ${row.prompt.slice(0, 200)}`, loading: "lazy", decoding: "async"}))
    : el("div", {class: "screen", style: ratio}, el("span", {class: "why"}, `failed: ${cell.why.slice(0, 160)}`));
  return el("figure", {class: "arm", "data-group": cell.group}, screen, caption);
}
/** The arms of a row: side by side, or by the axes of the plan as a matrix. */
function arms(row) {
  const by = new Map(row.cells.map(cell => [cell.group, cell]));
  const across = D.axes.find(axis => axis.name === state.across);
  if (D.axes.length < 2 || !across || across.labels.length < 2) {
    return el("div", {class: "arms", style: {"--n": Math.min(D.groups.length, innerWidth < 640 ? 3 : 6)}},
      ...row.cells.map(cell => figure(row, cell)));
  }
  const others = D.axes.filter(axis => axis !== across);
  const sides = new Map();
  D.groups.forEach((group, n) => {
    const side = others.map(axis => `${axis.name} ${group.labels[axis.name]}`).join(", ");
    if (!sides.has(side)) sides.set(side, new Map());
    sides.get(side).set(group.labels[across.name], n);
  });
  const grid = el("div", {class: "arms matrix", style: {"--n": across.labels.length}}, el("span", {class: "axis"}));
  for (const label of across.labels) grid.append(el("span", {class: "axis"}, `${across.name} ${label}`));
  for (const [side, groups] of sides) {
    grid.append(el("span", {class: "axis side"}, side));
    for (const label of across.labels) {
      const cell = by.get(groups.get(label));
      grid.append(cell ? figure(row, cell) : el("span"));
    }
  }
  return grid;
}
function article(row) {
  const many = row.cells.filter(cell => cell.file).length > 1;
  const node = el("article", {class: "row", id: `row-${row.id}`, "aria-label": row.prompt.slice(0, 200)},
    el("header", {},
      el("p", {class: `prompt${row.prompt.length > 300 ? " long" : ""}`, dir: "auto"}, row.prompt),
      row.seed === "" ? null : el("small", {}, `seed ${row.seed}`),
      row.tags.length ? el("span", {class: "tags"}, ...row.tags.map(tag => el("small", {}, tag))) : null,
      el("span", {class: "do"},
        D.thing === "video" && row.cells.some(cell => cell.file) ? button("▶ Play", "Play all of this prompt in step", () => { activate(row); player.play(); }) : null,
        many ? button("Compare", "Compare two, large", () => open(row)) : null)),
    arms(row));
  // By the keyboard alone: for a mouse the row would move under it before the click.
  node.addEventListener("focusin", event => { if (event.target.matches(":focus-visible")) activate(row, false); });
  return node;
}
function more(until = drawn + BATCH) {
  const next = shown.slice(drawn, until);
  list.append(...next.map(article));
  drawn += next.length;
}
function draw() {
  deactivate();
  shown = filtered();
  drawn = 0;
  list.replaceChildren();
  const prompts = new Set(shown.map(row => row.prompt)).size, all = new Set(rows.map(row => row.prompt)).size;
  $(".count", gallery).textContent = `${prompts} of ${all} prompts, ${shown.reduce((n, row) => n + row.cells.length, 0)} ${D.thing}s`;
  more();
}
const watch = new IntersectionObserver(entries => {  // what is out of view does not play
  if (!stage.open && !ballot.open && entries.some(entry => !entry.isIntersecting)) player.pause();
});
const place = row => row && document.getElementById(`row-${row.id}`);
function deactivate() {
  if (!active) return;
  player.hide();
  player.bar.remove();
  if (place(active)) {
    place(active).classList.remove("active");
    watch.unobserve(place(active));
  }
  active = null;
}
/** Puts the videos of a row in place of its stills, at the frame that the clock is at. */
function activate(row, scroll = true, keep = false) {
  if (active === row) return;
  deactivate();
  const at = shown.indexOf(row);
  if (at < 0) return;
  if (at >= drawn) more(at + 3);
  active = row;
  state.prompt = row.id;
  const node = place(row);
  node.classList.add("active");
  watch.observe(node);
  player.onframe = frame => { state.frame = String(frame); write(); };
  node.append(player.bar);
  player.show(row.cells.filter(cell => cell.file).map(cell => [cell, $(`[data-group="${cell.group}"] .screen`, node)]), keep);
  if (scroll) node.scrollIntoView({block: "nearest", behavior: still.matches ? "auto" : "smooth"});
}
function step(by) {
  const next = shown[clamp(shown.indexOf(active) + by, 0, shown.length - 1)];
  if (!next) return;
  if (stage.open) { open(next, +state.a, +state.b); return; }
  activate(next);
  place(next).tabIndex = -1;
  place(next).focus({preventScroll: true});
}
