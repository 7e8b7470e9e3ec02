// Search without a server: browsers start no Worker from file://, so its script runs in a hidden frame of the page.
if (location.protocol === "file:") {
  window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super()
      this.waiting = []
      const start = () => {
        const frame = document.createElement("iframe")
        frame.hidden = true
        document.body.append(frame)
        const inside = frame.contentWindow
        inside.postMessage = data => queueMicrotask(() => this.answer(data))
        const script = inside.document.createElement("script")
        script.src = url
        script.onload = () => {
          this.inside = inside
          this.waiting.splice(0).forEach(data => this.postMessage(data))
        }
        inside.document.body.append(script)
      }
      document.body ? start() : addEventListener("DOMContentLoaded", start)
    }
    answer(data) {
      const message = new MessageEvent("message", { data })
      this.dispatchEvent(message)
      if (this.onmessage) this.onmessage(message)
    }
    postMessage(data) {
      if (!this.inside) return this.waiting.push(data)
      this.inside.dispatchEvent(new MessageEvent("message", { data }))
    }
    terminate() {}
  }
  window.Worker = window.IFrameWorker
}
