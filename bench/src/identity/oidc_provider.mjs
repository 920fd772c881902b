// The peer of the identity provider: npm's oidc-provider with its memory adapter, which writes nothing to a disk. It signs
// access tokens with ES256 as Testudo does, and says `{"introspected": …, "refresh_tokens": […]}` when it is ready.
//
//     node oidc_provider.mjs <path of oidc-provider> <JSON with port, certificate, key, client, secret, sessions>

import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import { pathToFileURL } from 'node:url';

const [library, told] = process.argv.slice(2);
const { port, certificate, key, client, secret, sessions } = JSON.parse(told);
const { Provider } = await import(pathToFileURL(library));

// What it says about what it is set up for is not what is looked for here.
console.warn = console.info = () => {};

const issuer = `https://localhost:${port}`;
const audience = 'https://bench.example';
const curve = { name: 'ECDSA', namedCurve: 'P-256' };
const { privateKey } = await crypto.subtle.generateKey(curve, true, ['sign', 'verify']);
const jwk = await crypto.subtle.exportKey('jwk', privateKey);
const jwt = { scope: 'bench:read', audience, accessTokenFormat: 'jwt', jwt: { sign: { alg: 'ES256' } } };
const provider = new Provider(issuer, {
  clients: [
    {
      client_id: client,
      client_secret: secret,
      grant_types: ['client_credentials'],
      response_types: [],
      redirect_uris: [],
      token_endpoint_auth_method: 'client_secret_post',
      id_token_signed_response_alg: 'ES256',
    },
    {
      client_id: 'cli',
      grant_types: ['authorization_code', 'refresh_token'],
      redirect_uris: ['https://localhost/callback'],
      token_endpoint_auth_method: 'none',
      id_token_signed_response_alg: 'ES256',
    },
  ],
  jwks: { keys: [{ ...jwk, key_ops: undefined, kid: 'bench', use: 'sig', alg: 'ES256' }] },
  scopes: ['openid', 'profile', 'offline_access', 'bench:read'],
  claims: { openid: ['sub'], profile: ['preferred_username'] },
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, preferred_username: id }) }),
  cookies: { keys: [randomBytes(32).toString('hex')] },
  rotateRefreshToken: true,
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: false },
    introspection: { enabled: true, allowedPolicy: () => true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => audience,
      useGrantedResource: () => true,
      getResourceServerInfo: () => jwt,
    },
  },
});

// A refresh token of a grant as a login leaves it behind.
async function refreshToken() {
  const accountId = 'bench';
  const grant = new provider.Grant({ accountId, clientId: 'cli' });
  grant.addOIDCScope('openid profile offline_access');
  grant.addResourceScope(audience, 'bench:read');
  const token = new provider.RefreshToken({
    accountId,
    client: await provider.Client.find('cli'),
    grantId: await grant.save(),
    gty: 'authorization_code',
    resource: audience,
    scope: 'openid profile offline_access bench:read',
    authTime: Math.floor(Date.now() / 1000),
    iiat: Math.floor(Date.now() / 1000),
    rotations: 0,
  });
  return token.save();
}

// It introspects no JWT: one of its opaque tokens.
const opaque = new provider.ClientCredentials({ client: await provider.Client.find(client), scope: '' });
const refresh_tokens = await Promise.all(Array.from({ length: sessions }, refreshToken));
const ready = { introspected: await opaque.save(), refresh_tokens };
const options = { cert: readFileSync(certificate), key: readFileSync(key) };
createServer(options, provider.callback()).listen(port, '127.0.0.1', () => console.log(JSON.stringify(ready)));
