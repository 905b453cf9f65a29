// The page of `prefixvlm serve`: an image, a question, and what the model says about it.

import { events, request, requestJson } from "./api.js";
import { Card, bars, correction, make } from "./answer.js";
import { hideMap, read, show, showMap } from "./picture.js";

const MAX_TURNS = 50; // of the history
const element = (id) => document.getElementById(id);
const server = { tasks: [], feedback: false, hasMaps: true };
let image = null;
let running = null; // an AbortController while answers come

start();

async function start() {
  element("choose").addEventListener("click", () => element("file").click());
  element("another").addEventListener("click", () => element("file").click());
  element("file").addEventListener("change", ({ target }) => take(target.files[0]).then(() => { target.value = ""; }));
  element("form").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
  element("stop").addEventListener("click", stop);
  document.addEventListener("keydown", ({ key }) => key === "Escape" && stop());
  document.addEventListener("paste", ({ clipboardData }) => take(imageIn(clipboardData)));
  document.addEventListener("dragover", drag);
  document.addEventListener("dragleave", ({ relatedTarget }) => relatedTarget || document.body.classList.remove("drop"));
  document.addEventListener("drop", drop);
  try {
    const { model, tasks, feedback } = await requestJson("health");
    Object.assign(server, { tasks, feedback });
    if (model !== "prefixvlm") {
      element("model").textContent = model;
      document.title = `${model} – prefixvlm`;
    }
  } catch (error) {
    fail(error.message);
  }
  offerTasks();
}

/** Offer only what the checkpoint was trained for. */
function offerTasks() {
  const [captions, answers] = [server.tasks.includes("captioning"), server.tasks.includes("vqa")];
  element("question").hidden = element("question-label").hidden = captions && !answers;
  element("question").required = answers && !captions;
  element("question").placeholder = captions && answers ? "ask, or leave empty for a caption" : "What is in the picture?";
  element("form").classList.toggle("captions-only", captions && !answers);
  nameButton();
  element("question").addEventListener("input", nameButton);
  if (server.tasks.length && !captions && !answers)
    fail(`The checkpoint was trained for ${server.tasks.join(", ")}; this page captions images and answers questions.`);
}

function nameButton() {
  const captions = server.tasks.includes("captioning") && !element("question").value.trim();
  element("submit").textContent = captions ? "Caption" : "Ask";
}

function imageIn(transfer) {
  return [...(transfer?.files ?? [])].find((file) => file.type.startsWith("image/")) ?? transfer?.files?.[0];
}

function drag(event) {
  if (![...event.dataTransfer.types].includes("Files")) return;
  event.preventDefault();
  document.body.classList.add("drop");
}

function drop(event) {
  event.preventDefault();
  document.body.classList.remove("drop");
  take(imageIn(event.dataTransfer));
}

async function take(file) {
  if (!file) return;
  fail("");
  try {
    image = await read(file);
  } catch (error) {
    fail(error.message);
    return;
  }
  stop();
  show(image);
  element("results").replaceChildren();
  say(`${image.name} is shown.`);
  element(element("question").hidden ? "submit" : "question").focus();
}

/** Return the chosen decodings: a title, the options, and whether the tokens can be streamed. */
function decodings() {
  const number = (id) => Number(element(id).value);
  const chosen = [];
  if (element("greedy").checked) chosen.push(["greedy", { method: "greedy" }, true]);
  if (element("beam").checked)
    chosen.push([`beam search, ${number("beams")} beams`, { method: "beam", num_beams: number("beams") }, false]);
  for (let sample = 0; element("nucleus").checked && sample < number("samples"); sample++) {
    const seed = number("seed") + sample;
    const options = { method: "nucleus", top_p: number("top-p"), temperature: number("temperature"), seed };
    chosen.push([`sample, seed ${seed}`, options, true]);
  }
  return chosen;
}

async function ask() {
  const chosen = decodings();
  if (!image) {
    fail("Choose an image first.");
    element("choose").focus();
    return;
  }
  if (!chosen.length) {
    fail("Choose at least one way of decoding.");
    return;
  }
  stop();
  fail("");
  hideMap();
  const controller = (running = new AbortController());
  const turn = newTurn(element("question").hidden ? "" : element("question").value.trim());
  busy(true);
  say("The model answers.");
  try {
    await Promise.all(chosen.map((each) => decode(turn, each, controller.signal)));
    say(turn.cards.map((card) => card.text).join("; "));
    if (server.feedback && turn.cards[0].text) turn.element.append(correction(turn.cards[0].text, (text) => store(turn, text)));
    await rank(turn, controller.signal);
  } catch (error) {
    fail(error.name === "AbortError" ? "" : error.message);
    if (error.name === "AbortError") say("Stopped.");
    controller.abort(); // the other decodings
  } finally {
    for (const card of turn.cards) card.body.classList.remove("coming");
    if (turn.cards.some((card) => card.text)) remember(turn);
    if (running === controller) busy(false);
  }
}

function newTurn(question) {
  const cards = make("div", { className: "cards" });
  const turn = { image, question, cards: [], list: cards, element: make("div", { className: "turn" }, cards) };
  element("results").replaceChildren(turn.element);
  return turn;
}

function body(turn, more) {
  return { image: turn.image.url, ...(turn.question && { question: turn.question }), ...more };
}

async function decode(turn, [title, decoding, streams], signal) {
  const card = new Card(title, (piece, option) => explain(turn, card, piece, option));
  turn.cards.push(card);
  turn.list.append(card.element);
  if (!streams) {
    const { text, tokens } = await requestJson("v1/caption", body(turn, { decoding }), signal);
    card.finish(text, tokens);
    return;
  }
  for await (const event of events("v1/caption", body(turn, { decoding, stream: true }), signal)) {
    if (event.done) card.finish(event.text, event.tokens);
    else card.add(event.text);
  }
}

async function rank(turn, signal) {
  const texts = element("choices").value.split("\n").map((line) => line.trim()).filter(Boolean);
  const { answers } = await requestJson("v1/rank", body(turn, texts.length && { texts }), signal);
  if (answers.length) turn.list.after(bars(answers, turn.question ? "Likeliest answers" : "Likeliest texts"));
}

/** Show the heat map of a piece of a text; the maps of all tokens are computed once. piece: null to hide it. */
async function explain(turn, card, piece, option) {
  for (const other of turn.cards) if (other !== card) other.unselect();
  if (!piece) hideMap();
  if (!piece || !server.hasMaps) return;
  say("The heat map is computed.");
  option.classList.add("waiting");
  try {
    card.maps ??= requestJson("v1/heat_map", body(turn, { text: card.text }));
    const { maps, picture } = await card.maps;
    if (option.ariaSelected !== "true" || turn.image !== image) return; // another one was chosen meanwhile
    say(showMap(mean(maps.slice(piece.first, piece.end)), piece.text.trim(), picture));
  } catch (error) {
    card.maps = undefined;
    server.hasMaps = error.status !== 400; // the encoder has no spatial features
    fail(error.message);
  } finally {
    option.classList.remove("waiting");
  }
}

/** Return the mean of maps [rows][columns]. */
function mean(maps) {
  const value = (row, column) => maps.reduce((sum, map) => sum + map[row][column], 0) / maps.length;
  return maps[0].map((cells, row) => cells.map((_, column) => value(row, column)));
}

async function store(turn, text) {
  await request("v1/feedback", body(turn, { prediction: turn.cards[0].text, correction: text }));
}

function remember(turn) {
  const [asked, said] = [turn.question || "Caption", turn.cards.map((card) => card.text)[0] || "(nothing)"];
  const open = make("button", { type: "button" }, make("img", { src: turn.image.url, alt: "" }),
    make("span", {}, make("span", { className: "asked" }, asked), make("span", { className: "said" }, said)));
  open.addEventListener("click", () => {
    stop();
    fail("");
    image = turn.image;
    show(image);
    element("question").value = turn.question;
    nameButton();
    element("results").replaceChildren(turn.element);
    element("image").scrollIntoView({ block: "nearest" });
  });
  element("turns").prepend(make("li", {}, open));
  while (element("turns").children.length > MAX_TURNS) element("turns").lastElementChild.remove();
  element("history").hidden = false;
}

function stop() {
  running?.abort();
  if (running) busy(false);
}

function busy(now) {
  if (!now) running = null;
  const [hidden, shown] = now ? [element("submit"), element("stop")] : [element("stop"), element("submit")];
  const hadFocus = document.activeElement === hidden;
  hidden.hidden = true;
  shown.hidden = false;
  if (hadFocus) shown.focus();
}

function say(text) {
  element("status").textContent = text;
}

function fail(text) {
  element("error").textContent = text;
  element("error").hidden = !text;
}
