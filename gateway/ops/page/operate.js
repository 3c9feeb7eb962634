// What an operator may say from here: of an event, of a bundle beside the active one. The token is
// asked for once and kept in this tab's memory alone.

import { make, put } from "./format.js";

let dialog = null; // its parts, once it was opened
let token = "";

// `actions` are {label, command, body}; `words` goes with those that say so.
export function open({ title, facts, actions, may }) {
  dialog ??= build();
  put(dialog.title, title);
  dialog.facts.replaceChildren(...facts.filter(Boolean).map((text) => make("p", "", text)));
  dialog.words.value = "";
  dialog.wordsRow.hidden = !may || !actions.some((action) => action.says);
  dialog.tokenRow.hidden = !may || token !== "";
  dialog.actions.replaceChildren(...(may ? actions : []).map((action) => {
    const button = make("button", "", action.label);
    button.type = "button";
    button.addEventListener("click", () => command(action));
    return button;
  }));
  say(may ? "" : "The gateway takes no commands here: it has no gateway.http.token. Use `sluicegate events` or `sluicegate models` on the board.");
  if (!dialog.node.open) dialog.node.showModal();
}

function build() {
  const node = make("dialog", "operate");
  const title = make("h2");
  title.id = "operate-title";
  node.setAttribute("aria-labelledby", title.id);
  const close = make("button", "", "Close");
  close.type = "button";
  close.addEventListener("click", () => node.close());
  const head = make("div", "toolbar");
  head.append(title, close);
  const facts = make("div", "known");
  const [wordsRow, words] = field("In your words", "text");
  words.maxLength = 255;
  const [tokenRow, secret] = field("The gateway's token", "password");
  const actions = make("div", "actions");
  const note = make("p", "note");
  note.setAttribute("role", "status");
  node.append(head, facts, wordsRow, tokenRow, actions, note);
  document.body.append(node);
  return { node, title, facts, wordsRow, words, tokenRow, secret, actions, note };
}

function field(name, type) {
  const row = make("label", "", name);
  const input = make("input");
  input.type = type;
  input.autocomplete = "off";
  row.append(input);
  return [row, input];
}

function say(text, isError = false) {
  put(dialog.note, text);
  dialog.note.classList.toggle("error", isError);
}

async function command({ label, command: name, body, says }) {
  token ||= dialog.secret.value.trim();
  dialog.secret.value = "";
  if (!token) return refuse("Give the gateway's token first.");
  const words = dialog.words.value.trim();
  const asked = says && words ? { ...body, words } : body;
  for (const button of dialog.actions.children) button.disabled = true;
  try {
    const answer = await fetch(`/api/${name}`, {
      method: "POST",
      headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
      body: JSON.stringify(asked),
    });
    if (answer.ok) {
      dialog.tokenRow.hidden = true;
      return say(`${label}: done.`);
    }
    const { error } = await answer.json().catch(() => ({ error: `it answers ${answer.status}` }));
    if (answer.status === 401) return refuse("That is not the gateway's token.");
    say(`Not done: ${error}`, true);
  } catch {
    say("Not done: the gateway does not answer.", true);
  } finally {
    for (const button of dialog.actions.children) button.disabled = false;
  }
}

function refuse(text) {
  token = "";
  dialog.tokenRow.hidden = false;
  dialog.secret.focus();
  say(text, true);
}
