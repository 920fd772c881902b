// A television built on openid-client, and its user's browser; what it found is a line of JSON for `strict_clients.rs`.
//
//     node device.mjs <path of openid-client> <JSON with issuer, client_id, user, password>

import { strict as assert } from 'node:assert';
import { pathToFileURL } from 'node:url';
import { field, flowOf, logIn, send } from './person.mjs';

const [library, told] = process.argv.slice(2);
const { issuer, client_id, user, password } = JSON.parse(told);
const client = await import(pathToFileURL(library));
const config = await client.discovery(new URL(issuer), client_id, undefined, client.None());

/** What its user does: the page of the code, a login if there must be one, the code, the answer. */
async function answer(device, decision, known) {
  const address = new URL(device.verification_uri_complete);
  let cookies = known;
  if (!cookies) {
    const login = await logIn(address, { issuer, user, password });
    assert.equal(login.callback.href, address.href);
    cookies = login.cookies;
  }
  const page = await fetch(address, { headers: { cookie: field(cookies) } });
  const [, shown] = /name="user_code"[^>]*value="([^"]*)"/.exec(await page.clone().text());
  assert.equal(shown, device.user_code);
  const question = await send(issuer, '/device', cookies, { flow: await flowOf(page), user_code: shown });
  assert.match(await question.clone().text(), /Connect this device\?/);
  const decided = await send(issuer, '/device', cookies, { flow: await flowOf(question), decision });
  assert.equal(decided.status, 200);
  return cookies;
}

const allowed = await client.initiateDeviceAuthorization(config, { scope: 'openid profile offline_access' });
const tokens = client.pollDeviceAuthorizationGrant(config, allowed);
const cookies = await answer(allowed, 'allow');
const denied = await client.initiateDeviceAuthorization(config, { scope: 'openid' });
await answer(denied, 'deny', cookies);
const refused = await client
  .pollDeviceAuthorizationGrant(config, denied)
  .then(() => undefined, (error) => error.error);

const got = await tokens;
const userinfo = await client.fetchUserInfo(config, got.access_token, got.claims().sub);
const refreshed = await client.refreshTokenGrant(config, got.refresh_token);
console.log(
  JSON.stringify({
    code: /^[BCDFGHJKLMNPQRSTVWXZ]{4}-[BCDFGHJKLMNPQRSTVWXZ]{4}$/.test(allowed.user_code),
    name: userinfo.preferred_username,
    rotated: refreshed.refresh_token !== got.refresh_token,
    refused,
  }),
);
