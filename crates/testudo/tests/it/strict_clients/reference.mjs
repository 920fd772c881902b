// A provider of somebody else's: npm's oidc-provider, of the author of the strictest clients. What runs here and then at
// Testudo is not bent to Testudo. It says `{"issuer": …}` when it is ready.
//
//     node reference.mjs <path of oidc-provider> <JSON with port, certificate, key, clients>

import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import { pathToFileURL } from 'node:url';

const [library, told] = process.argv.slice(2);
const { port, certificate, key, clients, initial_access_token } = JSON.parse(told);
const { Provider } = await import(pathToFileURL(library));

const issuer = `https://localhost:${port}`;
const curve = { name: 'ECDSA', namedCurve: 'P-256' };
const { privateKey } = await crypto.subtle.generateKey(curve, true, ['sign', 'verify']);
const jwk = await crypto.subtle.exportKey('jwk', privateKey);
const only = ['ES256'];
const provider = new Provider(issuer, {
  clients,
  clientDefaults: {
    grant_types: ['authorization_code', 'refresh_token'],
    id_token_signed_response_alg: 'ES256',
  },
  jwks: { keys: [{ ...jwk, key_ops: undefined, kid: 'reference', use: 'sig', alg: 'ES256' }] },
  enabledJWA: {
    idTokenSigningAlgValues: only,
    clientAuthSigningAlgValues: only,
    dPoPSigningAlgValues: only,
    requestObjectSigningAlgValues: only,
  },
  claims: { openid: ['sub'], profile: ['preferred_username'] },
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, preferred_username: id }) }),
  cookies: { keys: [randomBytes(32).toString('hex')] },
  features: {
    dPoP: { enabled: true, nonceSecret: randomBytes(32), requireNonce: () => true },
    introspection: { enabled: true },
    registration: { enabled: true, initialAccessToken: initial_access_token },
    registrationManagement: { enabled: true, rotateRegistrationAccessToken: true },
    revocation: { enabled: true },
  },
});
const options = { cert: readFileSync(certificate), key: readFileSync(key) };
createServer(options, provider.callback()).listen(port, '127.0.0.1', () => console.log(JSON.stringify({ issuer })));
