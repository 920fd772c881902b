// A build system with keys of its own, and a build that shows the token it was given to get one of the fleet. What it got is a
// line of JSON for `strict_clients.rs`.
//
//     node build.mjs <path of openid-client> <path of jose> <JSON with issuer, port, client_id, audience>

import { createServer } from 'node:http';
import { pathToFileURL } from 'node:url';

const [openidClient, jose_, told] = process.argv.slice(2);
const { issuer, port, client_id } = JSON.parse(told);
const client = await import(pathToFileURL(openidClient));
const jose = await import(pathToFileURL(jose_));

const builds = `http://127.0.0.1:${port}`;
const ALGORITHMS = ['RS256', 'PS256', 'ES384', 'EdDSA'];
const keys = new Map();
for (const alg of ALGORITHMS) keys.set(alg, await jose.generateKeyPair(alg));
let published = ['RS256'];
const jwk = async (alg) => ({ ...(await jose.exportJWK(keys.get(alg).publicKey)), kid: alg, use: 'sig', alg });

const asked = [];
const server = createServer(async (request, response) => {
  asked.push(request.url);
  const body =
    request.url === '/keys'
      ? { keys: await Promise.all(published.map(jwk)) }
      : { issuer: builds, jwks_uri: `${builds}/keys` };
  response.setHeader('content-type', 'application/json');
  response.end(JSON.stringify(body));
});
await new Promise((done) => server.listen(port, '127.0.0.1', done));

const tokenOfBuild = (alg, claims = {}) =>
  new jose.SignJWT({ repository: 'acme/shop', ...claims })
    .setProtectedHeader({ alg, kid: alg, typ: 'JWT' })
    .setIssuer(builds)
    .setSubject('repo:acme/shop:ref:refs/heads/main')
    .setAudience(issuer)
    .setIssuedAt()
    .setExpirationTime('1h')
    .sign(keys.get(alg).privateKey);

/** How clients of clouds do it: the token of the build is the assertion (RFC 7523 section 2.2). */
const shows = (assertion) => (_server, _metadata, body) => {
  body.set('client_id', client_id);
  body.set('client_assertion_type', 'urn:ietf:params:oauth:client-assertion-type:jwt-bearer');
  body.set('client_assertion', assertion);
};

const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

async function deploys(alg, claims) {
  const assertion = await tokenOfBuild(alg, claims);
  const config = await client.discovery(new URL(issuer), client_id, undefined, shows(assertion));
  const tokens = await client.clientCredentialsGrant(config).catch((error) => error.error ?? String(error));
  return tokens.access_token ? jose.decodeJwt(tokens.access_token).client_id : tokens;
}

const first = await deploys('RS256');
const stranger = await deploys('RS256', { repository: 'acme/other' });

// New keys: they are fetched when a token is signed with one, a while after the last time.
published = ALGORITHMS;
const until = Date.now() + 60_000;
while ((await deploys('PS256')) === 'invalid_client' && Date.now() < until) await pause(1_000);
const rotated = {};
for (const alg of ALGORITHMS) rotated[alg] = await deploys(alg);
console.log(JSON.stringify({ first, stranger, asked: asked.length, rotated }));
server.close();
