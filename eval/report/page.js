"use strict";
(() => {
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
  function read() {
    const hash = location.hash.slice(1);
    Object.assign(state, DEFAULTS);
    if (hash.includes("=")) for (const [name, value] of new URLSearchParams(hash)) if (name in state) state[name] = value;
  }
  function write() {
    const kept = new URLSearchParams();
    for (const [name, value] of Object.entries(state)) if (value !== DEFAULTS[name]) kept.set(name, value);
    const text = kept.toString();
    history.replaceState(null, "", text ? `#${text}` : location.pathname.split("/").pop() + location.search);
  }

  // The player: one clock drives all videos that are shown together

  const player = {
    items: [], time: 0, playing: false, speed: 1, start: 0, turn: 0, bar: null, onframe: null,
    get fps() { return Math.max(...this.items.map(item => item.cell.fps), 1); },
    get length() { return Math.max(...this.items.map(item => item.cell.frames / item.cell.fps), 0); },
    get frames() { return Math.max(Math.round(this.length * this.fps), 1); },
    get frame() { return clamp(Math.floor(this.time * this.fps + 1e-6), 0, this.frames - 1); },

    /** Shows cells, each in its host over its still; the videos that were shown before are removed. */
    show(pairs, keep = false) {
      const time = this.time;
      this.hide();
      this.items = pairs.filter(([cell]) => cell.file).map(([cell, host]) => {
        const moving = cell.frames > 1;
        const node = moving
          ? el("video", {src: url(cell.file), preload: "auto", playsinline: true, tabindex: "-1", "aria-hidden": "true"})
          : el("img", {src: url(cell.file), alt: ""});
        if (moving) {
          Object.assign(node, {muted: true, disablePictureInPicture: true});
          node.addEventListener("loadedmetadata", () => this.playing || this.seek(item));
          node.addEventListener("error", () => node.replaceWith(el("span", {class: "why"}, "This browser cannot play it.")));
        }
        host.append(node);
        const item = {cell, node, moving};
        return item;
      });
      this.time = keep ? clamp(time, 0, Math.max(this.length - 0.5 / this.fps, 0)) : 0;
      this.draw();
    },
    hide() {
      this.pause();
      for (const {node, moving} of this.items) {
        if (moving) { node.pause(); node.removeAttribute("src"); node.load(); }
        node.remove();
      }
      this.items = [];
    },
    /** Where a video is to be; one that is shorter stays at its last frame. */
    wanted(item, time = this.time) { return Math.min(time, (item.cell.frames - 0.5) / item.cell.fps); },
    /** Shows the middle of the frame that the clock is at. Resolves when it is there. */
    seek(item) {
      const {node, cell} = item;
      if (!item.moving || node.readyState < 1) return Promise.resolve();
      const at = (clamp(Math.floor(this.time * cell.fps + 1e-6), 0, cell.frames - 1) + 0.5) / cell.fps;
      if (Math.abs(node.currentTime - at) < 1e-4 && !node.seeking) return Promise.resolve();
      return new Promise(done => {
        node.addEventListener("seeked", done, {once: true});
        setTimeout(done, 1000);
        node.currentTime = at;
      });
    },
    async play() {
      const moving = this.items.filter(item => item.moving);
      if (this.playing || !moving.length) return;
      this.playing = true;
      const turn = ++this.turn;
      this.draw();
      await Promise.all(moving.map(({node}) => node.readyState > 1 || node.error || new Promise(done => {
        node.addEventListener("loadeddata", done, {once: true});
        node.addEventListener("error", done, {once: true});
      })));
      await this.begin(turn);
    },
    /** Starts all videos at the clock's time, together. */
    async begin(turn) {
      if (this.time >= this.length - 0.5 / this.fps) this.time = 0;
      const moving = this.items.filter(item => item.moving && !item.node.error);
      for (const {node} of moving) node.pause();
      await Promise.all(moving.map(item => this.seek(item)));
      if (turn !== this.turn) return;
      this.time = this.frame / this.fps + 0.5 / this.fps;
      for (const item of moving) {
        item.node.playbackRate = this.speed;
        if (this.wanted(item) === this.time) item.node.play().catch(() => {});
      }
      this.start = performance.now() - 1000 * this.time / this.speed;
      requestAnimationFrame(now => this.tick(now, turn));
    },
    tick(now, turn) {
      if (turn !== this.turn) return;
      this.time = Math.max((now - this.start) / 1000 * this.speed, 0);
      if (this.time >= this.length) {
        this.time = 0;
        this.begin(turn);
        return;
      }
      for (const item of this.items) if (item.moving) this.correct(item);
      this.draw();
      requestAnimationFrame(later => this.tick(later, turn));
    },
    /** A video that is off by more than half a frame runs a little faster or slower; one that is far off is moved. */
    correct({node, cell}) {
      const last = (cell.frames - 0.5) / cell.fps;
      if (this.time >= last) { node.pause(); return; }
      if (node.seeking || node.readyState < 2) return;
      const off = (node.currentTime - this.time) * cell.fps;
      const rate = this.speed * (Math.abs(off) < 0.5 ? 1 : off > 0 ? 0.8 : 1.25);
      if (Math.abs(off) > 2) node.currentTime = this.time + 0.02 * this.speed;
      else if (Math.abs(node.playbackRate - rate) > 1e-3) node.playbackRate = rate;
      if (node.paused) node.play().catch(() => {});
    },
    pause() {
      this.turn++;
      if (!this.playing) return;
      this.playing = false;
      for (const item of this.items) if (item.moving) { item.node.pause(); this.seek(item); }
      this.draw();
    },
    toggle() { if (this.playing) this.pause(); else this.play(); },
    go(frame) {
      this.pause();
      this.time = (clamp(frame, 0, this.frames - 1) + 0.5) / this.fps;
      for (const item of this.items) this.seek(item);
      this.draw();
    },
    faster(by) {
      const speeds = [0.1, 0.25, 0.5, 1, 2, 4];
      const speed = speeds[clamp(speeds.indexOf(this.speed) + by, 0, speeds.length - 1)];
      this.start = performance.now() - 1000 * this.time / speed;
      this.speed = speed;
      this.draw();
    },
    draw() {
      if (!this.bar) return;
      const range = $("input", this.bar), play = $("[data-do=play]", this.bar);
      this.bar.hidden = this.frames < 2;
      range.max = this.frames - 1;
      range.value = this.frame;
      range.setAttribute("aria-valuetext", `frame ${this.frame + 1} of ${this.frames}`);
      $("output", this.bar).textContent = `${this.frame + 1} / ${this.frames}`;
      play.textContent = this.playing ? "❚❚" : "▶";
      play.setAttribute("aria-label", this.playing ? "Pause" : "Play");
      $("select", this.bar).value = String(this.speed);
      if (!this.playing && this.onframe) this.onframe(this.frame);
    },
  };
  player.bar = el("div", {class: "bar", role: "group", "aria-label": "Player"},
    button("▶", "Play", () => player.toggle(), {"data-do": "play"}),
    button("‹", "One frame back", () => player.go(player.frame - 1)),
    button("›", "One frame on", () => player.go(player.frame + 1)),
    el("input", {type: "range", min: 0, max: 0, value: 0, "aria-label": "Frame", oninput: event => player.go(+event.target.value)}),
    el("output", {"aria-live": "off"}),
    el("label", {}, el("select", {"aria-label": "Speed", onchange: event => {
      player.speed = +event.target.value;
      player.faster(0);
    }}, ...[0.1, 0.25, 0.5, 1, 2, 4].map(speed => el("option", {value: speed}, `${speed}×`)))));
  document.addEventListener("visibilitychange", () => document.hidden && player.pause());

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

  // Two arms, large: side by side, wiped, flickering, as contact strips

  const MODES = {one: "One", side: "Side by side", wipe: "Wipe", flicker: "Flicker", strips: "Strips"};
  let flicker = 0;
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
  function facts(row, cells) {
    const recipes = cells.map(cell => new Map(cell.recipe === undefined ? [] : D.recipes[cell.recipe]));
    const parts = cells.map((cell, n) => {
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
        cell.command ? el("div", {class: "command"}, el("code", {}, cell.command), button("Copy", "Copy the command", copy)) : null,
        el("dl", {}, ...pairs(entries)),
        recipes[n].size ? el("details", {open: true}, el("summary", {}, "Settings"), el("dl", {}, ...pairs([...recipes[n]], other))) : null);
    });
    return el("div", {class: "facts"}, ...parts);
  }
  stage.addEventListener("close", () => {
    clearInterval(flicker);
    const row = active;
    state.view = state.a = state.b = "";
    const [time, at] = [player.time, player.frame];
    deactivate();
    if (row) { player.time = time; activate(row, false); player.go(at); }
    write();
  });

  // Blind voting

  const KEY = "w2sd-video votes";
  const store = () => { try { return JSON.parse(localStorage.getItem(KEY)) || {}; } catch { return {}; } };
  const save = kept => { try { localStorage.setItem(KEY, JSON.stringify(kept)); } catch { /* kept in this page alone */ } };
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
  function begin() {
    const kept = Object.assign({voter: `voter-${Math.random().toString(36).slice(2, 8)}`, seed: Math.floor(Math.random() * 2 ** 31), votes: {}}, store());
    const draw = random(kept.seed), pairs = [];
    for (const row of rows) {
      const usable = row.cells.filter(cell => cell.file);
      usable.forEach((one, i) => usable.slice(i + 1).forEach(other => {
        const [left, right] = draw() < 0.5 ? [one, other] : [other, one];
        pairs.push({row, left, right, key: [one, other].map(cell => `${D.groups[cell.group].name}:${cell.sha256}`).join("|"), place: draw()});
      }));
    }
    pairs.sort((one, other) => one.place - other.place);
    Object.assign(votes, {kept, pairs, at: Math.max(pairs.findIndex(pair => !(pair.key in kept.votes)), 0)});
    if (pairs.length && pairs.every(pair => pair.key in kept.votes)) votes.at = pairs.length;
    deactivate();
    ballot.showModal();
    question();
  }
  const cast = () => votes.pairs.filter(pair => pair.key in votes.kept.votes);
  function question() {
    const {pairs, at, kept} = votes, pair = pairs[at];
    const done = cast().length;
    const name = el("label", {}, "Voter ", el("input", {type: "text", value: kept.voter, maxlength: 80, onchange: event => { kept.voter = event.target.value; save(kept); }}));
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
      activate(row);
      player.go(frame);
      if (view in MODES) {
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

  // Plots

  const dark = matchMedia("(prefers-color-scheme: dark)");
  const ink = name => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const safe = text => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/\$/g, "&#36;");
  const short = text => safe(text.length > 44 ? `${text.slice(0, 42)}…` : text);
  function layout(more) {
    const axis = {gridcolor: ink("line"), zerolinecolor: ink("soft"), linecolor: ink("line"), automargin: true, fixedrange: true};
    return {paper_bgcolor: "transparent", plot_bgcolor: "transparent", margin: {l: 8, r: 12, t: 12, b: 8},
      font: {family: ink("sans").replace(/"/g, ""), size: 12, color: ink("ink")}, hoverlabel: {font: {size: 12}},
      legend: {orientation: "h", y: -0.16}, showlegend: true, dragmode: false, ...more,
      xaxis: {...axis, ...more.xaxis}, yaxis: {...axis, ...more.yaxis}};
  }
  const numeric = axis => axis.labels.every(label => label !== "" && Number.isFinite(+label));
  /** Groups that differ only on the first axis of numbers are one line, in that axis' order. */
  function lines() {
    const along = D.axes.find(numeric), found = new Map();
    D.groups.forEach((group, n) => {
      const rest = along ? D.axes.filter(axis => axis !== along).map(axis => `${axis.name} ${group.labels[axis.name]}`).join(", ") || along.name : group.name;
      found.set(rest, [...(found.get(rest) || []), n]);
    });
    return {along, found};
  }
  const PLOTS = {
    bars(figure) {
      const name = $("select", figure).value, group = D.groups.findIndex(each => each.name === name);
      for (const each of $$("[data-constant]", figure)) each.hidden = each.dataset.constant !== name;
      const bars = D.bars[group].slice().reverse();
      const colours = bars.map(bar => ink(bar.verdict || "soft"));
      return [[{type: "scatter", mode: "markers", x: bars.map(bar => bar.mean), y: bars.map(bar => short(bar.label)), marker: {color: colours, size: 9},
        error_x: {type: "data", symmetric: false, array: bars.map(bar => bar.high - bar.mean), arrayminus: bars.map(bar => bar.mean - bar.low), color: ink("soft"), thickness: 1.4, width: 0},
        text: bars.map(bar => safe(`${bar.text}${bar.verdict ? `, ${bar.verdict}` : ""}`)), hovertemplate: "%{y}<br>%{text}<extra></extra>"}],
        {showlegend: false, xaxis: {zeroline: true, title: {text: "standard deviations", font: {size: 11}}}, height: Math.max(260, 90 + 26 * bars.length)}];
    },
    radar() {
      const names = D.radar.columns.map(name => safe(name.replace(/^shapes_/, "").replace(/_/g, " ")));
      return [D.groups.map((group, n) => ({type: "scatterpolar", name: short(group.name), r: [...D.radar.values[n], D.radar.values[n][0]], theta: [...names, names[0]],
        line: {color: group.colour, dash: group.dash, width: 2}, marker: {symbol: group.symbol, size: 5}, mode: "lines+markers"})),
        {margin: {l: 60, r: 60, t: 30, b: 30}, legend: {orientation: "h", y: -0.12}, polar: {bgcolor: "transparent", angularaxis: {gridcolor: ink("line"), linecolor: ink("line"), rotation: 90, direction: "clockwise"},
          radialaxis: {gridcolor: ink("line"), linecolor: "transparent", tickfont: {size: 10, color: ink("soft")}, rangemode: "tozero", angle: 90, tickangle: 90}}}];
    },
    evaluations(figure) { return scatter(figure, "network evaluations of a " + D.thing, n => [D.groups[n].evaluations, null, null]); },
    motion(figure) {
      const x = $("[data-of=x]", figure).value;
      return scatter(figure, x, n => D.means[n][x] || [null, null, null]);
    },
  };
  function scatter(figure, title, across) {
    const y = $("[data-of=y]", figure).value, {along, found} = lines();
    const bars = values => ({type: "data", symmetric: false, array: values.map(([mean, , high]) => high === null ? 0 : high - mean), arrayminus: values.map(([mean, low]) => low === null ? 0 : mean - low), thickness: 1, width: 0});
    const traces = [...found].map(([name, groups], n) => {
      if (along) groups.sort((one, other) => D.groups[one].labels[along.name] - D.groups[other].labels[along.name]);
      const xs = groups.map(across), ys = groups.map(group => D.means[group][y] || [null, null, null]), style = D.groups[n];
      const alone = groups.length === 1 || D.groups.length > 8;
      return {type: "scatter", mode: along ? "lines+markers+text" : "markers", name: short(name), x: xs.map(([mean]) => mean), y: ys.map(([mean]) => mean),
        text: groups.map(group => along ? safe(D.groups[group].labels[along.name]) : ""), textposition: "top center", textfont: {size: 10, color: ink("soft")},
        customdata: groups.map(group => safe(D.groups[group].name)), hovertemplate: "%{customdata}<br>%{x:.4g}, %{y:.4g}<extra></extra>",
        line: {color: style.colour, dash: style.dash, width: 1.6}, marker: {color: style.colour, symbol: style.symbol, size: 9},
        error_x: {...bars(xs), color: style.colour + "66", visible: !alone || !along}, error_y: {...bars(ys), color: style.colour + "66", visible: !alone || !along}};
    });
    return [traces, {xaxis: {title: {text: safe(title), font: {size: 11}}}, yaxis: {title: {text: safe(y), font: {size: 11}}}, legend: {orientation: "h", y: -0.22}}];
  }
  function plot(figure) {
    if (!figure.dataset.seen || !plotly()) return;
    const [traces, more] = PLOTS[figure.dataset.plot](figure), box = $(".plot", figure);
    if (more.height) box.style.height = `${more.height}px`;
    Plotly.react(box, traces, layout(more), {displaylogo: false, responsive: true, scrollZoom: false, toImageButtonOptions: {format: "svg", filename: figure.dataset.plot},
      modeBarButtonsToRemove: ["zoom2d", "pan2d", "select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d", "resetScale2d"]});
  }
  const figures = $$("[data-plot]");
  let asked = false;
  /** Whether plotly is there; it is read when the first plot comes into view, as it takes a second. */
  function plotly() {
    if (!asked && !window.Plotly) document.head.append(el("script", {src: url("plotly.min.js"), onload: () => figures.forEach(plot)}));
    asked = true;
    return Boolean(window.Plotly);
  }
  const seen = new IntersectionObserver(entries => entries.filter(entry => entry.isIntersecting).forEach(({target}) => {
    target.dataset.seen = "1";
    seen.unobserve(target);
    plot(target);
  }), {rootMargin: "400px"});
  figures.forEach(figure => {
    seen.observe(figure);
    for (const select of $$("select", figure)) select.addEventListener("change", () => plot(figure));
  });
  dark.addEventListener("change", () => figures.forEach(plot));
  window.w2sd = {player, state};
})();
