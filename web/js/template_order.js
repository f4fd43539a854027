// This pack's templates are shown in the order of their names, the newcomer's first: the host lists
// them as the disk does, in no order at all.
import { api } from "../../../scripts/api.js";

const PACK = new URL(import.meta.url).pathname.split("/extensions/")[1].split("/")[0];
const listed = api.getWorkflowTemplates;

if (listed) {
  api.getWorkflowTemplates = async function (...given) {
    const templates = await listed.apply(this, given);
    templates?.[decodeURIComponent(PACK)]?.sort();
    return templates;
  };
}
