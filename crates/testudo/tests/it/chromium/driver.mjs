// Chromium for the tests: one JSON command per line on standard input, one JSON answer per line on standard output.
//
//   node driver.mjs PLAYWRIGHT CHROMIUM
//
// Every answer describes the page as it is then, with what the console complained about since the last answer.

import { createInterface } from "node:readline";
import { argv, stdin } from "node:process";
import { pathToFileURL } from "node:url";

const [, , playwright, executablePath] = argv;
const { chromium } = await import(pathToFileURL(playwright));
const browser = await chromium.launch({
  executablePath,
  args: [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
  ],
});

let page;
let shown; // the answer to the last navigation
let complaints = [];
let passkeys; // the DevTools session of the window's authenticator
let authenticatorId;

const commands = {
  // A new window that knows nothing of the windows before it.
  async window({ javascript, dark, width, height }) {
    await page?.context().close();
    passkeys = authenticatorId = undefined;
    const context = await browser.newContext({
      javaScriptEnabled: javascript,
      colorScheme: dark ? "dark" : "light",
      viewport: { width, height },
    });
    page = await context.newPage();
    page.on("response", (response) => {
      if (response.request().isNavigationRequest() && response.frame() === page.mainFrame()) shown = response;
    });
    page.on("console", (message) => {
      if (["error", "warning"].includes(message.type())) complaints.push(message.text());
    });
    page.on("pageerror", (error) => complaints.push(String(error)));
  },
  open: ({ url }) => page.goto(url),
  // Opens a page that goes on by itself, and waits for where that leads: to an address that begins with `to`.
  async pass({ url, to }) {
    await page.goto(url, { waitUntil: "commit" });
    await page.waitForURL((reached) => reached.href.startsWith(to));
  },
  // Gives the window an authenticator of its own, in place of the one it may have.
  async authenticator({ options }) {
    passkeys ??= await page.context().newCDPSession(page);
    await passkeys.send("WebAuthn.enable", { enableUI: false });
    if (authenticatorId) await passkeys.send("WebAuthn.removeVirtualAuthenticator", { authenticatorId });
    ({ authenticatorId } = await passkeys.send("WebAuthn.addVirtualAuthenticator", {
      options: {
        protocol: "ctap2",
        ctap2Version: "ctap2_1",
        transport: "internal",
        hasResidentKey: true,
        hasUserVerification: true,
        isUserVerified: true,
        automaticPresenceSimulation: true,
        ...options,
      },
    }));
  },
  // Whether somebody touches the authenticator when it asks.
  touch: ({ enabled }) => passkeys.send("WebAuthn.setAutomaticPresenceSimulation", { authenticatorId, enabled }),
  // Whether it recognises them.
  recognise: ({ isUserVerified }) => passkeys.send("WebAuthn.setUserVerified", { authenticatorId, isUserVerified }),
  // Puts a passkey into it: a copy of another one's.
  copy: ({ credential }) => passkeys.send("WebAuthn.addCredential", { authenticatorId, credential }),
  // Puts a frame that shows `url` into the page that is there.
  async frame({ url }) {
    await page.evaluate((url) => {
      const frame = document.createElement("iframe");
      const loaded = new Promise((resolve) => frame.addEventListener("load", resolve));
      frame.src = url;
      document.body.append(frame);
      return loaded;
    }, url);
  },
  fill: ({ label, text }) => page.getByLabel(label, { exact: true }).fill(text),
  // Clicks what stays on the page, and waits until it says something.
  async click_in_vain({ button }) {
    await page.getByRole("button", { name: button, exact: true }).click();
    await page.waitForSelector("[role=alert]");
  },
  click: ({ button }) => leave(page.getByRole("button", { name: button, exact: true }).click()),
  // Into whatever has the focus.
  type: ({ text }) => page.keyboard.type(text),
  press: ({ key, leaves }) => (leaves ? leave(page.keyboard.press(key)) : page.keyboard.press(key)),
  screenshot: ({ path }) => page.screenshot({ path }),
};

/** Waits until what `action` leads to has loaded. */
async function leave(action) {
  await Promise.all([page.waitForEvent("load"), action]);
}

async function describe() {
  const cookies = await page.context().cookies();
  const answer = {
    ...(await page.evaluate(describeDocument)),
    status: shown?.status() ?? 0,
    headers: (await shown?.allHeaders()) ?? {},
    cookies,
    passkeys: authenticatorId ? (await passkeys.send("WebAuthn.getCredentials", { authenticatorId })).credentials : [],
    frames: page.frames().slice(1).map((frame) => frame.url()),
    complaints,
  };
  complaints = [];
  return answer;
}

/** Runs in the page, even where the page itself may run nothing. */
function describeDocument() {
  const visible = (element) => element.checkVisibility() && element.getClientRects().length > 0;
  const fields = [...document.querySelectorAll("input")].filter(visible).map((input) => ({
    name: input.name,
    kind: input.type,
    label: [...input.labels].map((label) => label.textContent.trim()).join(" "),
    autocomplete: input.autocomplete,
    value: input.value,
    focused: input === document.activeElement,
    invalid: input.getAttribute("aria-invalid") === "true",
  }));

  // WCAG 2.2, relative luminance and contrast ratio.
  const channels = (colour) => colour.match(/[\d.]+/g).map(Number);
  const luminance = (colour) => {
    const [red, green, blue] = channels(colour)
      .slice(0, 3)
      .map((value) => value / 255)
      .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const background = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const colour = getComputedStyle(each).backgroundColor;
      if ((channels(colour)[3] ?? 1) === 1) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const ratio = (one, other) => {
    const [light, dark] = [luminance(one), luminance(other)].sort((a, b) => b - a);
    return (light + 0.05) / (dark + 0.05);
  };
  const hasText = (element) =>
    element.matches("input") || [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  const texts = [...document.body.querySelectorAll("*")].filter(visible).filter(hasText);
  const borders = [...document.querySelectorAll("input")].filter(visible);

  return {
    url: location.href,
    title: document.title,
    language: document.documentElement.lang,
    text: document.body.innerText,
    alert: document.querySelector("[role=alert]")?.textContent.trim() ?? null,
    fields,
    text_contrast: Math.min(21, ...texts.map((text) => ratio(getComputedStyle(text).color, background(text)))),
    border_contrast: Math.min(
      21,
      ...borders.map((input) => ratio(getComputedStyle(input).borderTopColor, background(input.parentElement))),
    ),
    overflows: document.documentElement.scrollWidth > document.documentElement.clientWidth,
  };
}

for await (const line of createInterface({ input: stdin })) {
  const { command, ...parameters } = JSON.parse(line);
  let answer;
  try {
    await commands[command](parameters);
    answer = await describe();
  } catch (error) {
    answer = { failure: error.message };
  }
  console.log(JSON.stringify(answer));
}
await browser.close();
