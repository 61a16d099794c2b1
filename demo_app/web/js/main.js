// The page: what is here, the live part, and the button that checks and measures everything.
import { browser, threads } from "./browser.js";
import { live } from "./live.js";
import { introduce, measure } from "./measure.js";
import { alone } from "./models.js";
import { bytes } from "./server.js";
import { figure, lines, mark, milliseconds, pairs, row } from "./view.js";

const by = (id) => document.getElementById(id);
const decoder = new TextDecoder();

async function start() {
  const plan = JSON.parse(decoder.decode(await bytes("/plan.json")));
  const facts = await browser();
  const used = threads(plan.threads);
  by("student").textContent = plan.student;
  by("summary").textContent = `${plan.subjects.length} artifact${plan.subjects.length === 1 ? "" : "s"} to check, time and try in this browser`;
  by("explain").textContent =
    `Runs the pack’s ${plan.samples} golden inputs through each artifact. The computer that serves this page compares the answers with the ` +
    `student’s, and only those that agree are timed (profile ${plan.protocol.profile}).`;
  tellOfBrowser(await introduce(facts, used));
  tellOfOrigin(plan);
  const rows = plan.subjects.map(row);
  by("artifacts").replaceChildren(...rows.map(({ item }) => item));
  const stop = live(plan, used);
  by("measure").disabled = false;
  by("measure").onclick = () => {
    // A camera's frames would be decoded beside what is timed.
    stop();
    alone(() => run(plan, facts, used, rows));
  };
}

const FACTS = ["browser", "model", "system", "cores", "memory", "threads", "timer resolution", "origin"];

/** What the pack will say of this browser, by the server's own words. */
function tellOfBrowser({ device, truth }) {
  by("facts").replaceChildren(...pairs(FACTS.filter((name) => device[name]).map((name) => [name, device[name]])));
  Object.assign(by("truth"), { hidden: false, textContent: truth, className: `tag ${truth === "measured" ? "good" : "warn"}` });
  if (truth === "measured") return;
  by("status").textContent = "This browser is driven by a program or has no screen: what it answers counts, and its times are no speed of any device.";
}

function tellOfOrigin(plan) {
  if (crossOriginIsolated) return;
  by("origin").hidden = false;
  by("origin").textContent = isSecureContext
    ? "This browser does not isolate the page: one thread, and a coarser clock."
    : "This address is not secure (plain http): the runtimes get one thread, the clock is coarse, and there is no camera. Use the https address, or a USB cable.";
  if (plan.threads > 1) by("origin").textContent += ` ${plan.threads} threads were asked for.`;
}

async function run(plan, facts, used, rows) {
  by("measure").disabled = true;
  for (const id of ["trouble", "kept"]) by(id).hidden = true;
  by("progress").hidden = false;
  for (const held of rows) {
    held.figures.replaceChildren();
    held.lines.replaceChildren();
    mark(held, "waiting");
  }
  try {
    const kept = await measure(plan, facts, used, hearing(rows));
    by("kept").hidden = !kept;
    by("kept").textContent = `${kept} measurement${kept === 1 ? " is" : "s are"} with the pack now, as target web.`;
    by("status").textContent = "";
  } catch (error) {
    by("trouble").hidden = false;
    by("trouble").textContent = error.message;
    by("trouble").scrollIntoView({ block: "center" });
  } finally {
    by("progress").hidden = true;
    by("measure").disabled = false;
    by("measure").textContent = "Measure again";
    document.body.dataset.state = "done";
  }
}

function hearing(rows) {
  return {
    started(kind, asked) {
      by("progress").value = 0;
      by("status").textContent =
        kind === "answers" ? `Checking ${asked[0].target} ${asked[0].scheme}` : `Timing ${asked.map((each) => each.scheme).join(" and ")} in turn; keep this page in view`;
      for (const { id } of asked) mark(rows[id], kind === "answers" ? "checking" : "timing");
    },
    progress(share) {
      by("progress").value = share;
    },
    stopped({ id }, refused) {
      mark(rows[id], refused ? "refused" : "does not run", "bad");
    },
    judged(kind, asked, reply, error) {
      if (kind === "answers") answered(rows[asked[0].id], reply, error);
      else timed(rows, asked, reply);
    },
  };
}

function answered(held, reply, error) {
  for (const verdict of reply.verdicts ?? []) {
    const floor = verdict.floor_db === null ? "no floor" : `floor ${verdict.floor_db.toFixed(1)} dB`;
    const reached = verdict.non_finite ? "not finite" : verdict.sqnr_db === null ? "exact" : `${verdict.sqnr_db.toFixed(1)} dB`;
    figure(held, reply.verdicts.length > 1 ? `Agreement, ${verdict.name}` : "Agreement", reached, floor);
  }
  const wrong = reply.failures ?? [];
  lines(held, wrong, "bad");
  if (!error) mark(held, wrong.length ? "wrong" : "agrees", wrong.length ? "bad" : "good");
}

function timed(rows, asked, reply) {
  for (const { id } of asked) {
    const found = reply.latencies?.[id];
    if (!found) {
      mark(rows[id], "not timed", "warn");
      lines(rows[id], reply.failures ?? []);
      continue;
    }
    const isSpeed = reply.truth === "measured";
    const isStruck = !isSpeed || found.invalid.length > 0;
    const under = (words) => (isSpeed ? words : reply.truth);
    if (found.p50) figure(rows[id], "Median", milliseconds(found.p50[0]), under(range(found.p50)), isStruck);
    if (found.ratio) figure(rows[id], "Against fp32", `${found.ratio[0].toFixed(2)} ×`, under(`${found.ratio[1].toFixed(2)} – ${found.ratio[2].toFixed(2)}`), isStruck);
    if (!isSpeed) {
      mark(rows[id], "agrees", "good");
      continue;
    }
    mark(rows[id], isStruck ? "spoiled" : "agrees", isStruck ? "warn" : "good");
    lines(rows[id], [...found.invalid, ...found.warnings]);
  }
}

/** Both ends of an interval; the unit once where they have the same. */
function range([, low, high]) {
  const [from, to] = [milliseconds(low), milliseconds(high)];
  return from.split(" ")[1] === to.split(" ")[1] ? `${from.split(" ")[0]} – ${to}` : `${from} – ${to}`;
}

start().catch((error) => {
  by("trouble").hidden = false;
  by("trouble").textContent = error.message;
  document.body.dataset.state = "failed";
});
