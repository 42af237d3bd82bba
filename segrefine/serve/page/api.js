// Talks to the service: one request, told of its stages as they end.

export class Problem extends Error {
  constructor(document) {
    super(document.detail);
    Object.assign(this, document);
  }
}

const unreachable = (error) => new Problem({
  status: 0, code: "unreachable", detail: "The service does not answer.",
  hint: `See whether it still runs, and try again. (${error.message})`,
});

export async function getJson(path) {
  const answer = await fetch(path, { headers: keyHeaders() }).catch((error) => { throw unreachable(error); });
  if (!answer.ok) throw await problemOf(answer);
  return answer.json();
}

export function setKey(text) { sessionStorage.setItem("key", text); }
export const hasKey = () => sessionStorage.getItem("key") !== null;

const keyHeaders = () => {
  const key = sessionStorage.getItem("key");
  return key ? { Authorization: `Bearer ${key}` } : {};
};

/** A mask's file as the service reads it: a grey picture (ImageBitmap), white is the object. */
export async function readMask(file) {
  const form = new FormData();
  form.set("mask", file);
  const answer = await fetch("v1/mask", { method: "POST", body: form, headers: keyHeaders() })
    .catch((error) => { throw unreachable(error); });
  if (!answer.ok) throw await problemOf(answer);
  return createImageBitmap(await answer.blob());
}

/** The result of a form sent to /v1/refine or /v1/segment; `tell(stage, share)` hears of every stage. */
export async function compute(path, form, tell, signal) {
  for (let attempt = 1; ; attempt++) {
    const headers = { Accept: "text/event-stream", ...keyHeaders() };
    let answer;
    try {
      answer = await fetch(path, { method: "POST", body: form, headers, signal });
    } catch (error) {
      throw error.name === "AbortError" ? error : unreachable(error);
    }
    if (answer.ok) return readEvents(answer, tell);
    const problem = await problemOf(answer);
    if (![429, 503].includes(problem.status) || attempt === 5) throw problem;
    const seconds = Number(answer.headers.get("Retry-After")) || 1;
    tell(`busy; trying again in ${seconds} s`, 0);
    await pause(1000 * seconds, signal);
  }
}

async function readEvents(answer, tell) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      text += value;
      const events = text.split("\n\n");
      text = events.pop();
      for (const event of events) {
        const [name, data] = [/^event: (.*)$/m.exec(event)?.[1], /^data: (.*)$/m.exec(event)?.[1]];
        if (name === "progress") { const { stage, share } = JSON.parse(data); tell(stage, share); }
        if (name === "result") return JSON.parse(data);
        if (name === "problem") throw new Problem(JSON.parse(data));
      }
    }
  } catch (error) {
    if (error instanceof Problem || error.name === "AbortError") throw error;
    throw unreachable(error);
  }
  throw unreachable(new Error("the answer ended early"));
}

async function problemOf(answer) {
  const document = await answer.json().catch(() => null);
  return new Problem(document?.detail ? document : {
    status: answer.status, code: "unknown", detail: `The service answered with ${answer.status}.`, hint: "Try again.",
  });
}

const pause = (milliseconds, signal) => new Promise((resolve, reject) => {
  const timer = setTimeout(resolve, milliseconds);
  signal.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); }, { once: true });
});
