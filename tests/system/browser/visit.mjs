// One visit of the page in a phone-sized Chromium with a made-up camera: node visit.mjs ADDRESS STEPS FOLDER -> JSON on standard output.
// STEPS: of "draw7", "camera", "measure", comma-separated. Screenshots go to FOLDER.
import { createRequire } from "node:module";

const [address, steps, folder, modules] = process.argv.slice(2);
const { chromium } = createRequire(`${modules}/`)("playwright-core");

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"],
});
const posts = [];
const found = { console: [], requests: [] };
try {
  const context = await browser.newContext({ viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true, ignoreHTTPSErrors: true });
  const page = await context.newPage();
  page.on("console", (message) => message.type() === "error" && found.console.push(message.text()));
  page.on("pageerror", (error) => found.console.push(error.message));
  page.on("request", (request) => request.method() === "POST" && posts.push([new URL(request.url()).pathname, request.postData()]));
  page.on("request", (request) => found.requests.push(new URL(request.url()).host));
  const response = await page.goto(address);
  found.status = response.status();
  if (found.status === 200) {
    await page.waitForFunction(() => !document.getElementById("measure").disabled || document.body.dataset.state === "failed");
    found.facts = await page.locator("#facts").innerText();
    found.origin = await page.locator("#origin").innerText();
    for (const step of steps.split(",").filter(Boolean)) await STEPS(page)[step]();
    found.width = await page.evaluate(() => document.documentElement.scrollWidth);
    await page.screenshot({ path: `${folder}/phone.png`, fullPage: true });
  }
} finally {
  await browser.close();
}
console.log(JSON.stringify(found));

function STEPS(page) {
  return {
    // A bar and a slanted stroke.
    async draw7() {
      const box = await page.locator("#pad").boundingBox();
      const to = (x, y) => page.mouse.move(box.x + x * box.width, box.y + y * box.height);
      await to(0.3, 0.25);
      await page.mouse.down();
      for (let part = 1; part <= 10; part++) await to(0.3 + 0.04 * part, 0.25);
      for (let part = 1; part <= 10; part++) await to(0.7 - 0.025 * part, 0.25 + 0.055 * part);
      await page.mouse.up();
      found.drawn = {};
      for (const option of await page.locator("#choice option").all()) {
        await page.locator("#result").evaluate((result) => result.replaceChildren());
        await page.locator("#choice").selectOption(await option.getAttribute("value"));
        await page.waitForSelector("#best");
        found.drawn[await option.textContent()] = await page.locator("#best").textContent();
      }
      found.took = await page.locator(".took").textContent();
    },
    async camera() {
      await page.click("#camera");
      await page.waitForFunction(() => /median of/.test(document.querySelector(".took")?.textContent ?? ""));
      found.seen = await page.locator("#best").textContent();
      found.took = await page.locator(".took").textContent();
      await page.click("#camera");
    },
    async measure() {
      await page.click("#measure");
      await page.waitForSelector("body[data-state=done]", { timeout: 120_000 });
      // A server that was started with --once leaves after the last reply.
      const again = ([path, body]) =>
        fetch(path, { method: "POST", headers: { "content-type": "application/json" }, body }).then((reply) => reply.status, () => "it left");
      const forged = JSON.stringify({ ...JSON.parse(posts.at(-1)[1]), nonce: "A".repeat(22) });
      found.replayed = await page.evaluate(again, posts.at(-1));
      found.forged = await page.evaluate(again, [posts.at(-1)[0], forged]);
      found.kept = await page.locator("#kept").innerText();
      found.trouble = await page.locator("#trouble").innerText();
      found.rows = {};
      for (const row of await page.locator("#artifacts > li").all()) {
        found.rows[await row.getAttribute("data-subject")] = { mark: await row.locator(".tag").innerText(), words: await row.innerText() };
      }
    },
  };
}
