// The assets as cards, grouped by class: newest values, two minutes of each, the anomaly score.

import { open } from "./history.js";
import { draw, duration, grouped, make, mark, number, put, severity, sparkline } from "./format.js";

// Assets shown at first, and fields of one; the rest on demand, so that 64 assets stay readable.
const CARDS_MAX = 48;
const ROWS_MAX = 8;
// As in page.css: what a card needs at least, and the gap between two.
const CARD_PX = 306;
const GAP_PX = 12;

const groupsNode = document.getElementById("groups");
const moreNode = document.getElementById("more");

let model = null; // what page.js knows: whole, tick, rings, scores, suspects
let assets = new Map(); // name -> {name, group, places, card}
let wish = { show: "all", words: [] };
let cardsMax = CARDS_MAX;
let shownBefore = "";

export function layOut(newModel) {
  model = newModel;
  shownBefore = "";
  assets = new Map();
  model.whole.tags.forEach((tag, place) => {
    if (!assets.has(tag.asset)) {
      assets.set(tag.asset, { name: tag.asset, group: tag.class, places: [], card: null });
    }
    assets.get(tag.asset).places.push(place);
  });
}

// Which assets are wanted: "all", "anomaly" or "bad", and words in their name or class.
export function choose(show, text) {
  wish = { show, words: text.toLowerCase().split(/\s+/).filter(Boolean) };
  if (model) update();
}

export function update() {
  const wanted = [...assets.values()].filter(isWanted);
  const shown = wanted.slice(0, cardsMax);
  const columns = Math.max(1, Math.floor((groupsNode.clientWidth + GAP_PX) / (CARD_PX + GAP_PX)));
  const key = JSON.stringify([columns, shown.map((asset) => asset.name)]);
  if (key !== shownBefore) {
    shownBefore = key;
    arrange(shown, columns);
  }
  for (const asset of shown) updateCard(asset);
  showMore(wanted.length - shown.length, wanted.length);
}

new ResizeObserver(() => model && update()).observe(groupsNode);

const isBad = (asset) => asset.places.some((place) => model.tick.quality[place] >= 128);

function isWanted(asset) {
  if (wish.show === "anomaly" && model.scores.get(asset.name)?.state !== "anomaly") return false;
  if (wish.show === "bad" && !isBad(asset)) return false;
  const text = `${asset.name} ${asset.group}`.toLowerCase();
  return wish.words.every((word) => text.includes(word));
}

function arrange(shown, columns) {
  const names = new Set(shown);
  for (const asset of assets.values()) if (!names.has(asset)) asset.card = null;
  const groups = new Map();
  for (const asset of shown) groups.set(asset.group, [...(groups.get(asset.group) ?? []), asset]);
  groupsNode.style.gridTemplateColumns = `repeat(${columns}, minmax(0, 1fr))`;
  groupsNode.replaceChildren(
    ...place([...groups], columns).map(({ name, members, span }) => {
      const node = make("section", "group");
      node.style.gridColumn = `span ${span}`;
      const title = make("h3");
      title.append(make("b", "", name), make("span", "", String(members.length)));
      const cards = make("div", "cards");
      const across = Math.ceil(members.length / Math.ceil(members.length / span));
      cards.style.gridTemplateColumns = `repeat(${across}, minmax(0, 1fr))`;
      for (const asset of members) {
        asset.card ??= makeCard(asset);
        cards.append(asset.card.node);
      }
      node.append(title, cards);
      return node;
    }),
  );
}

// How many columns each group spans, so that small classes share a row and no row has a hole.
function place(groups, columns) {
  const placed = [];
  let left = columns;
  for (const [name, members] of groups) {
    let span = Math.ceil(members.length / Math.ceil(members.length / columns));
    if (span > left && left && members.length <= 2 * left) span = left;
    if (span > left) {
      if (left) placed.at(-1).span += left;
      left = columns;
    }
    left -= span;
    placed.push({ name, members, span });
  }
  if (left && placed.length) placed.at(-1).span += left;
  return placed;
}

function makeRow(place) {
  const tag = model.whole.tags[place];
  const node = make("div", "row");
  const field = make("span", "field", tag.field.replaceAll("_", " "));
  field.title = `${tag.asset}.${tag.field} from ${tag.source}`;
  const holder = make("button", "spark");
  holder.type = "button";
  holder.title = "what is stored of it";
  holder.setAttribute("aria-label", `stored past of ${tag.asset}.${tag.field}`);
  holder.addEventListener("click", () => open(tag));
  const spark = sparkline();
  holder.append(spark.svg);
  const value = make("span", "value");
  const text = make("span");
  const unit = make("i", "", tag.unit);
  value.append(text, unit);
  node.append(field, holder, value);
  return { node, place, spark, value, text, unit };
}

function makeCard(asset) {
  const node = make("article", "card");
  const head = make("div", "head");
  const title = make("h4", "", asset.name);
  title.title = asset.name;
  const pill = make("span", "pill small");
  head.append(title, pill);
  const score = make("div", "score");
  const track = make("div", "track");
  const fill = make("span", "fill");
  const threshold = make("span", "mark");
  threshold.title = "alarm threshold";
  track.append(fill, threshold);
  const output = make("output");
  score.append(track, output);
  node.append(head, score);
  const more = make("button");
  more.type = "button";
  const card = { node, pill, score, fill, output, more, rows: [], folded: asset.places };
  node.append(more);
  unfold(card, asset.places.slice(0, ROWS_MAX));
  more.addEventListener("click", () => {
    unfold(card, card.folded);
    updateCard(asset);
  });
  return card;
}

// Show further rows of a card, last or first.
function unfold(card, places, before = card.more) {
  const shown = places.map(makeRow);
  card.rows.push(...shown);
  for (const row of shown) card.node.insertBefore(row.node, before);
  card.folded = card.folded.filter((place) => !places.includes(place));
  card.more.hidden = !card.folded.length;
  put(card.more, `${grouped.format(card.folded.length)} more`);
}

function updateCard(asset) {
  const { card } = asset;
  const known = model.scores.get(asset.name);
  card.score.hidden = !known;
  if (known) updateScore(card, known);
  const [state, word] = known?.operator ? ["unknown", known.operator]
    : known?.state === "anomaly" ? ["bad", "anomaly"]
    : known?.sensor ? ["warn", "sensor"]
    : isBad(asset) ? ["warn", "bad quality"]
    : known?.state === "ok" && known.drift ? ["warn", known.drift.startsWith("sensor") ? "sensor drifts" : "changed"]
    : known?.state === "ok" ? ["ok", "ok"]
    : ["unknown", known ? "unknown" : "not watched"];
  mark(card.pill, "state", state);
  put(card.pill, word);
  card.pill.title = [
    known?.state === "anomaly" && known.operator ? "anomaly" : "",
    known?.sensor ? `not believed: ${known.sensor.replaceAll(",", ", ")}` : "",
    known?.drift ? `drifts: ${known.drift.replaceAll(",", ", ")}` : "",
  ].filter(Boolean).join("; ");
  const doubted = new Map((known?.sensor || "").split(",").filter(Boolean).map((fault) => {
    const [field, ...words] = fault.split(" ");
    return [field, words.join(" ")];
  }));
  mark(card.node, "state", state);
  const fields = model.suspects.get(asset.name);
  // What made the alarm is not left among the rows that are folded away.
  const hidden = card.folded.filter((place) => fields?.has(model.whole.tags[place].field));
  if (hidden.length) unfold(card, hidden, card.rows[0].node);
  for (const row of card.rows) {
    const { field } = model.whole.tags[row.place];
    updateRow(row, fields?.has(field), doubted.get(field));
  }
}

function updateScore(card, known) {
  const value = known.score;
  const state = known.state === "anomaly" ? "bad" : value !== null && value >= 1 ? "warn" : "ok";
  mark(card.score, "state", state);
  // The threshold, 1, is the middle of the track.
  card.fill.style.width = `${Math.min(Math.max(value ?? 0, 0), 2) * 50}%`;
  put(card.output, value === null ? "–" : value.toFixed(2));
  const text = value === null ? "not known" : value.toFixed(3);
  card.score.title = `${known.model}: ${text}; 1 or more alarms`;
}

function updateRow(row, suspect, fault) {
  const { tick, whole, rings } = model;
  const quality = tick.quality[row.place];
  const known = severity(quality);
  // An input that a model does not believe looks like one of uncertain quality.
  const kind = fault && known === "good" ? "uncertain" : known;
  const reason = fault ? `not believed: ${fault}` : whole.qualities[quality] ?? `quality ${quality}`;
  mark(row.node, "quality", kind === "good" ? "" : kind);
  mark(row.node, "suspect", suspect && kind === "good" ? "yes" : "");
  put(row.text, kind === "bad" ? reason.replace(/^bad /, "") : shownValue(row.place));
  row.unit.hidden = kind === "bad" || !row.unit.textContent;
  const age = tick.ages_s[row.place];
  row.value.title = age === null ? "no sample yet" : `${row.text.textContent} ${row.unit.textContent} (${reason}, ${duration(Math.max(age, 0))} ago)`;
  draw(row.spark, rings[row.place]);
}

function shownValue(place) {
  const { tick, whole } = model;
  if (place in tick.exact) return tick.exact[place];
  const value = tick.values[place];
  if (value === null) return "–";
  if (whole.tags[place].type === "bool") return value ? "on" : "off";
  return number(value);
}

function showMore(hidden, wanted) {
  const unsent = model.whole.tags_total - model.whole.tags.length;
  moreNode.replaceChildren();
  if (hidden > 0) {
    const button = make("button", "", `Show all ${wanted} assets`);
    button.type = "button";
    button.addEventListener("click", () => {
      cardsMax = Infinity;
      update();
    });
    moreNode.append(button);
  } else if (!wanted) {
    moreNode.append(assets.size ? "No asset is like that now." : "No tag has been seen yet.");
  }
  if (unsent > 0) {
    const shown = model.whole.tags.length;
    moreNode.append(` ${grouped.format(unsent)} tags are not on this page: it shows ${shown}.`);
  }
  moreNode.hidden = !moreNode.hasChildNodes();
}
