// What a person does in a browser, for scripts: at Testudo, and at any other provider whose pages are plain forms.

import { strict as assert } from 'node:assert';

/**
 * Opens `address`, fills in the forms that come, saying yes, and follows the browser until it is sent to an address that
 * begins with `until`: that one as `callback`, and the cookies that are left.
 */
export async function logIn(address, { until, user, password }) {
  const cookies = new Map();
  let [at, form] = [new URL(address), undefined];
  for (let page = 0; page < 20; page += 1) {
    const answer = await fetch(at, {
      method: form ? 'POST' : 'GET',
      redirect: 'manual',
      headers: { cookie: field(cookies), 'sec-fetch-site': form ? 'same-origin' : 'cross-site' },
      body: form,
    });
    keep(cookies, answer);
    const location = answer.headers.get('location');
    if (location) {
      [at, form] = [new URL(location, at), undefined];
      if (at.href.startsWith(until)) return { callback: at, cookies };
    } else {
      const text = await answer.text();
      assert.equal(answer.status, 200, `${at}: ${text}`);
      ({ at, form } = fillIn(text, at, { user, password }));
    }
  }
  assert.fail(`${at}: the browser goes in circles`);
}

/** Allows or denies a device, with the code it shows; logs in for that unless there are cookies of a login. */
export async function decideDevice(device, decision, { issuer, user, password, cookies: known }) {
  const address = new URL(device.verification_uri_complete);
  const cookies = known ?? (await logIn(address, { until: address.href, user, password })).cookies;
  const page = await fetch(address, { headers: { cookie: field(cookies) } });
  const [, shown] = /name="user_code"[^>]*value="([^"]*)"/.exec(await page.clone().text());
  assert.equal(shown, device.user_code);
  const send = (fields) =>
    fetch(new URL('/device', issuer), {
      method: 'POST',
      headers: { cookie: field(cookies), 'sec-fetch-site': 'same-origin' },
      body: new URLSearchParams(fields),
    });
  const question = await send({ flow: await flowOf(page), user_code: shown });
  assert.match(await question.clone().text(), /Connect this device\?/);
  const decided = await send({ flow: await flowOf(question), decision });
  assert.equal(decided.status, 200);
  return cookies;
}

/** The `Cookie` field. */
export function field(cookies) {
  return [...cookies].map((pair) => pair.join('=')).join('; ');
}

/** The first form of a page with what a person types, and its first button: the one that goes on. */
function fillIn(page, address, { user, password }) {
  const [, head, inside] = /<form\b([^>]*)>(.*?)<\/form>/s.exec(page) ?? assert.fail(`${address}: no form: ${page}`);
  const typed = { text: user, password };
  const form = new URLSearchParams();
  for (const [, attributes] of inside.matchAll(/<input\b([^>]*)>/g)) {
    const name = attribute(attributes, 'name');
    if (name) form.set(name, typed[attribute(attributes, 'type')] ?? attribute(attributes, 'value'));
  }
  const button = /<button\b([^>]*)>/.exec(inside)?.[1] ?? '';
  if (attribute(button, 'name')) form.set(attribute(button, 'name'), attribute(button, 'value'));
  return { at: new URL(attribute(head, 'action'), address), form };
}

function attribute(attributes, name) {
  return new RegExp(`\\b${name}="([^"]*)"`).exec(attributes)?.[1] ?? '';
}

/** The sealed hidden field of a page. */
async function flowOf(page) {
  const [, flow] = /name="flow" value="([^"]+)"/.exec(await page.text());
  return flow;
}

function keep(jar, answer) {
  for (const cookie of answer.headers.getSetCookie()) {
    const [pair] = cookie.split(';');
    const middle = pair.indexOf('=');
    const name = pair.slice(0, middle);
    if (/;\s*(max-age=0|expires=thu, 01 jan 1970)/i.test(cookie)) jar.delete(name);
    else jar.set(name, pair.slice(middle + 1));
  }
}
