// One tag's stored past in a dialog, thinned by the gateway to what the drawing can show.

import { make, number, put, when } from "./format.js";

const SVG = "http://www.w3.org/2000/svg";
const SPANS = [["1h", "1 hour"], ["1d", "1 day"], ["7d", "7 days"], ["30d", "30 days"]];
const WIDTH = 800, HEIGHT = 260;

let dialog = null; // its parts, once it was opened
let asked = 0; // an answer to an earlier question is not shown

export function open(tag) {
  dialog ??= build();
  dialog.tag = tag;
  put(dialog.title, `${tag.asset}.${tag.field}`);
  if (!dialog.node.open) dialog.node.showModal();
  ask("1h");
}

function build() {
  const node = make("dialog", "past");
  const title = make("h2");
  title.id = "past-title";
  node.setAttribute("aria-labelledby", title.id);
  const choice = make("div", "choice");
  const buttons = SPANS.map(([span, name]) => {
    const button = make("button", "", name);
    button.type = "button";
    button.addEventListener("click", () => ask(span));
    choice.append(button);
    return { span, button };
  });
  const close = make("button", "", "Close");
  close.type = "button";
  close.addEventListener("click", () => node.close());
  const head = make("div", "toolbar");
  head.append(title, choice, close);
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(SVG, "path");
  line.setAttribute("class", "line");
  svg.append(line);
  const note = make("p", "note");
  node.append(head, svg, note);
  document.body.append(node);
  return { node, title, buttons, line, note, tag: null };
}

async function ask(span) {
  const question = ++asked;
  for (const { span: its, button } of dialog.buttons) {
    button.setAttribute("aria-pressed", String(its === span));
  }
  put(dialog.note, "asking the spool");
  dialog.line.setAttribute("d", "");
  const { tag } = dialog;
  const words = new URLSearchParams({
    tag: `${tag.asset}.${tag.field}`, start: span, points: String(4 * WIDTH),
  });
  let found;
  try {
    const response = await fetch(`/api/history?${words}`);
    found = await response.json();
    if (!response.ok) throw new Error(found.error);
  } catch (error) {
    if (question === asked) put(dialog.note, `no answer: ${error.message}`);
    return;
  }
  if (question === asked) show(found, tag);
}

function show(found, tag) {
  const [series] = found.series;
  if (!series?.t_ns.length) return put(dialog.note, "nothing is stored of this time");
  const times = series.t_ns, values = series.value;
  const first = times[0], span = Math.max(times.at(-1) - first, 1);
  const low = Math.min(...values), high = Math.max(...values);
  const x = (t) => ((t - first) / span) * WIDTH;
  const y = (v) => (high > low ? HEIGHT - 8 - ((v - low) / (high - low)) * (HEIGHT - 16) : HEIGHT / 2);
  const places = times.map((t, i) => `${x(t).toFixed(1)} ${y(values[i]).toFixed(1)}`);
  dialog.line.setAttribute("d", `M${places.join("L")}`);
  const now = Date.now();
  put(dialog.note, `${number(low)} to ${number(high)} ${tag.unit}, ${number(found.samples)} samples,`
    + (found.truncated ? " (the newest: there was more than could be read in time)," : "")
    + ` ${when(first / 1e6, now)} to ${when(times.at(-1) / 1e6, now)}`);
}
