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
    if (Math.abs(node.currentTime - at) < 2e-3 && !node.seeking) return Promise.resolve();
    return new Promise(done => {
      node.addEventListener("seeked", done, {once: true});
      setTimeout(done, 1000);
      node.currentTime = at;
    }).then(() => setTimeout(() => {
      // On a busy machine Chromium may keep an earlier frame on the screen until the video is moved once more.
      if (!this.playing && !node.seeking && Math.abs(node.currentTime - at) < 1e-4) node.currentTime = at + 1e-3;
    }, 250));
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
