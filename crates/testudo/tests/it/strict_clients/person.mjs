// What a person does in a browser, for scripts.

import { strict as assert } from 'node:assert';

/** The page, the form, the way back: where the browser is sent, and its cookies. */
export async function logIn(address, { issuer, user, password }) {
  const page = await fetch(address, { redirect: 'manual' });
  assert.equal(page.status, 200, await page.clone().text());
  const { answer, cookies } = await sendLogin(page, { issuer, user, password });
  return { callback: new URL(answer.headers.get('location'), issuer), cookies };
}

async function sendLogin(page, { issuer, user, password }) {
  const jar = new Map();
  keep(jar, page);
  const answer = await send(issuer, '/login', jar, { flow: await flowOf(page), username: user, password });
  assert.equal(answer.status, 303, await answer.clone().text());
  keep(jar, answer);
  return { answer, cookies: jar };
}

/** A form of the provider's own pages, sent as browsers do. */
export function send(issuer, path, cookies, fields) {
  return fetch(new URL(path, issuer), {
    method: 'POST',
    redirect: 'manual',
    headers: { cookie: field(cookies), 'sec-fetch-site': 'same-origin' },
    body: new URLSearchParams(fields),
  });
}

/** The sealed hidden field of a page. */
export async function flowOf(page) {
  const [, flow] = /name="flow" value="([^"]+)"/.exec(await page.text());
  return flow;
}

/** The `Cookie` field. */
export function field(cookies) {
  return [...cookies].map((pair) => pair.join('=')).join('; ');
}

function keep(jar, answer) {
  for (const cookie of answer.headers.getSetCookie()) {
    const [name, value] = cookie.split(';')[0].split('=');
    jar.set(name, value);
  }
}
