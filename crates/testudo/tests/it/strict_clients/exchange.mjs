// A service built on openid-client that was given a token about somebody, and exchanges it (RFC 8693) to call another
// service for them. What it found is a line of JSON for `strict_clients.rs`.
//
//     node exchange.mjs <path of openid-client> <JSON with issuer, client_id, key, kid, subject_token, resource>

import { pathToFileURL } from 'node:url';

const [library, told] = process.argv.slice(2);
const { issuer, client_id, key, kid, subject_token, resource } = JSON.parse(told);
const client = await import(pathToFileURL(library));

const curve = { name: 'ECDSA', namedCurve: 'P-256' };
const pkcs8 = Buffer.from(key, 'base64url');
const signing = await crypto.subtle.importKey('pkcs8', pkcs8, curve, false, ['sign']);
const authentication = client.PrivateKeyJwt({ key: signing, kid });
const config = await client.discovery(new URL(issuer), client_id, undefined, authentication);
const DPoP = client.getDPoPHandle(config, await client.randomDPoPKeyPair('ES256'));

const GRANT = 'urn:ietf:params:oauth:grant-type:token-exchange';
const ACCESS_TOKEN = 'urn:ietf:params:oauth:token-type:access_token';
const exchange = (parameters) =>
  client.genericGrantRequest(
    config,
    GRANT,
    { subject_token, subject_token_type: ACCESS_TOKEN, audience: 'shop', ...parameters },
    { DPoP },
  );
const error = (promise) => promise.then(() => undefined, (error) => error.error ?? String(error));

const own = await client.clientCredentialsGrant(config, undefined, { DPoP });
const tokens = await exchange({
  actor_token: own.access_token,
  actor_token_type: ACCESS_TOKEN,
  requested_token_type: ACCESS_TOKEN,
});
const active = await client.tokenIntrospection(config, tokens.access_token);
const order = await client.fetchProtectedResource(
  config,
  tokens.access_token,
  new URL(resource),
  'GET',
  undefined,
  undefined,
  { DPoP },
);

console.log(
  JSON.stringify({
    issued_token_type: tokens.issued_token_type,
    token_type: tokens.token_type,
    active,
    order: order.status,
    elsewhere: await error(exchange({ audience: 'stranger' })),
    nowhere: await error(exchange({ audience: 'nowhere' })),
    wider: await error(exchange({ scope: 'openid stock:write' })),
    forged: await error(exchange({ subject_token: `${subject_token.slice(0, -4)}AAAA` })),
  }),
);
