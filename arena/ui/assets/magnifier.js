// One magnifier over both videos: the same part of both pictures at the same size.

const ZOOMS = [1, 2, 4];
const DRAG_PX = 5; // a pointer that moved less has clicked

class Magnifier {
  constructor(stage, player, told) {
    Object.assign(this, { stage, player, told, zoom: 1, x: 0, y: 0, dragged: false });
    this.watcher = new ResizeObserver(() => this.apply());
    this.watcher.observe(stage);
    stage.addEventListener("pointerdown", (event) => this.grab(event));
    stage.addEventListener("dblclick", (event) => this.enlarge(event));
  }

  // Go to the next size, the middle of the view staying where it is; after the largest comes the whole picture.
  next() {
    this.zoom = ZOOMS[(ZOOMS.indexOf(this.zoom) + 1) % ZOOMS.length];
    this.apply();
  }

  reset() {
    Object.assign(this, { zoom: 1, x: 0, y: 0 });
    this.apply();
  }

  // Move the view by shares of itself.
  pan(right, down) {
    this.x += right / this.zoom;
    this.y += down / this.zoom;
    this.apply();
  }

  // Go to the next size around a place in the picture.
  enlarge(event) {
    const video = event.target.closest("video");
    if (!video) return;
    const { left, top, width, height } = this.shown(video);
    const cell = video.parentElement.getBoundingClientRect();
    this.x += ((event.clientX - cell.left - left) / width - 0.5) / this.zoom;
    this.y += ((event.clientY - cell.top - top) / height - 0.5) / this.zoom;
    this.next();
  }

  grab(event) {
    this.dragged = false;
    const video = event.target.closest("video");
    if (!video || this.zoom === 1) return;
    const { width, height } = this.shown(video);
    let [x, y] = [event.clientX, event.clientY];
    const move = (moved) => {
      this.dragged ||= Math.hypot(moved.clientX - event.clientX, moved.clientY - event.clientY) > DRAG_PX;
      this.pan((x - moved.clientX) / width, (y - moved.clientY) / height);
      [x, y] = [moved.clientX, moved.clientY];
    };
    const drop = new AbortController();
    video.setPointerCapture(event.pointerId);
    video.addEventListener("pointermove", move, { signal: drop.signal });
    for (const end of ["pointerup", "pointercancel"]) video.addEventListener(end, () => drop.abort(), { signal: drop.signal });
  }

  // Where the whole picture lies in its cell: as high and wide as fits, at the inner edge.
  shown(video) {
    const { clientWidth, clientHeight } = video.parentElement;
    const shape = video.videoWidth / video.videoHeight || 1;
    const width = Math.min(clientWidth, clientHeight * shape);
    const height = width / shape;
    const left = video === this.player.left ? clientWidth - width : 0;
    return { left, top: (clientHeight - height) / 2, width, height, right: clientWidth - left - width };
  }

  apply() {
    const most = (1 - 1 / this.zoom) / 2;
    this.x = Math.min(most, Math.max(-most, this.x));
    this.y = Math.min(most, Math.max(-most, this.y));
    this.stage.classList.toggle("zoomed", this.zoom > 1);
    this.told(this.zoom);
    for (const video of this.player.both) {
      const { left, top, width, height, right } = this.shown(video);
      const whole = this.zoom === 1;
      video.style.transformOrigin = `${left + width / 2}px ${top + height / 2}px`;
      video.style.transform = whole ? "" : `translate(${-this.x * width * this.zoom}px, ${-this.y * height * this.zoom}px) scale(${this.zoom})`;
      video.parentElement.style.clipPath = whole ? "" : `inset(${top}px ${right}px ${top}px ${left}px)`;
    }
  }

  stop() {
    this.watcher.disconnect();
  }
}
