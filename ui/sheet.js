// The drawing sheet: pointer and key events in; smooth strokes on a canvas, their history, and a PNG of them out.
// A stroke is a list of points {x, y, width} in parts of the sheet's side, so that it looks the same at every size.

const SENT_SIDE = 280; // pixels of the PNG: ten for each of the model's 28, and about 3 kB

export class Sheet extends EventTarget {
  #canvas;
  #history = [[]];
  #now = 0;
  #stroke = null;
  #pointer = null;
  #cursor = { x: 0.5, y: 0.5, shown: false, down: false };
  #frame = 0;
  brush = 0.055;

  constructor(canvas) {
    super();
    this.#canvas = canvas;
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => this.#up(event));
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("blur", () => this.#lift(false));
    new ResizeObserver(() => this.#resize()).observe(canvas);
    this.#watchScreen();
  }

  get strokes() {
    const done = this.#history[this.#now];
    return this.#stroke ? [...done, this.#stroke] : done;
  }
  get empty() { return this.strokes.length === 0; }
  get canUndo() { return this.#now > 0 || this.#stroke !== null; }
  get canRedo() { return this.#now < this.#history.length - 1; }

  /** Takes back the last step, or the stroke that is being drawn. */
  undo() { this.#go(this.#stroke ? this.#now : this.#now - 1); }
  redo() { this.#go(this.#now + 1); }
  clear() {
    if (this.#stroke) this.#commit(this.strokes); // Undo brings back the stroke that was being drawn, too
    if (!this.empty) this.#commit([]);
  }
  redraw() { this.#frame ||= requestAnimationFrame(() => this.#paint()); }

  /** The drawing as a PNG, black on white, without the lines of the paper. */
  png() {
    const copy = Object.assign(document.createElement("canvas"), { width: SENT_SIDE, height: SENT_SIDE });
    const context = copy.getContext("2d");
    context.fillStyle = "#fff";
    context.fillRect(0, 0, SENT_SIDE, SENT_SIDE);
    ink(context, SENT_SIDE, this.strokes, "#000");
    return new Promise((resolve) => copy.toBlob(resolve, "image/png"));
  }

  #go(index) {
    if (index < 0 || index >= this.#history.length) return;
    this.#end();
    this.#now = index;
    this.#changed(true);
  }

  #commit(strokes) {
    this.#end();
    this.#history = [...this.#history.slice(0, this.#now + 1), strokes].slice(-200);
    this.#now = this.#history.length - 1;
    this.#changed(true);
  }

  /** No stroke is being drawn any more, by whatever hand. */
  #end() {
    this.#stroke = null;
    if (this.#cursor.down) this.#say("Pen up");
    this.#cursor.down = false;
  }

  #say(text) {
    this.dispatchEvent(new CustomEvent("pen", { detail: text }));
  }

  #changed(settled) {
    this.redraw();
    this.dispatchEvent(new CustomEvent("change", { detail: { settled } }));
  }

  #point(event) {
    const box = this.#canvas.getBoundingClientRect();
    // Only a pen tells pressure; browsers report a constant 0.5 for mice and most fingers.
    const pressed = event.pointerType === "pen" && event.pressure > 0 ? 0.4 + 1.2 * event.pressure : 1;
    return { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height, width: this.brush * pressed };
  }

  #down(event) {
    const other = this.#pointer !== null && this.#pointer.id !== event.pointerId;
    const busy = other && !(event.pointerType === "pen" && this.#pointer.type === "touch");
    if (busy || event.button !== 0) return; // a second finger or the heel of the hand draws nothing; a pen beats a finger
    this.#canvas.setPointerCapture(event.pointerId);
    this.#pointer = { id: event.pointerId, type: event.pointerType };
    if (!other && this.#stroke) this.#commit(this.strokes); // the keyboard's, or one whose end nobody told us
    this.#cursor.shown = false;
    this.#stroke = [this.#point(event)];
    this.#changed(false);
  }

  #move(event) {
    if (event.pointerId !== this.#pointer?.id || !this.#stroke) return;
    if (!(event.buttons & 1)) return this.#up(event); // let go where nobody told us: in a menu, say
    const events = event.getCoalescedEvents?.() ?? [];
    for (const each of events.length ? events : [event]) this.#stroke.push(this.#point(each));
    this.#changed(false);
  }

  #up(event) {
    if (event.pointerId !== this.#pointer?.id) return;
    this.#pointer = null;
    if (this.#stroke) this.#commit(this.strokes);
  }

  #key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return; // the browser's own
    const cursor = this.#cursor;
    const step = (event.shiftKey ? 4 : 1) / 28;
    const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [0, 0];
    if (dx || dy) {
      cursor.x = Math.min(0.98, Math.max(0.02, cursor.x + dx * step));
      cursor.y = Math.min(0.98, Math.max(0.02, cursor.y + dy * step));
      cursor.shown = true;
      if (cursor.down && this.#stroke) this.#stroke.push({ x: cursor.x, y: cursor.y, width: this.brush });
      cursor.down ? this.#changed(false) : this.redraw();
      this.#say("");
    } else if (event.key === " ") {
      if (event.repeat) { /* held down: once is meant */ }
      else if (cursor.down) this.#lift(true);
      else {
        Object.assign(cursor, { down: true, shown: true });
        this.#stroke = [{ x: cursor.x, y: cursor.y, width: this.brush }];
        this.#say("Pen down");
        this.#changed(false);
      }
    } else return;
    event.preventDefault();
  }

  #lift(shown) {
    this.#cursor.shown = shown;
    if (this.#cursor.down && this.#stroke) this.#commit(this.strokes);
    this.redraw();
  }

  #resize() {
    const side = Math.round(this.#canvas.clientWidth * devicePixelRatio);
    if (side === this.#canvas.width) return;
    this.#canvas.width = this.#canvas.height = side;
    this.#paint();
  }

  /** Another screen may have other pixels, which no observer of sizes is told. */
  #watchScreen() {
    const same = matchMedia(`(resolution: ${devicePixelRatio}dppx)`);
    same.addEventListener("change", () => { this.#resize(); this.#watchScreen(); }, { once: true });
  }

  #paint() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    const side = this.#canvas.width;
    const context = this.#canvas.getContext("2d");
    const colour = getComputedStyle(this.#canvas).color;
    context.clearRect(0, 0, side, side);
    ink(context, side, this.strokes, colour);
    if (!this.#cursor.shown) return;
    context.beginPath();
    context.arc(this.#cursor.x * side, this.#cursor.y * side, (this.brush * side) / 2 + 5, 0, 2 * Math.PI);
    context.lineWidth = 2.5 * devicePixelRatio;
    context.strokeStyle = getComputedStyle(this.#canvas).outlineColor;
    context.setLineDash(this.#cursor.down ? [] : [5, 5]);
    context.stroke();
    context.setLineDash([]);
  }
}

/** Quadratic curves through the middles between points: smooth, and never beside where the hand was. */
function ink(context, side, strokes, colour) {
  Object.assign(context, { lineCap: "round", lineJoin: "round", strokeStyle: colour, fillStyle: colour });
  const middle = (a, b) => ({ x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 });
  for (const points of strokes) {
    const first = points[0];
    context.beginPath();
    context.arc(first.x * side, first.y * side, (first.width * side) / 2, 0, 2 * Math.PI);
    context.fill();
    let from = first;
    points.forEach((point, i) => {
      if (i === 0) return;
      const to = i === points.length - 1 ? point : middle(point, points[i + 1]);
      context.beginPath();
      context.lineWidth = side * ((points[i - 1].width + point.width) / 2);
      context.moveTo(from.x * side, from.y * side);
      context.quadraticCurveTo(point.x * side, point.y * side, to.x * side, to.y * side);
      context.stroke();
      from = to;
    });
  }
}
