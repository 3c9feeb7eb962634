// Numbers, times and small drawings. What is shown came from machines and brokers, so text is only
// ever set as text (textContent), never as markup.

const SVG = "http://www.w3.org/2000/svg";
// A signal that moves by less than this share of itself is drawn as the calm line it is.
const SPAN_MIN = 0.04;

export function make(name, className = "", text = "") {
  const node = document.createElement(name);
  if (className) node.className = className;
  if (text !== "") node.textContent = text;
  return node;
}

export function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function mark(node, name, value) {
  if (value) node.dataset[name] = value;
  else delete node.dataset[name];
}

export const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export function number(value) {
  const size = Math.abs(value);
  if (size >= 100000 && !Number.isInteger(value)) return value.toPrecision(5);
  if (size >= 1e15) return value.toExponential(4);
  if (Number.isInteger(value) || size >= 1000) return grouped.format(value);
  if (size > 0 && size < 0.001) return value.toExponential(2);
  return value.toFixed(size >= 100 ? 1 : size >= 0.1 ? 2 : 4);
}

export function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let power = 0;
  while (count >= 1000 && power < units.length - 1) { count /= 1024; power += 1; }
  return `${count.toFixed(power && count < 100 ? 1 : 0)} ${units[power]}`;
}

// Two units at most: "3 h 12 min"; one where there is little room.
export function duration(seconds, units = 2) {
  if (seconds < 60) return `${seconds < 10 && seconds % 1 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const first = parts.findIndex(([length]) => seconds >= length);
  const [[long, longName], [short, shortName]] = parts.slice(first, first + 2);
  const rest = Math.floor((seconds % long) / short);
  const more = rest && units > 1 ? ` ${rest} ${shortName}` : "";
  return `${Math.floor(seconds / long)} ${longName}${more}`;
}

export const ms = (value) => `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
export const clock = (milliseconds) => new Date(milliseconds).toLocaleTimeString("en-GB");

// A time of day, with its date when that is not the day of `now`.
export function when(milliseconds, now) {
  const date = new Date(milliseconds);
  if (new Date(now).toDateString() === date.toDateString()) return clock(milliseconds);
  const day = date.toLocaleDateString("en-GB", { day: "numeric", month: "short" });
  return `${day} ${clock(milliseconds).slice(0, 5)}`;
}

export const severity = (quality) => (quality >= 128 ? "bad" : quality >= 64 ? "uncertain" : "good");

export function sparkline() {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 100 24");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  const [area, line] = ["area", "line"].map((className) => {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("class", className);
    svg.append(path);
    return path;
  });
  return { svg, area, line };
}

export function draw(spark, points, spanMin = SPAN_MIN) {
  let low = Infinity, high = -Infinity;
  for (const point of points) {
    if (point === null) continue;
    if (point < low) low = point;
    if (point > high) high = point;
  }
  const span = Math.max(high - low, spanMin * Math.max(Math.abs(high), Math.abs(low)), 1e-9);
  const middle = (high + low) / 2;
  const step = 100 / Math.max(points.length - 1, 1);
  let line = "", area = "", run = [];
  const close = () => {
    if (run.length > 1) {
      line += `M${run.join("L")}`;
      area += `M${run[0].split(" ")[0]} 24L${run.join("L")}L${run.at(-1).split(" ")[0]} 24Z`;
    }
    run = [];
  };
  points.forEach((point, index) => {
    if (point === null) return close();
    const y = 12 - ((point - middle) / span) * 20;
    run.push(`${(index * step).toFixed(1)} ${y.toFixed(1)}`);
  });
  close();
  spark.line.setAttribute("d", line);
  spark.area.setAttribute("d", area);
}
