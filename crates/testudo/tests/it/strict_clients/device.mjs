// A television built on openid-client, and its user's browser; what it found is a line of JSON for `strict_clients.rs`.
//
//     node device.mjs <path of openid-client> <JSON with issuer, client_id, user, password>

import { pathToFileURL } from 'node:url';
import { decideDevice } from './person.mjs';

const [library, told] = process.argv.slice(2);
const { issuer, client_id, user, password } = JSON.parse(told);
const client = await import(pathToFileURL(library));
const config = await client.discovery(new URL(issuer), client_id, undefined, client.None());

const allowed = await client.initiateDeviceAuthorization(config, { scope: 'openid profile offline_access' });
const tokens = client.pollDeviceAuthorizationGrant(config, allowed);
const cookies = await decideDevice(allowed, 'allow', { issuer, user, password });
const denied = await client.initiateDeviceAuthorization(config, { scope: 'openid' });
await decideDevice(denied, 'deny', { issuer, cookies });
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
