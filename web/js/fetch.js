/**
 * Offers to fetch a demo LLM that a run needs and that is not on this machine.
 *
 * The LLM loader raises `MissingLLM`. Where the frontend has no dialog to offer, this does nothing:
 * the error's own text says what to do.
 */
import { api } from "../../../scripts/api.js"
import { app } from "../../../scripts/app.js"

const LOADER = "LiDiTLLMLoader"
const SWITCH = "fetch"
const MISSING = "MissingLLM"

let offers = {} // size, source and licence of each demo LLM, by its name
let asking = false // several runs may fail on one LLM

/** A node by the id that the host runs it under: "7", or "3:7" inside of a subgraph. */
function nodeOf(executionId) {
  let graph = app.rootGraph ?? app.graph
  let node
  for (const id of String(executionId).split(":")) {
    node = graph?.getNodeById(id) ?? graph?.getNodeById(Number(id))
    graph = node?.subgraph
  }
  return node
}

const switchOf = (node) => node?.widgets?.find((widget) => widget.name === SWITCH)

async function agreed(name, dialog) {
  const offer = offers[name]
  return await dialog.confirm({
    title: `Fetch ${name}?`,
    message:
      `This workflow reads its prompts with ${name}, which is not on this machine.\n` +
      (offer ? `${offer[0].toUpperCase()}${offer.slice(1)}.\n` : "") +
      "By fetching it you accept its licence. The workflow then runs again.",
  })
}

/** Close the frontend's report of the error, which is dealt with. */
function closeReport(message) {
  const report = [...document.querySelectorAll('[role="dialog"]')].find((dialog) =>
    dialog.innerText.includes(message.trim().slice(0, 40))
  )
  report?.querySelector('.p-dialog-close-button, [aria-label="Close"]')?.click()
}

async function offer({ detail }) {
  const dialog = app.extensionManager?.dialog
  const fetch = switchOf(nodeOf(detail.node_id))
  if (detail.exception_type !== MISSING || !dialog?.confirm || !fetch || asking) return
  asking = true
  try {
    if (!(await agreed(detail.current_inputs?.llm?.[0] ?? "the LLM", dialog))) return
    closeReport(detail.exception_message)
    fetch.value = true
    await app.queuePrompt(0)
  } finally {
    asking = false
  }
}

app.registerExtension({
  name: "LI-DiT.fetch",
  beforeRegisterNodeDef(_, definition) {
    if (definition.name === LOADER) {
      offers = definition.input?.required?.llm?.[1]?.lidit_offers ?? {}
    }
  },
  nodeCreated(node) {
    // whoever opens a saved workflow is asked anew
    if (node.comfyClass === LOADER && switchOf(node)) switchOf(node).serialize = false
  },
  setup() {
    // after the frontend's own report of the error, so that the offer lies above it
    api.addEventListener("execution_error", (event) => setTimeout(() => offer(event), 100))
  },
})
