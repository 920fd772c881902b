// An application built on openid-client that nobody has registered: it does so itself (RFC 7591), logs somebody in, and
// manages what it registered (RFC 7592). What it found is a line of JSON for `strict_clients/languages.rs`.
//
//     node registration.mjs <path of openid-client> <JSON with issuer, initial_access_token, key, jwk, redirect_uri, user, password>

import { strict as assert } from 'node:assert';
import { pathToFileURL } from 'node:url';
import { logIn } from './person.mjs';

const [library, told] = process.argv.slice(2);
const { issuer, initial_access_token: initialAccessToken, key, jwk, redirect_uri, user, password } =
  JSON.parse(told);
const client = await import(pathToFileURL(library));

const curve = { name: 'ECDSA', namedCurve: 'P-256' };
const pkcs8 = Buffer.from(key, 'base64url');
const signing = await crypto.subtle.importKey('pkcs8', pkcs8, curve, false, ['sign']);
const authentication = client.PrivateKeyJwt({ key: signing, kid: jwk.kid });
const metadata = {
  client_name: 'An application',
  redirect_uris: [redirect_uri],
  grant_types: ['authorization_code', 'refresh_token'],
  response_types: ['code'],
  scope: 'openid profile offline_access',
  token_endpoint_auth_method: 'private_key_jwt',
  id_token_signed_response_alg: 'ES256',
  jwks: { keys: [jwk] },
};
const register = (token, changes) =>
  client.dynamicClientRegistration(new URL(issuer), { ...metadata, ...changes }, authentication, {
    initialAccessToken: token,
  });
/** What a registration is refused with: the code in the body, or in the challenge. */
const refusal = (promise) =>
  promise.then(
    () => undefined,
    (error) => error.error ?? error.cause?.[0]?.parameters?.error ?? String(error),
  );
const untold = await register(undefined).then(() => 200, (error) => error.cause?.status ?? error.status);
const refused = [
  await refusal(register('made-up')),
  await refusal(register(initialAccessToken, { redirect_uris: ['https://client.example/#fragment'] })),
  await refusal(register(initialAccessToken, { id_token_signed_response_alg: 'HS512' })),
  await refusal(register(initialAccessToken, { jwks: undefined })),
];

const config = await register(initialAccessToken);
client.enableNonRepudiationChecks(config);
const registered = config.clientMetadata();
const pkceCodeVerifier = client.randomPKCECodeVerifier();
const expectedNonce = client.randomNonce();
const authorization = client.buildAuthorizationUrl(config, {
  redirect_uri,
  scope: metadata.scope,
  prompt: 'consent',
  nonce: expectedNonce,
  code_challenge: await client.calculatePKCECodeChallenge(pkceCodeVerifier),
  code_challenge_method: 'S256',
});
const { callback } = await logIn(authorization, { until: redirect_uri, user, password });
const tokens = await client.authorizationCodeGrant(config, callback, { pkceCodeVerifier, expectedNonce });
const info = await client.fetchUserInfo(config, tokens.access_token, tokens.claims().sub);

/** A request to manage it. */
async function manage(method, token, body) {
  const answer = await fetch(registered.registration_client_uri, {
    method,
    headers: { authorization: `Bearer ${token}`, ...(body && { 'content-type': 'application/json' }) },
    body: body && JSON.stringify(body),
  });
  const text = await answer.text();
  return { status: answer.status, ...(text && JSON.parse(text)) };
}
const first = registered.registration_access_token;
const shown = await manage('GET', first);
assert.equal(shown.client_id, registered.client_id);
assert.deepEqual(shown.redirect_uris, metadata.redirect_uris);
const changed = { ...metadata, client_id: registered.client_id, client_name: 'Another name' };
const replaced = await manage('PUT', first, changed);
const second = replaced.registration_access_token;
const known = await manage('GET', second);
const late = await manage('GET', first);
const deleted = await manage('DELETE', second);
const gone = await manage('GET', second);
const after = await refusal(client.refreshTokenGrant(config, tokens.refresh_token));

console.log(
  JSON.stringify({
    untold,
    refused,
    method: registered.token_endpoint_auth_method,
    name: info.preferred_username,
    names: [shown.client_name, replaced.client_name, known.client_name],
    rotated: first !== second,
    statuses: [shown, replaced, known, late, deleted, gone].map(({ status }) => status),
    after,
  }),
);
