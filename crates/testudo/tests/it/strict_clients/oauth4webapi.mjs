// An application built on oauth4webapi, each step by hand, that verifies with jose what it got; what it found is a line of
// JSON for `strict_clients/languages.rs`.
//
//     node oauth4webapi.mjs <path of oauth4webapi> <path of jose>
//         <JSON with issuer, client_id, key, kid, redirect_uri, user, password, and for Testudo alone: audience, device>

import { strict as assert } from 'node:assert';
import { pathToFileURL } from 'node:url';
import { decideDevice, logIn } from './person.mjs';

const [webapi, joseLibrary, told] = process.argv.slice(2);
const { issuer, client_id, key, kid, redirect_uri, user, password, audience, device } = JSON.parse(told);
const oauth = await import(pathToFileURL(webapi));
const jose = await import(pathToFileURL(joseLibrary));

const at = new URL(issuer);
const discover = async (algorithm) =>
  oauth.processDiscoveryResponse(at, await oauth.discoveryRequest(at, { algorithm }));
const as = await discover('oidc');
const client = { client_id };
const pkcs8 = Buffer.from(key, 'base64url');
const curve = { name: 'ECDSA', namedCurve: 'P-256' };
const signing = await crypto.subtle.importKey('pkcs8', pkcs8, curve, false, ['sign']);
const authentication = oauth.PrivateKeyJwt({ key: signing, kid });
const pair = await oauth.generateKeyPair('ES256');
const DPoP = oauth.DPoP(client, pair);

/** Sends, and once more if the answer was the nonce for the proof (RFC 9449 section 8). */
async function call(send, read) {
  try {
    return await read(await send());
  } catch (error) {
    if (!oauth.isDPoPNonceError(error)) throw error;
    return read(await send());
  }
}

/** The error code that a request is refused with. */
const refusal = (promise) => promise.then(() => undefined, (error) => error.error ?? error.cause?.[0]?.parameters?.error);

// The authorization request goes to the server behind the browser's back.
const verifier = oauth.generateRandomCodeVerifier();
const [state, nonce] = [oauth.generateRandomState(), oauth.generateRandomNonce()];
const request = {
  redirect_uri,
  response_type: 'code',
  scope: 'openid profile offline_access',
  prompt: 'consent',
  state,
  nonce,
  code_challenge: await oauth.calculatePKCECodeChallenge(verifier),
  code_challenge_method: 'S256',
};
const pushed = await call(
  () => oauth.pushedAuthorizationRequest(as, client, authentication, request, { DPoP }),
  (answer) => oauth.processPushedAuthorizationResponse(as, client, answer),
);
const authorization = new URL(as.authorization_endpoint);
authorization.search = new URLSearchParams({ client_id, request_uri: pushed.request_uri });
const { callback, cookies } = await logIn(authorization, { until: redirect_uri, user, password });

// The answer: from this provider (`iss`), to this request (`state`).
const answer = oauth.validateAuthResponse(as, client, callback, state);
let signed;
const redeem = () =>
  call(
    () => oauth.authorizationCodeGrantRequest(as, client, authentication, answer, redirect_uri, verifier, { DPoP }),
    (response) => {
      signed = response.clone();
      return oauth.processAuthorizationCodeResponse(as, client, response, {
        expectedNonce: nonce,
        requireIdToken: true,
      });
    },
  );
const tokens = await redeem();
const { sub } = oauth.getValidatedIdTokenClaims(tokens);

// What oauth4webapi may take from TLS, jose verifies: who signed, for whom, and until when.
const keys = jose.createRemoteJWKSet(new URL(as.jwks_uri));
const { payload, protectedHeader } = await jose.jwtVerify(tokens.id_token, keys, {
  issuer,
  audience: client_id,
  subject: sub,
  algorithms: ['ES256'],
  requiredClaims: ['iat', 'exp', 'nonce'],
});
const digest = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(tokens.access_token));
const hash = Buffer.from(digest).subarray(0, 16).toString('base64url');
assert.ok(protectedHeader.kid);
const elsewhere = await jose
  .jwtVerify(tokens.id_token, keys, { audience: 'somebody-else' })
  .then(() => undefined, (error) => error.code);

const info = await call(
  () => oauth.userInfoRequest(as, client, tokens.access_token, { DPoP }),
  (response) => oauth.processUserInfoResponse(as, client, sub, response),
);
const refresh = (token) =>
  call(
    () => oauth.refreshTokenGrantRequest(as, client, authentication, token, { DPoP }),
    (response) => oauth.processRefreshTokenResponse(as, client, response),
  );
const refreshed = await refresh(tokens.refresh_token);
const newest = refreshed.refresh_token ?? tokens.refresh_token;

const introspect = async (token) =>
  oauth.processIntrospectionResponse(as, client, await oauth.introspectionRequest(as, client, authentication, token));
const before = await introspect(refreshed.access_token);
const type = [tokens.token_type, before.active, before.client_id];

if (audience) await resource();
const connected = device ? await connect() : undefined;

// A code is good once; its second use takes back what it gave.
const again = await refusal(redeem());
const after = await refusal(refresh(newest));
const revoked = await introspect(refreshed.access_token);
await oauth.processRevocationResponse(
  await oauth.revocationRequest(as, client, authentication, newest),
);

console.log(
  JSON.stringify({
    name: info.preferred_username,
    type,
    bound: payload.at_hash === hash,
    elsewhere,
    again,
    after,
    revoked: revoked.active,
    ...(connected && { connected }),
  }),
);

/** RFC 8414 says the same, and a service takes the access token as RFC 9068 and 9449 say. */
async function resource() {
  assert.deepEqual(await discover('oauth2'), as);
  const { payload } = await jose.jwtVerify(refreshed.access_token, keys, {
    issuer,
    audience,
    typ: 'at+jwt',
    algorithms: ['ES256'],
    requiredClaims: ['sub', 'client_id', 'jti', 'iat', 'exp', 'scope'],
  });
  const jwk = await jose.exportJWK(pair.publicKey);
  assert.equal(payload.cnf.jkt, await jose.calculateJwkThumbprint(jwk));
  let arrived;
  const address = new URL('https://service.example/orders');
  await oauth.protectedResourceRequest(refreshed.access_token, 'GET', address, undefined, null, {
    DPoP,
    [oauth.customFetch]: async (url, options) => {
      arrived = new Request(url, { method: options.method, headers: options.headers });
      return new Response('{}');
    },
  });
  const claims = await oauth.validateJwtAccessToken(as, arrived, audience, { requireDPoP: true });
  assert.equal(claims.sub, sub);
}

/** A device of the same client (RFC 8628). */
async function connect() {
  const allowed = await oauth.processDeviceAuthorizationResponse(
    as,
    client,
    await oauth.deviceAuthorizationRequest(as, client, authentication, { scope: 'openid profile' }),
  );
  const ask = () =>
    call(
      () => oauth.deviceCodeGrantRequest(as, client, authentication, allowed.device_code, { DPoP }),
      (response) => oauth.processDeviceCodeResponse(as, client, response),
    );
  const early = await refusal(ask());
  await decideDevice(allowed, 'allow', { issuer, user, password, cookies });
  await new Promise((resolve) => setTimeout(resolve, allowed.interval * 1000));
  const got = await ask();
  return [early, got.token_type, oauth.getValidatedIdTokenClaims(got).sub === sub];
}
