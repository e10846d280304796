// The voter's page: two players kept in step, three choices, and an outbox which loses no click.
// Streamlit calls the default function again on every rerun and cleans up only when the page goes, so
// everything is bound once per root. Text from the study reaches the page through textContent only.

const SYNC_MS = 250; // how often the right player is brought into step with the left one
const TICK_MS = 100; // how often watched time is counted
const LOST_MS = 300; // beyond this drift the right player jumps instead of catching up
const RETRY_MS = [250, 500, 1000, 2000, 4000];
const REQUEST_MS = 15000;
const MAX_MS = 2147483647;
const CHOICES = {
  1: "left", 2: "same", 3: "right", ArrowLeft: "left", ArrowDown: "same", ArrowRight: "right",
};
const HINTS = {
  watch: "Watch both to the end, then choose.",
  choose: "You can choose now.",
  sending: "Storing your choice…",
  offline: "No connection. Your choice is kept here and will be sent by itself.",
  broken: "A video could not be loaded. Press Replay to try again.",
};

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function post(path, body) {
  const answer = await fetch(path, {
    method: "POST",
    credentials: "same-origin",
    headers: { "Content-Type": "application/json", "X-Arena": "1" },
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(REQUEST_MS),
  });
  const content = await answer.json();
  return { status: answer.status, content };
}

// Ask until there is an answer that asking again would not change.
async function persist(path, body, waiting, alive) {
  for (let attempt = 0; alive(); attempt += 1) {
    try {
      const answer = await post(path, body);
      if (answer.status < 500 && answer.status !== 429) return answer;
    } catch (error) {
      if (!(error instanceof TypeError || error instanceof SyntaxError || error instanceof DOMException)) throw error;
    }
    waiting();
    await sleep(RETRY_MS[Math.min(attempt, RETRY_MS.length - 1)] * (0.75 + Math.random() / 2));
  }
  return null;
}

// Votes which the server has not yet confirmed, kept over reloads for each voter apart.
class Outbox {
  constructor(voter) {
    this.name = `arena-outbox-${voter}`;
    this.memory = [];
  }

  read() {
    try {
      return JSON.parse(localStorage.getItem(this.name) || "[]");
    } catch {
      return this.memory; // storage is forbidden in this browser
    }
  }

  write(votes) {
    this.memory = votes;
    try {
      if (votes.length) localStorage.setItem(this.name, JSON.stringify(votes));
      else localStorage.removeItem(this.name);
    } catch {
      // the copy in memory remains
    }
  }

  add(vote) {
    this.write([...this.read(), vote]);
  }

  drop(vote) {
    this.write(this.read().filter((kept) => kept.client_token !== vote.client_token));
  }
}

// Two videos which start, loop, pause and stall together.
class PairedPlayer {
  constructor(left, right, stage, told) {
    Object.assign(this, { left, right, stage, told, wanted: false, loaded: false, held: false });
    this.calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    for (const video of this.both) {
      video.muted = true;
      video.addEventListener("canplaythrough", () => this.check());
      video.addEventListener("loadeddata", () => setTimeout(() => this.check(true), 4000));
      video.addEventListener("ended", () => this.ended(video));
      video.addEventListener("error", () => video.hasAttribute("src") && this.told("broken"));
    }
    this.timers = [setInterval(() => this.keepInStep(), SYNC_MS), setInterval(() => this.count(), TICK_MS)];
  }

  get both() {
    return [this.left, this.right];
  }

  // Load two clips; held players wait for begin() even when both could play.
  show(left, right, held = false) {
    this.sources = [left, right];
    this.held = held;
    this.asked = false;
    this.loaded = false;
    this.wanted = false;
    this.watched = [0, 0];
    this.finished = [false, false];
    this.shownAt = null;
    this.stage.classList.remove("ready");
    this.both.forEach((video, side) => {
      video.src = this.sources[side];
      video.load();
    });
  }

  check(patient = false) {
    const enough = patient ? HTMLMediaElement.HAVE_CURRENT_DATA : HTMLMediaElement.HAVE_ENOUGH_DATA;
    if (this.loaded || this.both.some((video) => video.readyState < enough)) return;
    this.loaded = true;
    this.stage.classList.add("ready");
    if (this.held) return;
    this.shownAt = performance.now();
    if (this.calm && !this.asked) this.told("blocked");
    else this.restart();
  }

  // Let held players go; the person has just asked for it, so even calm ones play, now or once they have loaded.
  begin() {
    this.held = false;
    this.asked = true;
    if (!this.loaded) return;
    this.shownAt = performance.now();
    this.restart();
  }

  async play() {
    this.wanted = true;
    const waiting = this.both.filter((video) => !video.ended);
    const results = await Promise.allSettled(waiting.map((video) => video.play()));
    const refused = results.some((result) => result.status === "rejected" && result.reason.name === "NotAllowedError");
    this.told(refused ? "blocked" : "playing");
  }

  pause() {
    this.wanted = false;
    this.both.forEach((video) => video.pause());
    this.told("paused");
  }

  toggle() {
    if (!this.loaded) return;
    if (this.wanted) this.pause();
    else if (this.both.every((video) => video.ended)) this.restart();
    else this.play();
  }

  restart() {
    this.both.forEach((video) => {
      video.playbackRate = 1;
      video.currentTime = 0;
    });
    return this.play();
  }

  replay() {
    if (this.loaded) this.restart();
    else if (this.sources) this.show(...this.sources);
  }

  ended(video) {
    this.finished[this.both.indexOf(video)] = true;
    if (this.finished.every(Boolean)) this.told("watched");
    if (!this.both.every((each) => each.ended)) return; // the longer one sets the length of the loop
    if (this.calm) this.pause();
    else if (this.wanted) this.restart();
  }

  keepInStep() {
    if (!this.loaded || !this.wanted || this.both.some((video) => video.ended || video.seeking)) return;
    const stalled = this.both.some((video) => video.readyState < HTMLMediaElement.HAVE_FUTURE_DATA);
    this.both.forEach((video) => {
      if (stalled && video.readyState >= HTMLMediaElement.HAVE_FUTURE_DATA) video.pause();
      else if (!stalled && video.paused) video.play().catch(() => this.told("blocked"));
    });
    if (stalled) return;
    const drift = (this.right.currentTime - this.left.currentTime) * 1000;
    if (Math.abs(drift) > LOST_MS) {
      this.right.currentTime = Math.min(this.left.currentTime, this.right.duration || 0);
      this.right.playbackRate = 1;
    } else {
      const rate = 1 - drift / SYNC_MS;
      this.right.playbackRate = Math.abs(drift) < 8 ? 1 : Math.min(1.5, Math.max(0.5, rate));
    }
  }

  count() {
    const now = performance.now();
    const passed = now - (this.lastCount ?? now);
    this.lastCount = now;
    if (!this.loaded || document.hidden || passed > 10 * TICK_MS) return;
    this.both.forEach((video, side) => {
      if (!video.paused && !video.ended) this.watched[side] += passed;
    });
    this.told("seen");
  }

  // How much has been seen of the clip seen least, from 0 to 1.
  get seen() {
    const shares = this.both.map((video, side) => (this.finished[side] ? 1 : video.currentTime / video.duration || 0));
    return Math.min(...shares);
  }

  stop() {
    this.timers.forEach(clearInterval);
    this.both.forEach((video) => {
      video.pause();
      video.removeAttribute("src");
      video.load();
    });
  }
}

class VotingPage {
  constructor(root) {
    this.page = root.querySelector(".arena");
    this.alive = true;
    this.open = false;
    this.sending = false;
    this.task = null;
    this.started = false;
    const [left, right] = this.page.querySelectorAll("video");
    this.player = new PairedPlayer(left, right, this.find(".stage"), (event) => this.heard(event));
    this.bind();
    this.begin();
  }

  find(selector) {
    return this.page.querySelector(selector);
  }

  say(selector, text) {
    this.find(selector).textContent = text;
  }

  bind() {
    this.onKey = (event) => this.key(event);
    document.addEventListener("keydown", this.onKey);
    this.page.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button?.dataset.choice) this.choose(button.dataset.choice);
      else if (button?.dataset.act) this.act(button.dataset.act);
      else if (event.target.closest("video")) this.player.toggle();
    });
    this.find(".register").addEventListener("submit", (event) => {
      event.preventDefault();
      this.register(event.target.code.value);
    });
  }

  stop() {
    this.alive = false;
    document.removeEventListener("keydown", this.onKey);
    this.player.stop();
  }

  async ask(path, body) {
    return persist(path, body, () => this.hint("offline"), () => this.alive);
  }

  async begin() {
    const answer = await this.ask("/api/task", {});
    if (!answer) return;
    this.know(answer.content);
    if (this.outbox?.read().length) await this.flush();
    else this.show(answer.content);
  }

  know(standing) {
    if (standing.voter) this.outbox = new Outbox(standing.voter);
    if (standing.question) this.say(".question", standing.question);
  }

  async register(code) {
    const answer = await this.ask("/api/register", { code });
    if (!answer) return;
    if (answer.status === 200) await this.begin();
    else this.notice(answer.content.error);
  }

  panel(name) {
    this.page.dataset.panel = name;
  }

  show(standing) {
    this.know(standing);
    const shows = {
      "sign-in": () => this.showSignIn(standing),
      vote: () => this.showTask(standing.task),
      done: () => this.showDone(),
      stopped: () => this.say(".reason", standing.message),
    };
    shows[standing.state]();
    this.panel(standing.state === "vote" && this.welcomes(standing.task) ? "welcome" : standing.state);
    if (this.page.dataset.panel === "welcome") this.find("[data-act=start]").focus();
    else if (standing.state !== "sign-in") this.page.focus({ preventScroll: true });
  }

  welcomes(task) {
    return !this.started && task.done === 0;
  }

  showSignIn({ registration }) {
    this.find(".register").hidden = registration === "invited";
    this.find(".invited").hidden = registration !== "invited";
    this.find(".code").hidden = registration !== "code";
  }

  showTask(task) {
    const again = this.task?.assignment === task.assignment;
    const total = task.done + task.remaining;
    this.progress(task.done, total, `${task.done + 1} of ${total}`);
    this.total = total;
    if (again && this.player.loaded) {
      this.setOpen(this.player.finished.every(Boolean));
      return;
    }
    this.task = task;
    this.setOpen(false);
    this.say(".prompt", task.prompt);
    this.hint("watch");
    this.find(".play").hidden = true;
    this.player.show(task.left, task.right, this.welcomes(task));
  }

  showDone() {
    this.player.pause();
    const done = this.total ? `All ${this.total} of your choices are stored.` : "All of your choices are stored.";
    this.say(".total", done);
    this.progress(1, 1, "Finished");
  }

  progress(done, total, words) {
    const track = this.find(".track");
    track.setAttribute("aria-valuemax", total);
    track.setAttribute("aria-valuenow", done);
    this.find(".fill").style.width = `${(100 * done) / total}%`;
    this.say(".count", words);
  }

  hint(name) {
    this.say(".hint", HINTS[name]);
    this.page.dataset.hint = name;
  }

  notice(text) {
    const notice = this.find(".notice");
    notice.textContent = text;
    notice.hidden = false;
    clearTimeout(this.noticeTimer);
    this.noticeTimer = setTimeout(() => { notice.hidden = true; }, 7000);
  }

  setOpen(open) {
    this.open = open;
    this.page.classList.toggle("open", open);
    for (const button of this.page.querySelectorAll("[data-choice]")) {
      button.disabled = !open;
      button.classList.remove("chosen");
    }
  }

  heard(event) {
    if (event === "seen") this.find(".seen").style.transform = `scaleX(${this.player.seen})`;
    if (event === "blocked") this.find(".play").hidden = false;
    if (event === "playing") this.find(".play").hidden = true;
    if (event === "playing" || event === "paused") this.say(".pause-word", event === "playing" ? "Pause" : "Play");
    if (event === "broken") {
      this.player.loaded = false;
      this.hint("broken");
    }
    if (event === "watched" && !this.open && !this.sending) {
      this.setOpen(true);
      this.hint("choose");
    }
  }

  act(name) {
    if (name === "start") {
      this.started = true;
      this.panel("vote");
      this.page.focus({ preventScroll: true });
      this.player.begin();
    } else if (name === "pause") this.player.toggle();
    else this.player.replay();
  }

  key(event) {
    const target = event.composedPath()[0];
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || this.page.dataset.panel !== "vote") return;
    if (target instanceof HTMLInputElement) return;
    if (event.key === " " && target instanceof HTMLButtonElement) return;
    if (event.key === " ") this.player.toggle();
    else if (event.key.toLowerCase() === "r") this.player.replay();
    else if (event.key in CHOICES) this.choose(CHOICES[event.key]);
    else return;
    event.preventDefault();
  }

  choose(choice) {
    if (!this.open || this.sending) return;
    const elapsed = performance.now() - this.player.shownAt;
    const [left, right] = this.player.watched;
    const whole = (ms) => Math.min(Math.round(ms), MAX_MS);
    this.outbox.add({
      assignment: this.task.assignment,
      choice,
      client_token: Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join(""),
      rt_ms: whole(elapsed),
      watched_left_ms: whole(left),
      watched_right_ms: whole(right),
    });
    this.setOpen(false);
    this.find(`[data-choice=${choice}]`).classList.add("chosen");
    this.hint("sending");
    this.page.focus({ preventScroll: true });
    this.flush();
  }

  async flush() {
    if (this.sending || !this.outbox) return;
    this.sending = true;
    let standing = null;
    for (let [vote] = this.outbox.read(); vote && this.alive; [vote] = this.outbox.read()) {
      const answer = await this.ask("/api/vote", vote);
      if (!answer) break;
      const owned = answer.status !== 401; // otherwise the choice is kept until its owner is back
      if (owned) this.outbox.drop(vote);
      if (answer.status !== 200) this.notice(answer.content.error);
      standing = answer.status === 200 ? answer.content : (await this.ask("/api/task", {}))?.content;
      if (!owned) break;
    }
    this.sending = false;
    if (standing) this.show(standing);
  }
}

export default function voting({ parentElement }) {
  if (!parentElement.votingPage) {
    const page = new VotingPage(parentElement);
    parentElement.votingPage = page;
    document.title = "Video comparison";
  }
  return () => {
    parentElement.votingPage?.stop();
    delete parentElement.votingPage;
  };
}
