// Requests to the server, with the key that it may ask for.

const KEY = "prefixvlm-key"; // in sessionStorage, which ends with the tab
const dialog = document.getElementById("key");
const value = document.getElementById("key-value");
let asking = null; // several requests may be refused at a time, and one question is enough

/** Return the answer to a request: a GET without a body, else a POST of it as JSON. Throws Error with one sentence. */
export async function request(path, body, signal) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const response = await send(path, body, signal, key);
    if (response.ok) return response;
    if (response.status !== 401) throw Object.assign(new Error(await reason(response)), { status: response.status });
    asking ??= askForKey(key !== null).finally(() => { asking = null; });
    if (!(await asking)) throw new Error("The server answers only with an API key.");
  }
}

export async function requestJson(path, body, signal) {
  return (await request(path, body, signal)).json();
}

/** Yield the objects of a stream of server-sent events. */
export async function* events(path, body, signal) {
  const reader = (await request(path, body, signal)).body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value: text } = await reader.read();
    if (done) break;
    const lines = (rest + text).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const event = JSON.parse(line.slice(5));
      if (event.error) throw new Error(sentence(event.error.message));
      yield event;
    }
  }
}

async function send(path, body, signal, key) {
  const headers = { ...(body && { "Content-Type": "application/json" }), ...(key && { Authorization: `Bearer ${key}` }) };
  try {
    return await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Error("The server cannot be reached; is it still running?");
  }
}

async function reason(response) {
  try {
    return sentence((await response.json()).error.message);
  } catch {
    return `The server answered with the code ${response.status}.`;
  }
}

function sentence(text) {
  const whole = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(whole) ? whole : `${whole}.`;
}

function askForKey(wasWrong) {
  document.getElementById("key-note").textContent = wasWrong ? "It did not accept the last one." : "";
  value.value = "";
  dialog.returnValue = "cancel"; // also if Escape closes it
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      const given = dialog.returnValue === "send";
      if (given) sessionStorage.setItem(KEY, value.value);
      resolve(given);
    }, { once: true });
  });
}
