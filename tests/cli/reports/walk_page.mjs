// Open a page in headless Chromium, walk through it by keyboard, and print what was seen as JSON.
// node walk_page.mjs PACKAGES PAGE light|dark
import fs from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";

const [packages, page, scheme] = process.argv.slice(2);
const modules = path.join(path.resolve(packages), "node_modules");
const driver = path.join(modules, "puppeteer-core/lib/esm/puppeteer/puppeteer-core.js");
const { default: puppeteer } = await import(pathToFileURL(driver));
const axe = fs.readFileSync(path.join(modules, "axe-core/axe.min.js"), "utf8");

const browser = await puppeteer.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox"],
  protocolTimeout: 600_000,
});
const tab = await browser.newPage();
const messages = [];
const requests = [];
tab.on("console", (message) => messages.push(message.text()));
tab.on("pageerror", (error) => messages.push(String(error)));
tab.on("dialog", (dialog) => { messages.push(dialog.message()); dialog.dismiss(); });
tab.on("request", (request) => requests.push(request.url()));
await tab.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
await tab.goto(pathToFileURL(path.resolve(page)).href, { timeout: 0 });
const background = await tab.evaluate(() => getComputedStyle(document.body).backgroundColor);

// from one element to the next with Tab, opening each with Enter, until the focus leaves the page
const focused = [];
for (let step = 0; step < 500; step += 1) {
  await tab.keyboard.press("Tab");
  const tag = await tab.evaluate(() => document.activeElement?.tagName ?? "BODY");
  if (tag === "BODY") break;
  focused.push(tag);
  if (tag === "SUMMARY") await tab.keyboard.press("Enter");
}
const open = await tab.$$eval("details[open]", (all) => all.length);
const details = await tab.$$eval("details", (all) => all.length);

// every link leads to its section
const links = await tab.$$("nav a");
const lost = [];
for (const link of links) {
  await link.evaluate((element) => element.click());
  const seen = await link.evaluate((element) => {
    const box = document.querySelector(element.hash).getBoundingClientRect();
    return box.top < innerHeight && box.bottom > 0;
  });
  if (!seen) lost.push(await link.evaluate((element) => element.hash));
}

await tab.evaluate(axe);
const violations = await tab.evaluate(async () => (await axe.run()).violations.map(
  (each) => `${each.id}: ${each.nodes[0].html.slice(0, 200)}`,
));

// on a narrow screen nothing but the tables themselves scrolls sideways
await tab.setViewport({ width: 360, height: 640 });
const overflow = await tab.evaluate(() => document.documentElement.scrollWidth - innerWidth);
await browser.close();
console.log(JSON.stringify(
  { messages, requests, background, focused, open, details, lost, violations, overflow },
));
