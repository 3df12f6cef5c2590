// What the page asks of the service, and what goes wrong with it in words.

const KEY = "cowest.key";

// The key of this tab. It stands in the tab's own storage, which ends with the tab; where the
// browser allows no storage, it ends with the page.
const key = {
  held: null,
  read() {
    try {
      return sessionStorage.getItem(KEY) ?? this.held;
    } catch {
      return this.held;
    }
  },
  keep(value) {
    this.held = value;
    try {
      if (value === null) sessionStorage.removeItem(KEY);
      else sessionStorage.setItem(KEY, value);
    } catch {
      // It is held in memory then.
    }
  },
};

// Why a request got no answer, or no whole one.
class Failure extends Error {
  // again: seconds until the same may be asked again; null if nobody said. retry: false where the
  // same request would end the same way.
  constructor(words, { status = 0, code = null, again = null, retry = true } = {}) {
    super(words);
    Object.assign(this, { status, code, again, retry });
  }
}

// Sends a request. Throws Failure for what is refused, and an AbortError where `signal` says so.
async function send(path, body, signal) {
  const headers = {};
  const found = key.read();
  if (found !== null) headers.authorization = `Bearer ${found}`;
  const options = { headers, signal, cache: "no-store", redirect: "error" };
  if (body !== undefined) {
    headers["content-type"] = "application/json";
    Object.assign(options, { method: "POST", body: JSON.stringify(body) });
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The service can't be reached.");
  }
  if (!response.ok) throw await refusalOf(response);
  return response;
}

// The refusal of a response, in the words of the service where it has any.
async function refusalOf(response) {
  const said = await response.json().catch(() => null);
  const error = said?.error ?? {};
  const { status } = response;
  let words = typeof error.message === "string" && error.message ? error.message : null;
  words ??= `The service answered with the status ${status}, and without a reason.`;
  const again = secondsOf(response.headers.get("retry-after"));
  const lasting = status < 500 && status !== 408 && status !== 429;
  const retry = !lasting && response.headers.get("x-should-retry") !== "false";
  return new Failure(sentence(words), { status, code: error.code ?? null, again, retry });
}

// The header Retry-After in seconds from now; null if it says nothing.
function secondsOf(text) {
  if (text === null) return null;
  const seconds = /^\d+$/.test(text) ? Number(text) : (Date.parse(text) - Date.now()) / 1000;
  return Number.isFinite(seconds) ? Math.max(0, Math.ceil(seconds)) : null;
}

// A reason of the service as a sentence.
function sentence(words) {
  const begun = words.charAt(0).toUpperCase() + words.slice(1);
  return /[.!?`)]$/.test(begun) ? begun : `${begun}.`;
}

// Asks one question and yields the answer as it grows: the same object each time.
//
// Throws Failure for an answer that does not come or breaks off. What came until then stands in
// `reply`.
async function* ask(model, question, reply, signal) {
  const stream_options = { include_draft: true };
  const messages = [{ role: "user", content: question }];
  const body = { model, messages, stream: true, stream_options };
  const response = await send("v1/chat/completions", body, signal);
  reply.degraded = response.headers.get("x-cowest-degraded");
  yield reply;
  for await (const data of eventsOf(response)) {
    if (data === "[DONE]") {
      reply.whole = true;
      yield reply;
      return;
    }
    take(JSON.parse(data), reply);
    yield reply;
  }
  throw new Failure("The answer broke off: the connection ended before it did.");
}

// Adds one chunk of a stream to a reply. Throws Failure for the chunk that says why it broke off.
function take(chunk, reply) {
  if (chunk.error) {
    const { retry_after: again = null, retry = true } = chunk.cowest ?? {};
    const broke = reply.text ? "The answer broke off: " : "";
    throw new Failure(sentence(broke + chunk.error.message), { again, retry });
  }
  reply.id = chunk.id;
  if (chunk.cowest) {
    reply.more = chunk.cowest;
    reply.degraded = chunk.cowest.degraded ?? reply.degraded;
    reply.draft = chunk.cowest.draft ?? reply.draft;
  }
  for (const choice of chunk.choices ?? []) {
    reply.text += choice.delta?.content ?? "";
    reply.finish = choice.finish_reason ?? reply.finish;
  }
}

// Yields the data of each server-sent event of a response.
async function* eventsOf(response) {
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await piece(reader);
      if (done) return;
      rest += decoder.decode(value, { stream: true });
      const events = rest.split(/\r?\n\r?\n/);
      rest = events.pop();
      for (const event of events) {
        const lines = event.split(/\r?\n/).filter((line) => line.startsWith("data:"));
        if (lines.length) yield lines.map((line) => line.slice(5).trimStart()).join("\n");
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function piece(reader) {
  try {
    return await reader.read();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The answer broke off: the connection to the service was lost.");
  }
}
