// Two players kept in step, and what was really played of each.

const SYNC_MS = 250; // how often the right player is brought into step with the left one
const TICK_MS = 100; // how often watched time is counted
const LOST_MS = 300; // beyond this drift the right player jumps instead of catching up
const SLOW = 0.25; // speed of slow motion
const NEARLY = 0.97; // a clip counts as played to the end a moment before it
const PATIENCE_MS = 4000; // after which a first picture has to do where the whole clip does not come

function load(video, source) {
  video.src = source;
  video.load();
}

function unload(video) {
  video.pause();
  video.removeAttribute("src");
  video.load();
}

// Two videos which start, loop, pause and stall together.
class PairedPlayer {
  constructor(left, right, stage, told) {
    Object.assign(this, { left, right, stage, told, wanted: false, loaded: false, held: false, speed: 1, need: 1 });
    this.calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.both.forEach((video) => this.listen(video));
    this.timers = [setInterval(() => this.keepInStep(), SYNC_MS), setInterval(() => this.count(), TICK_MS)];
  }

  get both() {
    return [this.left, this.right];
  }

  // Only what happens to the videos on show counts; those which load ahead are asked when their turn comes.
  listen(video) {
    video.muted = true;
    const on = (name, act) => video.addEventListener(name, () => this.both.includes(video) && act());
    on("canplaythrough", () => this.check());
    on("loadeddata", () => this.checkLater());
    on("ended", () => this.ended());
    on("timeupdate", () => this.look());
    on("error", () => video.hasAttribute("src") && this.fail());
  }

  // Show two clips; held players wait for begin() even when both could play.
  show(clips, need, held = false) {
    Object.assign(this, { clips, need, held, pace: clips.pace });
    this.enough = false;
    this.asked = false;
    this.loaded = false;
    this.broken = false;
    this.wanted = false;
    this.watched = [0, 0];
    this.shownAt = null;
    this.stage.classList.remove("ready");
    if (this.isAhead(clips)) this.bringIn();
    else this.both.forEach((video, side) => load(video, side ? clips.right : clips.left));
  }

  // Load the clips of the next pair beside those on show, so that they can play at once.
  prepare(clips) {
    if (this.isAhead(clips)) return;
    this.ahead?.videos.forEach(unload);
    const videos = this.both.map((video, side) => {
      const copy = video.cloneNode();
      copy.removeAttribute("style"); // which holds the magnifier's view of another pair
      this.listen(copy);
      load(copy, side ? clips.right : clips.left);
      return copy;
    });
    this.ahead = { videos, left: clips.left, right: clips.right };
  }

  isAhead({ left, right }) {
    const { ahead } = this;
    return ahead?.left === left && ahead.right === right && !ahead.videos.some((video) => video.error);
  }

  bringIn() {
    const former = this.both;
    [this.left, this.right] = this.ahead.videos;
    this.ahead = null;
    former.forEach((video, side) => {
      video.replaceWith(this.both[side]);
      unload(video);
    });
    this.check();
    this.checkLater();
  }

  check(patient = false) {
    const enough = patient ? HTMLMediaElement.HAVE_CURRENT_DATA : HTMLMediaElement.HAVE_ENOUGH_DATA;
    if (this.loaded || this.broken || this.both.some((video) => video.readyState < enough)) return;
    this.loaded = true;
    this.stage.classList.add("ready");
    this.told("loaded");
    this.look();
    if (this.held) return;
    this.shownAt = performance.now();
    if (this.calm && !this.asked) this.told("blocked");
    else this.restart();
  }

  checkLater() {
    setTimeout(() => this.check(true), PATIENCE_MS);
  }

  fail() {
    this.loaded = false;
    this.broken = true;
    this.told("broken");
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
    this.both.forEach((video) => { video.playbackRate = this.speed; });
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
    this.both.forEach((video) => { video.currentTime = 0; });
    return this.play();
  }

  get length() {
    return Math.max(...this.both.map((video) => video.duration || 0));
  }

  get at() {
    return Math.max(...this.both.map((video) => video.currentTime));
  }

  // Halt both at one moment. This is looking closely; it does not count as watching.
  moveTo(seconds) {
    if (!this.loaded) return;
    this.pause();
    this.both.forEach((video) => { video.currentTime = Math.max(0, Math.min(seconds, video.duration || 0)); });
  }

  // Show the next or former picture of both, halfway through its time so that rounding picks no other.
  step(direction) {
    const picture = Math.floor(this.at / this.pace + 1e-3) + direction;
    const last = Math.max(0, Math.round(this.length / this.pace) - 1);
    this.moveTo((Math.max(0, Math.min(picture, last)) + 0.5) * this.pace);
  }

  slow() {
    this.speed = this.speed === 1 ? SLOW : 1;
    this.both.forEach((video) => { video.playbackRate = this.speed; });
    return this.speed !== 1;
  }

  replay() {
    if (this.loaded) this.restart();
    else if (this.clips) this.show(this.clips, this.need);
  }

  ended() {
    this.look();
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
      this.right.playbackRate = this.speed;
    } else {
      const rate = Math.abs(drift) < 8 ? 1 : Math.min(1.5, Math.max(0.5, 1 - drift / SYNC_MS));
      this.right.playbackRate = this.speed * rate;
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

  // Seconds of a clip that were really played, wherever somebody jumped to.
  static played(video) {
    let sum = 0;
    for (let part = 0; part < video.played.length; part += 1) sum += video.played.end(part) - video.played.start(part);
    return sum;
  }

  // How much has been seen of the clip seen least, from 0 to 1.
  get seen() {
    if (!this.loaded) return 0;
    return Math.min(1, ...this.both.map((video) => PairedPlayer.played(video) / video.duration || 0));
  }

  look() {
    if (this.enough || !this.loaded || this.seen < NEARLY * this.need) return;
    this.enough = true;
    this.told("watched");
  }

  // Milliseconds each clip was played, repetitions included.
  get times() {
    return this.both.map((video, side) => Math.max(this.watched[side], 1000 * PairedPlayer.played(video)));
  }

  stop() {
    this.timers.forEach(clearInterval);
    [...this.both, ...(this.ahead?.videos ?? [])].forEach(unload);
  }
}
