// The page: one event stream in, the document out.

import * as assets from "./assets.js";
import * as operate from "./operate.js";
import {
  bytes, clock, draw, duration, grouped, make, mark, ms, put, sparkline, when,
} from "./format.js";

// A tick comes each second; after this long without one the page says that it knows nothing.
const SILENCE_MS = 5000;
const RECONNECT_MS = 2000;
const RATE_POINTS = 60;
// Any other state of a sink is a good one.
const SINK_TONES = { retrying: "bad", parked: "bad", budget: "warn", starting: "unknown" };

const byId = (id) => document.getElementById(id);
const tile = (id) => byId(id).closest(".tile");

// What is known, shared with the assets' cards.
const model = {
  whole: null,
  tick: null,
  rings: [], // place -> recent points, oldest first, null for none
  scores: new Map(), // asset -> its worst score
  suspects: new Map(), // asset -> fields that made its open event
};
let pointAt = []; // place -> time of its newest point, ms

// --- the stream ---------------------------------------------------------------------------------

let stream = null;
let silence = 0;

function connect() {
  stream?.close();
  stream = new EventSource("/events");
  stream.addEventListener("whole", (event) => heard(event, takeWhole));
  stream.addEventListener("tick", (event) => heard(event, takeTick));
  stream.addEventListener("error", lost);
  clearTimeout(silence);
  silence = setTimeout(lost, SILENCE_MS);
}

function heard(event, take) {
  clearTimeout(silence);
  silence = setTimeout(lost, SILENCE_MS);
  document.body.classList.remove("stale");
  take(JSON.parse(event.data));
}

function lost() {
  document.body.classList.add("stale");
  mark(byId("status"), "state", "bad");
  put(byId("status"), "disconnected");
  const { tick } = model;
  const since = tick ? ` What you see is from ${when(tick.t_ms, Date.now())}.` : "";
  showReasons([`The gateway does not answer.${since} Trying again.`], "bad");
  stream.close();
  clearTimeout(silence);
  silence = setTimeout(connect, RECONNECT_MS);
}

function takeWhole(data) {
  model.whole = data;
  model.rings = data.recent;
  const { tick } = data;
  pointAt = tick.ages_s.map((age) => (age === null ? 0 : tick.t_ms - age * 1000));
  put(byId("name"), data.gateway.name);
  put(byId("site"), data.gateway.site);
  put(byId("version"), data.gateway.version);
  document.title = data.gateway.name;
  assets.layOut(model);
  show(tick);
}

function takeTick(tick) {
  const { whole, rings } = model;
  // Tags were added, and the message that said so was missed: begin anew.
  if (!whole || tick.layout !== whole.tick.layout) return connect();
  tick.ages_s.forEach((age, place) => {
    if (age === null) return;
    const at = tick.t_ms - age * 1000;
    // Points are a second apart; ages are rounded to a tenth.
    if (Math.abs(at - pointAt[place]) < 850) return;
    pointAt[place] = at;
    rings[place].push(tick.quality[place] >= 128 ? null : tick.values[place]);
    if (rings[place].length > whole.points) rings[place].shift();
  });
  show(tick);
}

function show(tick) {
  model.tick = tick;
  model.scores = new Map();
  for (const score of tick.scores) {
    const known = model.scores.get(score.asset);
    if (!known || score.state === "anomaly" || (score.score ?? -1) > (known.score ?? -1)) {
      model.scores.set(score.asset, score);
    }
  }
  const open = tick.events.filter((event) => event.open);
  model.suspects = new Map(open.map((event) => [event.asset, new Set(event.top.split(","))]));
  showOverview(tick);
  assets.update();
  showEvents(tick);
  showPanels(tick);
}

// --- the overview -------------------------------------------------------------------------------

function showOverview(tick) {
  const worst = tick.status === "failing" ? "bad" : tick.status === "degraded" ? "warn" : "ok";
  const words = { failing: "not working", degraded: "needs a look", ok: "running" };
  mark(byId("status"), "state", worst);
  put(byId("status"), words[tick.status]);
  showReasons(tick.reasons, worst);
  put(byId("time"), clock(tick.t_ms));
  put(byId("uptime"), duration(tick.uptime_s));

  const samples = tick.sources.reduce((sum, source) => sum + source.samples_total, 0);
  showRate(samples, tick.t_ms);
  const open = tick.scores.filter((score) => score.state === "anomaly").length;
  put(byId("anomalies"), String(open));
  put(byId("watched"), `${new Set(tick.scores.map((score) => score.asset)).size} assets watched`);
  mark(tile("anomalies"), "state", open ? "bad" : "");

  const bad = tick.quality.filter((quality) => quality >= 128).length;
  const uncertain = tick.quality.filter((quality) => quality >= 64 && quality < 128).length;
  put(byId("tags-good"), grouped.format(tick.quality.length - bad - uncertain));
  put(byId("tags-total"), `of ${grouped.format(tick.quality.length)} good`);
  put(byId("tags-bad"), bad + uncertain ? `${bad} bad, ${uncertain} uncertain` : "");
  mark(tile("tags-good"), "state", bad ? "warn" : "");

  const up = tick.sources.filter((source) => source.connected).length;
  put(byId("sources-up"), String(up));
  put(byId("sources-total"), `of ${tick.sources.length} connected`);
  const overruns = tick.sources.reduce((sum, source) => sum + source.scan_overruns_total, 0);
  put(byId("sources-note"), overruns ? `${grouped.format(overruns)} scans overrun` : "no scan overrun");
  mark(tile("sources-up"), "state", up < tick.sources.length ? "warn" : "");

  const lag = Math.max(0, ...tick.sinks.map((sink) => sink.lag_s));
  const stuck = tick.sinks.filter((sink) => SINK_TONES[sink.state] === "bad");
  put(byId("lag"), tick.sinks.length ? duration(lag, 1) : "–");
  put(byId("lag-note"), stuck.length ? `${stuck[0].name} is ${stuck[0].state}`
    : tick.sinks.some((sink) => sink.state === "budget") ? "the link's budget is used up"
    : tick.sinks.length ? `${grouped.format(tick.sinks.reduce((sum, sink) => sum + sink.samples_total, 0))} samples sent`
    : "no sink; kept in the spool");
  mark(tile("lag"), "state", stuck.length ? "warn" : "");

  put(byId("spool-used"), bytes(tick.spool.bytes_used));
  put(byId("spool-max"), `of ${bytes(tick.spool.bytes_max)}`);
  mark(tile("spool-used"), "state", tick.spool.trouble ? "bad" : "");
  fillBar(byId("spool-bar"), tick.spool);
  put(byId("loop"), `event loop ${ms(tick.loop.lag_ms_last)} late, at most ${ms(tick.loop.lag_ms_max)}`);
}

function showReasons(reasons, state) {
  const list = byId("reasons");
  list.hidden = !reasons.length;
  mark(list, "state", state);
  list.replaceChildren(...reasons.map((reason) => make("li", "", reason)));
}

let samplesBefore = null;
let rateSpark = null;
const rates = []; // samples per second, newest last

function showRate(samples, at) {
  if (samplesBefore && at > samplesBefore.at && samples >= samplesBefore.samples) {
    rates.push(((samples - samplesBefore.samples) * 1000) / (at - samplesBefore.at));
    if (rates.length > RATE_POINTS) rates.shift();
  }
  samplesBefore = { samples, at };
  if (!rates.length) return;
  const newest = rates.slice(-5);
  put(byId("rate"), grouped.format(newest.reduce((sum, rate) => sum + rate, 0) / newest.length));
  if (!rateSpark) {
    rateSpark = sparkline();
    byId("rate-trend").append(rateSpark.svg);
  }
  draw(rateSpark, rates, 0.6);
}

function fillBar(bar, spool) {
  bar.replaceChildren(...[...spool.lanes].reverse().map((lane) => {
    const part = make("span");
    part.dataset.lane = lane.name;
    part.style.width = `${(100 * lane.bytes_used) / spool.bytes_max}%`;
    return part;
  }));
}

// --- the panels ---------------------------------------------------------------------------------

let eventsBefore = "";

// An open event is recorded anew once a minute at most; the score may be ahead of it.
const peak = (event) => Math.max(event.peak, event.open ? model.scores.get(event.asset)?.score ?? 0 : 0);

function showEvents(tick) {
  const list = byId("events");
  const lasting = (event) => duration(Math.round(((event.open ? tick.t_ms : event.end_ms) - event.start_ms) / 1000));
  const key = JSON.stringify([tick.events, tick.events.map(lasting), tick.events.map(peak)]);
  if (key === eventsBefore) return;
  eventsBefore = key;
  if (!tick.events.length) return list.replaceChildren(make("li", "none", "No anomaly so far."));
  list.replaceChildren(...tick.events.map((event) => {
    const node = make("li");
    mark(node, "open", event.open && !event.said ? "yes" : "");
    mark(node, "said", event.said ? "yes" : "");
    const asset = make("button", "asset", event.asset);
    asset.type = "button";
    const top = event.top.replaceAll("_", " ").split(",").filter(Boolean).join(", ");
    node.title = `${event.model}, ${event.severity}: ${event.deviation || top}\nshow only ${event.asset}`;
    node.append(
      asset,
      make("span", "peak", `peak ${peak(event).toFixed(2)}`),
      make("span", "top", (top || event.model) + (event.sensor ? `; sensor: ${event.sensor}` : "") + (event.said ? ` (${event.said})` : "")),
      make("span", "when", `${when(event.start_ms, tick.t_ms)}, ${event.open ? "for " : ""}${lasting(event)}`),
      pressed(make("button", "answer", "Answer"), () => operate.open(answersTo(event))),
    );
    node.addEventListener("click", () => choose("all", event.asset));
    return node;
  }));
}

// A list is drawn anew each second, so a click that begins on one node may end on another.
function pressed(button, act) {
  button.type = "button";
  button.addEventListener("pointerdown", act);
  button.addEventListener("click", (event) => {
    event.stopPropagation();
    if (event.detail === 0) act(); // by the keyboard
  });
  return button;
}

function answersTo(event) {
  const { asset, model: name, start_ms } = event;
  const seen = (label, verdict) => ({
    label, command: "events/acknowledge", body: { asset, model: name, start_ms, verdict }, says: true,
  });
  const span = (label, command, seconds) => ({ label, command, body: { asset, seconds }, says: true });
  return {
    title: `${asset}: ${event.severity} anomaly`,
    facts: [
      `${name} scored ${peak(event).toFixed(2)} at most, where 1 alarms.`,
      event.deviation && `Because of ${event.deviation}.`,
      event.sensor && `Sensors: ${event.sensor}.`,
      event.said && `Said so far: ${event.said}.`,
    ],
    may: model.whole.gateway.takes_commands,
    actions: [
      seen("Seen", ""), seen("It was normal", "normal"), seen("It was a fault", "fault"),
      span("Snooze for 8 hours", "events/snooze", "8h"),
      span("Maintenance for 2 hours", "events/maintenance", "2h"),
    ],
  };
}

function answersToBundle(known) {
  const action = (label, what) => ({ label, command: "models", body: { model: known.name, do: what } });
  return {
    title: `${known.name} ${known.version}`,
    facts: [
      known.shadow_version && `${known.shadow_version} runs beside it. ${known.shadow_error || "By its rule it may take over."}`,
      known.standby_version && `${known.standby_version} stands by, and may be gone back to at once.`,
    ],
    may: model.whole.gateway.takes_commands,
    actions: known.shadow_version
      ? [action(`Promote ${known.shadow_version}`, "promote"), action("End the shadow", "end_shadow")]
      : [action(`Go back to ${known.standby_version}`, "roll_back")],
  };
}

// An entry of a panel: a name, a state, a few numbers, and what went wrong last.
function entry({ name, state, word, facts, error, answers }) {
  const node = make("div", "entry");
  const head = make("div", "head");
  const pill = make("span", "pill small", word);
  mark(pill, "state", state);
  const title = make("b", "", name);
  title.title = name;
  head.append(title, pill);
  const list = make("dl");
  for (const [term, text, factState] of facts) {
    const pair = make("div");
    const found = make("dd", "", text);
    mark(found, "state", factState);
    pair.append(make("dt", "", term), found);
    list.append(pair);
  }
  node.append(head, list);
  if (error) node.append(make("p", "error", error));
  if (answers) node.append(pressed(make("button", "answer", "Decide"), () => operate.open(answers())));
  return node;
}

function fill(id, entries, none) {
  byId(id).replaceChildren(...(entries.length ? entries.map(entry) : [make("p", "none", none)]));
}

function showPanels(tick) {
  fill("sources", tick.sources.map((source) => ({
    name: source.name,
    state: source.connected ? "ok" : "bad",
    word: source.connected ? "connected" : "away",
    error: source.connected ? "" : source.error_last,
    facts: [
      ["Tags", grouped.format(source.tags)],
      source.scan_ms_last ? ["Last scan", ms(source.scan_ms_last)] : ["Batches", grouped.format(source.scans_total)],
      ["Overruns", grouped.format(source.scan_overruns_total), source.scan_overruns_total ? "warn" : ""],
      ["Failed", grouped.format(source.scans_failed_total), source.scans_failed_total ? "warn" : ""],
    ],
  })), "No source.");
  fill("sinks", tick.sinks.map((sink) => ({
    name: sink.name,
    state: SINK_TONES[sink.state] ?? "ok",
    word: sink.state,
    error: SINK_TONES[sink.state] === "bad" ? sink.error_last : "",
    facts: [
      ["Behind", duration(sink.lag_s, 1), sink.lag_s > 60 ? "warn" : ""],
      ["Answer", ms(sink.latency_ms_last)],
      ["Sent", bytes(sink.bytes_total)],
      ["Rejected", grouped.format(sink.dead_letters_total), sink.dead_letters_total ? "bad" : ""],
    ],
  })), "No sink is configured: everything is kept in the spool.");
  fill("models", tick.models.map((model) => ({
    name: model.version ? `${model.name} ${model.version}` : model.name,
    state: !model.active ? "bad" : model.refits_due || model.sensor_faults ? "warn" : "ok",
    word: !model.active ? (model.state || "not running") : model.refits_due ? "refit due" : "active",
    error: model.active ? "" : model.error_last,
    facts: modelFacts(model),
    answers: (model.shadow_version || model.standby_version) && (() => answersToBundle(model)),
  })), "No model is configured.");
  showLanes(tick.spool);
}

function modelFacts(model) {
  const facts = [
    ["Assets", grouped.format(model.assets)],
    ["Windows", grouped.format(model.windows_total)],
    ["Last run", ms(model.run_ms_last)],
    ["Unknown", grouped.format(model.windows_unknown_total)],
    ["Sensors at fault", grouped.format(model.sensor_faults), model.sensor_faults ? "warn" : ""],
    ["Drifting", grouped.format(model.drifting), model.drifting ? "warn" : ""],
    ["Signed", model.signed_by ? model.signed_by.slice(0, 8) : "by nobody"],
  ];
  if (model.is_aside) facts.push(["Process", "its own"]);
  if (model.shadow_version) {
    const share = model.shadow_windows_total ? model.shadow_agreed_total / model.shadow_windows_total : null;
    facts.push(["Shadow", `${model.shadow_version}, ${share === null ? "no window yet" : `${(100 * share).toFixed(1)} % agree`}`]);
    facts.push(["Promotion", model.shadow_error || "by its rule it may"]);
  } else if (model.shadow_error && !model.standby_version) {
    facts.push(["Shadow", `gone: ${model.shadow_error}`, "warn"]);
  }
  if (model.standby_version) facts.push(["Standing by", model.standby_version]);
  return facts;
}

// Years of a card are an order of magnitude, and said as one.
function wearText(wear) {
  if (wear.life_days === null) return "Card life: not known in the first ten minutes.";
  const years = wear.life_days / 365;
  const life = years >= 20 ? "more than 20 years" : years >= 2 ? `about ${Math.round(years)} years`
    : `about ${Math.max(Math.round(wear.life_days / 30), 1)} months`;
  const written = bytes(Math.max(wear.bytes_day, wear.device_bytes_day));
  return `${written} and ${grouped.format(wear.flushes_day)} flushes a day: a card lasts ${life}.`;
}

function showLanes(spool) {
  const bar = make("div", "bar");
  fillBar(bar, spool);
  const table = make("div", "lanes");
  for (const lane of spool.lanes) {
    const swatch = make("span", "swatch");
    swatch.dataset.lane = lane.name;
    table.append(
      swatch,
      make("span", "", lane.name),
      make("span", "amount", bytes(lane.bytes_used)),
      make("span", "age", lane.age_s === null ? "empty" : `since ${duration(lane.age_s)}`),
    );
  }
  byId("lanes").replaceChildren(bar, table);
  byId("lanes").append(make("p", spool.wear.warning ? "error" : "note", wearText(spool.wear)));
  if (spool.trouble) byId("lanes").append(make("p", "error", spool.trouble));
}

// --- choosing what to see -----------------------------------------------------------------------

const buttons = [...document.querySelectorAll("[data-show]")];

function choose(what, text) {
  byId("filter").value = text;
  for (const button of buttons) {
    button.setAttribute("aria-pressed", String(button.dataset.show === what));
  }
  assets.choose(what, text);
}

const chosen = () => buttons.find((button) => button.getAttribute("aria-pressed") === "true");
for (const button of buttons) {
  button.addEventListener("click", () => choose(button.dataset.show, byId("filter").value));
}
byId("filter").addEventListener("input", () => choose(chosen().dataset.show, byId("filter").value));
connect();
