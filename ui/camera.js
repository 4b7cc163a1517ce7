// One photograph from the camera: a dialog in, a JPEG file (or the system's own camera app, where pages may not film) out.

export class Camera {
  #parts;
  #stream = null;
  #opened = 0; // times: an answer to an earlier question for the camera is of no use

  /** parts: the dialog's elements; taken(file) gets the photograph; other() asks the system for one. */
  constructor(parts, taken, other) {
    this.#parts = parts;
    this.taken = taken;
    this.other = other;
    parts.take.addEventListener("click", () => this.#take());
    parts.close.addEventListener("click", () => parts.dialog.close());
    parts.other.addEventListener("click", () => { parts.dialog.close(); other(); });
    parts.dialog.addEventListener("close", () => this.#stop());
  }

  async open() {
    if (!navigator.mediaDevices?.getUserMedia) return this.other(); // an insecure address: the file input has a camera on phones
    const { dialog, video, text, take, other } = this.#parts;
    const number = ++this.#opened;
    const say = (message, works) => {
      text.textContent = message;
      take.hidden = other.hidden = true;
      (works ? take : other).hidden = false;
      take.disabled = !this.#stream;
      video.parentElement.hidden = !works;
    };
    say("Asking for the camera…", true);
    dialog.showModal();
    try {
      const stream = await navigator.mediaDevices.getUserMedia({
        audio: false,
        video: { facingMode: "environment", width: { ideal: 1280 }, height: { ideal: 1280 } },
      });
      if (!dialog.open || number !== this.#opened) return stop(stream); // closed while the question was on the screen
      this.#stream = stream;
      video.srcObject = stream;
      await video.play();
      say("Fill the frame with one digit.", true);
      take.focus();
    } catch (error) {
      if (!dialog.open || number !== this.#opened) return;
      this.#stop();
      const refused = error.name === "NotAllowedError";
      say(refused ? "The browser did not allow the camera." : "There is no camera that this page can use.", false);
      other.focus();
    }
  }

  #take() {
    const { video, dialog, text, take } = this.#parts;
    const side = Math.min(video.videoWidth, video.videoHeight); // the square that the finder shows
    if (!side) return;
    take.disabled = true; // one click, one picture
    const canvas = Object.assign(document.createElement("canvas"), { width: side, height: side });
    const [x, y] = [(video.videoWidth - side) / 2, (video.videoHeight - side) / 2];
    canvas.getContext("2d").drawImage(video, x, y, side, side, 0, 0, side, side);
    canvas.toBlob((blob) => {
      if (!blob) { // no memory for it
        text.textContent = "The browser could not keep the picture. Try again.";
        return void (take.disabled = false);
      }
      dialog.close();
      this.taken(new File([blob], "camera.jpg", { type: blob.type }));
    }, "image/jpeg", 0.92);
  }

  #stop() {
    stop(this.#stream);
    this.#stream = null;
    this.#parts.video.srcObject = null;
  }
}

function stop(stream) {
  for (const track of stream?.getTracks() ?? []) track.stop();
}
