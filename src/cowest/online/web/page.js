// The page: a question, its draft and answer as they come, and the verdict on them.
//
// Everything that comes from the service is shown as text, never as HTML.

const PAINTING = 50; // milliseconds between two pictures of a growing answer
const FINISHES = {
  length: "Cut off at the token limit.",
  content_filter: "Ended by a filter of the model.",
};
const DEGRADED = {
  strong_alone: "The policy gave no draft: this is the strong model alone.",
  draft_alone: "The strong model gave no answer: this is the draft, which nobody refined.",
};

const at = (id) => document.getElementById(id);

// The question on the page with all that became of it; null before the first.
let turn = null;
// What is to be done once there is a key; null if nothing waits for one.
let waiting = null;
// The timers of the next picture, and of the seconds until a failed request may be repeated.
let painting = 0;
let counting = 0;

// A place for one text, with a line of what is known about it.
class Panel {
  constructor(id) {
    this.root = at(id);
    this.text = this.root.querySelector(".text");
    this.facts = this.root.querySelector(".facts");
  }

  // Shows a text in runs; those that changed stand in elements of the name `tag`.
  show(runs, tag) {
    this.root.classList.remove("missing", "waiting");
    const nodes = runs.map((run) => (run.changed ? made(tag, run.text) : run.text));
    this.text.replaceChildren(...nodes);
  }

  // Says why there is no text, or not yet.
  say(words, waits = false) {
    this.root.classList.add("missing");
    this.root.classList.toggle("waiting", waits);
    this.text.textContent = words;
  }

  know(facts) {
    this.facts.textContent = facts.filter(Boolean).join(" · ");
  }
}

const panels = {
  draft: new Panel("draft"),
  answer: new Panel("answer"),
  alone: new Panel("alone"),
};

function made(tag, text) {
  const element = document.createElement(tag);
  element.textContent = text;
  return element;
}

function newReply() {
  const came = { id: null, text: "", draft: null, more: null, finish: null };
  return { ...came, degraded: null, whole: false };
}

// ------------------------------------------------------------------------------------------ asking

function begin(question) {
  turn?.controller.abort();
  turn = { question, reply: null, alone: null, said: {}, seconds: null };
  turn.controller = new AbortController();
  at("asked").textContent = question;
  at("result").hidden = false;
  collaborate(turn);
}

// Asks both models, and shows what comes.
async function collaborate(mine) {
  if (mine !== turn) return;
  mine.reply = newReply();
  mine.comparison = null;
  mine.alone = null;
  const began = performance.now();
  progress("The policy drafts.");
  await follow(mine, "cowest", mine.reply, () => collaborate(mine));
  mine.seconds = (performance.now() - began) / 1000;
  if (mine !== turn) return;
  paint();
  if (mine.reply.whole) progress("The answer is complete.");
}

// Asks the strong model the same question without a draft.
async function compare(mine) {
  if (mine !== turn) return;
  mine.alone = newReply();
  progress("The strong model answers alone.");
  await follow(mine, "cowest/strong", mine.alone, () => compare(mine));
  if (mine !== turn) return;
  if (!mine.alone.text) mine.alone = null;
  paint();
  if (mine.alone?.whole) progress("The strong model's own answer is complete.");
}

// Reads an answer to its end, and says what goes wrong. Another question ends it silently.
async function follow(mine, model, reply, again) {
  mine.controller = new AbortController();
  settle();
  working(true);
  paint();
  try {
    for await (const _ of ask(model, mine.question, reply, mine.controller.signal)) {
      if (mine !== turn) return;
      paintSoon();
    }
  } catch (error) {
    if (mine === turn) failed(error, again);
  } finally {
    if (mine === turn) working(false);
  }
}

function working(on) {
  const had = document.activeElement;
  at("ask").hidden = on;
  at("stop").hidden = !on;
  at("actions").hidden = on;
  at("result").setAttribute("aria-busy", String(on));
  const lost = had === at("stop") || had === at("ask") || at("actions").contains(had);
  if (lost) at(on ? "stop" : "question").focus();
}

function progress(words) {
  at("progress").textContent = words;
}

// --------------------------------------------------------------------------------------- troubles

// Takes away what an earlier attempt left: its trouble, and what was said of its answer.
function settle() {
  clearInterval(counting);
  at("trouble").hidden = true;
  at("said").textContent = "";
  at("better-form").hidden = true;
  at("better").setAttribute("aria-expanded", "false");
}

function failed(error, again) {
  if (error.name === "AbortError") {
    trouble("Stopped.", null, again);
  } else if (error.status === 401) {
    askForKey(error, again);
  } else if (error instanceof Failure) {
    trouble(error.message, error.again, error.retry ? again : null);
  } else {
    trouble("The page could not read the answer.", null, again);
    console.error(error);
  }
}

// Says what went wrong, and offers to do it again, where that may help: in `seconds` from now.
function trouble(words, seconds, again) {
  const [said] = at("trouble").getElementsByTagName("p");
  said.textContent = seconds === null ? words : `${words} ${whenAgain(seconds)}`;
  at("again").hidden = again === null;
  at("again").onclick = again;
  at("trouble").hidden = false;
  const ends = Date.now() + 1000 * (seconds ?? 0);
  const count = () => {
    const left = Math.ceil((ends - Date.now()) / 1000);
    at("again").disabled = left > 0;
    at("again").textContent = left > 0 && left <= 120 ? `Try again (${left} s)` : "Try again";
    if (left <= 0) clearInterval(counting);
  };
  counting = setInterval(count, 500);
  count();
}

function whenAgain(seconds) {
  if (seconds <= 120) return `Try again in ${seconds} ${seconds === 1 ? "second" : "seconds"}.`;
  const time = new Date(Date.now() + 1000 * seconds);
  const [hour, minute] = [time.getHours(), time.getMinutes()];
  const day = seconds > 43_200 ? ` on ${time.toLocaleDateString()}` : "";
  return `Try again after ${hour}:${String(minute).padStart(2, "0")}${day}.`;
}

// -------------------------------------------------------------------------------------------- keys

// Asks for a key, and says what was wrong with the last one; then does what needed one.
function askForKey(error, next) {
  waiting = next;
  const wrong = key.read() === null ? "" : `${error.message} `;
  key.keep(null);
  showKey();
  at("key-words").textContent = `${wrong}It stays in this tab and goes only to this service.`;
  at("key-form").hidden = false;
  at("key").value = "";
  at("key").focus();
  if (turn !== null && !turn.reply?.text && !turn.reply?.draft) at("result").hidden = true;
}

async function tryKey() {
  const given = at("key").value.trim();
  // Other characters can't stand in a header.
  if (!/^[\x21-\x7e]+$/.test(given)) {
    at("key-words").textContent = "This is no key: it has spaces or letters that no key has.";
    return;
  }
  key.keep(given);
  try {
    await send("v1/models");
  } catch (error) {
    key.keep(null);
    at("key-words").textContent = error.message;
    return;
  }
  at("key-form").hidden = true;
  at("key").value = "";
  showKey();
  at("question").focus();
  const next = waiting;
  waiting = null;
  if (turn !== null) at("result").hidden = false;
  next?.();
}

function showKey() {
  at("held").hidden = key.read() === null;
}

// A person without a key learns so before the first question.
async function greet() {
  showKey();
  try {
    await send("v1/models");
  } catch (error) {
    // Whatever else is wrong is said of the first question.
    if (error.status === 401 && turn === null) askForKey(error, null);
  }
}

// ---------------------------------------------------------------------------------------- pictures

function paintSoon() {
  if (!painting) painting = setTimeout(paint, PAINTING);
}

function paint() {
  clearTimeout(painting);
  painting = 0;
  const { reply, alone } = turn;
  const ended = at("ask").hidden === false;
  paintTexts(reply, ended);
  const more = reply.more ?? {};
  panels.draft.know(factsOf(more.drafting));
  panels.answer.know([FINISHES[reply.finish], ...factsOf(more.answering?.[0])]);
  at("note").textContent = DEGRADED[reply.degraded] ?? "";
  at("note").hidden = !at("note").textContent;
  at("marking").hidden = turn.comparison === null || !reply.text;
  panels.alone.root.hidden = alone === null;
  if (alone !== null) {
    if (alone.text) panels.alone.show([{ text: alone.text, changed: false }]);
    else panels.alone.say("Answering", true);
    panels.alone.know([FINISHES[alone.finish], ...factsOf(alone.more?.answering?.[0])]);
  }
  at("facts").textContent = factsOfAll(reply, ended).join(" · ");
  for (const id of ["verdict", "compare"]) at(id).hidden = !reply.whole;
  // Without a draft, the strong model has answered alone already.
  at("compare").hidden ||= alone !== null || reply.degraded === "strong_alone";
  paintVerdict();
}

function paintTexts(reply, ended) {
  const draft = reply.draft;
  if (draft !== null && turn.comparison === null) {
    turn.comparison = new Comparison(draft);
    progress("The draft is there; the strong model answers.");
  }
  const runs = { draft: [], answer: [{ text: reply.text, changed: false }] };
  if (draft !== null) {
    turn.comparison.read(reply.text);
    Object.assign(runs, turn.comparison.runs(reply.whole));
    panels.draft.show(runs.draft, "del");
  } else if (reply.text || ended) {
    const reason = reply.more?.drafting?.failed;
    panels.draft.say(reason ? `No draft: ${reason}` : "No draft.");
  } else {
    panels.draft.say("Drafting", true);
  }
  if (reply.text) panels.answer.show(runs.answer, "ins");
  else if (ended) panels.answer.say("No answer.");
  else if (draft !== null) panels.answer.say("Answering", true);
  else panels.answer.say("Waits for the draft.");
}

// What is known of one call: the model, its tokens, its cost and its time.
function factsOf(call) {
  if (!call) return [];
  const tokens = !call.failed && `${call.prompt_tokens} tokens in, ${call.completion_tokens} out`;
  const all = seconds(call.seconds);
  const first = call.first === null ? all : seconds(call.first);
  return [call.model, tokens, dollars(call.usd), all, first !== all && `first word after ${first}`];
}

function factsOfAll(reply, ended) {
  const facts = [];
  if (reply.more !== null) facts.push(`Version ${reply.more.version}`);
  if (reply.whole) facts.push(dollars(reply.more?.usd ?? null) ?? "no price known");
  if (ended && turn.seconds !== null) facts.push(`${seconds(turn.seconds)} in all`);
  return facts;
}

function seconds(value) {
  return `${value.toFixed(value < 10 ? 2 : 0)}\u00a0s`;
}

function dollars(usd) {
  if (usd === null) return null;
  return usd === 0 ? "$0" : `$${usd.toLocaleString("en", { maximumSignificantDigits: 2 })}`;
}

// ---------------------------------------------------------------------------------------- verdicts

// Sends a verdict; the last one on an answer counts, so each says all that is meant.
async function tell(mine, said, words) {
  at("said").textContent = "Sending";
  try {
    await send("v1/feedback", { id: mine.reply.id, ...said });
  } catch (error) {
    if (mine !== turn) return;
    at("said").textContent = "";
    if (error.status === 401) askForKey(error, () => tell(mine, said, words));
    else refused(error);
    return;
  }
  if (mine !== turn) return;
  mine.said = said;
  at("said").textContent = words;
  paintVerdict();
  if (!at("better-form").hidden && said.better) openBetter(false);
}

function refused(error) {
  at("said").textContent = error.message;
  // The service keeps no verdicts: its log is off.
  if (error.status === 409) {
    at("verdict").hidden = true;
    at("better-form").hidden = true;
  }
}

function paintVerdict() {
  const { verdict, better } = turn.said;
  at("good").setAttribute("aria-pressed", String(verdict === "good"));
  at("bad").setAttribute("aria-pressed", String(verdict === "bad"));
  at("better").classList.toggle("given", better !== undefined);
}

function openBetter(on) {
  at("better-form").hidden = !on;
  at("better").setAttribute("aria-expanded", String(on));
  if (on) at("better-text").value = turn.said.better ?? turn.reply.text;
  at(on ? "better-text" : "better").focus();
}

function sayBetter() {
  const better = at("better-text").value.trim();
  if (!better || better === turn.reply.text.trim()) {
    at("said").textContent = "This is the answer as it is: change it, or say that it is good.";
    return;
  }
  const bad = turn.said.verdict === "bad" ? { verdict: "bad" } : {};
  tell(turn, { ...bad, better }, "Kept: your better answer.");
}

// ------------------------------------------------------------------------------------------- hands

function submitQuestion() {
  const question = at("question").value;
  if (!question.trim() || at("ask").hidden) return;
  at("question").value = "";
  begin(question);
  // A phone's keyboard would cover what comes.
  if (matchMedia("(pointer: coarse)").matches) at("question").blur();
  at("result").scrollIntoView({ block: "nearest" });
}

function onSubmit(id, act) {
  at(id).addEventListener("submit", (event) => {
    event.preventDefault();
    act();
  });
}

onSubmit("ask-form", submitQuestion);
onSubmit("key-form", tryKey);
onSubmit("better-form", sayBetter);
at("question").addEventListener("keydown", (event) => {
  // While a word is composed, Enter chooses its letters. A phone has no Shift+Enter.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
  if (matchMedia("(pointer: coarse)").matches) return;
  event.preventDefault();
  submitQuestion();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !at("stop").hidden) turn.controller.abort();
});
at("stop").addEventListener("click", () => turn.controller.abort());
at("compare").addEventListener("click", () => compare(turn));
at("edit").addEventListener("click", () => {
  at("question").value = turn.question;
  at("question").focus();
});
at("good").addEventListener("click", () => tell(turn, { verdict: "good" }, "Kept: good."));
at("bad").addEventListener("click", () => {
  const { better } = turn.said;
  tell(turn, { verdict: "bad", ...(better && { better }) }, "Kept: bad.");
});
at("better").addEventListener("click", () => openBetter(at("better-form").hidden));
at("keep-mine").addEventListener("click", () => openBetter(false));
at("forget").addEventListener("click", () => {
  key.keep(null);
  showKey();
  at("question").focus();
});
greet();
