// An application built on openid-client and jose that logs its user out, and is told by the provider behind the browser's
// back; what it found is a line of JSON for `strict_clients.rs`.
//
//     node logout.mjs <path of openid-client> <path of jose>
//         <JSON with issuer, client_id, client_secret, redirect_uri, post_logout_redirect_uri, port, user, password>

import { createServer } from 'node:http';
import { pathToFileURL } from 'node:url';
import { field, logIn } from './person.mjs';

const [openid, joseLibrary, told] = process.argv.slice(2);
const { issuer, client_id, client_secret, redirect_uri, post_logout_redirect_uri, port, user, password } =
  JSON.parse(told);
const client = await import(pathToFileURL(openid));
const jose = await import(pathToFileURL(joseLibrary));

const config = await client.discovery(new URL(issuer), client_id, client_secret);
const metadata = config.serverMetadata();

// Where the provider tells that a session has ended. The first attempt fails.
const attempts = [];
const application = createServer(async (request, response) => {
  let body = '';
  for await (const chunk of request) body += chunk;
  attempts.push({ type: request.headers['content-type'], body: new URLSearchParams(body) });
  response.writeHead(attempts.length === 1 ? 503 : 200, { 'cache-control': 'no-store' }).end();
}).listen(port, '127.0.0.1');

const pkceCodeVerifier = client.randomPKCECodeVerifier();
const authorization = client.buildAuthorizationUrl(config, {
  redirect_uri,
  scope: 'openid',
  code_challenge: await client.calculatePKCECodeChallenge(pkceCodeVerifier),
  code_challenge_method: 'S256',
});
const { callback, cookies } = await logIn(authorization, { until: redirect_uri, user, password });
const tokens = await client.authorizationCodeGrant(config, callback, { pkceCodeVerifier });

const end = client.buildEndSessionUrl(config, {
  id_token_hint: tokens.id_token,
  post_logout_redirect_uri,
  state: 'to-be-continued',
});
const answer = await fetch(end, { redirect: 'manual', headers: { cookie: field(cookies) } });

while (attempts.length < 2) await new Promise((resolve) => setTimeout(resolve, 50));
const keys = jose.createRemoteJWKSet(new URL(metadata.jwks_uri));
const logoutTokens = await Promise.all(
  attempts.map(({ body }) =>
    jose.jwtVerify(body.get('logout_token'), keys, {
      issuer,
      audience: client_id,
      typ: 'logout+jwt',
      algorithms: ['ES256'],
      requiredClaims: ['iat', 'exp', 'jti', 'events', 'sid', 'sub'],
    }),
  ),
);
application.close();

const { sid, sub } = tokens.claims();
console.log(
  JSON.stringify({
    supported: [metadata.backchannel_logout_supported, metadata.backchannel_logout_session_supported],
    returned: answer.headers.get('location'),
    types: attempts.map(({ type }) => type),
    same: logoutTokens.every(({ payload }) => payload.sid === sid && payload.sub === sub),
    ids: new Set(logoutTokens.map(({ payload }) => payload.jti)).size,
    events: logoutTokens[0].payload.events,
    nonce: logoutTokens[0].payload.nonce ?? null,
  }),
);
