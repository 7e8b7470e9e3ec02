// Plots

const dark = matchMedia("(prefers-color-scheme: dark)");
const ink = name => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const safe = text => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/\$/g, "&#36;");
const short = text => safe(text.length > 44 ? `${text.slice(0, 42)}…` : text);
function layout(more) {
  const axis = {gridcolor: ink("line"), zerolinecolor: ink("soft"), linecolor: ink("line"), automargin: true, fixedrange: true};
  return {paper_bgcolor: "transparent", plot_bgcolor: "transparent", margin: {l: 8, r: 12, t: 12, b: 8},
    font: {family: ink("sans").replace(/"/g, ""), size: 12, color: ink("ink")}, hoverlabel: {font: {size: 12}},
    legend: {orientation: "h", y: -0.16}, modebar: {bgcolor: "transparent", color: ink("soft"), activecolor: ink("accent")}, showlegend: true, dragmode: false, ...more,
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
      {showlegend: false, xaxis: {zeroline: true, tickangle: 0, title: {text: "← worse · better →<br>standard deviations", font: {size: 11}}}, height: Math.max(260, 90 + 26 * bars.length)}];
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
  return [traces, {xaxis: {title: {text: safe(title), font: {size: 11}, standoff: 10}}, yaxis: {title: {text: safe(y), font: {size: 11}, standoff: 14}}, legend: {orientation: "h", y: -0.22}}];
}
function plot(figure) {
  if (!figure.dataset.seen || !plotly()) return;
  const [traces, more] = PLOTS[figure.dataset.plot](figure), box = $(".plot", figure);
  if (more.height) box.style.height = `${more.height}px`;
  Plotly.react(box, traces, layout(more), {displaylogo: false, responsive: true, scrollZoom: false, toImageButtonOptions: {format: "svg", filename: figure.dataset.plot},
    modeBarButtons: [["toImage"]]});
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
