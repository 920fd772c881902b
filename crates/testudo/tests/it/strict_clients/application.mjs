// An application built on openid-client, which is built on oauth4webapi: the strictest client library there is. It logs
// in as a person does and uses all it was given; what it found is a line of JSON for `strict_clients.rs`.
//
//     node application.mjs <path of openid-client> <JSON with issuer, client_id, redirect_uri, key, user, password, resource, signs>

import { strict as assert } from 'node:assert';
import { pathToFileURL } from 'node:url';
import { logIn } from './person.mjs';

const [library, told] = process.argv.slice(2);
const { issuer, client_id, redirect_uri, key, kid, user, password, resource, signs } =
  JSON.parse(told);
const client = await import(pathToFileURL(library));

const curve = { name: 'ECDSA', namedCurve: 'P-256' };
const pkcs8 = Buffer.from(key, 'base64url');
const signing = await crypto.subtle.importKey('pkcs8', pkcs8, curve, false, ['sign']);
const config = await client.discovery(
  new URL(issuer),
  client_id,
  signs ? { introspection_signed_response_alg: 'ES256' } : undefined,
  client.PrivateKeyJwt({ key: signing, kid }),
);
// Signatures of tokens that came over TLS are verified too.
client.enableNonRepudiationChecks(config);
const DPoP = client.getDPoPHandle(config, await client.randomDPoPKeyPair('ES256'));

// The authorization request goes to the server behind the browser's back.
const pkceCodeVerifier = client.randomPKCECodeVerifier();
const expectedState = client.randomState();
const expectedNonce = client.randomNonce();
const asked = {
  redirect_uri,
  scope: 'openid profile offline_access',
  state: expectedState,
  nonce: expectedNonce,
  code_challenge: await client.calculatePKCECodeChallenge(pkceCodeVerifier),
  code_challenge_method: 'S256',
};
const parameters = signs
  ? (await client.buildAuthorizationUrlWithJAR(config, asked, { key: signing, kid })).searchParams
  : asked;
const authorization = await client.buildAuthorizationUrlWithPAR(config, parameters, { DPoP });
assert.deepEqual([...authorization.searchParams.keys()].sort(), ['client_id', 'request_uri']);

const { callback } = await logIn(authorization, { until: redirect_uri, user, password });
const tokens = await client.authorizationCodeGrant(
  config,
  callback,
  { pkceCodeVerifier, expectedState, expectedNonce },
  undefined,
  { DPoP },
);
const { sub } = tokens.claims();
const userinfo = await client.fetchUserInfo(config, tokens.access_token, sub, { DPoP });
const refreshed = await client.refreshTokenGrant(config, tokens.refresh_token, undefined, { DPoP });

// A service behind the gateway, which asks for a proof of the same key: first with a nonce to learn, then with one known.
const order = () =>
  client.fetchProtectedResource(
    config,
    refreshed.access_token,
    new URL(resource),
    'GET',
    undefined,
    undefined,
    { DPoP },
  );
const orders = [(await order()).status, (await order()).status];
const stolen = await fetch(resource, {
  headers: { authorization: `Bearer ${refreshed.access_token}` },
});

const active = await client.tokenIntrospection(config, refreshed.access_token);
await client.tokenRevocation(config, refreshed.refresh_token);
const revoked = await client.tokenIntrospection(config, refreshed.access_token);
const refused = await client
  .fetchUserInfo(config, refreshed.access_token, sub, { DPoP })
  .then(() => undefined, (error) => error.status ?? error.cause?.status);

console.log(
  JSON.stringify({
    token_type: tokens.token_type,
    name: userinfo.preferred_username,
    rotated: refreshed.refresh_token !== tokens.refresh_token,
    active,
    revoked,
    refused,
    orders,
    stolen: [stolen.status, (await stolen.json()).code],
  }),
);
