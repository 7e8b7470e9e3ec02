// Blind voting

const KEY = "w2sd-video votes";
let held = {};  // where the browser keeps nothing
const store = () => { try { return JSON.parse(localStorage.getItem(KEY)) || held; } catch { return held; } };
const save = kept => { held = kept; try { localStorage.setItem(KEY, JSON.stringify(kept)); } catch { /* kept in this page alone */ } };
/** Another voter has an order and votes of their own; who has no name yet is given one and keeps theirs. */
function rename(kept, voter) {
  if (!voter.trim() || voter === kept.voter) return;
  const {others = {}, ...own} = kept, {[voter]: known, ...rest} = others;
  if (known || !/^voter-\w{1,6}$/.test(own.voter)) {
    save({...(known || fresh()), voter, others: {...rest, [own.voter]: own}});
    start();
  } else save(Object.assign(kept, {voter}));
}
const fresh = () => ({voter: `voter-${Math.random().toString(36).slice(2, 8)}`, seed: Math.floor(Math.random() * 2 ** 31), votes: {}});
function random(seed) {  // mulberry32
  return () => {
    seed = (seed + 0x6D2B79F5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}
const votes = {kept: null, pairs: [], at: 0};
/** All pairs of arms of every row, in the voter's own random order, each with random sides. */
function start() {
  const kept = Object.assign(fresh(), store());
  const draw = random(kept.seed), pairs = [];
  for (const row of rows) {
    const usable = row.cells.filter(cell => cell.file);
    usable.forEach((one, i) => usable.slice(i + 1).forEach(other => {
      const [left, right] = draw() < 0.5 ? [one, other] : [other, one];
      pairs.push({row, left, right, key: [row.id, ...[one, other].map(cell => `${D.groups[cell.group].name}:${cell.sha256}`)].join("|"), place: draw()});
    }));
  }
  pairs.sort((one, other) => one.place - other.place);
  Object.assign(votes, {kept, pairs, at: Math.max(pairs.findIndex(pair => !(pair.key in kept.votes)), 0)});
  if (pairs.length && pairs.every(pair => pair.key in kept.votes)) votes.at = pairs.length;
  question();
}
function begin() {
  deactivate();
  ballot.showModal();
  start();
}
const cast = () => votes.pairs.filter(pair => pair.key in votes.kept.votes);
function question() {
  const {pairs, at, kept} = votes, pair = pairs[at];
  const done = cast().length;
  const name = el("label", {}, "Voter ", el("input", {type: "text", value: kept.voter, maxlength: 80, onchange: event => rename(kept, event.target.value)}));
  const parts = [el("header", {},
    el("div", {}, pair ? el("p", {class: "prompt", dir: "auto"}, pair.row.prompt) : el("p", {class: "prompt"}, "That was the last pair. Save the file of your votes.")),
    button("✕", "Close", () => ballot.close()))];
  const media = [];
  player.hide();
  if (pair) {
    const sides = ["left", "right"].map(side => {
      const cell = pair[side];
      const host = el("button", {type: "button", class: `screen${cell.width <= 160 ? " small" : ""}`, style: {"--ratio": `${cell.width} / ${cell.height}`},
        "aria-label": `Prefer the ${side} one`, onclick: () => choose(side)}, el("img", {src: url(cell.still), alt: `the ${side} one`}));
      media.push([cell, host]);
      return el("div", {}, host);
    });
    const key = text => el("kbd", {}, text);
    parts.push(el("div", {class: "pair", style: {"--r": pair.left.width / pair.left.height}}, ...sides),
      el("div", {class: "choices"}, ...[["left", "Left ", "←"], ["tie", "Tie ", "↓"], ["skip", "Skip ", "s"], ["right", "Right ", "→"]].map(([choice, text, sign]) =>
        el("button", {type: "button", "data-choice": choice, onclick: () => choose(choice)}, text, key(sign)))),
      player.bar);
  }
  parts.push(el("progress", {max: pairs.length, value: done, "aria-label": "Progress"}),
    el("div", {class: "tools"}, el("span", {role: "status"}, `${done} of ${pairs.length} pairs`), name,
      at > 0 ? button("Undo", "Go back to the last pair (Backspace)", undo) : null,
      button("Save votes", "Save the votes as a file", download, {class: "primary", "data-do": "save", disabled: !done})));
  ballot.replaceChildren(el("div", {class: "sheet"}, ...parts));
  if (pair) {
    player.onframe = null;
    player.show(media);
    if (!still.matches) player.play();
  }
}
function choose(choice) {
  const pair = votes.pairs[votes.at];
  if (!pair) return;
  votes.kept.votes[pair.key] = {left: pair.left.group === Math.min(pair.left.group, pair.right.group) ? 0 : 1, choice};
  save(votes.kept);
  votes.at++;
  while (votes.pairs[votes.at] && votes.pairs[votes.at].key in votes.kept.votes) votes.at++;
  question();
}
function undo() {
  if (!votes.at) return;
  votes.at--;
  delete votes.kept.votes[votes.pairs[votes.at].key];
  save(votes.kept);
  question();
}
function download() {
  const side = cell => ({arm: D.groups[cell.group].name, sha256: cell.sha256});
  const list = cast().map(pair => {
    const {left, choice} = votes.kept.votes[pair.key];
    const [first, second] = [pair.left, pair.right].sort((one, other) => one.group - other.group);
    const [one, other] = left ? [second, first] : [first, second];
    return {prompt: pair.row.prompt, seed: pair.row.seed, left: side(one), right: side(other), choice};
  });
  const data = {kind: "w2sd-video votes", format: 1, voter: votes.kept.voter, count: list.length, votes: list};
  const link = el("a", {download: `votes-${votes.kept.voter.replace(/[^\w-]+/g, "_").slice(0, 60)}.json`, href: URL.createObjectURL(new Blob([JSON.stringify(data, null, 1)], {type: "application/json"}))});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
ballot.addEventListener("close", () => { player.hide(); player.bar.remove(); });
