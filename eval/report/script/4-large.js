// Two arms, large: side by side, wiped, flickering, as contact strips

const MODES = {one: "One", side: "Side by side", wipe: "Wipe", flicker: "Flicker", strips: "Strips"};
let flicker = 0, opened = null;
function open(row, a, b) {
  activate(row, false);
  const usable = row.cells.filter(cell => cell.file).map(cell => cell.group);
  const pick = (wanted, not) => usable.includes(wanted) ? wanted : usable.find(group => group !== not);
  const alone = a !== undefined && b === undefined;
  state.a = String(pick(a === undefined ? (state.a === "" ? base : +state.a) : a, -1));
  state.b = String(pick(b === undefined ? (state.b === "" || +state.b === +state.a ? -1 : +state.b) : b, +state.a));
  if (usable.length < 2 || alone) state.view = "one";
  else if (!(state.view in MODES) || (a === undefined && state.view === "one")) state.view = "side";
  player.hide();
  if (!stage.open) stage.showModal();
  large(row);
}
function large(row) {
  clearInterval(flicker);
  opened = row;
  const [a, b] = [+state.a, +state.b].map(group => row.cells.find(cell => cell.group === group));
  const usable = row.cells.filter(cell => cell.file);
  const mode = b && b !== a || state.view === "strips" ? state.view : "one";
  const chosen = mode === "one" ? [a] : [a, b].filter(Boolean);
  const select = name => el("label", {}, name.toUpperCase(), el("select", {"data-arm": name, onchange: event => { state[name] = event.target.value; large(row); }},
    ...usable.map(cell => el("option", {value: cell.group, selected: +state[name] === cell.group}, D.groups[cell.group].name))));
  const modes = Object.entries(MODES).filter(([name]) => (usable.length > 1 || name === "one" || name === "strips") && (name !== "strips" || a.strip));
  const screen = cell => el("div", {class: `screen${cell.width <= 160 ? " small" : ""}`, style: {"--ratio": `${cell.width} / ${cell.height}`}});
  const layer = (cell, more) => el("div", {class: more}, el("img", {src: url(cell.still), alt: D.groups[cell.group].name, style: {width: "100%", height: "100%", "object-fit": "contain", position: "absolute"}}));
  const view = el("div", {class: `view ${mode === "wipe" || mode === "flicker" ? "over" : mode}`, style: {"--n": chosen.length, "--r": a.width / a.height}});
  const pairs = [];
  let under = null;
  if (mode === "wipe" || mode === "flicker") {
    const host = screen(a), [first, second] = [layer(a, ""), layer(b, mode === "wipe" ? "over-b" : "hide")];
    for (const each of [first, second]) each.classList.toggle("small", a.width <= 160);
    host.append(first, second);
    pairs.push([a, first], [b, second]);
    view.append(el("figure", {class: "arm"}, host, el("figcaption", {"aria-live": "off"},
      el("span", {}, D.groups[a.group].name), el("span", {}, D.groups[b.group].name))));
    if (mode === "wipe") {
      host.append(el("div", {class: "line"}));
      const range = el("input", {type: "range", min: 0, max: 100, value: 50, "aria-label": `Wipe from ${D.groups[a.group].name} to ${D.groups[b.group].name}`, style: {width: "100%"}});
      const wipe = share => { range.value = share; view.style.setProperty("--wipe", `${share}%`); };
      range.addEventListener("input", () => wipe(range.value));
      host.style.touchAction = "none";
      host.addEventListener("pointermove", event => {
        if (event.pointerType === "mouse" || event.buttons) wipe(clamp(100 * (event.clientX - host.getBoundingClientRect().left) / host.clientWidth, 0, 100));
      });
      under = range;
    } else {
      const names = $$("figcaption span", view);
      const flip = () => {
        const second = pairs[1][1].classList.toggle("hide");
        names[0].style.fontWeight = second ? "600" : "400";
        names[1].style.fontWeight = second ? "400" : "600";
      };
      under = button("Flip", "Show the other one", flip, {"data-do": "flip"});
      if (!still.matches) flicker = setInterval(flip, 500);  // 2 a second: from 3 on, flashes can cause seizures
    }
  } else if (mode === "strips") {
    for (const cell of usable) view.append(el("figure", {class: `strip${cell.width <= 160 ? " small" : ""}`}, el("img", {src: url(cell.strip), alt: `frames of ${D.groups[cell.group].name}`, loading: "lazy"}), el("figcaption", {}, D.groups[cell.group].name)));
  } else {
    for (const cell of chosen) {
      const host = screen(cell);
      host.append(el("img", {src: url(cell.still), alt: D.groups[cell.group].name}));
      pairs.push([cell, host]);
      view.append(el("figure", {class: "arm"}, host, el("figcaption", {}, el("span", {class: "name"}, D.groups[cell.group].name))));
    }
  }
  stage.replaceChildren(el("div", {class: "sheet"},
    el("header", {}, el("div", {}, el("p", {class: "prompt", dir: "auto"}, row.prompt), el("small", {}, row.seed === "" ? "" : `seed ${row.seed}`)),
      button("✕", "Close", () => stage.close())),
    el("div", {class: "tools"}, select("a"), mode === "one" || mode === "strips" ? null : select("b"),
      el("div", {class: "modes", role: "group", "aria-label": "View"}, ...modes.map(([name, text]) =>
        button(text, text, () => { state.view = name; large(row); }, {"aria-pressed": String(name === mode), "data-mode": name})))),
    view, under, mode === "strips" ? null : player.bar, facts(row, chosen)));
  if (mode !== "strips") {
    const playing = player.playing;
    player.show(pairs, true);
    if (playing) player.play();
  } else player.hide();
  write();
}
/** A command in which no line ends within the name of an option. */
const parts = command => command.split(/(--[\w-]+)/).map((part, n) => n % 2 ? el("span", {class: "option"}, part) : part);
function facts(row, cells) {
  const recipes = cells.map(cell => new Map(cell.recipe === undefined ? [] : D.recipes[cell.recipe]));
  const columns = cells.map((cell, n) => {
    const entries = [...D.columns.map((each, i) => [each.label, number(cell.scores[i])]).filter(([, text]) => text !== "–"),
      ["file", cell.path], ["frames", `${cell.frames}, ${number(cell.fps)} a second, ${cell.width} × ${cell.height}`],
      ["SHA-256", cell.sha256], ...(cell.facts || [])];
    const pairs = (list, differs) => list.flatMap(([name, text]) => [el("dt", {}, name), el("dd", {class: differs && differs(name, text) ? "other" : null}, text)]);
    const other = (name, text) => recipes.some((recipe, m) => m !== n && recipe.get(name) !== text);
    const copy = event => {
      getSelection().selectAllChildren($("code", event.target.parentElement));
      if (navigator.clipboard) navigator.clipboard.writeText(cell.command).then(() => { event.target.textContent = "Copied"; }, () => {});
    };
    return el("div", {}, el("h3", {}, D.groups[cell.group].name),
      cell.command ? el("div", {class: "command"}, el("code", {}, ...parts(cell.command)), button("Copy", "Copy the command", copy)) : null,
      el("dl", {}, ...pairs(entries)),
      recipes[n].size ? el("details", {open: true}, el("summary", {}, "Settings"), el("dl", {}, ...pairs([...recipes[n]], other))) : null);
  });
  return el("div", {class: "facts"}, ...columns);
}
stage.addEventListener("close", () => {
  clearInterval(flicker);
  const row = opened;  // where the focus returns to is the row that was opened first
  state.view = state.a = state.b = "";
  const [time, at] = [player.time, player.frame];
  deactivate();
  player.time = time;
  activate(row);
  player.go(at);
  $("[aria-label^=Compare], button", place(row)).focus({preventScroll: true});
  write();
});
