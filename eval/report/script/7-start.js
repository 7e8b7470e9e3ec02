// Keys

document.addEventListener("keydown", event => {
  const target = event.target;
  if (event.ctrlKey || event.metaKey || event.altKey || target.matches("input:not([type=range]), select, textarea")) return;
  const key = event.key, range = target.matches("input[type=range]");
  const actions = {};
  if (ballot.open) {
    Object.assign(actions, {ArrowLeft: () => choose("left"), ArrowRight: () => choose("right"), ArrowDown: () => choose("tie"), s: () => choose("skip"), Backspace: undo, u: undo});
  } else if (gallery) {
    Object.assign(actions, {j: () => step(active ? 1 : 0), k: () => step(-1), v: begin});
    if (active && !range) Object.assign(actions, {ArrowLeft: () => player.go(player.frame - 1), ArrowRight: () => player.go(player.frame + 1)});
    const modes = {w: "wipe", f: "flicker", c: "strips"};
    if (active && key in modes) actions[key] = () => {
      if (key === "f" && stage.open && state.view === "flicker") { $("[data-do=flip]", stage).click(); return; }
      if (!stage.open) open(active);
      if ($(`[data-mode=${modes[key]}]`, stage)) { state.view = modes[key]; large(active); }
    };
  }
  if (player.items.length) Object.assign(actions, {",": () => player.go(player.frame - 1), ".": () => player.go(player.frame + 1),
    "[": () => player.faster(-1), "]": () => player.faster(1), Home: () => player.go(0), End: () => player.go(player.frames - 1)});
  if (player.items.length && !target.matches("button, summary, a")) actions[" "] = () => player.toggle();
  if (range && key.startsWith("Arrow") && !ballot.open) return;
  if (!(key in actions) || (ballot.open && range && key.startsWith("Arrow"))) return;
  event.preventDefault();
  actions[key]();
});

// Start of the gallery

if (gallery) {
  const fill = (select, values) => select.append(...values.map(([value, text]) => el("option", {value}, text)));
  const tags = [...new Set(rows.flatMap(row => row.tags))].sort();
  fill($("[data-state=tag]"), tags.map(tag => [tag, tag]));
  fill($("[data-state=across]"), D.axes.map(axis => [axis.name, axis.name]));
  const there = {tags: tags.length, columns: D.columns.length, others: D.columns.length && D.groups.length > 1, axes: D.axes.length > 1};
  for (const node of $$("[data-if]", gallery)) node.hidden = !there[node.dataset.if];
  const inputs = $$("[data-state]", gallery);
  const restore = () => {
    read();
    for (const input of inputs) input.value = state[input.dataset.state];
    draw();
    const row = rows.find(each => each.id === state.prompt);
    if (!row || !shown.includes(row)) return;
    const [frame, view, a, b] = [+state.frame || 0, state.view, state.a, state.b];
    const link = new URLSearchParams(location.hash.slice(1)), lost = [["a", a], ["b", b]].some(([name, group]) => link.get(name) && group === "");
    if (lost) Object.assign(state, {view: "", a: "", b: ""});  // a link to a group that is not here opens no other one
    activate(row);
    player.go(frame);
    if (view in MODES && !lost) {
      state.view = view;
      if (view === "one") open(row, +a); else open(row, a === "" ? undefined : +a, b === "" ? undefined : +b);
      player.go(frame);
    }
  };
  let waiting = 0;
  for (const input of inputs) input.addEventListener("input", () => {
    state[input.dataset.state] = input.value;
    clearTimeout(waiting);
    waiting = setTimeout(() => { state.prompt = ""; state.frame = "0"; draw(); write(); }, input.type === "search" ? 150 : 0);
  });
  $(".filters").addEventListener("submit", event => event.preventDefault());
  const end = el("div", {"aria-hidden": "true"});
  list.after(end);
  new IntersectionObserver(([entry]) => { if (entry.isIntersecting && drawn < shown.length) more(); }, {rootMargin: "1200px"}).observe(end);
  const vote = $("[data-do=vote]");
  vote.disabled = !rows.some(row => row.cells.filter(cell => cell.file).length > 1);
  vote.addEventListener("click", begin);
  addEventListener("hashchange", () => { if (location.hash.includes("=")) restore(); });
  restore();
}
window.w2sd = {player, state};
