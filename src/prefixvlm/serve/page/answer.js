// The answers: texts while they come, their tokens with log-probabilities, the likeliest texts, and corrections.

export function make(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/** A card for one decoding. onToken(piece, element) is called with the piece that the user chooses, or with null. */
export class Card {
  constructor(title, onToken) {
    this.text = "";
    this.pieces = [];
    this.onToken = onToken;
    this.body = make("p", { className: "text coming" });
    this.element = make("article", { className: "card", ariaLabel: title }, make("h3", {}, title), this.body);
  }

  add(part) {
    this.text += part;
    this.body.textContent = this.text;
  }

  /** Show the whole text with its tokens, [[token, log-probability], ...]. */
  finish(text, tokens = []) {
    this.text = text;
    this.body.classList.remove("coming");
    if (!tokens.length) {
      this.body.textContent = text || "(nothing)";
      return;
    }
    this.pieces = piecesOf(tokens, text);
    const list = make("p", { className: "text tokens", role: "listbox", ariaLabel: `Tokens of: ${text}` });
    list.ariaOrientation = "horizontal";
    list.append(...this.pieces.map(tokenElement));
    list.firstElementChild.tabIndex = 0;
    list.addEventListener("click", (event) => this.choose(event.target.closest("[role=option]")));
    list.addEventListener("keydown", (event) => this.press(event));
    this.body.replaceWith(list);
    this.body = list;
  }

  choose(option) {
    if (!option) return;
    for (const each of this.body.children) {
      each.ariaSelected = each === option ? "true" : "false";
      each.tabIndex = each === option ? 0 : -1;
    }
    option.focus();
    this.onToken(this.pieces[[...this.body.children].indexOf(option)], option);
  }

  unselect() {
    for (const each of this.body.querySelectorAll("[role=option]")) each.ariaSelected = "false";
  }

  press(event) {
    const options = [...this.body.children];
    const now = options.indexOf(document.activeElement);
    const to = { ArrowRight: now + 1, ArrowDown: now + 1, ArrowLeft: now - 1, ArrowUp: now - 1, Home: 0,
      End: options.length - 1, Enter: now, " ": now }[event.key];
    if (event.key === "Escape") {
      this.unselect();
      this.onToken(null);
    } else if (to !== undefined) {
      event.preventDefault();
      this.choose(options[Math.min(options.length - 1, Math.max(0, to))]);
    }
  }
}

/** Return the tokens as pieces of the text, {text, logProb, first, end}: tokens from first to before end.
 *
 * A token may be a byte of a letter, which alone decodes to U+FFFD; a run of such tokens is one piece. */
function piecesOf(tokens, text) {
  const pieces = [];
  const isPart = (number) => tokens[number]?.[0].includes("\uFFFD");
  let place = 0; // in the text
  for (let first = 0, end = 1; first < tokens.length; first = end, end++) {
    while (isPart(first) && isPart(end)) end++;
    const logProb = tokens.slice(first, end).reduce((sum, [, value]) => sum + value, 0);
    const token = first ? tokens[first][0] : tokens[first][0].trimStart();
    const next = isPart(first) && end < tokens.length ? text.indexOf(tokens[end][0], place) : text.length;
    const shown = isPart(first) ? text.slice(place, next < 0 ? undefined : next) : token;
    place = isPart(first) ? place + shown.length : Math.max(place, text.indexOf(token, place) + token.length);
    pieces.push({ text: shown, logProb, first, end });
  }
  return pieces.filter((piece) => piece.text); // the text has no spaces around it, which may be tokens
}

function tokenElement({ text, logProb }) {
  const percent = percentage(Math.exp(logProb));
  const option = make("span", { className: "token", role: "option", tabIndex: -1, ariaSelected: "false", title: percent }, text);
  option.ariaLabel = `${text.trim() || "space"}, ${percent}`;
  option.style.setProperty("--doubt", Math.min(1, -logProb / 4).toFixed(3)); // 1: less likely than 2 %
  return option;
}

export function percentage(share) {
  return share > 0 && share < 0.001 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`;
}

/** Return the likeliest texts, [{text, probability}], as bars. */
export function bars(answers, title) {
  const rows = answers.map(({ text, probability }) => {
    const bar = make("span", { className: "bar", ariaHidden: "true" });
    bar.style.setProperty("--share", probability);
    return make("li", {}, make("span", { className: "name" }, text || "(nothing)"), bar,
      make("span", { className: "share" }, percentage(probability)));
  });
  return make("section", { className: "likeliest" }, make("h3", {}, title), make("ol", {}, ...rows));
}

/** Return the question whether a text is right. send(correction) resolves when it is stored. */
export function correction(prediction, send) {
  const note = make("p", { className: "note", role: "status" });
  const yes = make("button", { type: "button", className: "quiet" }, "Yes");
  const no = make("button", { type: "button", className: "quiet" }, "No");
  const right = make("input", { type: "text", maxLength: 2000, required: true, value: prediction, ariaLabel: "What is right" });
  const form = make("form", { className: "line", hidden: true }, right, make("button", {}, "Send"));
  const asked = make("div", { className: "line" }, make("span", {}, "Is this right?"), yes, no);
  const box = make("section", { className: "correction", ariaLabel: "Correction" }, asked, form, note);
  const store = async (text, thanks) => {
    try {
      await send(text);
      form.hidden = asked.hidden = true;
      note.className = "note";
      note.textContent = thanks;
    } catch (error) {
      note.className = "error";
      note.textContent = error.message;
    }
  };
  yes.addEventListener("click", () => store(prediction, "Noted as right. Thank you."));
  no.addEventListener("click", () => {
    form.hidden = false;
    right.focus();
    right.select();
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (right.value.trim()) store(right.value.trim(), `Noted: “${right.value.trim()}”. Thank you.`);
  });
  return box;
}
