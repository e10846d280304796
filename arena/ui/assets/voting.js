// The voter's page. outbox.js, players.js and magnifier.js come before it in the same script.
// Streamlit calls the default function again on every rerun and cleans up only when the page goes, so
// everything is bound once per root. Text from the study reaches the page through textContent only.

const MAX_MS = 2147483647;
const CHOICES = {
  1: "left", 2: "same", 3: "right", ArrowLeft: "left", ArrowDown: "same", ArrowRight: "right",
};
const KEYS = {
  r: (page) => page.player.replay(),
  s: (page) => page.act("slow"),
  z: (page) => page.act("zoom"),
  u: (page) => page.undo(),
  d: (page) => page.toggleDetails(),
  ",": (page) => page.player.step(-1),
  ".": (page) => page.player.step(1),
};
const PANS = { ArrowLeft: [-0.25, 0], ArrowRight: [0.25, 0], ArrowUp: [0, -0.25], ArrowDown: [0, 0.25] };
const STEPS = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 };
const HINTS = {
  watch: "Watch both to the end, then choose.",
  choose: "You can choose now.",
  sending: "Storing your choice…",
  offline: "No connection. Your choice is kept here and will be sent by itself.",
  again: "This is your last pair again. Choose once more.",
  broken: "A video could not be loaded. Press Replay to try again.",
};

class VotingPage {
  constructor(root) {
    this.page = root.querySelector(".arena");
    this.alive = true;
    this.open = false;
    this.sending = false;
    this.task = null;
    this.ahead = null;
    this.started = false;
    this.details = {};
    const [left, right] = this.page.querySelectorAll("video");
    this.player = new PairedPlayer(left, right, this.find(".stage"), (event) => this.heard(event));
    this.magnifier = new Magnifier(this.find(".stage"), this.player, (zoom) => this.say(".zoom", `${zoom}×`));
    this.scrub = this.find(".scrub");
    this.bind();
    this.follow();
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
      if (button?.dataset.part) this.detail(button);
      else if (button?.dataset.choice) this.choose(button.dataset.choice);
      else if (button?.dataset.act) this.act(button.dataset.act);
      else if (event.target.closest("video") && !this.magnifier.dragged) this.player.toggle();
    });
    this.scrub.addEventListener("input", () => this.player.moveTo(this.scrub.value * this.player.length));
    this.scrub.addEventListener("pointerup", () => this.page.focus({ preventScroll: true })); // arrows choose again
    this.find(".register").addEventListener("submit", (event) => {
      event.preventDefault();
      this.register(event.target.code.value);
    });
  }

  stop() {
    this.alive = false;
    document.removeEventListener("keydown", this.onKey);
    this.player.stop();
    this.magnifier.stop();
  }

  // Keep the scrub bar where the videos are.
  follow() {
    if (!this.alive) return;
    const { at, length } = this.player;
    this.scrub.value = length ? at / length : 0;
    const said = `${at.toFixed(1)} of ${length.toFixed(1)} seconds`;
    if (!this.player.wanted && this.scrub.ariaValueText !== said) this.scrub.ariaValueText = said;
    requestAnimationFrame(() => this.follow());
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
    if (!standing.criteria) return;
    this.need = standing.min_watch;
    this.say(".instructions", standing.instructions);
    this.find(".instructions").hidden = !standing.instructions;
    this.find(".steps").hidden = Boolean(standing.instructions);
    this.find(".comment").hidden = !standing.comments;
    this.find("[data-act=details]").hidden = !standing.comments && !standing.criteria.length;
    this.offer(standing.criteria);
  }

  // Build the rows for further criteria; their names come from the study, so they enter as text.
  offer(criteria) {
    const rows = this.find(".criteria");
    if (rows.dataset.names === JSON.stringify(criteria)) return;
    rows.dataset.names = JSON.stringify(criteria);
    rows.replaceChildren(...criteria.map((name) => {
      const row = document.createElement("fieldset");
      row.className = "criterion";
      const legend = document.createElement("legend");
      legend.textContent = name;
      const parts = document.createElement("div");
      parts.className = "parts";
      for (const [part, word] of [["left", "Left"], ["same", "Same"], ["right", "Right"]]) {
        const button = document.createElement("button");
        Object.assign(button, { type: "button", className: "part", textContent: word });
        Object.assign(button.dataset, { part, criterion: name });
        button.setAttribute("aria-pressed", "false");
        button.setAttribute("aria-label", `${name}: ${word}`);
        parts.append(button);
      }
      row.append(legend, parts);
      return row;
    }));
  }

  detail(button) {
    const { criterion, part } = button.dataset;
    const chosen = this.details[criterion] !== part;
    if (chosen) this.details[criterion] = part;
    else delete this.details[criterion];
    for (const each of button.parentElement.children) {
      each.setAttribute("aria-pressed", String(chosen && each === button));
    }
  }

  forgetDetails() {
    this.details = {};
    this.find("[name=comment]").value = "";
    for (const each of this.page.querySelectorAll(".part")) each.setAttribute("aria-pressed", "false");
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
    this.ahead = standing.ahead ?? null;
    const taught = standing.stored?.correct !== undefined;
    this.resting = Boolean(standing.state === "vote" && standing.task.rest && standing.stored);
    this.held = taught || this.resting || this.waits(standing); // clips nobody sees must not play
    const shows = {
      "sign-in": () => this.showSignIn(standing),
      consent: () => this.say(".consent-text", standing.consent),
      vote: () => this.showTask(standing.task),
      done: () => this.showDone(standing),
      stopped: () => this.say(".reason", standing.message),
    };
    shows[standing.state]();
    if (taught) this.showFeedback(standing.stored);
    if (this.resting) this.say(".rested", `${standing.task.done} choices are stored. Rest your eyes for a moment.`);
    this.after = standing.state;
    this.panel(taught ? "feedback" : this.resting ? "rest" : this.waits(standing) ? "welcome" : standing.state);
    this.focus();
  }

  // The panels which wait for somebody to go on have the focus on their button.
  focus() {
    const button = this.find(`[data-for=${this.page.dataset.panel}].panel button.start, [data-for=${this.page.dataset.panel}].panel a.start:not([hidden])`);
    if (this.page.dataset.panel === "sign-in") return;
    if (button) button.focus();
    else this.page.focus({ preventScroll: true });
  }

  waits(standing) {
    return standing.state === "vote" && !this.started && standing.task.done === 0;
  }

  showFeedback({ correct, expected }) {
    this.say(".verdict", correct ? "Right" : "Not quite");
    const better = expected === "same" ? "They are the same." : `The ${expected} video is better: the other one was blurred on purpose.`;
    this.say(".reason-why", `${better} This was practice and is not counted.`);
  }

  showSignIn({ registration }) {
    this.find(".register").hidden = registration === "invited";
    this.find(".invited").hidden = registration !== "invited";
    this.find(".code").hidden = registration !== "code";
  }

  showTask(task) {
    const again = this.task?.assignment === task.assignment && this.task.revision === task.revision;
    const total = task.done + task.remaining;
    this.progress(task.done, total, `${Math.min(task.done + 1, total)} of ${total}`);
    this.page.classList.toggle("practice", task.training);
    this.find("[data-act=undo]").hidden = !task.can_undo;
    this.since = performance.now();
    this.setOpen(false);
    this.hint(task.revision ? "again" : "watch");
    if (!again || this.player.broken) this.showPair(task);
    this.mayOpen();
    this.prepare();
  }

  showPair(task) {
    this.task = task;
    this.forgetDetails();
    this.say(".prompt", task.prompt);
    this.find(".play").hidden = true;
    this.player.show(task, task.revision ? 0 : this.need, this.held);
    this.magnifier.reset();
  }

  // Load the next pair once this one is there.
  prepare() {
    if (this.ahead && this.player.loaded) this.player.prepare(this.ahead);
  }

  // The server counts the time for watching from when it heard of the choice before, which may be after this pair
  // was shown.
  mayOpen() {
    if (this.open || this.sending || !this.player.enough) return;
    const wait = this.since + 1000 * NEARLY * this.player.need * this.player.length - performance.now();
    if (wait > 0) {
      setTimeout(() => this.mayOpen(), wait);
      return;
    }
    this.setOpen(true);
    if (!this.task.revision) this.hint("choose");
  }

  showDone({ done, code, return_url: back }) {
    this.player.pause();
    this.say(".total", done ? `All ${done} of your choices are stored.` : "There is nothing left to vote on.");
    this.find(".finish").hidden = !code;
    this.say(".finish-code", code || "");
    const link = this.find(".return");
    link.hidden = !back;
    if (back) link.href = back;
    this.find(".closing").hidden = Boolean(back);
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

  notice(text, ms = 7000) {
    const notice = this.find(".notice");
    notice.textContent = text;
    notice.hidden = false;
    clearTimeout(this.noticeTimer);
    this.noticeTimer = setTimeout(() => { notice.hidden = true; }, ms);
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
    if (event === "broken") this.hint("broken");
    if (event === "loaded") this.prepare();
    if (event === "watched") this.mayOpen();
  }

  act(name) {
    const acts = {
      start: () => this.start(),
      consent: () => this.consent(),
      next: () => this.next(),
      undo: () => this.undo(),
      link: () => this.link(),
      details: () => this.toggleDetails(),
      pause: () => this.player.toggle(),
      back: () => this.player.step(-1),
      ahead: () => this.player.step(1),
      slow: () => this.find("[data-act=slow]").setAttribute("aria-pressed", String(this.player.slow())),
      zoom: () => this.magnifier.next(),
      play: () => this.player.replay(),
      replay: () => this.player.replay(),
    };
    acts[name]();
  }

  start() {
    this.started = true;
    this.panel("vote");
    this.page.focus({ preventScroll: true });
    this.player.begin();
  }

  async consent() {
    const answer = await this.ask("/api/consent", { agreed: true });
    if (answer?.status === 200) this.show(answer.content);
    else if (answer) this.notice(answer.content.error);
  }

  next() {
    const rests = this.page.dataset.panel === "feedback" && this.resting;
    this.panel(rests ? "rest" : this.after);
    this.focus();
    if (!rests && this.after === "vote") this.player.begin();
  }

  async undo() {
    if (this.sending || this.find("[data-act=undo]").hidden) return;
    const answer = await this.ask("/api/undo", {});
    if (answer?.status === 200) this.show(answer.content);
    else if (answer) this.notice(answer.content.error);
  }

  async link() {
    const answer = await this.ask("/api/link", {});
    if (!answer) return;
    this.notice(answer.status === 200 ? `Your own link, to keep to yourself: ${answer.content.link}` : answer.content.error, 60000);
  }

  toggleDetails() {
    const button = this.find("[data-act=details]");
    const details = this.find(".details");
    if (button.hidden) return;
    details.hidden = !details.hidden;
    button.setAttribute("aria-expanded", String(!details.hidden));
    if (!details.hidden) details.querySelector("button, input").focus();
  }

  key(event) {
    const target = event.composedPath()[0];
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || this.page.dataset.panel !== "vote") return;
    if (target instanceof HTMLInputElement && target !== this.scrub) return;
    if (event.key === " " && target instanceof HTMLButtonElement) return;
    if (event.shiftKey && event.key in PANS) this.magnifier.pan(...PANS[event.key]);
    else if (target === this.scrub && event.key in STEPS) this.player.step(STEPS[event.key]);
    else if (event.key === " ") this.player.toggle();
    else if (event.key.toLowerCase() in KEYS) KEYS[event.key.toLowerCase()](this);
    else if (event.key in CHOICES) this.choose(CHOICES[event.key]);
    else return;
    event.preventDefault();
  }

  choose(choice) {
    if (!this.open || this.sending) return;
    const elapsed = performance.now() - this.player.shownAt;
    const [left, right] = this.player.times;
    const whole = (ms) => Math.min(Math.round(ms), MAX_MS);
    this.outbox.add({
      assignment: this.task.assignment,
      choice,
      client_token: Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join(""),
      rt_ms: whole(elapsed),
      watched_left_ms: whole(left),
      watched_right_ms: whole(right),
      revision: this.task.revision,
      details: this.details,
      comment: this.find("[name=comment]").value.trim(),
    });
    this.setOpen(false);
    this.find(`[data-choice=${choice}]`).classList.add("chosen");
    this.hint("sending");
    this.page.focus({ preventScroll: true });
    this.flush();
    this.goAhead();
  }

  // Show the next pair while the choice is on its way; its buttons wait until the choice is stored.
  goAhead() {
    const { ahead } = this;
    if (!ahead || ahead.rest || this.task.training) return;
    this.ahead = null;
    this.held = false;
    this.showTask(ahead);
  }

  async flush() {
    if (this.sending || !this.outbox) return;
    this.markSending(true);
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
    this.markSending(false);
    if (standing) this.show(standing);
  }

  markSending(sending) {
    this.sending = sending;
    this.page.dataset.sending = sending;
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
