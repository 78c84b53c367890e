// Asking the server: what it serves, what is in a picture, and a picture that the browser cannot decode.

/** Why there is no answer, in words for people. */
export class Failed extends Error {
  constructor(message, { code = "", canRetry = false } = {}) {
    super(message);
    this.code = code;
    this.canRetry = canRetry;
  }
}

const pause = (seconds) => new Promise((done) => setTimeout(done, seconds * 1000));

export class Server {
  #key = sessionStorage.getItem("key") ?? "";

  set key(value) {
    this.#key = value;
    sessionStorage.setItem("key", value);
  }

  /** Model, categories and limits. */
  async about() {
    return (await checked(await this.#ask("/v1/models"))).json();
  }

  /** Every instance with a score of 0.05 or more, so that the sliders need no server. */
  async predict(file, onWait) {
    const answer = await this.#send("/v1/predict", file, { min_score: "0.05", format: "rle" }, onWait);
    return (await answer.json()).pictures[0];
  }

  /** The picture as the model sees it, as PNG. */
  async picture(file, onWait) {
    return (await this.#send("/v1/picture", file, {}, onWait)).blob();
  }

  /** Where the server has no room, asked again after as long as it says. */
  async #send(path, file, options, onWait) {
    for (;;) {
      const body = new FormData();
      for (const [name, value] of Object.entries(options)) body.append(name, value);
      body.append("file", file, "picture");
      const answer = await this.#ask(path, { method: "POST", body });
      if (answer.status !== 503) return checked(answer);
      for (let left = Number(answer.headers.get("retry-after")) || 2; left > 0; left--) {
        onWait(left);
        await pause(1);
      }
      onWait(0);
    }
  }

  async #ask(path, options = {}) {
    const headers = this.#key ? { Authorization: `Bearer ${this.#key}` } : {};
    try {
      return await fetch(path, { ...options, headers });
    } catch {
      throw new Failed("The server cannot be reached. Is it still running?", { code: "away", canRetry: true });
    }
  }
}

/** The answer, where it is one; else what the server says is wrong. */
async function checked(answer) {
  if (answer.ok) return answer;
  const { error = {} } = await answer.json().catch(() => ({}));
  const message = error.message ? sentence(error.message) : `The server answered ${answer.status}.`;
  throw new Failed(message, { code: error.code ?? "", canRetry: answer.status >= 500 || answer.status === 408 });
}

const sentence = (text) => text[0].toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
