// The answers: texts while they come, their tokens with log-probabilities, the likeliest answers, and corrections.

export function make(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/** A card for one decoding. onToken(number, element) is called with the token that the user chooses, or with null. */
export class Card {
  constructor(title, onToken) {
    this.text = "";
    this.tokens = [];
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
    this.tokens = tokens.map(([token]) => token);
    const list = make("p", { className: "text tokens", role: "listbox", ariaLabel: `Tokens of: ${text}` });
    list.ariaOrientation = "horizontal";
    const isEnd = endsText(this.tokens, text);
    list.append(...tokens.map(([token, logProb], number) => tokenElement(token, logProb, isEnd(number), number === 0)));
    list.firstElementChild.tabIndex = 0;
    list.addEventListener("click", (event) => this.choose(event.target.closest("[role=option]")));
    list.addEventListener("keydown", (event) => this.press(event));
    this.body.replaceWith(list);
    this.body = list;
  }

  /** Show that this decoding did not end. */
  fail(text) {
    this.body.classList.remove("coming");
    this.element.append(make("p", { className: "note" }, text));
  }

  choose(option) {
    if (!option) return;
    for (const each of this.body.children) {
      each.ariaSelected = each === option ? "true" : "false";
      each.tabIndex = each === option ? 0 : -1;
    }
    option.focus();
    this.onToken([...this.body.children].indexOf(option), option);
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

/** Return a function of a token's number: is it the end of the text, which is no part of it? */
function endsText(tokens, text) {
  const before = tokens.slice(0, -1).join("").trim();
  const last = tokens.length - 1;
  return (number) => number === last && last > 0 && before === text.trim();
}

function tokenElement(token, logProb, isEnd, isFirst) {
  const percent = percentage(Math.exp(logProb));
  const shown = isEnd ? "end" : isFirst ? token.trimStart() : token;
  const option = make("span", { role: "option", tabIndex: -1, ariaSelected: "false", title: percent }, shown);
  option.ariaLabel = `${shown.trim() || "space"}, ${percent}`;
  option.className = isEnd ? "token end" : "token";
  option.style.setProperty("--doubt", Math.min(1, -logProb / 4).toFixed(3)); // 1: less likely than 2 %
  return option;
}

export function percentage(share) {
  return share > 0 && share < 0.001 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`;
}

/** Return the likeliest answers, [{text, probability}], as bars. */
export function bars(answers) {
  const rows = answers.map(({ text, probability }) => {
    const bar = make("span", { className: "bar", ariaHidden: "true" });
    bar.style.setProperty("--share", probability);
    return make("li", {}, make("span", { className: "name" }, text || "(nothing)"), bar,
      make("span", { className: "share" }, percentage(probability)));
  });
  return make("section", { className: "likeliest" }, make("h3", {}, "Likeliest answers"), make("ol", {}, ...rows));
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
