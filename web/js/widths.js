// New nodes of this pack are as wide as their title and the names and values of their inputs need: where both do not
// fit, the canvas cuts the name. A node of a saved workflow keeps its width.
import { app } from "../../../scripts/app.js"

const WRITTEN = ["combo", "number", "slider", "string", "text", "toggle"] // by the canvas, in one line
const BESIDE = 96 // of a line: its margins and arrows, in the canvas's units
const WIDEST = 480

function widthOf(widget, pen) {
  const label = pen.measureText(widget.label || widget.name).width
  return label + pen.measureText(String(widget.value ?? "")).width + BESIDE
}

function widthNeeded(node, pen) {
  pen.save()
  pen.font = app.canvas.inner_text_font
  const lines = (node.widgets ?? []).filter((widget) => WRITTEN.includes(widget.type) && !widget.hidden)
  const widths = lines.map((widget) => widthOf(widget, pen))
  pen.font = app.canvas.title_text_font
  widths.push(pen.measureText(node.getTitle()).width + 2 * LiteGraph.NODE_TITLE_HEIGHT)
  pen.restore()
  return Math.min(Math.max(...widths), WIDEST)
}

app.registerExtension({
  name: "LI-DiT.widths",
  nodeCreated(node) {
    const ours = node.constructor.nodeData?.category?.startsWith("LI-DiT")
    const pen = app.canvas?.ctx
    if (!ours || !pen) return
    node.setSize([Math.max(node.size[0], widthNeeded(node, pen)), node.size[1]])
  },
})
