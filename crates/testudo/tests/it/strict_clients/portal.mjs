// A web application built on openid-client and jose: people log in at the provider, and the provider says behind their
// browser's back when that has ended. It prints a line once it listens.
//
//     node portal.mjs <path of openid-client> <path of jose> <JSON with issuer, client_id, client_secret, port>

import { createServer } from 'node:http';
import { pathToFileURL } from 'node:url';

const [openid, joseLibrary, told] = process.argv.slice(2);
const { issuer, client_id, client_secret, port } = JSON.parse(told);
const client = await import(pathToFileURL(openid));
const jose = await import(pathToFileURL(joseLibrary));

const config = await client.discovery(new URL(issuer), client_id, client_secret);
const keys = jose.createRemoteJWKSet(new URL(config.serverMetadata().jwks_uri));
const own = `http://127.0.0.1:${port}`;
const logins = new Map(); // a browser's secret: what is needed while it logs in
const sessions = new Map(); // a browser's secret: who is logged in there, and their session at the provider

const routes = {
  async 'GET /login'(_, answer) {
    const browser = client.randomState();
    const [pkceCodeVerifier, expectedState, expectedNonce] = [
      client.randomPKCECodeVerifier(),
      client.randomState(),
      client.randomNonce(),
    ];
    logins.set(browser, { pkceCodeVerifier, expectedState, expectedNonce });
    const location = client.buildAuthorizationUrl(config, {
      redirect_uri: `${own}/callback`,
      scope: 'openid profile',
      state: expectedState,
      nonce: expectedNonce,
      code_challenge: await client.calculatePKCECodeChallenge(pkceCodeVerifier),
      code_challenge_method: 'S256',
    });
    // Cookies do not tell ports apart.
    const cookie = `${client_id}=${browser}; HttpOnly; SameSite=Lax; Path=/`;
    answer.writeHead(303, { location: location.href, 'set-cookie': cookie }).end();
  },
  async 'GET /callback'(request, answer, browser) {
    const tokens = await client.authorizationCodeGrant(config, new URL(request.url, own), logins.get(browser));
    const { sub, sid, acr, amr } = tokens.claims();
    const { preferred_username } = await client.fetchUserInfo(config, tokens.access_token, sub);
    sessions.set(browser, { sid, text: `${preferred_username}, acr ${acr}, amr ${amr.join(' ')}` });
    answer.writeHead(303, { location: '/' }).end();
  },
  async 'GET /'(_, answer, browser) {
    const text = sessions.get(browser)?.text ?? 'nobody';
    answer.writeHead(200, { 'content-type': 'text/html; charset=utf-8', 'cache-control': 'no-store' });
    answer.end(`<!doctype html><html lang="en"><title>${client_id}</title><link rel="icon" href="data:,"><p>At ${client_id}: ${text}</p></html>`);
  },
  async 'POST /logout'(request, answer) {
    let body = '';
    for await (const chunk of request) body += chunk;
    const { payload } = await jose.jwtVerify(new URLSearchParams(body).get('logout_token'), keys, {
      issuer,
      audience: client_id,
      typ: 'logout+jwt',
      requiredClaims: ['iat', 'jti', 'events', 'sid'],
    });
    for (const [browser, { sid }] of sessions) if (sid === payload.sid) sessions.delete(browser);
    answer.writeHead(200, { 'cache-control': 'no-store' }).end();
  },
};

createServer(async (request, answer) => {
  const route = routes[`${request.method} ${new URL(request.url, own).pathname}`];
  const cookies = new Map((request.headers.cookie ?? '').split('; ').map((pair) => pair.split('=')));
  try {
    if (route) await route(request, answer, cookies.get(client_id));
    else answer.writeHead(404).end();
  } catch (error) {
    answer.writeHead(500, { 'content-type': 'text/plain' }).end(String(error));
  }
}).listen(port, '127.0.0.1', () => console.log('ready'));
